"""Which query-key pairs count for which query part and which lag. Numpy only, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.labels import require_attr
from laglens.models.tokens import HISTORY, HORIZON

Mask = NDArray[np.bool_]

# The headline first: only horizon queries forecast, and a readout token is what a forecast is read from.
PARTS = ("horizon->history", "readout->history", "history->history", "horizon->horizon", "history->horizon")
ACROSS = ("horizon->history", "history->horizon")
ACROSS_QUERIES = 3  # queries nearest the border; the window then starts one token below the 4 that a period needs


@dataclass(frozen=True)
class Axis:
    """Tokens of one axis: arrays ``(token,)``, times in input samples.

    Attributes
    ----------
    time
        Centre.
    part
        Code of history or horizon.
    readout
        True where the forecast is read from the token.
    straddles
        True where the token covers both history and horizon, so that it belongs to neither part.
    """

    time: NDArray[np.float64]
    part: NDArray[np.int64]
    readout: Mask
    straddles: Mask

    @classmethod
    def of(cls, node: xr.Dataset, axis: str, history: float) -> Self:
        """Read the axis ``query`` or ``key`` of a node; `history` is the border in samples."""
        start, end = node[f"{axis}_start"].values, node[f"{axis}_end"].values
        return cls(
            time=np.asarray(node[f"{axis}_time"].values, dtype=np.float64),
            part=node[f"{axis}_part"].values,
            readout=node[f"{axis}_readout"].values.astype(bool),
            straddles=(start < history) & (end > history),
        )

    def lies_in(self, part: int) -> Mask:
        """True for tokens entirely in one part, ``(token,)``."""
        return (self.part == part) & ~self.straddles


def lag_steps(query_time: NDArray[np.float64], key_time: NDArray[np.float64], step: float) -> NDArray[np.int64]:
    """Signed lag ``query_time - key_time`` of every pair in whole tokens, ``(query, key)``; positive is the past.

    Lags are rounded to the nearest multiple of `step` samples, halves always up, so that query and key axes that are
    half a token apart give every lag the same share of pairs.
    """
    return np.floor(np.subtract.outer(query_time, key_time) / step + 0.5 + 1e-6).astype(np.int64)


def part_masks(query: Axis, key: Axis) -> dict[str, Mask]:
    """The pairs of each query part that exists, ``(query, key)`` each. A pair is in one of the four grid parts.

    ``readout->history`` holds rows the forecast is read from that are not horizon tokens (an encoder that forecasts
    from its last history token); those rows also count in ``history->history``.
    """
    queries = {
        "history": query.lies_in(HISTORY),
        "horizon": query.lies_in(HORIZON),
        "readout": query.readout & (query.part != HORIZON) & ~query.straddles,
    }
    keys = {"history": key.lies_in(HISTORY), "horizon": key.lies_in(HORIZON)}
    masks = {part: np.logical_and.outer(queries[q], keys[k]) for part in PARTS for q, k in [part.split("->")]}
    return {part: mask for part, mask in masks.items() if mask.any()}


@dataclass(frozen=True)
class Window:
    r"""A range of lags, in tokens, and the queries that have every one of them.

    Attributes
    ----------
    shortest, longest
        Ends of the range of \|lag\|, both included; one side of lag 0 only.
    queries
        ``(query,)``.
    """

    shortest: int
    longest: int
    queries: Mask


def fixed_window(pairs: Mask, steps: NDArray[np.int64], needed: int, longest: float = np.inf) -> Window | None:
    """The widest range of lags that at least `needed` queries all have, or None.

    Short lags first: the range starts at the smallest lag within the reach of `needed` queries, and ends at the
    largest lag that `needed` of those have, or at `longest`. All queries that have the whole range are then used.

    Parameters
    ----------
    pairs
        Pairs that count, ``(query, key)``.
    steps
        Their lags on this side of 0, as distances in tokens, ``(query, key)``; negative ones are on the other side.
    needed
        Queries that every lag must share.
    longest
        Upper end of the range [tokens].
    """
    ours = pairs & (steps >= 0)
    rows = ours.any(1)
    if np.count_nonzero(rows) < needed or needed < 1:
        return None
    near = np.where(ours, steps, np.iinfo(np.int64).max).min(1)
    far = np.where(ours, steps, -1).max(1)
    start = int(np.sort(near[rows])[needed - 1])
    reached = np.sort(far[rows & (near <= start)])[::-1]
    end = int(min(reached[needed - 1], longest))
    if end < max(start, 1):
        return None
    return Window(start, end, rows & (near <= start) & (far >= end))


@dataclass(frozen=True)
class PairTable:
    """Pairs of one attention stack by query part and lag.

    Attributes
    ----------
    step
        Input samples per token.
    lags
        Lag of every pair in tokens, ``(query, key)``.
    visible
        Pairs the model may attend to, ``(query, key)``.
    parts
        Visible pairs of each query part.
    """

    step: float
    lags: NDArray[np.int64]
    visible: Mask
    parts: Mapping[str, Mask]

    @classmethod
    def of(cls, node: xr.Dataset, history: float, visible: Mask | None = None) -> Self:
        """Sort the pairs of a node of a time tree.

        Parameters
        ----------
        node
            With the coordinates of both token axes and the attribute ``samples_per_token``.
        history
            Samples of history: the border between the parts.
        visible
            Pairs the model may attend to, ``(query, key)``. Default: all of them, or, where the node says
            ``causal``, the keys that are not later than the query. A weight of 0 alone does not make a key
            invisible: ignoring what it could see is a choice of the head.

        Raises
        ------
        LaglensError
            `node` does not say how many samples a token has, `visible` does not have the shape of the map, or no query
            part has a pair.
        """
        query, key = Axis.of(node, "query", history), Axis.of(node, "key", history)
        shape = (len(query.time), len(key.time))
        if visible is None:
            visible = np.ones(shape, bool)
            if node.attrs.get("causal", False):
                visible = np.subtract.outer(query.time, key.time) >= 0
        if visible.shape != shape:
            raise LaglensError(f"the mask of visible keys is {visible.shape}, the attention map is {shape}")
        step = float(require_attr(node, "samples_per_token", "take a stack of what laglens.to_time returns"))
        masks = {part: mask & visible for part, mask in part_masks(query, key).items()}
        parts = {part: mask for part, mask in masks.items() if mask.any()}
        if not parts:
            raise LaglensError("no query sees a key in the history or the horizon, so there is no lag to measure")
        return cls(step, lag_steps(query.time, key.time, step), visible, parts)

    def needed_queries(self, part: str, min_pairs: int) -> int:
        """Queries that every lag of a part must share.

        Within one part `min_pairs`, but at least a quarter of the queries, so that `max_lag: auto` is three quarters
        of the part. Across the border a query ``j`` tokens beyond it reaches no lag below ``j``: there the few nearest
        queries are taken, or short periods would be out of sight. Readout rows are taken as they are.
        """
        rows = int(np.count_nonzero(self.parts[part].any(1)))
        if part in ACROSS:
            return min(rows, min_pairs, ACROSS_QUERIES)
        if part.startswith("readout"):
            return min(rows, min_pairs)
        return max(min_pairs, -(-rows // 4))

    def fewest_pairs(self, part: str, min_pairs: int) -> int:
        """Pairs a lag of a part needs to be kept in a plain mean."""
        own = not (part in ACROSS or part.startswith("readout"))
        return min_pairs if own else self.needed_queries(part, min_pairs)

    def windows(self, part: str, min_pairs: int, longest: float = np.inf) -> dict[int, Window]:
        """Fixed windows of a part by the sign of the lag: 1 past (with lag 0), -1 future; sides without are absent."""
        needed = self.needed_queries(part, min_pairs)
        found = {1: fixed_window(self.parts[part], self.lags, needed, longest)}
        future = self.parts[part] & (self.lags < 0)
        found[-1] = fixed_window(future, -self.lags, needed, longest)
        return {sign: window for sign, window in found.items() if window is not None}
