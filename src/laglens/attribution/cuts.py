"""Which attention a knock-out removes: pairs of one query part whose lag lies on a comb or in a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from laglens.attention.calls import AttentionCall
from laglens.errors import LaglensError
from laglens.lags.pairs import Axis, part_masks
from laglens.models.tokens import Stack, TokenMap

Array = NDArray[np.float64]
HALF_WIDTH = 0.75  # tokens on either side of a lag that are cut with it
SHIFTS = (-0.5, -0.25, 0.25)  # of a period, by which the control combs miss its multiples


@dataclass(frozen=True)
class Cut:
    """Lags to remove, for every sample its own.

    Attributes
    ----------
    name
        What it is called in results.
    lags
        For each sample the lags that are cut [input samples].
    heads
        Attention modules and those of their heads that are cut; None: all.
    """

    name: str
    lags: tuple[Array, ...]
    heads: Mapping[str, Sequence[int]] | None = None


def comb(periods: Sequence[float], longest: float, shift: float = 0.0) -> tuple[Array, ...]:
    """Lags ``(k + shift) P`` for the period of each sample, k from 1 as long as kP is at most `longest`."""
    return tuple(np.float64(period) * (np.arange(1, int(longest / period) + 1) + shift) for period in periods)


def matched_cuts(periods: Sequence[float], longest: float, step: float, rng: Generator) -> list[Cut]:
    """The comb and the band at the period of each sample, and what they are compared with.

    ``comb``: all kP; its controls ``comb - 0.5 P``, ``comb - 0.25 P`` and ``comb + 0.25 P`` have the same number of
    teeth between them. ``band``: P alone; its controls are bands at 1.25 P, 1.5 P and at a random lag more than 1.5
    tokens from any kP.

    Parameters
    ----------
    periods
        One per sample [input samples].
    longest
        Longest lag of the model [input samples].
    step
        Input samples per token.
    rng
        Draws the random lags.
    """
    cuts = [Cut("comb", comb(periods, longest))]
    cuts += [
        Cut(f"comb {'+' if shift > 0 else '-'} {abs(shift):g} P", comb(periods, longest, shift)) for shift in SHIFTS
    ]
    cuts.append(Cut("band", tuple(np.array([period]) for period in periods)))
    cuts += [Cut(f"band at {x:g} P", tuple(np.array([x * period]) for period in periods)) for x in (1.25, 1.5)]
    cuts.append(Cut("band at a random lag", tuple(_random_lag(period, longest, step, rng) for period in periods)))
    return cuts


def _random_lag(period: float, longest: float, step: float, rng: Generator) -> Array:
    lags = np.arange(2, int(longest / step) + 1) * step
    off = np.abs(lags - period * np.round(lags / period)) > 1.5 * step
    return rng.choice(lags[off], 1) if off.any() else np.array([period * 1.25])


def single_lags(n_samples: int, longest: float, step: float) -> list[Cut]:
    """One token lag at a time, from 2 tokens to `longest`: the causal lag curve."""
    lags = np.arange(2, int(longest / step) + 1) * step
    return [Cut(f"{lag:g}", (np.array([lag]),) * n_samples) for lag in lags]


def one_head_at_a_time(stacks: Sequence[Stack], n_heads: Mapping[str, int], lags: tuple[Array, ...]) -> list[Cut]:
    """The same lags cut in one head after the other, named like ``decoder L00 H02``.

    Parameters
    ----------
    n_heads
        Heads of each attention module.
    """
    return [
        Cut(f"{stack.name} L{layer:02} H{head:02}", lags, {module: [head]})
        for stack in stacks
        for layer, module in enumerate(stack.layers)
        for head in range(n_heads[module])
    ]


def token_lags(stack: Stack, history: int, part: str) -> Array:
    """Lag of every token pair of one query part [input samples], ``(query, key)``; NaN for pairs of other parts.

    Raises
    ------
    LaglensError
        The stack has no pair in that part.
    """
    axes = [_axis(tokens, history) for tokens in (stack.query, stack.key)]
    masks = part_masks(*axes)
    if part not in masks:
        raise LaglensError(f"stack '{stack.name}' has no pairs in part '{part}'; it has {', '.join(masks) or 'none'}")
    lag = np.subtract.outer(stack.query.time, stack.key.time)
    return np.where(masks[part], lag, np.nan)


def _axis(tokens: TokenMap, history: int) -> Axis:
    straddles = (tokens.start < history) & (tokens.end > history)
    return Axis(tokens.time, tokens.part, tokens.readout, straddles)


@dataclass
class CutEdges:
    """Edit of a capture that cuts attention: scores of the pairs become -inf, and the softmax renormalises.

    A query that would lose every key it sees keeps them all, and is counted.

    Attributes
    ----------
    lags
        `token_lags` by name of the attention module and index of its call; None for all calls (decoding steps).
    cut
        For each sample of the batch, padded with NaN: ``(sample, lag)``.
    width
        Half width of a band [input samples].
    heads
        Modules and heads to cut; None: all.
    spared
        Queries that kept their keys, so far.
    """

    lags: Mapping[tuple[str, int | None], Tensor]
    cut: Tensor
    width: float
    heads: Mapping[str, Sequence[int]] | None = None
    spared: int = 0
    _edges: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, call: AttentionCall) -> AttentionCall:
        """Cut the pairs of one call."""
        chosen = None if self.heads is None else self.heads.get(call.module, ())
        lags = self.lags.get((call.module, call.index), self.lags.get((call.module, None)))
        if lags is None or (chosen is not None and not len(chosen)):
            return call
        edges = self._of_call(call, lags)
        if chosen is not None:
            of_head = torch.zeros(_operand(call).shape[-3], dtype=torch.bool, device=edges.device)
            of_head[list(chosen)] = True
            edges = edges & of_head[:, None, None]
        mask = call.without(edges).mask
        assert mask is not None  # an edge mask is always one
        seen = mask if mask.dtype == torch.bool else ~torch.isneginf(mask)
        emptied = ~seen.any(-1, keepdim=True) & edges.any(-1, keepdim=True)
        self.spared += int(emptied.sum())
        return call.without(edges & ~emptied)

    def _of_call(self, call: AttentionCall, lags: Tensor) -> Tensor:
        """Pairs to cut, ``(batch, 1, query, key)``; the rows of a decoding step end at its query."""
        if id(lags) not in self._edges:
            near = (lags - self.cut[:, :, None, None]).abs() <= self.width
            self._edges[id(lags)] = near.any(1)[:, None]
        edges = self._edges[id(lags)]
        n_queries, n_keys = call.shape
        if n_queries != lags.shape[0] or n_keys != lags.shape[1]:
            last = call.index + 1
            edges = edges[:, :, max(last - n_queries, 0) : last, :n_keys]
        # Channels are folded into the batch.
        return edges.repeat_interleave(len(_operand(call)) // len(edges), 0)


def _operand(call: AttentionCall) -> Tensor:
    """A tensor of the call with its batch and head axes."""
    operand = call.weights if call.query is None else call.query
    assert operand is not None  # a call has one or the other
    return operand
