"""Measures of every head, by query part and window."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.heads.content import ContentScore
from laglens.heads.rows import TOP_KEYS, Array, Keys, row_measures, share_of_keys, whole_row_measures
from laglens.heads.stripes import stripe_measures, top_column, top_lag
from laglens.lags.alike import stack_dataset
from laglens.lags.pairs import PairTable

MAP = ("sample", "layer", "head", "query", "key")
MEASURES = {  # name: label, units
    "entropy": ("entropy of a row", "nats"),
    "relative_entropy": ("entropy / that of a uniform row", "1"),
    "effective_keys": ("keys in use, 1 / sum of squares", "1"),
    "gini": ("Gini coefficient of a row", "1"),
    "top_mass": ("mass on the strongest keys", "1"),
    "confidence": ("largest weight of a row", "1"),
    "distance": ("mean attention distance", "input samples"),
    "directedness": ("mean lag, positive = the past", "input samples"),
    "locality": ("mass on local keys", "1"),
    "diagonal_stripe": ("variance of attention / uniform between lags", "1"),
    "diagonal_share": ("share of the variance between lags", "1"),
    "vertical_stripe": ("variance of attention / uniform between keys", "1"),
    "vertical_share": ("share of the variance between keys", "1"),
    "horizontal_stripe": ("variance over queries of ln n - entropy", "nats^2"),
    "top_column": ("largest mean weight of one key", "1"),
    "top_column_time": ("time of that key", "input samples"),
    "sink": ("share of rows with more than 0.3 on the first key", "1"),
    "mass": ("mass on the keys of the part", "1"),
    "special_mass": ("mass on special tokens", "1"),
}
OF_ALL_WINDOWS = {  # measures of all windows together
    "content": ("1 - mean correlation of log attention between windows", "1"),
    "top_lag": ("lag of the largest mean attention / uniform", "input samples"),
}
# What rows without any preference have; that of the others is 0, 1, or nothing.
UNIFORM = (
    *("entropy", "effective_keys", "top_mass", "confidence", "distance", "directedness", "locality"),
    *("top_column", "sink", "mass"),
)


def measure_heads(time_tree: xr.DataTree, *, window: float | str = "auto", top_keys: int = TOP_KEYS) -> xr.DataTree:
    """Concentration, reach and stripes of every head, one node per attention stack.

    Within a query part, such as horizon->history, each row is taken over the keys of the part that the query can see
    and scaled to sum to 1; a measure of rows is the mean over the rows of the part. Each measure alone is a function of
    `laglens.heads.labelled`.

    Parameters
    ----------
    time_tree
        Time maps (see `laglens.time.reduce.to_time`).
    window
        Largest distance of a local key [input samples]; ``auto``: one token.
    top_keys
        How many of the strongest keys ``top_mass`` takes.

    Returns
    -------
    xr.DataTree
        Dims ``(part, sample, layer, head)``, one variable for each of `MEASURES`; ``mass``, ``confidence``, ``sink``
        and ``special_mass`` are of the whole row, not scaled. ``{measure}_uniform (part)``: what a head without any
        preference has, where not 0 or 1. ``content (part, layer, head)``: see `laglens.heads.content.content_score`;
        ``top_lag (part, layer, head)``: see `laglens.heads.labelled.top_lag`, of the mean map of all windows.
        ``n_rows``, ``n_keys (part)``: queries, and keys per query.

    Raises
    ------
    LaglensError
        The tree holds no attention stack, no query part has a pair, `window` is not a distance, or `top_keys` is not
        at least 1.
    """
    if not time_tree.children:
        raise LaglensError("the time tree has no attention stack, so there is no head to measure")
    if top_keys < 1:
        raise LaglensError(f"top_keys is {top_keys}; the strongest keys are at least 1")
    history = time_tree.attrs["history"]
    stacks = {name: stack_dataset(time_tree, name) for name in time_tree.children}
    nodes = {f"/{name}": _measure_stack(node, history, window, top_keys) for name, node in stacks.items()}
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


def _measure_stack(node: xr.Dataset, history: float, window: float | str, top_keys: int) -> xr.Dataset:
    table = PairTable.of(node, history)
    near = local_window(window, table.step)
    times = node["query_time"].values, node["key_time"].values
    columns: dict[str, list[NDArray]] = {}
    for counts in table.parts.values():
        keys = Keys.of(counts, *times, near, step=table.step, top=top_keys)
        values = _measure_part(node, table, counts, keys) | _without_preference(node, table, counts, keys)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    attrs = {"window": near, "top_keys": top_keys, "samples_per_token": table.step, "n_windows": node.sizes["sample"]}
    return _labelled(node, list(table.parts), columns, attrs)


def _measure_part(node: xr.Dataset, table: PairTable, counts: NDArray[np.bool_], keys: Keys) -> dict[str, Array]:
    """Measures of a part, ``(sample, layer, head)`` each; those of all windows together ``(layer, head)``."""
    rows = counts.any(1)
    attention = node["attention"].transpose(*MAP)
    special = node["special_mass"].transpose(*MAP[:-1]).values[..., rows].astype(np.float64)
    measured: dict[str, list[Array]] = {}
    content = ContentScore(keys.counts)
    summed: Array | float = 0.0
    for i in range(attention.sizes["sample"]):  # one at a time: float64 copies never exceed one sample
        weights = np.where(table.visible[rows], attention.isel(sample=i).values[..., rows, :], 0).astype(np.float64)
        total = weights.sum(-1, keepdims=True)
        # As a share of all the mass that is not on special tokens: holds for maps of either normalisation.
        share = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        whole = share * (1 - special[i])[..., None]
        content.add(whole)
        summed = summed + np.nan_to_num(share_of_keys(whole, keys.counts))
        values = _of_maps(whole, keys, node["key_time"].values)
        values["special_mass"] = _mean_of_rows(special[i])
        for name, value in values.items():
            measured.setdefault(name, []).append(value)
    together = {"content": content.score, "top_lag": top_lag(share_of_keys(np.asarray(summed), keys.counts), keys)}
    return {name: np.stack(samples) for name, samples in measured.items()} | together


def _of_maps(whole: Array, keys: Keys, key_time: Array) -> dict[str, Array]:
    """Every measure of whole rows: (..., query, key) -> (...) each."""
    rows = share_of_keys(whole, keys.counts)
    of_rows = row_measures(rows, keys) | whole_row_measures(whole, keys)
    strongest, place = top_column(rows, keys)
    values = {name: _mean_of_rows(value) for name, value in of_rows.items()} | stripe_measures(rows, keys)
    time = np.where(np.isfinite(strongest), key_time[place], np.nan)
    return values | {"top_column": strongest, "top_column_time": time}


def _without_preference(
    node: xr.Dataset, table: PairTable, counts: NDArray[np.bool_], keys: Keys
) -> dict[str, NDArray[Any]]:
    """What rows without any preference have, and how many rows and keys there are; one number each."""
    visible = table.visible[counts.any(1)]
    measured = _of_maps(visible / visible.sum(1, keepdims=True), keys, node["key_time"].values)
    values: dict[str, NDArray[Any]] = {f"{name}_uniform": np.asarray(measured[name]) for name in UNIFORM}
    return values | {"n_rows": np.asarray(len(keys.counts)), "n_keys": np.asarray(keys.number.mean())}


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
        known = MEASURES | OF_ALL_WINDOWS | {"n_rows": ("number of queries", "1"), "n_keys": ("keys per query", "1")}
        label, units = known[name.removesuffix("_uniform")]
        label += " without any preference" if name.endswith("_uniform") else ""
        own = ("part", "layer", "head") if name in OF_ALL_WINDOWS else dims[: array.ndim]
        variables[name] = (own, array, {"long_name": label, "units": units})
    coords: dict[str, Any] = {"part": np.array(parts, dtype=object)}
    coords |= {name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords}
    return xr.Dataset(variables, coords, attrs)
