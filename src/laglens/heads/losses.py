"""The known future of windows, in which the forecast of a model is off, and labels for what is measured per head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.signals.windows import histories

Array = NDArray[np.float64]
UNIT = "standard deviations of the history"


def windows_at_once(model: Forecaster, memory: float = 2e9) -> int:
    """How many windows' weights and their gradients fit in `memory` bytes, 1 to 16, at 8 heads per layer."""
    steps = {stack.name: model.horizon if stack.steps else 1 for stack in model.stacks}
    pairs = sum(len(s.layers) * len(s.query) * len(s.key) * steps[s.name] for s in model.stacks)
    return int(np.clip(memory / (pairs * 8 * 4 * 4), 1, 16))


def shown_and_truth(model: Forecaster, windows: xr.Dataset) -> tuple[Array, Array]:
    """Histories ``(sample, history)`` and what followed ``(sample, horizon)``, NaN where it is not known."""
    series = windows["series"].transpose("sample", "time").values.astype(np.float64)
    return histories(windows, model.history), series[:, model.history : model.history + model.horizon]


def spread(shown: Array) -> Array:
    """Standard deviation of each history, ``(sample,)``; NaN where it is constant: effects have no unit there.

    Raises
    ------
    LaglensError
        All of them are constant.
    """
    sd = shown.std(1, ddof=1)
    if not (sd > 0).any():
        raise LaglensError(
            "the history of every window is constant, so effects have no unit; choose another stretch of the series, "
            "or remove its flat part"
        )
    return np.where(sd > 0, sd, np.nan)


def labelled_heads(
    stack: Stack, columns: Mapping[str, Array], windows: xr.Dataset, labels: Mapping[str, str], unit: str
) -> xr.Dataset:
    """Measures ``(sample, layer, head)`` of a stack with their labels."""
    dims = ("sample", "layer", "head")
    variables = {name: (dims, values, {"long_name": labels[name], "units": unit}) for name, values in columns.items()}
    shape = next(iter(columns.values())).shape
    coords: dict[str, Any] = {
        "sample": windows["sample"].values,
        "layer": np.arange(shape[1]),
        "head": np.arange(shape[2]),
        "layer_name": ("layer", np.array(stack.layers, dtype=object)),
    }
    return xr.Dataset(variables, coords)
