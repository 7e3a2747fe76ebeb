"""Measures of single attention rows. Numpy only; `laglens.heads.labelled` has the same on labelled arrays.

A row is a distribution over the keys that count; a key that does not count has weight 0, and a row without mass on any
key that counts is NaN throughout. Sources: entropy, Clark et al. 2019 (arXiv 1906.04341); attention distance, Vig and
Belinkov 2019 (arXiv 1906.04284); Gini, Damgaard and Weiner 2000; confidence, Voita et al. 2019 (arXiv 1905.09418);
sink, Gu et al. 2025 (arXiv 2410.10781).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from laglens.lags.pairs import lag_steps

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
TOP_KEYS = 5
SINK_WEIGHT = 0.3  # a row that gives more to the first key leans on a sink (Gu et al. 2025)


@dataclass(frozen=True)
class Keys:
    """The keys that count for each query, and where they lie.

    Attributes
    ----------
    counts
        ``(query, key)``.
    lag
        Query time - key time in input samples, ``(query, key)``.
    steps
        The same in whole tokens.
    window
        Distance up to which a key is local [input samples].
    top
        How many of the strongest keys `top_mass` takes.
    """

    counts: Mask
    lag: Array
    steps: NDArray[np.int64]
    window: float
    top: int = TOP_KEYS

    @classmethod
    def of(
        cls,
        counts: Mask,
        query_time: Array,
        key_time: Array,
        window: float,
        *,
        step: float = 1.0,
        top: int = TOP_KEYS,
        every_row: bool = False,
    ) -> Self:
        """Keep the queries that have any key, or `every_row`; `step` is one token [input samples]."""
        rows = counts.any(1) | every_row
        lag = np.subtract.outer(query_time[rows], key_time)
        return cls(counts[rows], lag, lag_steps(query_time[rows], key_time, step), window, top)

    @property
    def number(self) -> Array:
        """Keys per query, ``(query,)``."""
        return self.counts.sum(1).astype(np.float64)

    @property
    def local(self) -> Mask:
        """Which keys are local, ``(query, key)``."""
        return np.abs(self.lag) <= self.window * (1 + 1e-9)

    @property
    def uniform(self) -> Array:
        """Rows without any preference, ``(query, key)``."""
        return self.counts / np.maximum(self.number, 1)[:, None]


def share_of_keys(weights: NDArray, counts: Mask) -> Array:
    """Rows over the keys that count, scaled to sum to 1: (..., query, key) -> (..., query, key).

    NaN where a row has no mass on them.
    """
    counted = np.where(counts, weights, 0.0)
    total = counted.sum(-1, keepdims=True)
    return np.divide(counted, total, out=np.full_like(counted, np.nan), where=total > 0)


def entropy(rows: Array) -> Array:
    """Entropy in nats, with 0 ln 0 = 0: (..., key) -> (...)."""
    return -(rows * np.log(np.where(rows > 0, rows, 1.0))).sum(-1) + 0.0  # + 0: no minus zero


def relative_entropy(rows: Array, number: Array) -> Array:
    """Entropy over that of a uniform row, ln n; NaN for a single key: (..., query, key), (query,) -> (..., query)."""
    return entropy(rows) / np.where(number > 1, np.log(np.maximum(number, 2)), np.nan)


def effective_keys(rows: Array) -> Array:
    """Number of equal weights with the same sum of squares, 1 / sum a^2: (..., key) -> (...)."""
    return 1.0 / (rows**2).sum(-1)


def gini(rows: Array, number: Array) -> Array:
    r"""Gini coefficient over the keys that count; 0 = all alike, (n - 1) / n = all on one key.

    (..., query, key), (query,) -> (..., query).

    .. math:: G = \sum_k (2 k - n - 1)\, a_{(k)} / n, \quad a_{(1)} \le \dots \le a_{(n)}
    """
    # Keys that do not count have weight 0 and sort in front, so ranks are counted from the heavy end.
    rank = np.arange(1, rows.shape[-1] + 1) - (rows.shape[-1] - number[:, None])
    factor = (2 * rank - number[:, None] - 1) / np.maximum(number, 1)[:, None]
    return (factor * np.sort(rows, -1)).sum(-1)


def top_mass(rows: Array, top: int) -> Array:
    """Mass on the `top` strongest keys, all of it where there are no more: (..., key) -> (...)."""
    if top >= rows.shape[-1]:
        return rows.sum(-1)
    return np.partition(rows, -top, -1)[..., -top:].sum(-1)


def row_measures(rows: Array, keys: Keys) -> dict[str, Array]:
    """Every measure of rows that sum to 1: (..., query, key) -> (..., query) each.

    Relative entropy is NaN for a query with a single key.
    """
    return {
        "entropy": entropy(rows),
        "relative_entropy": relative_entropy(rows, keys.number),
        "effective_keys": effective_keys(rows),
        "gini": gini(rows, keys.number),
        "top_mass": top_mass(rows, keys.top),
        "distance": (rows * np.abs(keys.lag)).sum(-1),
        "directedness": (rows * keys.lag).sum(-1),
        "locality": (rows * keys.local).sum(-1),
    }


def whole_row_measures(whole: Array, keys: Keys) -> dict[str, Array]:
    """Measures of rows as the model used them, special tokens and keys of other parts included in their sum.

    (..., query, key) -> (..., query) each: ``mass`` on the keys that count, ``confidence``, the largest weight on one
    of them, and ``sink``: 1 where the first of them has more than `SINK_WEIGHT`, NaN where the query does not see it.
    """
    counted = np.where(keys.counts, whole, 0.0)
    first = int(keys.counts.any(0).argmax())
    leans = (counted[..., first] > SINK_WEIGHT).astype(np.float64)
    return {
        "mass": counted.sum(-1),
        "confidence": counted.max(-1),
        "sink": np.where(keys.counts[:, first], leans, np.nan),
    }
