"""Run a model on every series of a panel, and hand on the mean map in time of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from laglens.attention.batches import run_batches
from laglens.attention.cube import GIGABYTE
from laglens.attention.readers import time_reader
from laglens.attention.sinks import Sink
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.signals.windows import histories, windows
from laglens.time.controls import ReplicateMeans


def series_into(
    sink: Sink,
    model: Forecaster,
    signal: xr.Dataset,
    control: xr.Dataset,
    *,
    controls: int = 19,
    per_series: int = 1,
    normalisation: str = "mass",
    memory_gb: float = 2.0,
    device: torch.device | str = "cpu",
) -> int:
    """Mean map in time of every series of a panel, then of noise like each: only a batch of maps is in memory.

    Parameters
    ----------
    sink
        Takes ``attention (sample, layer, head, query, key)`` of every stack: all series of the panel, then all of
        the first replicate of its noise, and so on.
    signal
        The panel, ``value (sample, time)``.
    control
        Noise like it, ``value (replicate, sample, time)``, from `laglens.signals.controls.make_control`.
    controls
        Replicates to take.
    per_series
        Windows of each series, of which its map is the mean.

    Returns
    -------
    int
        Windows of each series that there were.

    Raises
    ------
    LaglensError
        The model takes several series together; or as `attention_into`.
    """
    if model.channels > 1:
        raise LaglensError(f"the model takes {model.channels} series together, so none of them has maps of its own")
    n_series, noise = signal.sizes["sample"], control["value"].isel(replicate=slice(controls))
    n = n_series * (1 + noise.sizes["replicate"])
    shown = []
    for value in (signal["value"], *(noise.isel(replicate=r) for r in range(noise.sizes["replicate"]))):
        cut = windows(value, model.history, model.horizon, per_series * n_series)
        order = np.argsort(np.arange(cut.sizes["sample"]) % n_series, kind="stable")  # those of a series side by side
        shown.append(histories(cut.isel(sample=order), model.history))
    together = np.concatenate(shown)
    model = model.eval().to(device)
    means = ReplicateMeans(sink, model.stacks, n, len(together) // n, normalisation)
    options: dict[str, Any] = {"memory": memory_gb * GIGABYTE, "device": device, "what": "running on every series"}
    for ran in run_batches(model, together, time_reader(model.stacks, ()), **options):
        means.add(ran)
        del ran
    return len(together) // n
