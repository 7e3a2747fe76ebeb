"""One pass over the attention of a call, a block of queries at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laglens.attention.streaming_columns import Block, Columns, blocks, layout
from laglens.attention.streaming_products import better_alone, give_back_heap, keep_heap, product
from laglens.attention.streaming_rollout import Rollout
from laglens.attention.streaming_statistics import block_statistics

# Scores of one block: a CPU keeps them near its cores, a GPU wants few and large products.
BLOCK_CPU, BLOCK_GPU = 2**19, 2**25
FEWEST_ROWS = 64  # a product with fewer rows spends its time on rearranging the keys
HIDDEN = -1e30  # score of a key that only causality hides: with -inf, 0 * -inf would make the entropy NaN
UNDERFLOW = -1e4  # a score so far below the largest of its row has weight 0 in every dtype


@dataclass
class Group:
    """The heads that are worked on at once, of all samples side by side.

    Attributes
    ----------
    parts
        Their place among all heads of all samples.
    query, key, value
        ``(part, token, width)`` contiguous, in the working dtype; queries by column and scaled.
    mask
        None, or ``(sample, head, query, key)``, any of them 1.
    output, by_column
        ``(sample, head, query, value width)``: where it belongs, and with the queries by column.
    """

    parts: slice
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    output: Tensor
    by_column: Tensor


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
    maps_dtype
        Of the maps, if not that of the scores.

    Attributes
    ----------
    output
        ``(sample, head, query, value width)``.
    maps, special_mass
        ``(sample * head, query column, key column)`` and without the last.
    rows
        Statistics of each row, ``(sample * head, query)``.
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
        maps_dtype: torch.dtype | None,
    ) -> None:
        self.query, self.key, self.value, self.mask = query, key, value, mask
        self.is_causal, self.scale = is_causal, query.shape[-1] ** -0.5 if scale is None else scale
        (samples, heads, n, _), m, device = query.shape, key.shape[-2], query.device
        self.dtype = torch.promote_types(query.dtype, torch.float32)
        self.rollout = None if rollout is None else Rollout(rollout.to(self.dtype), residual)
        self.layout = layout(columns, device)
        budget = BLOCK_CPU if device.type == "cpu" else BLOCK_GPU
        self.blocks = blocks(columns, min(n, max(FEWEST_ROWS, budget // m)), self.dtype, device)
        at_once = 1 if better_alone(query, m) else max(1, budget // (n * m))
        self.heads_at_once = min(heads, at_once)
        self.samples_at_once = max(1, min(samples, at_once // heads))
        most = max(block.stop - block.start for block in self.blocks) * m * self.samples_at_once * self.heads_at_once
        # Only statistics need the scores beside the weights; else the weights take their place.
        self._buffers = [self._new(most) for _ in range(2 if statistics else 1)]
        # Like the fused kernels, so that the layer that follows joins the heads of a token as cheaply.
        same = query.shape[-1] == value.shape[-1]
        self.output = torch.empty_like(query) if same else query.new_empty(samples, heads, n, value.shape[-1])
        n_query, n_key = columns.in_time
        # A column may begin in one block and end in another, and then its parts are added up.
        new = torch.empty if all(block.tokens for block in self.blocks if block.in_time) else torch.zeros
        self.maps = new(samples * heads, n_query, n_key, dtype=maps_dtype or self.dtype, device=device)
        self.special_mass = self._new(samples * heads, n_query).zero_()
        kinds = {"top_key": torch.int32}
        self.rows = {
            name: torch.empty(samples * heads, n, dtype=kinds.get(name, self.dtype), device=device)
            for name in statistics
        }

    def run(self) -> None:
        """Go through the call once."""
        keep_heap()
        n_samples, n_heads = self.query.shape[:2]
        for samples in _slices(n_samples, self.samples_at_once):
            groups = (self._group(samples, heads) for heads in _slices(n_heads, self.heads_at_once))
            if self.rollout is None:
                for group in groups:
                    for block in self.blocks:
                        self._attend(group, block)
                    self._finish(group)
            else:
                self._attend_and_follow(samples, list(groups), self.rollout)
        if self.layout.moved:
            self.rows = {name: rows.index_select(-1, self.layout.place) for name, rows in self.rows.items()}
        self._buffers.clear()
        give_back_heap()

    def _attend_and_follow(self, samples: slice, groups: Sequence[Group], rollout: Rollout) -> None:
        """The rollout averages the heads of a block, so it needs all of them before the next block."""
        for block in self.blocks:
            for group in groups:
                weights = self._attend(group, block)
                rollout.add(weights.unflatten(0, group.output.shape[:2]), first=group is groups[0])
            rollout.advance(samples, self._tokens(block))
        for group in groups:
            self._finish(group)

    def _group(self, samples: slice, heads: slice) -> Group:
        query, output = self.query[samples, heads].to(self.dtype), self.output[samples, heads]
        if self.layout.moved:
            query = query.index_select(-2, self.layout.order)
        key, value = (self._shared(tensor[samples], heads) for tensor in (self.key, self.value))
        mask = self.mask
        if mask is not None:
            mask = mask[samples] if mask.shape[0] > 1 else mask
            mask = mask[:, heads] if mask.shape[1] > 1 else mask
        first = samples.start * self.query.shape[1] + heads.start
        return Group(
            parts=slice(first, first + output.shape[0] * output.shape[1]),
            query=(query * self.scale).flatten(0, 1),
            key=key,
            value=value,
            mask=mask,
            output=output,
            by_column=self._new(*output.shape) if self.layout.moved else output,
        )

    def _shared(self, tensor: Tensor, heads: slice) -> Tensor:
        """Keys or values of each query head, which several may share: ``(part, token, width)`` contiguous."""
        each = self.query.shape[1] // tensor.shape[1]
        if each > 1:
            tensor = tensor[:, torch.arange(heads.start, heads.stop, device=tensor.device) // each]
        else:
            tensor = tensor[:, heads]
        return tensor.to(self.dtype).contiguous().flatten(0, 1)

    def _finish(self, group: Group) -> None:
        if self.layout.moved:
            group.output.copy_(group.by_column.index_select(-2, self.layout.place))

    def _attend(self, group: Group, block: Block) -> Tensor:
        """Output, maps and statistics of a block; returns its weights, ``(part, row, visible key)``."""
        rows = slice(block.start, block.stop)
        key = group.key[:, : block.highest + 1] if self.is_causal else group.key
        shape = (*group.query[:, rows].shape[:-1], key.shape[1])
        first, *second = (buffer[: math.prod(shape)].view(shape) for buffer in self._buffers)
        scores = product(group.query[:, rows], key.transpose(1, 2), out=first)
        empty = self._hide(scores, group, block) if self.is_causal or group.mask is not None else None
        the_map = self._map_itself(group, block, shape)
        weights = torch.softmax(scores, -1, out=the_map if the_map is not None else second[0] if second else scores)
        if empty is not None:
            weights.masked_fill_(empty, 0.0)
        output = group.by_column[:, :, rows]
        output.copy_(product(weights, group.value[:, : shape[-1]]).view(output.shape))
        if block.in_time and the_map is None:
            in_time, special = self.layout.pool_keys(block.pool_queries(weights))
            put = Tensor.copy_ if block.tokens else Tensor.add_
            put(self.maps[group.parts, block.columns], in_time)
            put(self.special_mass[group.parts, block.columns], special)
        if self.rows:
            for name, found in block_statistics(scores, weights, self.rows).items():
                self.rows[name][group.parts, rows] = found if empty is None else found.masked_fill_(empty[..., 0], 0)
        return weights

    def _map_itself(self, group: Group, block: Block, shape: Sequence[int]) -> Tensor | None:
        """Where the weights of a block are what the map holds, one token being one column, its place in the map."""
        if not self.layout.keys_are_columns or block.tokens != 1 or self.maps.dtype != self.dtype:
            return None
        found = self.maps[group.parts, block.columns]
        return found if found.shape == shape and found.is_contiguous() else None

    def _hide(self, scores: Tensor, group: Group, block: Block) -> Tensor | None:
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
        by_head = scores.unflatten(0, group.output.shape[:2])
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

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=self.dtype, device=self.query.device)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
