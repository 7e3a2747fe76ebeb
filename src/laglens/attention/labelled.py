"""Attention weights that somebody has as an array, as the tree that every later stage reads."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from laglens.attention.nodes import node_dataset
from laglens.errors import LaglensError
from laglens.models.tokens import Stack, TokenMap

DIMS = ("sample", "layer", "head", "query", "key")
ROUNDING = 0.01  # rows of half precision sum to 1 within this


def label_attention(
    weights: ArrayLike,
    query: TokenMap,
    key: TokenMap | None = None,
    *,
    history: int,
    horizon: int = 0,
    name: str = "encoder",
    causal: bool = False,
    series: ArrayLike | None = None,
) -> xr.DataTree:
    """Attention tree of weights captured elsewhere.

    Parameters
    ----------
    weights
        Post-softmax, ``(sample, layer, head, query, key)``; rows sum to 1, or to 0 where a query sees nothing.
    query, key
        Which input samples the tokens of each axis stand for; `key` defaults to `query`.
    history, horizon
        Samples that the model sees, and that it forecasts.
    name
        Of the stack: ``encoder``, ``decoder`` or ``cross``.
    causal
        Keys later than the query are invisible.
    series
        What the model was shown, ``(sample, time)``, for what the input itself repeats.

    Returns
    -------
    xr.DataTree
        For `laglens.time.reduce.to_time`.

    Raises
    ------
    LaglensError
        The array has other dimensions than the token maps, or its rows do not sum to 1.
    """
    array = np.asarray(weights)
    key = query if key is None else key
    if array.ndim != len(DIMS) or array.shape[-2:] != (len(query), len(key)):
        raise LaglensError(
            f"the weights are {array.shape}; they should be ({', '.join(DIMS)}) with {len(query)} queries and "
            f"{len(key)} keys, as the token maps have"
        )
    sums = array.sum(-1, dtype=np.float64)
    wrong = np.abs(sums - 1)[sums != 0].max(initial=0.0)
    if not wrong <= ROUNDING:
        raise LaglensError(f"a row of the weights sums to 1 +- {wrong:.3g}; give the weights after the softmax")
    layers = tuple(f"layer {i}" for i in range(array.shape[1]))
    node = node_dataset(Stack(name, layers, query, key, causal), "tokens").assign_coords(head=np.arange(array.shape[2]))
    root = xr.Dataset(coords={"sample": np.arange(len(array))}, attrs={"history": history, "horizon": horizon})
    if series is not None:
        root["series"] = (("sample", "time"), np.asarray(series, np.float64))
    return xr.DataTree.from_dict({"/": root, f"/{name}": node.assign(attention=(DIMS, array))})
