"""One pass over the attention of a call, a block of queries at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laglens.attention.streaming_columns import Block, Columns, blocks, layout
from laglens.attention.streaming_products import keep_heap, product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Numbers held of one block, scores and weights: a CPU keeps them near its cores, a GPU wants few and large products.
BLOCK_CPU, BLOCK_GPU = 5 * 2**16, 2**27
FEWEST_ROWS = 64  # a product with fewer rows spends its time on rearranging the keys
HIDDEN = -1e30  # score of a key that only causality hides: with -inf, 0 * -inf would make the entropy NaN
UNDERFLOW = -1e4  # a score so far below the largest of its row has weight 0 in every dtype
WINDOW = 64  # keys looked through at a time for the strongest


class Pass:
    """The attention of one call, and what has been gathered of it.

    Parameters
    ----------
    query, key, value
        ``(batch, head, token, width)``; `key` and `value` may have fewer heads.
    mask
        None, or ``(batch, head, query, key)``, any of them 1: bool (True is visible) or added to the scores.
    rollout
        None, or the state below this layer, ``(batch, token, reached)``.

    Attributes
    ----------
    output
        ``(batch, head, query, value width)``.
    maps, special_mass
        ``(batch, head, query column, key column)`` and without the last.
    rows
        Statistics of each row, ``(batch, head, query)``, queries as in `Layout.order`.
    rollout
        With the next state, if a state was given.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        columns: Columns,
        *,
        mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
        statistics: Sequence[str],
        rollout: Tensor | None,
        residual: float,
    ) -> None:
        self.query, self.key, self.value, self.mask = query, key, value, mask
        self.is_causal, self.scale = is_causal, query.shape[-1] ** -0.5 if scale is None else scale
        (batch, heads, n, _), m, device = query.shape, key.shape[-2], query.device
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.rollout = None if rollout is None else Rollout(rollout.to(self.dtype), residual)
        # Only statistics need the scores beside the weights; else the weights take their place.
        buffers = 2 if statistics else 1
        budget = (BLOCK_CPU if device.type == "cpu" else BLOCK_GPU) // buffers
        self.layout = layout(columns, device)
        self.blocks = blocks(columns, min(n, max(FEWEST_ROWS, budget // m)), self.dtype, device)
        self.heads_at_once = min(heads, max(1, budget // (n * m)))
        self.samples_at_once = max(1, min(batch, budget // (heads * n * m)))
        most = max(block.stop - block.start for block in self.blocks) * m * self.samples_at_once * self.heads_at_once
        self._buffers = [self._new(most) for _ in range(buffers)]
        n_query, n_key = columns.in_time
        # As the fused kernels do, so that the heads of a token lie side by side for the layer that follows.
        self.output = query.new_empty(batch, n, heads, value.shape[-1]).transpose(1, 2)
        self.maps = self._new(batch, heads, n_query, n_key).zero_()
        self.special_mass = self._new(batch, heads, n_query).zero_()
        kinds = {"top_key": torch.int32}
        self.rows = {
            name: torch.empty(batch, heads, n, dtype=kinds.get(name, self.dtype), device=device)
            for name in STATISTICS
            if name in statistics
        }

    def run(self) -> None:
        """Go through the call once."""
        keep_heap()
        batch, heads = self.query.shape[:2]
        # The rollout averages the heads of a block, so it needs all of them before the next block.
        together = heads if self.rollout is not None else self.heads_at_once
        for samples in _slices(batch, self.samples_at_once):
            for group in _slices(heads, together):
                self._run_group(samples, group)

    def _run_group(self, samples: slice, heads: slice) -> None:
        query, key, value = self._prepared(samples, heads)
        output = self._new(*query.shape[:-1], value.shape[-1])
        for block in self.blocks:
            rows = slice(block.start, block.stop)
            for some in _slices(query.shape[1], self.heads_at_once):
                at = samples, slice(heads.start + some.start, heads.start + some.stop)
                weights = self._weigh(query[:, some, rows], key[:, some], block, at)
                mixed = product(weights.flatten(0, 1), value[:, some, : weights.shape[-1]].flatten(0, 1))
                output[:, some, rows] = mixed.view(*weights.shape[:-1], -1)
                if block.in_time:
                    self._pool(weights, block, at)
                if self.rollout is not None:
                    self.rollout.add(weights, first=some.start == 0)
            if self.rollout is not None:
                self.rollout.advance(samples, self._tokens(block))
        self.output[samples, heads] = output.index_select(-2, self.layout.place) if self.layout.moved else output

    def _prepared(self, samples: slice, heads: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Contiguous queries by column, scaled, and keys and values of each query head, all in the working dtype."""
        query = self.query[samples, heads].to(self.dtype)
        query = query.index_select(-2, self.layout.order).mul_(self.scale) if self.layout.moved else query * self.scale
        key, value = self.key[samples], self.value[samples]
        shared = self.query.shape[1] // key.shape[1]
        if shared > 1:
            index = torch.arange(heads.start, heads.stop, device=key.device) // shared
            key, value = key[:, index], value[:, index]
        else:
            key, value = key[:, heads], value[:, heads]
        return query.contiguous(), key.to(self.dtype).contiguous(), value.to(self.dtype).contiguous()

    def _weigh(self, query: Tensor, key: Tensor, block: Block, at: tuple[slice, slice]) -> Tensor:
        """Weights of a block, ``(batch, head, row, visible key)``; notes the statistics of its rows."""
        visible = min(key.shape[-2], block.highest + 1) if self.is_causal else key.shape[-2]
        shape = (*query.shape[:-1], visible)
        first, *second = (buffer[: math.prod(shape)].view(shape) for buffer in self._buffers)
        keys = key[..., :visible, :].flatten(0, 1).transpose(1, 2)
        scores = product(query.flatten(0, 1), keys, out=first.flatten(0, 1)).view(shape)
        empty = self._hide(scores, block, at)
        weights = torch.softmax(scores, -1, out=second[0] if second else scores)
        if empty is not None:
            weights.masked_fill_(empty, 0.0)
        for name, found in self.rows.items():
            statistic = STATISTICS[name](scores, weights)
            if empty is not None:
                statistic.masked_fill_(empty[..., 0], 0)
            found[(*at, slice(block.start, block.stop))] = statistic
        return weights

    def _hide(self, scores: Tensor, block: Block, at: tuple[slice, slice]) -> Tensor | None:
        """Hide keys in place; with a mask, return which rows see no key: ``(batch, head, row, 1)``."""
        tokens, visible = self._tokens(block), scores.shape[-1]
        if self.is_causal and block.lowest + 1 < visible:
            late = torch.arange(block.lowest + 1, visible, device=scores.device)
            rows = self.layout.order[block.start : block.stop]
            hidden = HIDDEN if self.mask is None else -math.inf
            scores[..., block.lowest + 1 :].masked_fill_(late > rows[:, None], hidden)
        if self.mask is None:
            return None
        samples, heads = (part if size > 1 else slice(None) for part, size in zip(at, self.mask.shape))  # noqa: B905
        mask = self.mask[samples, heads, :, :visible]
        if mask.shape[-2] > 1:
            mask = mask[..., tokens, :]
        if mask.dtype == torch.bool:
            scores.masked_fill_(~mask, -math.inf)
        else:
            scores += mask
        largest = scores.amax(-1, keepdim=True)
        empty = torch.isneginf(largest)
        # Distances from the largest are finite and exact, also under the huge negative masks of some models.
        scores.sub_(largest.masked_fill_(empty, 0.0)).clamp_(min=UNDERFLOW)
        return empty

    def _pool(self, weights: Tensor, block: Block, at: tuple[slice, slice]) -> None:
        """Add the rows in time to the map of their columns."""
        in_time, special = self.layout.pool_keys(block.pool_queries(weights))
        self.maps[(*at, block.columns)] += in_time
        if len(self.layout.special_keys):
            self.special_mass[(*at, block.columns)] += special

    def _tokens(self, block: Block) -> slice | Tensor:
        """The queries of a block, as the call counts them."""
        rows = slice(block.start, block.stop)
        return self.layout.order[rows] if self.layout.moved else rows

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=self.dtype, device=self.query.device)


class Rollout:
    """The attention rollout on its way through one layer, the heads of each block averaged.

    Attributes
    ----------
    below, above
        States below and above the layer, ``(batch, token, reached)``.
    residual
        Weight of the residual connection.
    """

    def __init__(self, below: Tensor, residual: float) -> None:
        self.below, self.above, self.residual = below, torch.empty_like(below), residual
        self._total = below.new_empty(0)

    def add(self, weights: Tensor, *, first: bool) -> None:
        """Sum heads: ``(batch, head, row, visible key)``, some heads of a block at a time."""
        if not first:
            self._total += weights.sum(1)
        elif self._total.shape == weights[:, 0].shape:
            torch.sum(weights, 1, out=self._total)
        else:
            self._total = weights.sum(1)

    def advance(self, samples: slice, tokens: slice | Tensor) -> None:
        """Set the state of the queries of a block from the heads that were added."""
        below = self.below[samples]
        self.above[samples, tokens] = advance_rollout(below, below[:, tokens], self._total, self.residual)


def advance_rollout(below: Tensor, stay: Tensor, weights: Tensor, residual: float) -> Tensor:
    """State of some queries above a layer: w times their own below it, 1 - w times that of the tokens they attend to.

    Parameters
    ----------
    below
        ``(..., token, reached)``.
    stay
        Its rows of the queries, ``(..., row, reached)``.
    weights
        ``(..., row, key)``, summed over heads; keys may end early. Rows are normalised; a row without mass stays.
    residual
        Weight w of the residual connection.
    """
    mass = weights.sum(-1, keepdim=True)  # the number of heads, or fewer where a mask leaves heads without a key
    moved = (weights @ below[..., : weights.shape[-1], :]) / mass
    return torch.where(mass > 0, stay.lerp(moved, 1 - residual), stay)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _effective_keys(scores: Tensor, weights: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weights, dim=-1).pow_(-2)


def _top_key(scores: Tensor, weights: Tensor) -> Tensor:
    """The first of the largest scores; a maximum per window first, because `argmax` of long rows is slow on a CPU."""
    n = scores.shape[-1]
    if n < 2 * WINDOW:
        return scores.argmax(-1)
    whole = scores[..., : n // WINDOW * WINDOW].unflatten(-1, (-1, WINDOW)).amax(-1)
    last = scores[..., -WINDOW:].amax(-1, keepdim=True)
    start = (torch.cat([whole, last], -1).argmax(-1, keepdim=True) * WINDOW).clamp_(max=n - WINDOW)
    window = scores.gather(-1, start + torch.arange(WINDOW, device=scores.device))
    return start[..., 0] + window.argmax(-1)


def _entropy(scores: Tensor, weights: Tensor) -> Tensor:
    """log-sum-exp - sum p s; the log-sum-exp follows from the largest score and its weight. Spends the scores."""
    log_sum_exp = scores.amax(-1) - weights.amax(-1).log()
    return (log_sum_exp - scores.mul_(weights).sum(-1)).clamp_(min=0)


# The entropy comes last.
STATISTICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "effective_keys": _effective_keys,
    "top_key": _top_key,
    "entropy": _entropy,
}
