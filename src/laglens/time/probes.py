"""Time maps of a model on probes, and of untrained models on a signal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import xarray as xr

from laglens.attention.cube import attention_tree
from laglens.models.forecaster import Forecaster
from laglens.time.controls import control_time_tree
from laglens.time.reduce import to_time


def probe_time_tree(
    model: Forecaster,
    probe: xr.Dataset,
    *,
    normalisation: str = "mass",
    memory_gb: float = 2.0,
    device: torch.device | str = "cpu",
    attrs: dict[str, Any] | None = None,
) -> xr.DataTree:
    """Time maps of a model on every input of a probe.

    Parameters
    ----------
    probe
        ``value (sample, time)``, as long as the model's history and horizon (see `laglens.signals.probes`). Other
        coordinates of ``sample``, such as ``true_period``, are kept at the root.

    Returns
    -------
    xr.DataTree
        A time tree without row statistics; of a probe without samples a tree without stacks.

    Raises
    ------
    LaglensError
        As `attention_tree` and `to_time`.
    """
    series = probe["value"]
    if model.channels > 1:  # all channels see the same wave
        series = series.expand_dims(channel=model.channels).transpose("sample", "channel", "time")
    inputs = xr.Dataset({"series": series})
    about = {"control": probe.attrs.get("control", ""), "signal": probe.attrs} | (attrs or {})
    if not probe.sizes["sample"]:
        return xr.DataTree(xr.Dataset(attrs=about | {"left_out": probe.attrs.get("left_out", "the probe is empty")}))
    options: dict[str, Any] = {"statistics": (), "memory_gb": memory_gb, "device": device, "attrs": about}
    return to_time(attention_tree(model, inputs, store="time", **options), normalisation=normalisation)


def untrained_time_tree(
    models: Iterable[Forecaster], signal: xr.Dataset, cut: Callable[[xr.DataArray], xr.Dataset], **options: Any
) -> xr.DataTree:
    """Time maps of a signal through several draws of random weights, each averaged over the windows.

    Parameters
    ----------
    models
        The same architecture, weights drawn anew (see `laglens.models.untrained.untrained_model`).
    signal, cut
        ``value (sample, time)``, and the cut of its windows, as for the trained model.
    options
        As in `control_time_tree`.

    Returns
    -------
    xr.DataTree
        A time tree whose ``sample`` is the draw; maps in float16.
    """
    once = signal.expand_dims("replicate").assign_attrs(signal.attrs | {"control": "untrained"})
    trees = [control_time_tree(model, once, cut, **options) for model in models]
    nodes = {
        name: xr.concat(
            [tree.children[name].to_dataset(inherit=False) for tree in trees],
            "sample",
            coords="minimal",
            compat="override",
            join="override",
            combine_attrs="override",
        ).assign_coords(sample=np.arange(len(trees)))
        for name in trees[0].children
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=trees[0].attrs), **nodes})
