"""Time columns of the tokens of an attention call, and the blocks in which its queries are taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from laglens.errors import LaglensError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from laglens.models.tokens import Stack


@dataclass(frozen=True, eq=False)
class Columns:
    """The time column of every token of the two axes of an attention stack.

    Attributes
    ----------
    query, key
        ``(token,)`` int64: index of the column, counted from 0 and each in use; -1 for special tokens.

    Raises
    ------
    LaglensError
        An axis has no token in time, or its columns are not numbered without gaps.
    """

    query: NDArray[np.int64]
    key: NDArray[np.int64]

    def __post_init__(self) -> None:
        for axis, columns in (("query", self.query), ("key", self.key)):
            used = np.unique(columns[columns >= 0])
            if not len(used):
                raise LaglensError(f"the {axis} axis has no token in time, so there is nothing to reduce it to")
            if used[-1] != len(used) - 1:
                raise LaglensError(
                    f"time columns of the {axis} axis go up to {used[-1]}, but only {len(used)} are used"
                )

    @classmethod
    def of(cls, stack: Stack) -> Columns:
        """Columns of a stack: tokens with the same span share one."""
        return cls(stack.query.column, stack.key.column)

    @classmethod
    @lru_cache(maxsize=16)
    def each_token(cls, n_query: int, n_key: int) -> Columns:
        """Every token is a column of its own, so that a map holds all weights."""
        return cls(np.arange(n_query), np.arange(n_key))

    @property
    def tokens(self) -> tuple[int, int]:
        """Number of query and key tokens."""
        return len(self.query), len(self.key)

    @property
    def in_time(self) -> tuple[int, int]:
        """Number of query and key columns."""
        return int(self.query.max()) + 1, int(self.key.max()) + 1

    @property
    def special_keys(self) -> int:
        """Number of special key tokens."""
        return int((self.key < 0).sum())


@dataclass(frozen=True)
class Block:
    """Consecutive queries in the order of `Layout.order`.

    Attributes
    ----------
    start, stop
        First query, and one past the last.
    columns
        The time columns whose queries are among them.
    in_time
        The number of queries, from the first, that lie in these columns; special ones follow.
    tokens
        Queries of each of these columns, 0 if they differ or a column continues in another block.
    weights
        What a query counts in its column: ``(1, 1, tokens)`` for each column, or ``(column, in_time)``.
    lowest, highest
        The first and the last token among the queries, in the order of the call.
    """

    start: int
    stop: int
    columns: slice
    in_time: int
    tokens: int
    weights: Tensor
    lowest: int
    highest: int

    def pool_queries(self, weights: Tensor) -> Tensor:
        """Mean over the queries of each column, or their part in it: ``(..., query, key) -> (..., column, key)``.

        Averaging queries costs one multiply-add per weight; pooling keys first costs one per weight and column.
        """
        rows, n_keys = weights[..., : self.in_time, :], weights.shape[-1]
        if self.tokens == 1:
            return rows
        if not self.tokens:
            return self.weights @ rows
        by_column = rows.reshape(-1, self.tokens, n_keys)
        return torch.bmm(self.weights.expand(len(by_column), 1, -1), by_column).view(*rows.shape[:-2], -1, n_keys)


@dataclass(frozen=True)
class Layout:
    """The columns as indices on a device.

    Attributes
    ----------
    moved
        Whether `order` differs from that of the call.
    order, place
        Queries by column, special ones last, and the place of each query in that order.
    n_columns
        Number of key columns.
    key_tokens
        Keys per column; 0 if columns differ.
    key_range
        Keys in time, if they are neighbours and go round the columns, row by row of an image.
    key_order
        Keys by column, without special ones, if `key_range` does not say it.
    key_column
        Column of each key, special ones in one more.
    keys_are_columns
        Whether each key is a column, in order.
    special_keys
        The special keys; a slice if they are neighbours, so that no copy is needed.
    """

    moved: bool
    order: Tensor
    place: Tensor
    n_columns: int
    key_tokens: int
    key_range: slice | None
    key_order: Tensor
    key_column: Tensor
    keys_are_columns: bool
    special_keys: Tensor | slice

    def pool_keys(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over the keys of each column and over special keys: ``(..., key) -> (..., column), (...)``.

        Keys may end early, the rest being invisible.
        """
        missing = len(self.key_column) - weights.shape[-1]
        if missing:
            weights = torch.nn.functional.pad(weights, (0, missing))
        if not self.key_tokens:
            sums = weights.new_zeros(*weights.shape[:-1], self.n_columns + 1)
            sums.scatter_add_(-1, self.key_column.expand(weights.shape), weights)
            return sums[..., :-1], sums[..., -1]
        special = weights[..., self.special_keys].sum(-1)
        if self.key_range is None:
            by_column = weights.index_select(-1, self.key_order).unflatten(-1, (self.n_columns, self.key_tokens))
            return by_column.sum(-1), special
        in_time = weights[..., self.key_range]
        if self.key_tokens > 1:
            in_time = in_time.unflatten(-1, (self.key_tokens, self.n_columns)).sum(-2)
        return in_time, special


