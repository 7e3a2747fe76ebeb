"""Statistics of the rows of a block of attention, from its scores and weights."""

from __future__ import annotations

from collections.abc import Callable, Container

import torch
from torch import Tensor

WINDOW = 64  # keys looked through at a time for the strongest


def effective_keys(scores: Tensor, weights: Tensor) -> Tensor:
    """1 / sum of squares: ``(..., row, key) -> (..., row)``."""
    return torch.linalg.vector_norm(weights, dim=-1).pow_(-2)


def top_key(scores: Tensor, weights: Tensor) -> Tensor:
    """The first of the largest scores; a maximum per window first, because `argmax` of long rows is slow on a CPU."""
    n = scores.shape[-1]
    if n < 2 * WINDOW:
        return scores.argmax(-1)
    whole = scores[..., : n // WINDOW * WINDOW].unflatten(-1, (-1, WINDOW)).amax(-1)
    last = scores[..., -WINDOW:].amax(-1, keepdim=True)
    start = (torch.cat([whole, last], -1).argmax(-1, keepdim=True) * WINDOW).clamp_(max=n - WINDOW)
    window = scores.gather(-1, start + torch.arange(WINDOW, device=scores.device))
    return start[..., 0] + window.argmax(-1)


def entropy(scores: Tensor, weights: Tensor) -> Tensor:
    """log-sum-exp - sum p s, in nats; log-sum-exp = largest score - log of its weight. Spends the scores."""
    log_sum_exp = scores.amax(-1) - weights.amax(-1).log_()
    return (log_sum_exp - scores.mul_(weights).sum(-1)).clamp_(min=0)


# The entropy comes last.
STATISTICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "effective_keys": effective_keys,
    "top_key": top_key,
    "entropy": entropy,
}


def row_statistics(weights: Tensor, names: Container[str] = tuple(STATISTICS)) -> dict[str, Tensor]:
    """Statistics of rows whose weights are at hand: ``(..., query, key) -> (..., query)`` each.

    A row without visible keys has entropy 0 and 0 effective keys.
    """
    found = {}
    if "effective_keys" in names:
        squares = weights.square().sum(-1)
        found["effective_keys"] = torch.where(squares > 0, 1 / squares, 0.0)
    if "top_key" in names:
        found["top_key"] = weights.argmax(-1).int()
    if "entropy" in names:
        found["entropy"] = -torch.special.xlogy(weights, weights).sum(-1)
    return found
