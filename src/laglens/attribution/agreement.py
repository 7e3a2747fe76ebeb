"""Whether heads look where the forecast comes from. Numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.attribution.lags import attribution_lags, mean_and_sd
from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset
from laglens.lags.pairs import PairTable

Array = NDArray[np.float64]
FORECASTING = ("horizon->history", "readout->history")  # query parts whose rows make the forecast


def agree_with_attention(attribution: xr.Dataset, time_tree: xr.DataTree) -> xr.DataTree:
    """Compare where the forecast comes from with where each head looks.

    Per window, attention is the mean row of the queries that forecast, over history tokens; attribution is the mean of
    its absolute values within each of these tokens. Their Spearman correlation is the agreement.

    Parameters
    ----------
    attribution
        From `laglens.attribution.forecast.attribute_forecast`, of the windows of `time_tree`. With a chosen step, the
        horizon rows are those of the token that holds it.
    time_tree
        Time maps of the same model (see `laglens.time.reduce.to_time`).

    Returns
    -------
    xr.DataTree
        Root: `attribution` with its lag profile (see `attribution_lags`). One node per stack with rows that forecast:
        ``spearman (attribution_method, sample, layer, head)``, and ``mismatched (attribution_method, layer, head)``,
        the mean over all pairs of *different* windows: what agreement there is without regard to the input, such as
        both being recent. NaN where either is constant.

    Raises
    ------
    LaglensError
        The windows are not the same.
    """
    windows, theirs = attribution["sample"], time_tree.to_dataset(inherit=False).get("sample")
    if theirs is None or not np.array_equal(theirs, windows):
        n = 0 if theirs is None else theirs.size
        raise LaglensError(f"the attribution has {windows.size} windows, the time maps {n}, or others; take the same")
    nodes = {name: _agree(attribution, stack_dataset(time_tree, name)) for name in time_tree.children}
    found = {f"/{name}": node for name, node in nodes.items() if node is not None}
    root = attribution.merge(attribution_lags(attribution), combine_attrs="override")
    if not found:  # a forecast read from a class token alone
        root.attrs["no_agreement"] = f"no attention stack has rows of {' or '.join(FORECASTING)} to compare with"
    return xr.DataTree.from_dict({"/": root, **found})


def _agree(attribution: xr.Dataset, node: xr.Dataset) -> xr.Dataset | None:
    """Agreement with one stack; None where it has no rows that forecast."""
    chosen = forecasting_rows(node, attribution)
    if chosen is None:
        return None
    rows, keys = chosen
    part = headline(node, attribution.attrs["history"])
    weights = node["attention"].transpose("sample", "layer", "head", "query", "key").values
    attended = weights[..., rows, :][..., keys].mean(-2, dtype=np.float64)
    size = np.abs(attribution["attribution"].transpose("attribution_method", "sample", "time").values)
    by_token = pool(size, node["key_start"].values[keys], node["key_end"].values[keys])
    every = spearman_pairs(by_token, np.moveaxis(attended, 0, -2))  # (attribution_method, layer, head, sample, sample)
    same = np.moveaxis(np.diagonal(every, axis1=-2, axis2=-1), -1, 1)
    n = every.shape[-1]
    different = np.where(np.eye(n, dtype=bool), np.nan, every).reshape(*every.shape[:-2], -1)
    variables = {
        "spearman": (("attribution_method", "sample", "layer", "head"), same, {"long_name": "Spearman correlation"}),
        "mismatched": (("attribution_method", "layer", "head"), mean_and_sd(different[:, None], axis=-1)[0][:, 0]),
    }
    coords: dict[str, Any] = {"attribution_method": attribution["attribution_method"], "sample": attribution["sample"]}
    coords |= {name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords}
    return xr.Dataset(variables, {name: c.variable for name, c in coords.items()}, {"part": part})


def headline(node: xr.Dataset, history: float) -> str | None:
    """The query part in which a node reads the history for the forecast; None where no row does."""
    table = PairTable.of(node, history, node["visible"].values if "visible" in node else None)
    return next((part for part in FORECASTING if part in table.parts), None)


def forecasting_rows(node: xr.Dataset, attribution: xr.Dataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Queries that make the forecast, those of the explained step where it has its own, and the history keys they see.

    ``(query,), (key,)``; None where no row of the node forecasts.
    """
    history = attribution.attrs["history"]
    part = headline(node, history)
    if part is None:
        return None
    mask = PairTable.of(node, history, node["visible"].values if "visible" in node else None).parts[part]
    return _forecasting(np.any(mask, 1), node, attribution.attrs), np.any(mask, 0)


def _forecasting(rows: NDArray[np.bool_], node: xr.Dataset, attrs: dict[Any, Any]) -> NDArray[np.bool_]:
    """Of the queries that forecast, those of the explained sample, ``(query,)``; all where it has none of its own."""
    if attrs["step"] == "mean":
        return rows
    at = attrs["target_time"]
    own = rows & (node["query_start"].values <= at) & (node["query_end"].values > at)
    return own if own.any() else rows


def pool(values: Array, start: Array, end: Array) -> Array:
    """Mean over the samples that each token covers, wholly or in part: (..., time) -> (..., token)."""
    spans = zip(np.floor(start).astype(int), np.ceil(end).astype(int), strict=True)
    return np.stack([values[..., first:past].mean(-1) for first, past in spans], -1)


def spearman_pairs(first: Array, second: Array) -> Array:
    """Spearman correlation of every row with every row; NaN where a row is constant or holds NaN.

    (method, sample, token), (..., sample, token) -> (method, ..., sample, sample).
    """
    a, b = _standard_ranks(first), _standard_ranks(second)
    return np.einsum("mit,...jt->m...ij", a, b)


def _standard_ranks(rows: Array) -> Array:
    """Ranks with mean 0 and length 1: (..., token) -> (..., token)."""
    from scipy.stats import rankdata  # as slow to import as all else here together, which figures need not pay

    ranks = rankdata(rows, axis=-1, nan_policy="propagate")
    ranks = ranks - ranks.mean(-1, keepdims=True)
    length = np.sqrt((ranks**2).sum(-1, keepdims=True))
    return np.divide(ranks, length, out=np.full_like(ranks, np.nan), where=length > 0)
