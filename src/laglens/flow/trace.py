"""Which way one output time is reached: its rollout taken apart into what passes between tokens at every layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from laglens.errors import LaglensError
from laglens.flow.layers import Array, Mixing
from laglens.flow.path import CROSS, Path

HORIZON = 1  # code of ``query_part``


def trace_back(time_tree: xr.DataTree, *, sample: int = 0, time: float | None = None, **mixing: Any) -> xr.Dataset:
    r"""Follow the rollout of one output time down through all layers.

    With the steps S(l) of `laglens.flow.rollout.roll_out`, what passes from token j to token i at layer l is

    .. math:: e^{(l)}_{ij} = p^{(l)}_i S^{(l)}_{ij}, \quad p^{(l-1)}_j = \sum_i e^{(l)}_{ij}, \quad p^{(L)} = \delta_q

    so that every layer passes 1 in all, and what arrives at the input is the row of the rollout of token q.

    Parameters
    ----------
    time_tree
        Time maps (see `laglens.time.reduce.to_time`). Special tokens are no columns: paths through them are left out.
    sample
        Index of the window.
    time
        Output time in input samples, from the start of the window; default: that of the last forecast step, or of the
        last token that the forecast is read from.
    mixing
        ``fusion``, ``residual``, ``discard`` and ``start`` (see `laglens.flow.layers.Mixing`).

    Returns
    -------
    xr.Dataset
        ``passed (step, query, key)``: what passes at each step, lowest first, from tokens below to tokens above it, and
        ``reached (key)``: what arrives at the input; each sums to 1. ``step_name (step)``. Attributes ``token``: the
        index of the chosen token, and ``time``: its centre.

    Raises
    ------
    LaglensError
        No such window; no token covers the time; nothing can be followed.
    """
    path, settings = Path.of(time_tree), Mixing(**mixing)
    if not 0 <= sample < path.n_samples:
        raise LaglensError(f"window {sample} is not among the {path.n_samples} windows (0 to {path.n_samples - 1})")
    coords = path.coords
    tokens = xr.Dataset(coords=coords)
    chosen = _last_forecast(tokens) if time is None else _token_at(tokens, time)
    layers = list(path.layers(sample, settings))
    steps: list[Array] = [step for layer in layers for step in layer]
    held, passed = np.eye(path.n_tokens)[chosen], []
    for step in reversed(steps):
        passed.append(held[:, None] * step)
        held = passed[-1].sum(0)
    labels = {name: c for name, c in coords.items() if "layer" not in c.dims}
    labels["step_name"] = xr.Variable("step", _names(coords, layers, settings.start))
    return xr.Dataset(
        {"passed": (("step", "query", "key"), np.stack(passed[::-1])), "reached": ("key", held)},
        labels,
        time_tree.attrs | settings.settings | {"token": chosen, "time": float(tokens["query_time"][chosen])},
    )


def _names(coords: dict[str, xr.Variable], layers: list[list[Array]], start: int) -> np.ndarray:
    """Stack and layer of every step; what follows the first step of a layer is cross-attention."""
    stacks, numbers = coords["stack"].values[start:], coords["stack_layer"].values[start:]
    names = [
        f"{CROSS if index else stack} L{int(number):02d}"
        for stack, number, layer in zip(stacks, numbers, layers, strict=True)
        for index in range(len(layer))
    ]
    return np.array(names, dtype=object)


def _last_forecast(tokens: xr.Dataset) -> int:
    """The latest token that makes the forecast; where the tree does not say which do, the latest of all."""
    times = tokens["query_time"].values
    for name, value in (("query_part", HORIZON), ("query_readout", True)):
        if name in tokens and (tokens[name].values == value).any():
            return int(np.nanargmax(np.where(tokens[name].values == value, times, -np.inf)))
    return int(np.nanargmax(times))


def _token_at(tokens: xr.Dataset, time: float) -> int:
    """The last token that covers a time: a decoder's own token rather than one of the encoder."""
    start, end = tokens["query_start"].values, tokens["query_end"].values
    found = np.flatnonzero((start <= time) & (time < end))
    if not len(found):
        raise LaglensError(
            f"no token covers time {time:g}; those of this model stand for {np.nanmin(start):g} to "
            f"{np.nanmax(end) - 1:g} samples from the start of the window"
        )
    return int(found[-1])
