"""One attention call: what the model passed in, what a reader makes of it, and what is kept of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from laglens.errors import LaglensError


@dataclass(frozen=True)
class AttentionCall:
    """One attention call as the model made it, before its kernel runs.

    Attributes
    ----------
    module
        Name of the module that made the call; "" is the model itself.
    index
        Index of this call within the module: a layer may run more than once.
    source
        The function that was seen: ``sdpa``, ``mha`` or ``softmax``.
    query, key, value
        ``(..., query, width)`` and ``(..., key, width)``, in the type that the kernel computes in; key and value may
        have fewer heads than the query (grouped queries). Of ``softmax`` there is no query and no key, and the value
        has the leading dims of `weights`; None before the product is seen, and where its layout cannot be told.
    mask
        Broadcasts to ``(..., query, key)``: True where a query may see a key, or added to the scores.
    is_causal
        Keys later than the query are invisible, aligned top left.
    scale
        Factor of the scores; None: 1 / sqrt(width).
    weights
        ``(..., query, key)`` for ``softmax``: the very operand of the product with the values.
    selected
        ``(..., selected)``: which query each row of `weights` belongs to, where the model computes only some of
        them (ProbSparse attention). None: row i is query i.
    """

    module: str
    index: int
    source: str
    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    mask: Tensor | None = None
    is_causal: bool = False
    scale: float | None = None
    weights: Tensor | None = None
    selected: Tensor | None = None

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of a call that is not ``softmax``."""
        if self.query is None or self.key is None or self.value is None:
            raise LaglensError(f"the softmax of '{self.module}' was read without its query, key and value")
        return self.query, self.key, self.value

    @property
    def shape(self) -> tuple[int, int]:
        """Number of queries (or of selected ones) and of keys."""
        if self.weights is not None:
            return self.weights.shape[-2], self.weights.shape[-1]
        query, key, _ = self.operands
        return query.shape[-2], key.shape[-2]

    @property
    def rows(self) -> torch.Size:
        """``(..., query)``: the shape of all rows of weights."""
        return self.operands[0].shape[:-1] if self.weights is None else self.weights.shape[:-1]

    def without(self, edges: Tensor) -> AttentionCall:
        """The same call with edges cut: ``edges``, bool, broadcasts to ``(..., query, key)``, True where one is cut."""
        mask, edges = self.mask, edges.expand(*edges.shape[:-2], *self.shape)
        if self.is_causal:
            edges = edges | torch.ones(self.shape, dtype=torch.bool, device=edges.device).triu(1)
        if mask is None:
            merged = ~edges
        elif mask.dtype == torch.bool:
            merged = mask & ~edges
        else:
            merged = mask.masked_fill(edges, -math.inf)
        return replace(self, mask=merged, is_causal=False)


@dataclass
class Reading:
    """What a reader made of a call.

    Attributes
    ----------
    weights
        ``(..., query, key)``, after softmax, before dropout.
    reduced
        What the reader kept instead of the weights, by name.
    output
        The output of the attention, ``(..., query, width)``, from a reader that replaces the model's kernel.
    """

    weights: Tensor | None = None
    reduced: dict[str, Tensor] | None = None
    output: Tensor | None = None


class Reader(Protocol):
    """Decides what is kept of each attention call."""

    def read(self, call: AttentionCall) -> Reading | None:
        """Read one call; None: nothing is kept of it, and the model's own kernel runs."""


@dataclass(frozen=True)
class Record:
    """What is kept of one attention call.

    Attributes
    ----------
    module, call, source
        See `AttentionCall`; `call` is its ``index``.
    shape
        Number of queries (or of selected ones) and of keys.
    weights
        ``(batch, head, query, key)`` as the model lays them out, after softmax, before dropout; at least float32
        where they were computed again. None if the reader kept something else.
    reduced
        What the reader kept instead of the weights.
    selected
        ``(..., selected)``: which query each row belongs to, where the model computes only some of them.
    error
        Certificate: max|W V - output| / max|output|. NaN where the weights themselves were seen entering the
        product (``softmax``), or where no certificate was asked for.
    tolerance
        Largest `error` that rounding explains.
    empty_rows
        Queries that may see no key, by the mask. Their weights are what the kernel makes of them: 0, or uniform
        where the mask holds the smallest number of its type instead of -inf.
    """

    module: str
    call: int
    source: str
    shape: tuple[int, int]
    weights: Tensor | None = field(repr=False)
    reduced: dict[str, Tensor] | None = field(repr=False)
    selected: Tensor | None = field(repr=False)
    error: float
    tolerance: float
    empty_rows: int