@lru_cache(maxsize=64)
def layout(columns: Columns, device: torch.device) -> Layout:
    """The indices of `columns` on a device."""
    order, key = _by_column(columns.query), columns.key
    n, in_time = columns.in_time[1], np.flatnonzero(key >= 0)
    sizes = np.bincount(key[in_time])
    first = int(in_time[0])
    round_trip = np.array_equal(key[first : first + len(in_time)], np.arange(len(in_time)) % n)
    index = {
        "order": order,
        "place": np.argsort(order),
        "key_order": _by_column(key)[: len(in_time)],
        "key_column": np.where(key < 0, n, key),
    }
    special = np.flatnonzero(key < 0)
    start = int(special[0]) if len(special) else 0
    together = np.array_equal(special, np.arange(start, start + len(special)))
    return Layout(
        moved=not np.array_equal(order, np.arange(len(order))),
        n_columns=n,
        key_tokens=int(sizes[0]) if (sizes == sizes[0]).all() else 0,
        keys_are_columns=round_trip and len(key) == n,
        key_range=slice(first, first + len(in_time)) if round_trip else None,
        special_keys=slice(start, start + len(special)) if together else torch.from_numpy(special).to(device),
        **{name: torch.from_numpy(array).to(device) for name, array in index.items()},
    )


@lru_cache(maxsize=64)
def blocks(columns: Columns, rows: int, dtype: torch.dtype, device: torch.device) -> tuple[Block, ...]:
    """Cut the queries into blocks of about `rows` rows, at the bounds of columns unless a column is longer."""
    order, sizes = _by_column(columns.query), np.bincount(columns.query[columns.query >= 0])
    stops = _stops(sizes, rows, len(order))
    return tuple(
        _block(columns.query, order, sizes, start, stop, dtype=dtype, device=device)
        for start, stop in zip([0, *stops[:-1]], stops)  # noqa: B905 (strict= is newer than the oldest Python)
    )


def _by_column(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens ordered by column, special ones last; within a column as they came."""
    return np.argsort(np.where(columns < 0, len(columns), columns), kind="stable")


def _stops(sizes: NDArray[np.int64], rows: int, total: int) -> list[int]:
    """Where blocks end. Equal columns are dealt out evenly, so that no small block is left over."""
    ends = np.cumsum(sizes)
    if (sizes == sizes[0]).all() and sizes[0] <= rows:
        n_blocks = -(-len(sizes) // (rows // int(sizes[0])))
        stops = [int(part[-1]) for part in np.array_split(ends, n_blocks)]
    else:
        stops = [0]
        while stops[-1] < ends[-1]:
            whole = ends[(ends > stops[-1]) & (ends <= stops[-1] + rows)]
            stops.append(int(whole[-1]) if len(whole) else min(stops[-1] + rows, int(ends[-1])))
        del stops[0]
    if total - stops[-1] <= rows // 2:  # a few special queries are no block of their own
        stops[-1] = total
    return [*stops, *range(stops[-1] + rows, total, rows), *([total] if stops[-1] < total else [])]


def _block(
    columns: NDArray[np.int64],
    order: NDArray[np.int64],
    sizes: NDArray[np.int64],
    start: int,
    stop: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Block:
    queries = order[start:stop]
    of = columns[queries]
    of = of[of >= 0]
    first, last = (int(of[0]), int(of[-1]) + 1) if len(of) else (0, 0)
    counts, whole = np.bincount(of - first), sizes[first:last]
    tokens = int(whole[0]) if len(of) and np.array_equal(counts, np.full(len(whole), whole[0])) else 0
    if tokens:
        weights = np.full((1, 1, tokens), 1 / tokens)
    else:
        weights = (of == np.arange(first, last)[:, None]) / whole[:, None]
    return Block(
        start=start,
        stop=stop,
        columns=slice(first, last),
        in_time=len(of),
        tokens=tokens,
        weights=torch.from_numpy(weights).to(device, dtype),
        lowest=int(queries.min()),
        highest=int(queries.max()),
    )
