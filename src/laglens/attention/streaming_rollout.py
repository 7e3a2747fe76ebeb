"""Attention rollout through one layer, at token level, without the weights of all heads at once."""

from __future__ import annotations

import torch
from torch import Tensor


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
            self._total += weights[:, 0] if weights.shape[1] == 1 else weights.sum(1)
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
