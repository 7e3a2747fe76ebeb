r"""Stripes of a map: columns that every query reads, diagonals of one lag, rows of another spread. Numpy only.

All but the last are about the ratio to uniform attention, :math:`r(q, k) = a(q, k)\, n(q)`, whose mean over the pairs
of a map is 1 whatever the mask. Its variance over the pairs, and the part of it between columns or between diagonals,
are 0 without any preference: under a causal mask too, where a plain column mean falls with the number of queries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from laglens.heads.rows import Array, Keys, entropy

FLAT = 1e-6  # variance of the ratio below which a map in half precision is uniform, and has no share of anything
SEEN_BY = 0.5  # share of the queries that must see a key before it can be called the strongest column
REACHED_BY = 0.25  # share of the queries that must have a lag before it can be called the strongest


def column_means(rows: Array, keys: Keys) -> Array:
    """Mean weight of each key over the queries that see it: (..., query, key) -> (..., key); NaN where none does."""
    seen = _known(rows).astype(np.float64) @ keys.counts.astype(np.float64)
    total = np.nan_to_num(rows).sum(-2)
    return np.divide(total, seen, out=np.full_like(total, np.nan), where=seen > 0)


def top_column(rows: Array, keys: Keys) -> tuple[Array, NDArray[np.int64]]:
    """Largest mean weight of one key, and which: (..., query, key) -> (...), (...). Half the queries must see it."""
    often = keys.counts.sum(0) >= SEEN_BY * len(keys.counts)
    means = np.where(often, np.nan_to_num(column_means(rows, keys), nan=-1.0), -1.0)
    strongest = means.max(-1)
    return np.where(strongest >= 0, strongest, np.nan), means.argmax(-1)


def top_lag(rows: Array, keys: Keys) -> Array:
    """Lag at which the mean ratio to uniform is highest [input samples]: (..., query, key) -> (...).

    Among the past lags of a token or more that a quarter of the queries have; among the future ones where the part has
    no past. NaN where the ratio is the same at all of them, or there is none.
    """
    known = _known(rows)
    ratio = np.nan_to_num(rows) * keys.number[:, None]
    sums, _, members = _diagonal_sums(ratio, known, keys)
    steps, first = np.unique(keys.steps[keys.counts], return_index=True)
    lag = keys.lag[keys.counts][first]
    often = members.sum(0) >= REACHED_BY * len(keys.counts)
    used = often & (steps > 0) if (often & (steps > 0)).any() else often & (steps < 0)
    if not used.any():
        return np.full(rows.shape[:-2], np.nan)
    n = known.astype(np.float64) @ members[:, used]
    means = np.divide(sums[..., used], n, out=np.full(n.shape, -np.inf), where=n > 0)
    strongest = means.max(-1)
    flat = strongest - np.where(n > 0, means, np.inf).min(-1) < np.sqrt(FLAT)
    return np.where(flat | ~np.isfinite(strongest), np.nan, lag[used][means.argmax(-1)])


def stripe_measures(rows: Array, keys: Keys) -> dict[str, Array]:
    """Strength and share of stripes of maps whose rows sum to 1: (..., query, key) -> (...) each.

    ``vertical_stripe`` and ``diagonal_stripe``: variance of the ratio to uniform between columns and between lags, 0 to
    n - 1; NaN for a single row. ``vertical_share`` and ``diagonal_share``: the same over the whole variance, 0 to 1;
    NaN for a uniform map.
    ``horizontal_stripe``: variance over queries of ln n - entropy [nats^2].
    """
    known = _known(rows)
    ratio = np.nan_to_num(rows) * keys.number[:, None]
    pairs = np.maximum((known * keys.number).sum(-1), 1)
    whole = _excess((ratio**2).sum((-2, -1)), pairs)
    columns = _between(ratio.sum(-2), known, keys.counts.astype(np.float64), pairs)
    diagonals = _between(*_diagonal_sums(ratio, known, keys), pairs)
    flat = whole < FLAT
    share = [np.where(flat, np.nan, part / np.where(flat, 1.0, whole)) for part in (columns, diagonals)]
    lack = np.where(known, np.log(np.maximum(keys.number, 1)) - entropy(rows), np.nan)
    measured = {
        "vertical_stripe": columns,
        "diagonal_stripe": diagonals,
        "horizontal_stripe": _variance(lack),
        "vertical_share": share[0],
        "diagonal_share": share[1],
    }
    several = known.sum(-1) > 1  # a single row has no stripes
    return {name: np.where(several, values, np.nan) for name, values in measured.items()}


def _known(rows: Array) -> NDArray[np.bool_]:
    return np.isfinite(rows[..., 0])


def _excess(squares: Array, pairs: Array) -> Array:
    return np.maximum(squares / pairs - 1, 0.0)


def _between(sums: Array, known: NDArray, members: Array, pairs: Array) -> Array:
    """Variance between groups of pairs whose mean is 1; `members` ``(query, group)`` counts the pairs of each query."""
    n = known.astype(np.float64) @ members
    return _excess((sums**2 / np.where(n > 0, n, 1.0)).sum(-1), pairs)


def _diagonal_sums(ratio: Array, known: NDArray, keys: Keys) -> tuple[Array, NDArray, Array]:
    """Sums over the pairs of each lag, ``(..., lag)``, and how many pairs of each query have it, ``(query, lag)``."""
    query, key = np.nonzero(keys.counts)
    lags, place = np.unique(keys.steps[query, key], return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(lags)))
    sums = np.add.reduceat(ratio[..., query[order], key[order]], starts, -1)
    members = np.zeros((len(keys.counts), len(lags)))
    np.add.at(members, (query, place), 1.0)
    return sums, known, members


def _variance(values: Array) -> Array:
    """Variance over the last axis, without NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    n = np.maximum(known.sum(-1), 1)
    mean = np.where(known, values, 0).sum(-1) / n
    return np.where(known, (values - mean[..., None]) ** 2, 0).sum(-1) / n
