"""The lag axis of one attention stack: which lags, from which pairs and queries, for each query part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.pairs import Mask, PairTable, Window

MIN_PAIRS = 8


def longest_lag(max_lag: float | str, step: float) -> float:
    """`max_lag` in whole tokens; infinity for ``auto``.

    Raises
    ------
    LaglensError
        `max_lag` is neither ``auto`` nor a number of at least one token.
    """
    if max_lag == "auto":
        return np.inf
    if isinstance(max_lag, str) or not max_lag >= step:
        raise LaglensError(
            f"max_lag is {max_lag!r}; it must be 'auto' or at least {step:g} samples, one token of this model"
        )
    return float(np.floor(max_lag / step + 1e-6))


@dataclass(frozen=True)
class Layout:
    """Lags and query sets of a stack.

    Attributes
    ----------
    table
        The pairs by part and lag.
    min_pairs
        Fewest pairs of a lag within one part.
    lag
        Consecutive signed lags in tokens, ``(lag,)``, covering the windows of all parts.
    windows
        Of each measured part, by the sign of the lag: 1 past (with lag 0), -1 future.
    left_out
        Why the other parts are not measured.
    """

    table: PairTable
    min_pairs: int
    lag: NDArray[np.int64]
    windows: Mapping[str, Mapping[int, Window]]
    left_out: Mapping[str, str]

    @classmethod
    def of(
        cls,
        node: xr.Dataset,
        history: float,
        *,
        max_lag: float | str = "auto",
        min_pairs: int = MIN_PAIRS,
        visible: Mask | None = None,
        parts: Sequence[str] | None = None,
    ) -> Self:
        """Lay out the lags of a node of a time tree.

        Parameters
        ----------
        node, history, visible
            As `PairTable.of`.
        max_lag
            Longest lag on either side [input samples]. ``auto``: as far as enough queries reach
            (`PairTable.needed_queries`), which is also the most that a number can ask for: three quarters of a part
            for lags within it, all of the history for lags across the border.
        min_pairs
            Fewest pairs of a lag, and fewest queries of a fixed window, within one part.
        parts
            Default: all that exist.

        Raises
        ------
        LaglensError
            A wrong `max_lag` or `min_pairs`, an unknown part, or no lag that enough queries share.
        """
        if min_pairs < 1:
            raise LaglensError(f"min_pairs is {min_pairs}; a lag needs at least one pair")
        table = PairTable.of(node, history, visible)
        missing = [part for part in parts or () if part not in table.parts]
        if missing:
            raise LaglensError(f"this stack has no pairs in part {missing[0]!r}; it has {', '.join(table.parts)}")
        longest = longest_lag(max_lag, table.step)
        found = {part: table.windows(part, min_pairs, longest) for part in parts or table.parts}
        windows = {part: sides for part, sides in found.items() if sides}
        left_out = {part: _reason(table, part, min_pairs) for part, sides in found.items() if not sides}
        if not windows:
            raise LaglensError("; ".join(left_out.values()) + "; lower min_pairs or raise max_lag")
        return cls(table, min_pairs, _lag_axis(windows), windows, left_out)

    @property
    def lag_samples(self) -> NDArray[np.float64]:
        """The lag axis in input samples, ``(lag,)``."""
        return self.lag.astype(np.float64) * self.table.step

    def queries(self, part: str) -> Mask:
        """Mark the queries that each lag of a part uses, ``(lag, query)``; none outside the windows."""
        used = np.zeros((len(self.lag), len(self.table.lags)), bool)
        distance = np.abs(self.lag)
        for sign, window in self.windows[part].items():
            this_side = self.lag >= 0 if sign > 0 else self.lag < 0
            used[this_side & (distance >= window.shortest) & (distance <= window.longest)] = window.queries
        return used

    def bins(self, part: str, *, fixed: bool = False) -> NDArray[np.int64]:
        """Locate every pair of a part on the lag axis, ``(query, key)``; -1 = does not count.

        `fixed`: only pairs of the fixed query sets count.
        """
        index = self.table.lags - self.lag[0]
        counts = self.table.parts[part] & (index >= 0) & (index < len(self.lag))
        if fixed:
            row = np.arange(len(index))[:, None]
            counts &= self.queries(part)[np.clip(index, 0, len(self.lag) - 1), row]
        return np.where(counts, index, -1)

    def n_pairs(self, part: str, *, fixed: bool = False) -> NDArray[np.int64]:
        """Count the pairs at each lag of a part, ``(lag,)``; with `fixed` those of the fixed query sets."""
        bins = self.bins(part, fixed=fixed)
        return np.bincount(bins[bins >= 0], minlength=len(self.lag))

    def enough_pairs(self, part: str) -> Mask:
        """Mark the lags with enough pairs for a plain mean, ``(lag,)``."""
        return self.n_pairs(part) >= self.table.fewest_pairs(part, self.min_pairs)

    def measured(self, part: str) -> Mask:
        """Mark the lags that the fixed query sets have, ``(lag,)``."""
        return np.any(self.queries(part), axis=1)

    def tested(self, part: str) -> Mask:
        """Mark the measured lags of at least one token, ``(lag,)``: those that a limit over all lags covers."""
        return self.measured(part) & (self.lag != 0)

    def reaches(self, part: str, distance: float) -> bool:
        """Whether a distance in input samples lies within the tested lags of a part, on either side."""
        tested = np.abs(self.lag_samples[self.tested(part)])
        return bool(tested.size and tested.min() <= distance <= tested.max())


def _lag_axis(windows: Mapping[str, Mapping[int, Window]]) -> NDArray[np.int64]:
    ends = [sign * end for sides in windows.values() for sign, w in sides.items() for end in (w.shortest, w.longest)]
    return np.arange(min(ends), max(ends) + 1)


def _reason(table: PairTable, part: str, min_pairs: int) -> str:
    needed = table.needed_queries(part, min_pairs)
    rows = int(np.count_nonzero(table.parts[part].any(1)))
    return f"{part}: no lag of a token or more is shared by {needed} of its {rows} queries"
