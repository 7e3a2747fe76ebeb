"""Measures of single attention rows. Numpy only.

A row is a distribution over the keys that count; a key that does not count has weight 0. Sources: entropy, Clark et al.
2019 (arXiv 1906.04341); attention distance, Vig and Belinkov 2019 (arXiv 1906.04284); Gini, Damgaard and Weiner 2000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Keys:
    """The keys that count for each query, and how far they are.

    Attributes
    ----------
    counts
        ``(query, key)``.
    distance
        |query time - key time| in input samples, ``(query, key)``.
    window
        Distance up to which a key is local [input samples].
    """

    counts: Mask
    distance: Array
    window: float

    @classmethod
    def of(cls, counts: Mask, query_time: Array, key_time: Array, window: float) -> Self:
        """Keep the queries that have any key."""
        rows = counts.any(1)
        return cls(counts[rows], np.abs(np.subtract.outer(query_time[rows], key_time)), window)

    @property
    def number(self) -> Array:
        """Keys per query, ``(query,)``."""
        return self.counts.sum(1).astype(np.float64)

    @property
    def uniform(self) -> Array:
        """Rows without any preference, ``(query, key)``."""
        return self.counts / self.number[:, None]


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
    return ((2 * rank - number[:, None] - 1) * np.sort(rows, -1)).sum(-1) / number


def row_measures(rows: Array, keys: Keys) -> dict[str, Array]:
    """Every measure of rows that sum to 1: (..., query, key) -> (..., query) each.

    Relative entropy is NaN for a query with a single key.
    """
    number = keys.number
    nats = entropy(rows)
    scale = np.where(number > 1, np.log(np.maximum(number, 2)), np.nan)
    local = keys.distance <= keys.window * (1 + 1e-9)
    return {
        "entropy": nats,
        "relative_entropy": nats / scale,
        "effective_keys": effective_keys(rows),
        "gini": gini(rows, number),
        "distance": (rows * keys.distance).sum(-1),
        "locality": (rows * local).sum(-1),
    }
