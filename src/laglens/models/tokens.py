"""Which input samples each token stands for. Numpy only: it also runs inside a foreign model's environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

PARTS = ("history", "horizon", "special")
HISTORY, HORIZON, SPECIAL = range(len(PARTS))
DECIMALS = 6  # of a sample, in spans: rounding of the geometry must not part what belongs together


def time_columns(start: NDArray, end: NDArray, part: NDArray) -> NDArray[np.int64]:
    """Index of the time column of each token, ``(token,)``: tokens with the same span share one; special: -1.

    Columns are numbered by rising centre.
    """
    in_time = part != SPECIAL
    columns = np.full(len(part), -1)
    spans = np.stack([(start + end)[in_time], start[in_time]], 1)
    if len(spans):
        columns[in_time] = np.unique(spans, axis=0, return_inverse=True)[1].ravel()
    return columns


@dataclass(frozen=True, repr=False)
class TokenMap:
    """The place of every token of one axis in the input.

    All arrays have shape ``(token,)``. Times are in input samples counted from the first sample of the
    history: token ``i`` covers ``[start[i], end[i])``; a special token (CLS, REG, padding, ...) has NaN times.

    Attributes
    ----------
    start, end
        First sample, and one past the last sample. Not whole where the input was resampled; the hull where a
        token covers several stretches, which lie evenly around its centre.
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
    def spans(
        cls,
        start: Sequence[float] | NDArray,
        end: Sequence[float] | NDArray,
        history: float,
        *,
        row: Sequence[int] | NDArray | None = None,
        readout: str = "horizon",
    ) -> TokenMap:
        """Tokens that cover given stretches of the input; those that begin in the horizon belong to it.

        ``readout``: the forecast is read from every ``"horizon"`` token, the ``"last"`` token, or ``"none"``.
        """
        rounded = (np.asarray(np.round(x, DECIMALS), dtype=np.float64) for x in (start, end, history))
        start, end, border = rounded
        part = np.where(start >= border, HORIZON, HISTORY)
        rows = np.zeros(len(start), np.int64) if row is None else np.asarray(row, np.int64)
        last = np.arange(len(start)) == len(start) - 1
        read = {"horizon": part == HORIZON, "last": last, "none": np.zeros(len(start), bool)}
        return cls(start, end, rows, part, read[readout])

    @classmethod
    def patches(
        cls,
        history: int,
        horizon: int,
        patch: int,
        *,
        stride: int | None = None,
        first: int = 0,
        readout: str = "horizon",
    ) -> TokenMap:
        """Patches of `patch` samples, one every `stride` (default: `patch`), over history and horizon.

        The first patch begins at sample `first`, below 0 where the model pads on the left (see `clipped`). A patch
        ends inside the series; samples after the last whole patch have no token.
        """
        start = np.arange(first, history + horizon - patch + 1, stride or patch, dtype=float)
        return cls.spans(start, start + patch, history, readout=readout)

    @classmethod
    def grid(cls, edges: Sequence[float] | NDArray, rows: int, history: float, *, readout: str = "horizon") -> TokenMap:
        """An image of the series, row by row: `rows` rows over columns between consecutive `edges` in samples."""
        edges = np.asarray(edges, np.float64)
        columns = len(edges) - 1
        row = np.repeat(np.arange(rows), columns)
        return cls.spans(np.tile(edges[:-1], rows), np.tile(edges[1:], rows), history, row=row, readout=readout)

    @classmethod
    def folded(
        cls,
        period: float,
        cycles: float,
        rows: int,
        columns: int,
        history: float,
        *,
        first: float = 0,
        readout: str = "horizon",
    ) -> TokenMap:
        """An image whose columns are cycles and whose rows are phases, row by row.

        Parameters
        ----------
        period
            Samples of one cycle.
        cycles
            Cycles side by side in the whole image; a token covers ``cycles / columns`` of them.
        first
            Sample at which the first cycle begins, below 0 where the model pads on the left (see `clipped`).
        """
        column, row = np.tile(np.arange(columns), rows), np.repeat(np.arange(rows), columns)
        across = cycles / columns
        # The middle cycle of a column: several cycles lie evenly around it; where an image is stretched, what is
        # drawn beyond the middle of the first or last cycle is that cycle.
        cycle = np.clip((column + 0.5) * across - 0.5, 0, max(cycles - 1, 0))
        middle = first + (cycle + (row + 0.5) / rows) * period
        half = (max(across - 1, 0.0) + 1 / rows) * period / 2
        return cls.spans(middle - half, middle + half, history, row=row, readout=readout)

    def with_special(self, before: int = 0, after: int = 0) -> TokenMap:
        """The same tokens with special ones (CLS, REG, EOS, padding) at either end."""

        def padded(array: NDArray, value: float) -> NDArray:
            return np.concatenate([np.full(before, value), array, np.full(after, value)]).astype(array.dtype)

        return TokenMap(
            padded(self.start, np.nan),
            padded(self.end, np.nan),
            padded(self.row, 0),
            padded(self.part, SPECIAL),
            padded(self.readout, False),
        )

    def taken(self, index: Sequence[int] | NDArray) -> TokenMap:
        """Some of the tokens, in the order of `index`, such as those that a masked autoencoder keeps."""
        at = np.asarray(index)
        return TokenMap(self.start[at], self.end[at], self.row[at], self.part[at], self.readout[at])

    def clipped(self, first: float, last: float) -> TokenMap:
        """Spans cut to the samples that exist, ``[first, last)``; tokens without any become special (padding)."""
        empty = (self.end <= first) | (self.start >= last)
        start, end = np.clip(self.start, first, last), np.clip(self.end, first, last)
        return replace(
            self,
            start=np.where(empty, np.nan, start),
            end=np.where(empty, np.nan, end),
            part=np.where(empty, SPECIAL, self.part),
            readout=self.readout & ~empty,
        )

    def distilled(self, kernel: int = 3, stride: int = 2, padding: int = 1) -> TokenMap:
        """Tokens after a pooling layer: each covers the hull of up to `kernel` tokens, every `stride`-th stays."""
        n = (len(self) + 2 * padding - kernel) // stride + 1
        first = np.arange(n) * stride - padding
        centre = self.taken(np.clip(first + kernel // 2, 0, len(self) - 1))
        members = np.clip(first[:, None] + np.arange(kernel), 0, len(self) - 1)
        # fmin and fmax pass over the NaN of special neighbours; a special centre stays without time.
        start, end = np.fmin.reduce(self.start[members], 1), np.fmax.reduce(self.end[members], 1)
        special = centre.part == SPECIAL
        return replace(centre, start=np.where(special, np.nan, start), end=np.where(special, np.nan, end))

    @property
    def time(self) -> NDArray[np.float64]:
        """Centre of each token, ``(token,)``, in input samples: the mean index of the samples it covers."""
        return (self.start + self.end - 1) / 2

    @property
    def step(self) -> float:
        """Usual distance of neighbouring tokens in time, in input samples; of a single one its width."""
        centres = np.unique(self.time[self.part != SPECIAL])
        if len(centres) > 1:
            return float(np.median(np.diff(centres)))
        return float(np.nanmax(self.end - self.start))

    @property
    def column(self) -> NDArray[np.int64]:
        """Index of the time column of each token, ``(token,)`` (see `time_columns`)."""
        return time_columns(self.start, self.end, self.part)

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        counts = [(int((self.part == place).sum()), name) for place, name in enumerate(PARTS)]
        parts = ", ".join(f"{n} {name}" for n, name in counts if n)
        step = "" if (self.part == SPECIAL).all() else f"; one every {self.step:g} samples"
        return f"TokenMap({len(self)} tokens: {parts}{step})"


@dataclass(frozen=True)
class Stack:
    """Attention layers that share their token axes: one node of the attention tree.

    Attributes
    ----------
    name
        ``encoder``, ``decoder``, ``cross``, or one of these and what sets it apart, such as ``encoder_flipped``.
    layers
        Names of the attention modules, lowest layer first.
    query, key
        The token maps of the two axes.
    causal
        Keys later than the query are invisible.
    call
        Which call of each module, counted from 0, for models that run their layers more than once (passes).
    steps
        The calls of each module are decoding steps, of which the last ends at the last query. The first call gives
        all its rows (one, or those of a prompt), each further one its last row, whether it ran on one query (cached
        keys) or on all queries so far. `call` is not used.
    """

    name: str
    layers: tuple[str, ...]
    query: TokenMap
    key: TokenMap
    causal: bool = False
    call: int = 0
    steps: bool = False
