"""Measures of every head, by query part and window."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.heads.rows import Array, Keys, row_measures, share_of_keys
from laglens.lags.alike import stack_dataset
from laglens.lags.pairs import PairTable

MAP = ("sample", "layer", "head", "query", "key")
MEASURES = {  # name: label, units
    "entropy": ("entropy of a row", "nats"),
    "relative_entropy": ("entropy / that of a uniform row", "1"),
    "effective_keys": ("keys in use, 1 / sum of squares", "1"),
    "gini": ("Gini coefficient of a row", "1"),
    "distance": ("mean attention distance", "input samples"),
    "locality": ("mass on local keys", "1"),
    "mass": ("mass on the keys of the part", "1"),
    "special_mass": ("mass on special tokens", "1"),
}
UNIFORM = ("entropy", "effective_keys", "distance", "locality", "mass")  # the others are always 1 or 0


def measure_heads(time_tree: xr.DataTree, *, window: float | str = "auto") -> xr.DataTree:
    """Concentration and reach of every head, one node per attention stack.

    Within a query part, such as horizon->history, each row is taken over the keys of the part that the query can see
    and scaled to sum to 1; a measure is the mean over the rows of the part.

    Parameters
    ----------
    time_tree
        Time maps (see `laglens.time.reduce.to_time`).
    window
        Largest distance of a local key [input samples]; ``auto``: one token.

    Returns
    -------
    xr.DataTree
        Dims ``(part, sample, layer, head)``: ``entropy`` [nats] and ``relative_entropy``, ``effective_keys``, ``gini``,
        ``distance`` [input samples], ``locality``, ``mass`` of the whole row on the keys of the part, and
        ``special_mass``. ``{measure}_uniform (part)``: what a head without any preference has, where not 0 or 1.
        ``n_rows``, ``n_keys (part)``: queries, and keys per query.

    Raises
    ------
    LaglensError
        The tree holds no attention stack, no query part has a pair, or `window` is not a distance.
    """
    if not time_tree.children:
        raise LaglensError("the time tree has no attention stack, so there is no head to measure")
    history = time_tree.attrs["history"]
    nodes = {f"/{name}": _measure_stack(stack_dataset(time_tree, name), history, window) for name in time_tree.children}
    root = time_tree.to_dataset(inherit=False).drop_dims(["time", "step"], errors="ignore")
    return xr.DataTree.from_dict({"/": root, **nodes})


def local_window(window: float | str, step: float) -> float:
    """`window` in input samples.

    Raises
    ------
    LaglensError
        It is neither ``auto`` nor a positive number.
    """
    if window == "auto":
        return step
    if isinstance(window, str) or not window > 0:
        raise LaglensError(f"window is {window!r}; it must be 'auto' or a distance above 0 in input samples")
    return float(window)


def _measure_stack(node: xr.Dataset, history: float, window: float | str) -> xr.Dataset:
    table = PairTable.of(node, history)
    near = local_window(window, table.step)
    times = node["query_time"].values, node["key_time"].values
    columns: dict[str, list[NDArray]] = {}
    for counts in table.parts.values():
        keys = Keys.of(counts, *times, near)
        values = _measure_part(node, table, counts, keys) | _without_preference(table, counts, keys)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    attrs = {"window": near, "samples_per_token": table.step, "n_windows": node.sizes["sample"]}
    return _labelled(node, list(table.parts), columns, attrs)


def _measure_part(node: xr.Dataset, table: PairTable, counts: NDArray[np.bool_], keys: Keys) -> dict[str, Array]:
    """Means over the rows of a part, ``(sample, layer, head)`` each."""
    rows = counts.any(1)
    attention = node["attention"].transpose(*MAP)
    special = node["special_mass"].transpose(*MAP[:-1]).values[..., rows].astype(np.float64)
    measured: dict[str, list[Array]] = {}
    for i in range(attention.sizes["sample"]):  # one at a time: float64 copies never exceed one sample
        weights = attention.isel(sample=i).values[..., rows, :].astype(np.float64)
        values = row_measures(share_of_keys(weights, keys.counts), keys)
        total = np.where(table.visible[rows], weights, 0).sum(-1)
        inside = np.where(keys.counts, weights, 0).sum(-1)
        # As a share of all the mass that is not on special tokens: holds for maps of either normalisation.
        share = np.divide(inside, total, out=np.zeros_like(inside), where=total > 0)
        values |= {"mass": share * (1 - special[i]), "special_mass": special[i]}
        for name, value in values.items():
            measured.setdefault(name, []).append(_mean_of_rows(value))
    return {name: np.stack(samples) for name, samples in measured.items()}


def _without_preference(table: PairTable, counts: NDArray[np.bool_], keys: Keys) -> dict[str, Array]:
    """What rows without any preference have, and how many rows and keys there are; one number each."""
    measured = row_measures(keys.uniform, keys) | {"mass": keys.number / table.visible[counts.any(1)].sum(1)}
    values = {f"{name}_uniform": measured[name].mean() for name in UNIFORM}
    return values | {"n_rows": np.asarray(len(keys.counts)), "n_keys": keys.number.mean()}


def _mean_of_rows(values: Array) -> Array:
    """Mean over the rows that have a value; NaN where none has: (..., query) -> (...)."""
    known = np.isfinite(values)
    n = known.sum(-1)
    return np.where(n > 0, np.where(known, values, 0).sum(-1) / np.maximum(n, 1), np.nan)


def _labelled(node: xr.Dataset, parts: list[str], columns: dict[str, list], attrs: dict[str, Any]) -> xr.Dataset:
    dims = ("part", "sample", "layer", "head")
    variables = {}
    for name, values in columns.items():
        array = np.stack(values)
        label, units = MEASURES.get(name.removesuffix("_uniform"), (name.replace("n_", "number of "), "1"))
        label += " without any preference" if name.endswith("_uniform") else ""
        variables[name] = (dims[: array.ndim], array, {"long_name": label, "units": units})
    coords: dict[str, Any] = {"part": np.array(parts, dtype=object)}
    coords |= {name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords}
    return xr.Dataset(variables, coords, attrs)
