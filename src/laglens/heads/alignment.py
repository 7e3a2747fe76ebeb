"""Which history each forecast step reads: alignment of the rows that forecast, in time.

For the stacks in which horizon tokens, or the token the forecast is read from, attend to the history: cross-attention
of encoder-decoders, and models that see both at once. A decoder token stands for the step that it forecasts, though
what it holds is the step before (greedy decoding); so lags are those of the forecast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.heads.nothing import NothingToMeasureError
from laglens.heads.rows import Array, Mask, effective_keys, entropy, share_of_keys
from laglens.lags.alike import stack_dataset
from laglens.lags.pairs import PairTable

FORECASTING = ("horizon->history", "readout->history")
QUANTILES = (0.1, 0.5, 0.9)
ROWS = {  # name: label, units
    "alignment_entropy": ("entropy over the history", "nats"),
    "relative_entropy": ("entropy / that of a uniform row", "1"),
    "effective_keys": ("history tokens in use", "1"),
    "focus": ("largest weight on the history", "1"),
    "mean_lag": ("mean lag", "input samples"),
    "strongest_lag": ("lag of the largest weight", "input samples"),
}
MAPS = {
    "coverage": ("entropy of what each history token gets, of all steps, / that of uniform attention", "1"),
    "monotonicity": ("share of steps whose strongest token is not before that of the step before", "1"),
    "drift": ("slope of the expected time over the time of the step", "1"),
}


def align_heads(time_tree: xr.DataTree) -> xr.DataTree:
    """Which history each forecast step reads, one node per attention stack that reads it.

    Parameters
    ----------
    time_tree
        Time maps (see `laglens.time.reduce.to_time`).

    Returns
    -------
    xr.DataTree
        Per step ``(sample, layer, head, query)`` the variables of `ROWS`, and ``lag_quantile (quantile, sample, layer,
        head, query)``: lags within which 10, 50 and 90 % of the attention lies. Per map ``(sample, layer, head)`` those
        of `MAPS`; NaN for a single step. ``read (layer, head, query, key)``: rows over the history, mean over windows.
        Coordinates ``step (query)``, 1 = the first forecast sample (0: the last of the history, the readout token), and
        ``key_time``. Attribute ``part``.

    Raises
    ------
    NothingToMeasureError
        No stack reads the history for the forecast.
    """
    history, nodes = time_tree.attrs["history"], {}
    for name in time_tree.children:
        node = stack_dataset(time_tree, name)
        parts = PairTable.of(node, history).parts
        part = next((part for part in FORECASTING if part in parts), None)
        if part is not None:
            nodes[f"/{name}"] = _align_stack(node, parts[part], history, part)
    if not nodes:
        raise NothingToMeasureError("no attention stack reads the history for the forecast: nothing to align")
    root = time_tree.to_dataset(inherit=False).drop_dims(["time", "step"], errors="ignore")
    return xr.DataTree.from_dict({"/": root, **nodes})


def monotonicity(rows: Array) -> Array:
    """Share of queries whose strongest key is not before that of the query before: (..., query, key) -> (...).

    Queries and keys in the order of time; 1 for a perfect alignment; NaN for a single query.
    """
    if rows.shape[-2] < 2:
        return np.full(rows.shape[:-2], np.nan)
    return (np.diff(rows.argmax(-1), axis=-1) >= 0).mean(-1)


def drift(rows: Array, query_time: Array, key_time: Array) -> Array:
    """Slope of the expected key time over the query time: (..., query, key) -> (...); 1 = one lag, 0 = one place.

    NaN for a single query.
    """
    if rows.shape[-2] < 2:
        return np.full(rows.shape[:-2], np.nan)
    centred = query_time - query_time.mean()
    return (rows @ key_time) @ centred / (centred @ centred)


def coverage(rows: Array) -> Array:
    """Entropy of what each key gets from all queries, over ln n: (..., query, key) -> (...); 1 = every key as much."""
    n = rows.shape[-1]
    return entropy(rows.mean(-2)) / np.log(n) if n > 1 else np.full(rows.shape[:-2], np.nan)


def alignment_error(attention: xr.DataArray, lag: float, *, tolerance: float) -> xr.DataArray:
    r"""Alignment error rate of the strongest keys against a planted lag: (..., query, key) -> (...), 0 = perfect.

    :math:`1 - (|A \cap S| + |A \cap P|) / (|A| + |S|)` (Och and Ney 2003): A holds the strongest key of each query, S
    the keys nearest to ``t_q - lag``, P those within `tolerance` of it. Queries whose lag reaches no key are left out.

    Parameters
    ----------
    attention
        With ``query_time`` and ``key_time`` [input samples].
    lag, tolerance
        [input samples].

    Raises
    ------
    LaglensError
        No query has a key at this lag.
    """
    distance = np.abs(np.subtract.outer(attention["query_time"].values, attention["key_time"].values) - lag)
    queries = distance.min(1) <= tolerance
    if not queries.any():
        raise LaglensError(f"no query has a key {lag:g} samples before it, so there is no alignment to compare with")
    sure = distance[queries].argmin(1)

    def rate(weights: NDArray) -> Array:
        top = weights[..., queries, :].argmax(-1)
        possible = (
            np.take_along_axis(np.broadcast_to(distance[queries], (*top.shape, distance.shape[1])), top[..., None], -1)[
                ..., 0
            ]
            <= tolerance
        )
        return 1 - ((top == sure).sum(-1) + possible.sum(-1)) / (2 * len(sure))

    return xr.apply_ufunc(rate, attention, input_core_dims=[["query", "key"]])


def alignment_table(aligned: xr.DataTree) -> pd.DataFrame:
    """One row per head and forecast step.

    Parameters
    ----------
    aligned
        From `align_heads`.

    Returns
    -------
    pd.DataFrame
        Means over windows of the variables of `ROWS` and of the lag quantiles, ``lag_10``, ``lag_50`` and ``lag_90``
        [input samples]; ``strongest_lag`` is that of the mean row; those of `MAPS` repeat in all steps of a head.
    """
    tables = []
    for name in aligned.children:
        node = stack_dataset(aligned, name)
        means = node[[*ROWS, *MAPS]].drop_vars(["layer_name"], errors="ignore").mean("sample")
        means["strongest_lag"] = _strongest_lag(node["read"])
        for quantile in QUANTILES:
            means[f"lag_{quantile * 100:.0f}"] = node["lag_quantile"].sel(quantile=quantile).mean("sample")
        own = means.reset_coords(drop=True).to_dataframe(dim_order=["layer", "head", "query"]).reset_index()
        own.insert(0, "step", np.tile(node["step"].values, len(own) // node.sizes["query"]))
        own.insert(0, "part", node.attrs["part"])
        own.insert(0, "stack", name)
        tables.append(own.drop(columns="query"))
    first = ["stack", "layer", "head", "part", "step"]
    if not tables:
        return pd.DataFrame(columns=[*first, *ROWS, *MAPS])
    table = pd.concat(tables, ignore_index=True)
    return table[[*first, *table.columns.drop(first)]]


def _align_stack(node: xr.Dataset, pairs: Mask, history: float, part: str) -> xr.Dataset:
    queries = np.flatnonzero(pairs.any(1))
    keys = np.flatnonzero(pairs.any(0))
    queries = queries[np.argsort(node["query_time"].values[queries], kind="stable")]
    keys = keys[np.argsort(node["key_time"].values[keys], kind="stable")]
    query_time, key_time = node["query_time"].values[queries], node["key_time"].values[keys]
    seen = pairs[np.ix_(queries, keys)]
    attention = node["attention"].transpose("sample", "layer", "head", "query", "key")
    measured: dict[str, list[Array]] = {}
    read: Array | float = 0.0
    for i in range(attention.sizes["sample"]):
        rows = share_of_keys(attention.isel(sample=i).values[..., queries, :][..., keys].astype(np.float64), seen)
        read = read + rows / attention.sizes["sample"]
        for name, values in _of_rows(rows, query_time, key_time).items():
            measured.setdefault(name, []).append(values)
    stacked = {name: np.stack(values) for name, values in measured.items()} | {"read": np.asarray(read)}
    return _labelled(node, stacked, (queries, keys), history, part)


def _of_rows(rows: Array, query_time: Array, key_time: Array) -> dict[str, Array]:
    lag = np.subtract.outer(query_time, key_time)
    nats = entropy(rows)
    n = rows.shape[-1]
    # Lags fall with the time of the key: from the youngest key on, how much lies within a lag.
    within = np.cumsum(rows[..., ::-1], -1)
    reached = [np.minimum((within < q * (1 - 1e-12)).sum(-1), n - 1) for q in QUANTILES]
    at = np.arange(len(query_time))
    return {
        "alignment_entropy": nats,
        "relative_entropy": nats / np.log(n) if n > 1 else np.full_like(nats, np.nan),
        "effective_keys": effective_keys(rows),
        "focus": rows.max(-1),
        "mean_lag": (rows * lag).sum(-1),
        "strongest_lag": lag[at, rows.argmax(-1)],
        "lag_quantile": np.stack([lag[:, ::-1][at, place] for place in reached]),
        "coverage": coverage(rows),
        "monotonicity": monotonicity(rows),
        "drift": drift(rows, query_time, key_time),
    }


def _labelled(
    node: xr.Dataset,
    measured: dict[str, Array],
    chosen: tuple[NDArray, NDArray],
    history: float,
    part: str,
) -> xr.Dataset:
    queries, keys = chosen
    units = {"units": "input samples"}
    heads = ("sample", "layer", "head")
    variables: dict[str, Any] = {}
    for name, (label, unit) in (ROWS | MAPS).items():
        dims = heads if name in MAPS else (*heads, "query")
        variables[name] = (dims, measured[name], {"long_name": label, "units": unit})
    variables["lag_quantile"] = (("sample", "quantile", *heads[1:], "query"), measured["lag_quantile"], units)
    variables["read"] = (
        ("layer", "head", "query", "key"),
        measured["read"],
        {"long_name": "attention over the history"},
    )
    coords: dict[str, Any] = {name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords}
    coords |= {
        "quantile": list(QUANTILES),
        "query_time": ("query", node["query_time"].values[queries], units),
        "key_time": ("key", node["key_time"].values[keys], units),
        "step": ("query", node["query_time"].values[queries] - history + 1),
    }
    return xr.Dataset(variables, coords, {"part": part, "samples_per_token": node.attrs["samples_per_token"]})


def _strongest_lag(read: xr.DataArray) -> xr.DataArray:
    """Lag of the largest weight of the mean row: (layer, head, query, key) -> (layer, head, query).

    NaN for a row without any attention over the history.
    """
    place = read.fillna(-np.inf).argmax("key")
    lag = (read["query_time"] - read["key_time"].isel(key=place)).reset_coords(drop=True)
    return lag.where(read.notnull().any("key"))
