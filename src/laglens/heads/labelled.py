"""The measures of attention one by one, on labelled maps: ``(..., query, key)`` to a value per row or per map.

Every function takes ``attention`` with the dims ``query`` and ``key`` and, where times matter, the coordinates
``query_time`` and ``key_time`` [input samples]; and ``visible (query, key)``, the keys that count for each query. What
lies on other keys is left out and the row scaled to sum to 1 over those that count; a row without mass there, or
without any such key, is NaN. Adding, leaving out or permuting heads, samples or keys that do not count changes nothing.
`laglens.heads.measure.measure_heads` has all of them by query part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.heads import alignment, similarity, stripes
from laglens.heads import rows as kernels
from laglens.heads.rows import TOP_KEYS, Array, Keys, share_of_keys

Visible = xr.DataArray | None


def row_entropy(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    r"""Entropy of every row in nats, :math:`-\sum_k a \ln a`, with 0 ln 0 = 0: (..., query, key) -> (..., query).

    Between 0, all on one key, and ln n, all alike. Clark et al. 2019, arXiv 1906.04341, without their smoothing.
    """
    return _of_rows(attention, visible, lambda rows, keys: kernels.entropy(rows))


def relative_entropy(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    """Entropy over ln n, that of a uniform row over the n visible keys: (..., query, key) -> (..., query).

    Between 0 and 1 whatever the mask; NaN for a query that sees a single key.
    """
    return _of_rows(attention, visible, lambda rows, keys: kernels.relative_entropy(rows, keys.number))


def effective_keys(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    r"""Number of equal weights with the same sum of squares, :math:`1 / \sum_k a^2`: (..., query, key) -> (..., query).

    Between 1 and n (inverse participation ratio; Simpson's index of diversity).
    """
    return _of_rows(attention, visible, lambda rows, keys: kernels.effective_keys(rows))


def gini(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    r"""Gini coefficient of every row: (..., query, key) -> (..., query).

    :math:`\sum_k (2 k - n - 1) a_{(k)} / n` with ascending weights; between 0, all alike, and (n - 1) / n, all on one
    key. Damgaard and Weiner 2000, over the n visible keys only: hidden ones would add inequality.
    """
    return _of_rows(attention, visible, lambda rows, keys: kernels.gini(rows, keys.number))


def top_mass(attention: xr.DataArray, visible: Visible = None, *, top: int = TOP_KEYS) -> xr.DataArray:
    """Mass on the `top` strongest keys: (..., query, key) -> (..., query). Between top / n and 1; ties do not matter.

    Raises
    ------
    LaglensError
        `top` is not at least 1.
    """
    if top < 1:
        raise LaglensError(f"top is {top}; the strongest keys are at least 1")
    return _of_rows(attention, visible, lambda rows, keys: kernels.top_mass(rows, top))


def confidence(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    r"""Head confidence, :math:`E_q \max_k A(q, k)`: (..., query, key) -> (...). Voita et al. 2019, arXiv 1905.09418.

    The weights are taken as they are, so that a row whose mass lies on hidden or special keys is not confident.
    """

    def strongest(weights: Array, counts: NDArray[np.bool_]) -> Array:
        rows = counts.any(1)
        return np.where(counts, weights, 0.0)[..., rows, :].max(-1).mean(-1)

    return _applied(attention, visible, strongest, [])


def attention_distance(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    r"""Mean distance :math:`\sum_k a |t_q - t_k|` in input samples: (..., query, key) -> (..., query).

    Vig and Belinkov 2019, arXiv 1906.04284. Compare with a uniform row: it grows with the number of keys.
    """
    return _of_rows(attention, visible, lambda rows, keys: (rows * np.abs(keys.lag)).sum(-1), needs_time=True)


def directedness(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    r"""Mean lag :math:`\sum_k a (t_q - t_k)` in input samples, positive = past: (..., query, key) -> (..., query)."""
    return _of_rows(attention, visible, lambda rows, keys: (rows * keys.lag).sum(-1), needs_time=True)


def locality(attention: xr.DataArray, visible: Visible = None, *, window: float) -> xr.DataArray:
    """Mass on keys at most `window` input samples away, the diagonality of a row: (..., query, key) -> (..., query)."""
    return _of_rows(
        attention, visible, lambda rows, keys: (rows * keys.local).sum(-1), needs_time=True, window=float(window)
    )


def vertical_stripe(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    r"""Variance of attention over uniform between keys: (..., query, key) -> (...).

    0 without preference, n - 1 with all rows on one key. Without a mask :math:`n^2 \mathrm{Var}_k(E_q a)`; with one,
    each column is a mean over the queries that see it and counts as often, so that causal uniform attention has 0.
    """
    return _of_maps(attention, visible, "vertical_stripe")


def diagonal_stripe(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    """Variance of attention over uniform between lags: (..., query, key) -> (...); 0 without preference.

    Lags are whole tokens of the median distance of keys.
    """
    return _of_maps(attention, visible, "diagonal_stripe")


def toeplitz_share(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    """R^2 of attention over uniform on its means by lag: (..., query, key) -> (...), 0 to 1; NaN for a uniform map.

    1: a pure function of the lag, as a head that reads positions alone.
    """
    return _of_maps(attention, visible, "diagonal_share")


def top_lag(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    """Lag at which attention over uniform is highest on average [input samples]: (..., query, key) -> (...).

    Among the past lags of a token or more that a quarter of the queries have; among the future ones where there is no
    past. NaN where all lags are alike. A description, not evidence: random weights have a strongest lag too.
    """
    times, step = _times(attention), _step(attention)

    def strongest(weights: Array, counts: NDArray[np.bool_]) -> Array:
        rows = counts.any(1)
        shares = share_of_keys(weights[..., rows, :], counts[rows])
        return stripes.top_lag(shares, Keys.of(counts, *times, 1.0, step=step))

    return _applied(attention, visible, strongest, [])


def horizontal_stripe(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    """Variance over queries of ln n - entropy [nats^2]: (..., query, key) -> (...). 0 where all rows spread alike.

    Rows sum to 1, so a row that differs from the others shows in its spread alone.
    """
    return _of_maps(attention, visible, "horizontal_stripe")


def sink_score(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    """Share of rows with more than 0.3 of their weight on the first visible key: (..., query, key) -> (...).

    After Gu et al. 2025, arXiv 2410.10781. Weights as they are, of the rows that see the key.
    """

    def leaning(weights: Array, counts: NDArray[np.bool_]) -> Array:
        first = int(counts.any(0).argmax())
        return (weights[..., counts[:, first], first] > kernels.SINK_WEIGHT).mean(-1)

    return _applied(attention, visible, leaning, [])


def alignment_coverage(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    """Entropy of what each key gets from all queries, over ln n: (..., query, key) -> (...); 1 = every key as much."""
    return _of_alignment(attention, visible, lambda rows, query, key: alignment.coverage(rows))


def alignment_monotonicity(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    """Share of queries whose strongest key is not before that of the query before: (..., query, key) -> (...).

    Queries and keys in the order of time; 1 for a perfect alignment; NaN for a single query.
    """
    return _of_alignment(attention, visible, lambda rows, query, key: alignment.monotonicity(rows))


def alignment_drift(attention: xr.DataArray, visible: Visible = None) -> xr.DataArray:
    """Slope of the expected key time over the query time: (..., query, key) -> (...); 1 = one lag, 0 = one place."""
    return _of_alignment(attention, visible, alignment.drift, needs_time=True)


def head_similarity(attention: xr.DataArray, visible: Visible = None, *, by: str = "js") -> xr.DataArray:
    """Compare the maps of all heads of a layer: (..., head, query, key) -> (..., head, other_head).

    ``js``: Jensen-Shannon divergence of rows over ln 2, mean over rows, 0 to 1 (Clark et al. 2019, who sum);
    ``cosine`` of the maps (Li et al. 2018, arXiv 1810.10183); ``euclidean``: distance of the maps (pdist).

    Raises
    ------
    LaglensError
        `by` is none of these, or there is no dim ``head``.
    """
    if by not in similarity.PAIRWISE or "head" not in attention.dims:
        raise LaglensError(
            f"heads are compared by {', '.join(similarity.PAIRWISE)} along the dim 'head', not by {by!r}"
        )

    def compared(weights: Array, counts: NDArray[np.bool_]) -> Array:
        rows = share_of_keys(weights[..., counts.any(1), :], counts[counts.any(1)])
        each = rows.reshape(-1, *rows.shape[-3:])
        return np.stack([similarity.pairwise(maps)[by] for maps in each]).reshape(*rows.shape[:-2], rows.shape[-3])

    return _applied(attention.transpose(..., "head", "query", "key"), visible, compared, ["head", "other_head"])


def _of_alignment(
    attention: xr.DataArray, visible: Visible, kernel: Callable[..., Array], *, needs_time: bool = False
) -> xr.DataArray:
    query, key = _times(attention) if needs_time else _places(attention)

    def measured(weights: Array, counts: NDArray[np.bool_]) -> Array:
        seen = counts.any(1)
        rows = share_of_keys(weights[..., seen, :], counts[seen])
        return np.where(np.isnan(rows).any((-2, -1)), np.nan, kernel(rows, query[seen], key))

    return _applied(attention, visible, measured, [])


def _of_rows(
    attention: xr.DataArray,
    visible: Visible,
    kernel: Callable[[Array, Keys], Array],
    *,
    needs_time: bool = False,
    window: float = 1.0,
) -> xr.DataArray:
    times = _times(attention) if needs_time else _places(attention)

    def measured(weights: Array, counts: NDArray[np.bool_]) -> Array:
        keys = Keys.of(counts, *times, window, every_row=True)
        return kernel(share_of_keys(weights, counts), keys)

    return _applied(attention, visible, measured, ["query"])


def _of_maps(attention: xr.DataArray, visible: Visible, name: str) -> xr.DataArray:
    times = _times(attention) if name.startswith("diagonal") else _places(attention)
    step = _step(attention) if name.startswith("diagonal") else 1.0

    def measured(weights: Array, counts: NDArray[np.bool_]) -> Array:
        rows = counts.any(1)
        shares = share_of_keys(weights[..., rows, :], counts[rows])
        return stripes.stripe_measures(shares, Keys.of(counts, *times, 1.0, step=step))[name]

    return _applied(attention, visible, measured, [])


def _applied(attention: xr.DataArray, visible: Visible, kernel: Callable, left: list[str]) -> xr.DataArray:
    shape = _shape(attention)
    counts = np.ones(shape, bool) if visible is None else visible.transpose("query", "key").values.astype(bool)
    if counts.shape != shape:
        raise LaglensError(f"the mask of visible keys is {counts.shape}, the attention map is {shape}")
    if not counts.any():
        raise LaglensError("no query sees any key, so there is nothing to measure")
    return xr.apply_ufunc(
        lambda weights: kernel(weights.astype(np.float64), counts),
        attention,
        input_core_dims=[[*(dim for dim in left if dim == "head"), "query", "key"]],
        output_core_dims=[left],
    )


def _shape(attention: xr.DataArray) -> tuple[int, int]:
    missing = [dim for dim in ("query", "key") if dim not in attention.dims]
    if missing:
        raise LaglensError(f"attention has no dim '{missing[0]}'; it has {', '.join(map(str, attention.dims))}")
    return attention.sizes["query"], attention.sizes["key"]


def _places(attention: xr.DataArray) -> tuple[Array, Array]:
    n_query, n_key = _shape(attention)
    return np.arange(n_query, dtype=float), np.arange(n_key, dtype=float)


def _step(attention: xr.DataArray) -> float:
    """Median distance of neighbouring keys in input samples."""
    centres = np.unique(_times(attention)[1])
    return float(np.median(np.diff(centres))) if len(centres) > 1 else 1.0


def _times(attention: xr.DataArray) -> tuple[Array, Array]:
    missing = [name for name in ("query_time", "key_time") if name not in attention.coords]
    if missing:
        raise LaglensError(f"attention has no coordinate '{missing[0]}', the centre of each token in input samples")
    query, key = (np.asarray(attention[name].values, float) for name in ("query_time", "key_time"))
    return query, key
