"""One layer of attention as a map that passes on what is below it: heads fused, weak weights dropped, residual added.

Numpy only. A step is a matrix whose rows sum to 1: row = what a token holds above the layer, column = what lies below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laglens.errors import LaglensError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
FUSIONS: dict[str, Callable[..., Array]] = {"mean": np.mean, "max": np.max, "min": np.min}


@dataclass(frozen=True)
class Mixing:
    """How the heads of a layer become one step.

    Attributes
    ----------
    fusion
        Over heads: ``mean``, ``max`` or ``min``; rows are normalised after it.
    residual
        Weight of the residual connection, from 0 to 1; 0.5 is that of Abnar and Zuidema (2020).
    discard
        Share of the weights of every row, the smallest ones, that are dropped after the fusion; special columns are
        neither dropped nor counted.
    start
        First layer that is followed, counted from 0; those below it are taken to pass on what they are given.
    """

    fusion: str = "mean"
    residual: float = 0.5
    discard: float = 0.0
    start: int = 0

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise LaglensError(f"fusion '{self.fusion}' is not one of {', '.join(FUSIONS)}")
        if not 0 <= self.residual <= 1:
            raise LaglensError(
                f"residual is {self.residual:g}; the weight of the residual connection lies between 0 and 1"
            )
        if not 0 <= self.discard < 1:
            raise LaglensError(f"discard is {self.discard:g}; the share of dropped weights is at least 0 and below 1")
        if self.start < 0:
            raise LaglensError(f"start is {self.start}; layers are counted from 0")

    @property
    def settings(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self)

    def rows(self, heads: NDArray, special: Mask | None = None) -> Array:
        """Fused heads without the residual: (head, query, key) -> (query, key), rows summing to 1, or 0 if empty."""
        fused = FUSIONS[self.fusion](heads.astype(np.float64), axis=0)
        if self.discard:
            fused = without_smallest(fused, self.discard, special)
        total = fused.sum(-1, keepdims=True)
        return np.divide(fused, total, out=np.zeros_like(fused), where=total > 0)

    def step(self, heads: NDArray, special: Mask | None = None) -> Array:
        """Step of a layer whose queries and keys are the same tokens: (head, token, token) -> (token, token).

        A row that fusion and discard leave without mass passes on itself alone.
        """
        n = heads.shape[-1]
        return self.placed(self.rows(heads, special), n, slice(0, n), slice(0, n))

    def placed(self, rows: Array, n: int, queries: slice, keys: slice) -> Array:
        """Step over `n` tokens of which only `queries` change, by attending to `keys`: -> (n, n)."""
        step = np.eye(n)
        empty = rows.sum(-1) == 0
        step[queries, queries] = np.diag(np.where(empty, 1.0, self.residual))
        step[queries, keys] += (1 - self.residual) * rows
        return step


def without_smallest(rows: Array, share: float, special: Mask | None = None) -> Array:
    """Set the smallest weights of every row to 0: (query, key) -> (query, key).

    Parameters
    ----------
    share
        Of the weights above 0 of a row; their number is rounded down, so that one at least stays.
    special
        Columns that are neither dropped nor counted, ``(key,)``.
    """
    counts = (rows > 0) if special is None else (rows > 0) & ~special
    ranked = np.argsort(np.where(counts, rows, np.inf), axis=-1, kind="stable")
    dropped = np.arange(rows.shape[-1]) < np.floor(share * counts.sum(-1, keepdims=True) + 1e-9)
    kept = rows.copy()
    np.put_along_axis(kept, ranked, np.where(dropped, 0.0, np.take_along_axis(rows, ranked, -1)), -1)
    return kept
