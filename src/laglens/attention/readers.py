"""What is read of the calls of a model's stacks: reduced to time, or all weights of the tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laglens.attention.assembly import Arrays, Batch, Place, scattered, token_arrays
from laglens.attention.calls import AttentionCall, Reader, Reading
from laglens.attention.streaming import Columns, StreamReader, stream_attention
from laglens.attention.weights import weights_of
from laglens.models.tokens import Stack, TokenMap

CHECKED = "checked"  # sums over which weights that are not finite show; of a layer whose weights were handed on


class StackReader:
    """Reads the calls that belong to a stack with the reader of that stack; nothing is kept of any other call.

    Parameters
    ----------
    readers
        By the name of the stack.
    """

    def __init__(self, stacks: Sequence[Stack], readers: Mapping[str, Reader]) -> None:
        self.readers, self.batch = readers, Batch(slice(0, 1))
        self._stacks = {
            (layer, None if stack.steps else stack.call): stack.name for stack in stacks for layer in stack.layers
        }

    def begin(self, batch: Batch, *, certify: bool) -> None:
        """Prepare for the windows of `batch`, and say whether they are compared with the model's own output."""
        self.batch = batch
        for reader in self.readers.values():
            if isinstance(reader, StepReader):
                reader.certify = certify

    def read(self, call: AttentionCall) -> Reading | None:
        """Read one call; None for one that belongs to no stack."""
        stack = self._stacks.get((call.module, call.index), self._stacks.get((call.module, None)))
        return None if stack is None else self.readers[stack].read(self._with_heads(call))

    def _with_heads(self, call: AttentionCall) -> AttentionCall:
        """Weights that the model folds into ``(batch * head, query, key)`` get their heads back."""
        n = math.prod(self.batch.shape)
        if call.weights is None or call.weights.dim() > 3 or call.weights.shape[0] % n:
            return call
        shape = (n, -1)
        selected = None if call.selected is None else call.selected.unflatten(0, shape)
        return replace(call, weights=call.weights.unflatten(0, shape), selected=selected)


def time_reader(stacks: Sequence[Stack], statistics: Sequence[str], *, rollout: bool = False) -> StackReader:
    """Reads every stack reduced to time columns.

    Parameters
    ----------
    statistics
        Row statistics to keep.
    rollout
        Follow the attention through stacks that share their tokens, one after the other (see `chains`).
    """
    readers: dict[str, Reader] = {stack.name: StepReader() for stack in stacks if stack.steps}
    for chain in chains([stack for stack in stacks if not stack.steps]):
        readers |= dict.fromkeys((stack.name for stack in chain), chain_reader(chain, statistics, rollout=rollout))
    return StackReader(stacks, readers)


def chain_reader(chain: Sequence[Stack], statistics: Sequence[str], *, rollout: bool) -> StreamReader:
    """Reads stacks that follow each other, reduced to time columns; a rollout needs the same tokens on both axes."""
    columns = {layer: Columns.of(stack) for stack in chain for layer in stack.layers}
    return StreamReader(columns, statistics, rollout=rollout and is_square(chain[0]))


def chains(stacks: Sequence[Stack]) -> list[tuple[Stack, ...]]:
    """Stacks that attention passes one after the other on the same tokens, such as an encoder and its decoder.

    A stack whose queries and keys differ, whose rows are decoding steps, or that runs the layers of another one again
    is a chain of its own.
    """
    found: list[tuple[Stack, ...]] = []
    for stack in stacks:
        last = found[-1] if found else ()
        known = {layer for one in last for layer in one.layers}
        square = last and is_square(stack) and is_square(last[0])
        if square and same_tokens(stack.query, last[0].query) and not known & set(stack.layers):
            found[-1] = (*last, stack)
        else:
            found.append((stack,))
    return found


def same_tokens(first: TokenMap, second: TokenMap) -> bool:
    """Whether two axes have the same tokens."""
    pairs = ((first.start, second.start), (first.end, second.end), (first.row, second.row), (first.part, second.part))
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def is_square(stack: Stack) -> bool:
    """Whether queries and keys are the same tokens, all seen in one call."""
    return not stack.steps and same_tokens(stack.query, stack.key)


class StepReader:
    """Keeps the weights of decoding steps; of a later step on all queries so far only the last row is new."""

    certify = True

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading:
        """Read one step."""
        weights = weights_of(call)
        if call.selected is not None:  # in any order; a decoder has as many queries as keys so far
            weights, _ = scattered(weights, call.selected, weights.shape[-1], causal=True)
        whole = call.index == 0 or self.certify
        return Reading(weights=weights if whole else weights[..., -1:, :].clone())


class TokenReader:
    """Hands on all weights of a call and their row statistics while the model runs: one layer is held at a time.

    Calls on selected queries only are kept as weights, to be put in place once the model has run.

    Parameters
    ----------
    stack
        What the calls belong to.
    dtype
        Of the weights that are handed on; statistics come from the weights as they are.
    keep
        Takes the place and the arrays ``(lead..., query[, key])`` of each call, and the leading dims.
    follow
        Reads the same weights for the rollout, if one is wanted.
    """

    def __init__(
        self,
        stack: Stack,
        dtype: torch.dtype,
        statistics: Sequence[str],
        keep: Callable[[Place, Arrays, Sequence[int]], None],
        follow: StreamReader | None = None,
    ) -> None:
        self.stack, self.dtype, self.statistics, self.keep, self.follow = stack, dtype, statistics, keep, follow
        self._tokens = (len(stack.query), len(stack.key))

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading:
        """Read one call."""
        if call.selected is not None or call.shape != self._tokens:
            return Reading(weights=weights_of(call))
        if call.query is not None and call.key is not None and call.value is not None:
            return self._stream(call, call.query, call.key, call.value)
        weights = weights_of(call)
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
        arrays = token_arrays(weights, self.dtype, self.statistics) | self._rollout(call, weights)
        self.keep(self._place(call), arrays, weights.shape[:-2])
        return Reading(reduced={CHECKED: weights.sum(-1)})  # in which weights that are not finite show

    def _stream(self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor) -> Reading:
        """Read one call in blocks, and replace its kernel: at half the time and memory of whole weights."""
        follow = self.follow
        rollout: dict[str, Any] = {} if follow is None else {"rollout": follow.below(call), "residual": follow.residual}
        output, reduced = stream_attention(
            query,
            key,
            value,
            Columns.each_token(*self._tokens),
            mask=call.mask,
            is_causal=call.is_causal,
            scale=call.scale,
            statistics=self.statistics,
            maps_dtype=self.dtype,
            **rollout,
        )
        if follow is not None:
            reduced = follow.by_column(reduced, follow.columns[call.module])
        arrays = {name: array for name, array in reduced.items() if name != "special_mass"}
        self.keep(self._place(call), arrays, query.shape[:-2])
        return Reading(reduced={CHECKED: output.sum(-1)}, output=output)

    def _place(self, call: AttentionCall) -> Place:
        return Place(self.stack, self.stack.layers.index(call.module))

    def _rollout(self, call: AttentionCall, weights: Tensor) -> Arrays:
        if self.follow is None:
            return {}
        known = replace(call, source="softmax", query=None, key=None, value=None, weights=weights)
        reading = self.follow.read(known)
        reduced = (reading.reduced if reading else None) or {}
        return {name: array for name, array in reduced.items() if name.startswith("rollout")}
