"""Attention as a function of the lag: mean weight per pair, and ratio to uniform attention."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.layout import MIN_PAIRS, Layout, longest_lag
from laglens.lags.pairs import Mask

Array = NDArray[np.float64]


def mean_by_bin(weights: NDArray, bins: NDArray[np.int64], n_bins: int, row_scale: Array | None = None) -> Array:
    """Mean weight of the pairs of each bin.

    (..., query, key) -> (..., bin), float64, NaN where a bin is empty. `bins` is ``(query, key)``, -1 = no bin;
    `row_scale` ``(..., query)`` multiplies the weights of each query first.
    """
    pairs = np.flatnonzero(bins >= 0)
    bin_of, query_of = bins.ravel()[pairs], pairs // bins.shape[1]
    leading = weights.shape[:-2]
    sums = np.empty((*leading, n_bins))
    # One map at a time: the float64 copy never exceeds one map, whatever the number of samples and heads.
    for index in np.ndindex(leading):
        values = weights[index].ravel()[pairs]
        if row_scale is not None:
            values = values * row_scale[index][query_of]
        sums[index] = np.bincount(bin_of, values, n_bins)
    counts = np.bincount(bin_of, minlength=n_bins)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def uniform_scale(weights: NDArray, visible: Mask) -> Array:
    """One over the mean weight of the keys each query can see.

    (..., query, key) -> (..., query). Times this, a weight is a ratio to uniform attention, whatever the sum of the
    row: what special tokens took is left out. NaN for a query without any mass on the keys.
    """
    total = weights.sum(-1, dtype=np.float64, where=visible)
    with np.errstate(divide="ignore"):
        scale = visible.sum(-1) / total
    return np.where(total > 0, scale, np.nan)


def profile_of_part(weights: NDArray, layout: Layout, part: str) -> Array:
    """P1, the mean weight of all pairs of a part at each lag: (..., query, key) -> (..., lag).

    NaN where too few pairs have the lag.
    """
    profile = mean_by_bin(weights, layout.bins(part), len(layout.lag))
    return np.where(layout.enough_pairs(part), profile, np.nan)


def ratio_of_part(weights: NDArray, layout: Layout, part: str) -> Array:
    """P3, the mean ratio to uniform over fixed sets of queries: (..., query, key) -> (..., lag).

    NaN outside the window of the queries.
    """
    scale = uniform_scale(weights, layout.table.visible)
    return mean_by_bin(weights, layout.bins(part, fixed=True), len(layout.lag), scale)


def mass_on_special(node: xr.Dataset, layout: Layout, part: str) -> Array:
    """Mean mass that the queries of a part give to special tokens, ``(layer, head)``."""
    if "special_mass" not in node:
        return np.zeros((node.sizes["layer"], node.sizes["head"]))
    queries = np.any(layout.table.parts[part], axis=1)
    mass = node["special_mass"].transpose("sample", "layer", "head", "query").values[..., queries]
    return np.asarray(mass.mean(axis=(0, 3), dtype=np.float64))


def lag_profile(
    node: xr.Dataset,
    part: str,
    *,
    history: float,
    max_lag: float | str = "auto",
    min_pairs: int = MIN_PAIRS,
    visible: Mask | None = None,
) -> xr.DataArray:
    r"""Mean attention weight of the pairs at each lag (P1).

    .. math:: P_1(l) = \frac{1}{|\{(q,k): t_q - t_k = l\}|} \sum_{t_q - t_k = l} A(q, k)

    (..., query, key) -> (..., lag). Never read it alone: causal attention without any preference falls with the lag.

    Parameters
    ----------
    node
        Node of a time tree: ``attention (..., query, key)``, token coordinates, ``samples_per_token``.
    part
        One of `laglens.lags.pairs.PARTS`.
    history
        Samples of history in the window.
    max_lag
        Longest lag on either side [input samples], or ``auto`` (see `PairTable.needed_queries`).
    min_pairs
        Lags with fewer pairs are NaN.
    visible
        Pairs the model may attend to, ``(query, key)`` (see `PairTable.of`).

    Returns
    -------
    xr.DataArray
        float64; ``lag`` in input samples, positive = the past.

    Raises
    ------
    LaglensError
        The stack has no such part, or no lag of it has enough pairs.
    """
    layout = Layout.of(node, history, max_lag=max_lag, min_pairs=min_pairs, visible=visible, parts=(part,))
    weights = node["attention"].transpose(..., "query", "key")
    attrs = {"part": part, "long_name": "mean weight per pair"}
    return _labelled(weights, profile_of_part(weights.values, layout, part), layout.lag_samples, attrs)


def lag_ratio(
    node: xr.Dataset,
    part: str,
    *,
    history: float,
    max_lag: float | str = "auto",
    min_pairs: int = MIN_PAIRS,
    visible: Mask | None = None,
) -> xr.DataArray:
    r"""Ratio to uniform attention at each lag, over queries that have every lag (P3); 1 = no preference.

    .. math:: P_3(l) = \frac{1}{|Q|} \sum_{q \in Q} \frac{A(q, q - l)}{\sum_k A(q, k) / n(q)}

    (..., query, key) -> (..., lag). n(q) counts the keys that q can see, in all parts. Q is fixed on each side of
    lag 0, so neighbouring lags differ by their keys alone; its size is the attribute ``n_queries`` ``[future, past]``.

    Parameters, Returns, Raises: as `lag_profile`. Lags outside the window of the queries are NaN.
    """
    layout = Layout.of(node, history, max_lag=max_lag, min_pairs=min_pairs, visible=visible, parts=(part,))
    weights = node["attention"].transpose(..., "query", "key")
    sides = layout.windows[part]
    sizes = [int(sides[sign].queries.sum()) if sign in sides else 0 for sign in (-1, 1)]
    attrs = {"part": part, "long_name": "attention / uniform", "n_queries": sizes}
    return _labelled(weights, ratio_of_part(weights.values, layout, part), layout.lag_samples, attrs)


def subdiagonal_means(node: xr.Dataset, *, max_lag: float | None = None) -> xr.DataArray:
    """The readout of the published ViTime demo: mean of each sub-diagonal over **all** queries, past lags only.

    (..., query, key) -> (..., lag). It mixes history and horizon queries, has no null, and gives long lags few pairs;
    kept for comparison with published curves, never for evidence.

    Parameters
    ----------
    node
        Node of a time tree with a square map.
    max_lag
        Longest lag [input samples]; default: all.

    Raises
    ------
    LaglensError
        The map is not square.
    """
    weights = node["attention"].transpose(..., "query", "key")
    n_queries, n_keys = weights.shape[-2:]
    if n_queries != n_keys:
        raise LaglensError(f"sub-diagonals need a square map, this one has {n_queries} queries and {n_keys} keys")
    step = float(node.attrs["samples_per_token"])
    longest = n_keys - 1 if max_lag is None else min(n_keys - 1, int(longest_lag(max_lag, step)))
    lag = np.arange(1, longest + 1)
    distance = np.subtract.outer(np.arange(n_queries), np.arange(n_keys))
    bins = np.where((distance >= 1) & (distance <= longest), distance - 1, -1)
    means = mean_by_bin(weights.values, bins, len(lag))
    attrs = {"part": "all queries", "long_name": "mean of the sub-diagonal (published readout)"}
    return _labelled(weights, means, lag.astype(np.float64) * step, attrs)


def _labelled(weights: xr.DataArray, values: Array, lag: Array, attrs: dict) -> xr.DataArray:
    leading = weights.dims[:-2]
    coords = {name: coord for name, coord in weights.coords.items() if set(coord.dims) <= set(leading)}
    coords["lag"] = xr.Variable("lag", lag, {"units": "input samples", "long_name": "lag, positive = past"})
    return xr.DataArray(values, dims=(*leading, "lag"), coords=coords, name="lags", attrs=attrs)
