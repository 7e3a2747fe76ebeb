"""Attention flow: the most that can pass from an input time to an output time (Abnar and Zuidema 2020).

The layers are a network of pipes whose capacities are the attention with its residual; a pair at a time is the source
and the sink of a maximum flow. Numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from laglens.errors import LaglensError
from laglens.flow.layers import Array, Mask, Mixing
from laglens.flow.path import Path
from laglens.lags.pairs import Axis, part_masks
from laglens.models.tokens import SPECIAL
from laglens.progress import track

SCALE = 2**22  # scipy takes whole numbers of 32 bit; the sum of a column stays below 2**31 up to 511 tokens
MOST = 256  # time columns; the time of a flow grows with their fourth power
QUERIES = ("forecasting", "all")
OF = ("mean", "windows")


def network(steps: Sequence[Array]) -> csr_array:
    """Edges from a token above each step to the tokens below it: (token, token) each -> (node, node), whole numbers.

    Node ``level * n + token``; level 0 is the input. Capacities are scaled by `SCALE`; those below half of its inverse
    carry nothing.
    """
    n, n_levels = steps[0].shape[0], len(steps) + 1
    capacity = np.rint(np.stack(steps) * SCALE).astype(np.int32)
    level, query, key = np.nonzero(capacity)
    place = (level + 1) * n + query, level * n + key
    return csr_array((capacity[level, query, key], place), shape=(n_levels * n, n_levels * n))


def maximum_flows(steps: Sequence[Array], queries: NDArray[np.int64], keys: NDArray[np.int64]) -> Array:
    r"""Maximum flow from each of some output tokens to each of some input tokens, one pair at a time.

    (token, token) for each step -> (query, key). With one step it is the step itself; in general

    .. math:: R_{ij} \le F_{ij} \le \min(\sum_k \tilde A^{(L)}_{ik}, \sum_k \tilde A^{(1)}_{kj}),

    R being the rollout. Capacities are rounded to 2 ** -22.

    Parameters
    ----------
    steps
        Lowest first; rows sum to 1 (see `laglens.flow.layers.Mixing.step`).
    queries, keys
        Indices of tokens.
    """
    graph, n = network(steps), steps[0].shape[0]
    top = len(steps) * n
    flows = [[maximum_flow(graph, top + i, j).flow_value for j in keys.tolist()] for i in queries.tolist()]
    return np.array(flows, dtype=np.float64).reshape(len(queries), len(keys)) / SCALE


def widest_paths(steps: Sequence[Array]) -> Array:
    r"""Capacity of the widest single path from each output token to each input token: -> (token, token).

    .. math:: W_{ij} = \max_{paths} \min_{edges} \tilde A, \quad W^{(l)}_{ij} = \max_k \min(\tilde A^{(l)}_{ik},
        W^{(l-1)}_{kj})

    Published code that calls itself attention flow often computes this, or a product that is rollout, for want of time.
    It is one path of the maximum flow, so never above it.
    """
    widest = steps[0]
    for step in steps[1:]:
        # One output token at a time: (token, token) in memory instead of the cube of it.
        widest = np.stack([np.minimum(row[:, None], widest).max(0) for row in step])
    return widest


def attention_flow(
    time_tree: xr.DataTree, *, of: str = "mean", queries: str = "forecasting", **mixing: Any
) -> xr.Dataset:
    """Maximum flow through all layers, and its approximation by the widest path.

    Parameters
    ----------
    time_tree
        Time maps (see `laglens.time.reduce.to_time`). Special tokens are no columns: paths through them are left out.
    of
        ``mean``: the flow through the maps averaged over windows; ``windows``: that of every window, and its mean.
    queries
        ``forecasting``: of tokens in the horizon, or else of those that the forecast is read from; ``all``.
    mixing
        ``fusion``, ``residual``, ``discard`` and ``start`` (see `laglens.flow.layers.Mixing`).

    Returns
    -------
    xr.Dataset
        ``max_flow (query, key)``, NaN for queries that were not asked for, and ``widest_path (query, key)``; not
        normalised: in units of what a token passes on. With ``windows`` also ``max_flow_windows`` and
        ``widest_path_windows (sample, query, key)``. ``visible (query, key)``. The attribute ``at_bound`` is the share
        of pairs whose flow is only what the output token takes or the input token gives, whatever lies between.

    Raises
    ------
    LaglensError
        A setting is not known or out of its range, no stack can be followed, or more than `MOST` tokens.
    """
    if of not in OF or queries not in QUERIES:
        raise LaglensError(f"flow of '{of}' and '{queries}' queries; choose from {', '.join(OF)}; {', '.join(QUERIES)}")
    path, settings = Path.of(time_tree), Mixing(**mixing)
    if path.n_tokens > MOST:
        raise LaglensError(f"maximum flow of {path.n_tokens} time columns takes hours; it is limited to {MOST} of them")
    coords = path.coords
    rows = _forecasting(coords, time_tree.attrs) if queries == "forecasting" else np.ones(path.n_tokens, bool)
    samples: list[int | None] = [None] if of == "mean" else list(range(path.n_samples))
    found = [_of_window(path, i, settings, rows) for i in track(samples, "maximum flow", total=len(samples))]
    flow, widest = (np.stack(maps) for maps in list(zip(*found, strict=True))[:2])
    dims = ("query", "key")
    variables: dict[str, Any] = {"max_flow": (dims, flow.mean(0)), "widest_path": (dims, widest.mean(0))}
    variables["visible"] = (dims, path.visible)
    if of == "windows":
        every = ("sample", *dims)
        variables |= {"max_flow_windows": (every, flow), "widest_path_windows": (every, widest)}
    kept: dict[Any, Any] = {name: c for name, c in coords.items() if "layer" not in c.dims}
    attrs = time_tree.attrs | path.attrs | settings.settings | {"n_windows": path.n_samples, "of": of}
    attrs["at_bound"] = float(np.mean([share for *_, share in found]))
    if of == "windows":
        windows = time_tree.to_dataset(inherit=False).drop_dims(["time", "step"], errors="ignore").coords
        kept = dict(windows.variables) | kept
    return xr.Dataset(variables, kept, attrs)


def _of_window(path: Path, sample: int | None, mixing: Mixing, rows: Mask) -> tuple[Array, Array, float]:
    """Maximum flow and widest paths of one window, and the share of flows at their trivial bound."""
    steps = [step for layer in path.layers(sample, mixing) for step in layer]
    queries, keys = np.flatnonzero(rows), np.arange(path.n_tokens)
    flow = np.full((path.n_tokens, path.n_tokens), np.nan)
    flow[queries] = maximum_flows(steps, queries, keys)
    bound = np.minimum(steps[-1].sum(1)[:, None], steps[0].sum(0))
    at_bound = flow[queries] >= bound[queries] - path.n_tokens / SCALE
    return flow, widest_paths(steps), float(at_bound.mean())


def _forecasting(coords: dict[str, xr.Variable], attrs: dict[Any, Any]) -> Mask:
    """Output tokens that make the forecast, ``(query,)``: those of the horizon, else the readout, else all in time."""
    labels = xr.Dataset(coords=coords)
    query, key = (Axis.of(labels, axis, attrs["history"]) for axis in ("query", "key"))
    masks = part_masks(query, key)
    for part in ("horizon->history", "readout->history"):
        if part in masks:
            return np.asarray(masks[part].any(1))
    return np.asarray(labels["query_part"].values != SPECIAL)
