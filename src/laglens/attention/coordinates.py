"""Labels of token axes and of time columns. Free of torch: the time stage needs them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.models.tokens import PARTS, Stack, TokenMap, time_columns

SAMPLES = "input samples from the start of the window"
LABELS = {
    "attention": {"long_name": "attention weight"},
    "special_mass": {"long_name": "attention on special tokens"},
    "entropy": {"long_name": "entropy of the row", "units": "nats"},
    "effective_keys": {"long_name": "effective number of keys", "units": "tokens"},
    "top_key": {"long_name": "strongest key, an index"},
    "rollout": {"long_name": "attention rollout"},
    "rollout_special": {"long_name": "rollout on special tokens"},
    "selected": {"long_name": "whether the model computed the row"},
}
OF_TOKENS = ("time", "start", "end", "part", "readout")  # what a column takes over from its tokens


def token_coordinates(axis: str, tokens: TokenMap) -> dict[str, xr.Variable]:
    """Coordinates of a token axis: ``{axis}_time``, ``_start``, ``_end``, ``_row``, ``_part``, ``_readout``."""
    meaning = {"flag_values": list(range(len(PARTS))), "flag_meanings": " ".join(PARTS)}
    return {
        axis: xr.Variable(axis, np.arange(len(tokens)), {"long_name": f"{axis} token"}),
        f"{axis}_time": xr.Variable(axis, tokens.time, {"long_name": f"{axis} time", "units": SAMPLES}),
        f"{axis}_start": xr.Variable(axis, tokens.start, {"long_name": "first sample", "units": SAMPLES}),
        f"{axis}_end": xr.Variable(axis, tokens.end, {"long_name": "one past the last sample", "units": SAMPLES}),
        f"{axis}_row": xr.Variable(axis, tokens.row, {"long_name": "row of the value axis"}),
        f"{axis}_part": xr.Variable(axis, tokens.part, meaning),
        f"{axis}_readout": xr.Variable(axis, tokens.readout, {"long_name": "whether the forecast is read from it"}),
    }


def stack_coordinates(stack: Stack) -> dict[str, xr.Variable]:
    """Coordinates of the layers and of both token axes of a stack."""
    layers = {
        "layer": xr.Variable("layer", np.arange(len(stack.layers))),
        "layer_name": xr.Variable("layer", np.array(stack.layers, dtype=object), {"long_name": "name of the module"}),
    }
    return layers | token_coordinates("query", stack.query) | token_coordinates("key", stack.key)


def columns_of(coords: Mapping[Any, Any], axis: str) -> NDArray[np.int64]:
    """Index of the time column of each token of an axis, -1 for special ones: ``(token,)``.

    Raises
    ------
    LaglensError
        No token lies in time.
    """
    columns = time_columns(*(np.asarray(coords[f"{axis}_{name}"].values) for name in ("start", "end", "part")))
    if (columns < 0).all():
        raise LaglensError(f"the {axis} axis has no token in time, so lags have no meaning for this model")
    return columns


def column_coordinates(coords: Mapping[Any, Any]) -> dict[str, xr.Variable]:
    """Coordinates of the time columns of both axes, from those of the tokens.

    A column has the labels of its first token, and ``{axis}_tokens``, the number of its tokens. The tokens of the
    query axis, over which row statistics run, keep ``token_time`` and ``token_part``.
    """
    found: dict[str, xr.Variable] = {}
    for axis in ("query", "key"):
        columns = columns_of(coords, axis)
        _, first, n_tokens = np.unique(columns[columns >= 0], return_index=True, return_counts=True)
        at = np.flatnonzero(columns >= 0)[first]
        found[axis] = xr.Variable(axis, np.arange(len(at)), {"long_name": f"{axis} column"})
        for name in OF_TOKENS:
            source = coords[f"{axis}_{name}"]
            found[f"{axis}_{name}"] = xr.Variable(axis, source.values[at], source.attrs)
        found[f"{axis}_tokens"] = xr.Variable(axis, n_tokens, {"long_name": "tokens of the column"})
    for name in ("time", "part"):
        source = coords[f"query_{name}"]
        found[f"token_{name}"] = xr.Variable("token", source.values, source.attrs)
    return found


def samples_per_token(coords: Mapping[Any, Any]) -> float:
    """The usual distance of neighbouring key columns in input samples; of a single one its width."""
    centres = np.unique(coords["key_time"].values)
    if len(centres) > 1:
        return float(np.median(np.diff(centres)))
    return float(coords["key_end"].values[0] - coords["key_start"].values[0])
