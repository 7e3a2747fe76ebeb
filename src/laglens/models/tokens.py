"""Which input samples each token stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

PARTS = ("history", "horizon", "special")
HISTORY, HORIZON, SPECIAL = range(len(PARTS))


@dataclass(frozen=True)
class TokenMap:
    """The place of every token of one axis in the input.

    All arrays have shape ``(token,)``. Times are in input samples counted from the first sample of the
    history: token ``i`` covers ``[start[i], end[i])``; a special token (CLS, REG, ...) has NaN times.

    Attributes
    ----------
    start, end
        First sample, and one past the last sample.
    row
        Value-bin row for image models, 0 elsewhere.
    part
        Index into `PARTS`.
    readout
        True where the model reads its forecast from this token.
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    row: NDArray[np.int64]
    part: NDArray[np.int64]
    readout: NDArray[np.bool_]

    @classmethod
    def patches(cls, history: int, horizon: int, patch: int, *, readout: str = "horizon") -> Self:
        """Consecutive patches of `patch` samples over history and horizon.

        ``readout="horizon"``: the forecast is read from every horizon token; ``"last"``: from the last token.
        """
        edges = np.arange(0, history + horizon + 1, patch, dtype=float)
        start, end = edges[:-1], edges[1:]
        part = np.where(start >= history, HORIZON, HISTORY)
        last = np.arange(len(start)) == len(start) - 1
        return cls(start, end, np.zeros_like(part), part, last if readout == "last" else part == HORIZON)

    @property
    def time(self) -> NDArray[np.float64]:
        """Centre of each token, ``(token,)``, in input samples: the mean index of the samples it covers."""
        return (self.start + self.end - 1) / 2

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Stack:
    """Attention layers that share their token axes: one node of the attention tree.

    Attributes
    ----------
    name
        ``encoder``, ``decoder`` or ``cross``.
    layers
        Names of the attention modules, lowest layer first.
    query, key
        The token maps of the two axes.
    """

    name: str
    layers: tuple[str, ...]
    query: TokenMap
    key: TokenMap
