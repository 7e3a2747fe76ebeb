"""One pass over the attention of a call, a block of queries at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laglens.attention.streaming_columns import Block, Columns, blocks, layout
from laglens.attention.streaming_products import keep_heap, product
from laglens.attention.streaming_rollout import Rollout
from laglens.attention.streaming_statistics import STATISTICS

# Scores of one block: a CPU keeps them near its cores, a GPU wants few and large products.
BLOCK_CPU, BLOCK_GPU = 2**19, 2**26
FEWEST_ROWS = 64  # a product with fewer rows spends its time on rearranging the keys
HIDDEN = -1e30  # score of a key that only causality hides: with -inf, 0 * -inf would make the entropy NaN
UNDERFLOW = -1e4  # a score so far below the largest of its row has weight 0 in every dtype


@dataclass
class Group:
    """Some heads of some samples, side by side: what enters, and what has been gathered of it.

    Attributes
    ----------
    samples
        How many samples there are.
    query, key, value
        ``(part, token, width)`` contiguous, in the working dtype: queries by column and scaled.
    mask
        None, or ``(sample, head, query, key)``, any of them 1.
    output, maps, special_mass, rows
        ``(part, query by column, ...)``, ``(part, query column, ...)``; see `Pass`.
    """

    samples: int
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    output: Tensor
    maps: Tensor
    special_mass: Tensor
    rows: dict[str, Tensor]


class Pass:
    """The attention of one call, and what has been gathered of it.

    Parameters
    ----------
    query, key, value
        ``(sample, head, token, width)``; `key` and `value` may have fewer heads.
    mask
        None, or ``(sample, head, query, key)``, any of them 1: bool (True is visible) or added to the scores.
    rollout
        None, or the state below this layer, ``(sample, token, reached)``.

    Attributes
    ----------
    output
        ``(sample, head, query, value width)``.
    maps, special_mass
        ``(sample, head, query column, key column)`` and without the last.
    rows
        Statistics of each row, ``(sample, head, query)``.
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
        (samples, heads, n, _), m, device = query.shape, key.shape[-2], query.device
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.rollout = None if rollout is None else Rollout(rollout.to(self.dtype), residual)
        budget = BLOCK_CPU if device.type == "cpu" else BLOCK_GPU
        self.layout = layout(columns, device)
        self.blocks = blocks(columns, min(n, max(FEWEST_ROWS, budget // m)), self.dtype, device)
        self.heads_at_once = min(heads, max(1, budget // (n * m)))
        self.samples_at_once = max(1, min(samples, budget // (heads * n * m)))
        most = max(block.stop - block.start for block in self.blocks) * m * self.samples_at_once * self.heads_at_once
        # Only statistics need the scores beside the weights; else the weights take their place.
        self._buffers = [self._new(most) for _ in range(2 if statistics else 1)]
        n_query, n_key = columns.in_time
        # Like the fused kernels, so that the layer that follows joins the heads of a token as cheaply.
        same = query.shape[-1] == value.shape[-1]
        self.output = torch.empty_like(query) if same else query.new_empty(samples, heads, n, value.shape[-1])
        self.maps = self._new(samples, heads, n_query, n_key)
        self.special_mass = self._new(samples, heads, n_query)
        kinds = {"top_key": torch.int32}
        self.rows = {
            name: torch.empty(samples, heads, n, dtype=kinds.get(name, self.dtype), device=device)
            for name in STATISTICS
            if name in statistics
        }

    def run(self) -> None:
        """Go through the call once."""
        keep_heap()
        n_samples, n_heads = self.query.shape[:2]
        # The rollout averages the heads of a block, so it needs all of them before the next block.
        together = n_heads if self.rollout is not None else self.heads_at_once
        for samples in _slices(n_samples, self.samples_at_once):
            for heads in _slices(n_heads, together):
                group = self._group(samples, heads)
                for block in self.blocks:
                    self._run_block(group, block, samples)
                self._keep(group, samples, heads)

    def _group(self, samples: slice, heads: slice) -> Group:
        query = self.query[samples, heads].to(self.dtype)
        if self.layout.moved:
            query = query.index_select(-2, self.layout.order)
        query = (query * self.scale).flatten(0, 1)
        key, value = (self._shared(tensor[samples], heads) for tensor in (self.key, self.value))
        mask = self.mask
        if mask is not None:
            mask = mask[samples] if mask.shape[0] > 1 else mask
            mask = mask[:, heads] if mask.shape[1] > 1 else mask
        n_query, n_key = self.maps.shape[-2:]
        return Group(
            samples=samples.stop - samples.start,
            query=query,
            key=key,
            value=value,
            mask=mask,
            output=self._new(*query.shape[:-1], value.shape[-1]),
            maps=self._new(len(query), n_query, n_key).zero_(),
            special_mass=self._new(len(query), n_query).zero_(),
            rows={name: found.new_empty(query.shape[:-1]) for name, found in self.rows.items()},
        )

    def _shared(self, tensor: Tensor, heads: slice) -> Tensor:
        """Keys or values of each query head, which several may share: ``(part, token, width)`` contiguous."""
        each = self.query.shape[1] // tensor.shape[1]
        if each > 1:
            tensor = tensor[:, torch.arange(heads.start, heads.stop, device=tensor.device) // each]
        else:
            tensor = tensor[:, heads]
        return tensor.to(self.dtype).contiguous().flatten(0, 1)

    def _run_block(self, group: Group, block: Block, samples: slice) -> None:
        rows, together = slice(block.start, block.stop), self.samples_at_once * self.heads_at_once
        for part in _slices(len(group.query), together):
            weights = self._weigh(group, block, part)
            group.output[part, rows] = product(weights, group.value[part, : weights.shape[-1]])
            if block.in_time:
                in_time, special = self.layout.pool_keys(block.pool_queries(weights))
                group.maps[part, block.columns].add_(in_time)
                group.special_mass[part, block.columns].add_(special)
            if self.rollout is not None:
                self.rollout.add(weights.unflatten(0, (group.samples, -1)), first=part.start == 0)
        if self.rollout is not None:
            self.rollout.advance(samples, self._tokens(block))

    def _weigh(self, group: Group, block: Block, part: slice) -> Tensor:
        """Weights of a block, ``(part, row, visible key)``; notes the statistics of its rows."""
        rows = slice(block.start, block.stop)
        query, key = group.query[part, rows], group.key[part]
        if self.is_causal:
            key = key[:, : block.highest + 1]
        shape = (*query.shape[:-1], key.shape[1])
        first, *second = (buffer[: math.prod(shape)].view(shape) for buffer in self._buffers)
        scores = product(query, key.transpose(1, 2), out=first)
        empty = self._hide(scores, group, block, part) if self.is_causal or group.mask is not None else None
        weights = torch.softmax(scores, -1, out=second[0] if second else scores)
        if empty is not None:
            weights.masked_fill_(empty, 0.0)
        for name, found in group.rows.items():
            statistic = STATISTICS[name](scores, weights)
            found[part, rows] = statistic if empty is None else statistic.masked_fill_(empty[..., 0], 0)
        return weights

    def _hide(self, scores: Tensor, group: Group, block: Block, part: slice) -> Tensor | None:
        """Hide keys in place; with a mask, return which rows see no key: ``(part, row, 1)``."""
        mask, visible = group.mask, scores.shape[-1]
        if self.is_causal and block.lowest + 1 < visible:
            late = torch.arange(block.lowest + 1, visible, device=scores.device)
            queries = self.layout.order[block.start : block.stop, None]
            hidden = HIDDEN if mask is None else -math.inf
            scores[..., block.lowest + 1 :].masked_fill_(late > queries, hidden)
        if mask is None:
            return None
        mask = mask[..., :visible] if mask.shape[2] == 1 else mask[:, :, self._tokens(block), :visible]
        # A group in parts is one sample, and its parts are heads.
        if mask.shape[1] > 1 and len(scores) < mask.shape[1]:
            mask = mask[:, part]
        by_head = (
            scores.view(-1, mask.shape[1], *scores.shape[1:])
            if mask.shape[1] > 1
            else scores.view(mask.shape[0], -1, *scores.shape[1:])
        )
        if mask.dtype == torch.bool:
            by_head.masked_fill_(~mask, -math.inf)
        else:
            by_head += mask
        largest = scores.amax(-1, keepdim=True)
        empty = torch.isneginf(largest)
        # Distances from the largest are finite and exact, also under the huge negative masks of some models.
        scores.sub_(largest.masked_fill_(empty, 0.0)).clamp_(min=UNDERFLOW)
        return empty

    def _tokens(self, block: Block) -> slice | Tensor:
        """The queries of a block, as the call counts them."""
        rows = slice(block.start, block.stop)
        return self.layout.order[rows] if self.layout.moved else rows

    def _keep(self, group: Group, samples: slice, heads: slice) -> None:
        """Put what was gathered of a group in its place, queries in the order of the call."""

        def in_order(rows: Tensor) -> Tensor:
            return rows.index_select(1, self.layout.place) if self.layout.moved else rows

        found = {name: (self.rows[name], in_order(rows)) for name, rows in group.rows.items()}
        found["output"] = self.output, in_order(group.output)
        found |= {"maps": (self.maps, group.maps), "special_mass": (self.special_mass, group.special_mass)}
        for whole, part in found.values():
            place = whole[samples, heads]
            place.copy_(part.view(place.shape))

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=self.dtype, device=self.query.device)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
