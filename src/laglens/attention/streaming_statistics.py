"""Statistics of the rows of attention: its entropy, effective number of keys and strongest key."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor

STATISTICS = ("entropy", "effective_keys", "top_key")
WINDOW = 64  # keys looked through at a time for the strongest


def block_statistics(scores: Tensor, weights: Tensor, names: Container[str]) -> dict[str, Tensor]:
    """Statistics of a block of rows, from its scores, which are spent, and weights: ``(..., row, key) -> (..., row)``.

    The entropy is log-sum-exp - sum p s, in nats; the log-sum-exp is the largest score less the log of its weight.
    """
    found = {}
    if "effective_keys" in names:
        found["effective_keys"] = torch.linalg.vector_norm(weights, dim=-1).pow_(-2)
    if "top_key" in names:
        found["top_key"] = top_key(scores)
    if "entropy" in names:
        if "top_key" in found:
            at = found["top_key"][..., None]
            largest, its_weight = scores.gather(-1, at)[..., 0], weights.gather(-1, at)[..., 0]
        else:
            largest, its_weight = scores.amax(-1), weights.amax(-1)
        mean_score = scores.mul_(weights).sum(-1)
        found["entropy"] = (largest - its_weight.log_() - mean_score).clamp_(min=0)
    return found


def top_key(scores: Tensor) -> Tensor:
    """The first of the largest scores; a maximum per window first, because `argmax` of long rows is slow on a CPU."""
    n = scores.shape[-1]
    if n < 2 * WINDOW:
        return scores.argmax(-1)
    whole = scores[..., : n // WINDOW * WINDOW].unflatten(-1, (-1, WINDOW)).amax(-1)
    last = scores[..., -WINDOW:].amax(-1, keepdim=True)
    start = (torch.cat([whole, last], -1).argmax(-1, keepdim=True) * WINDOW).clamp_(max=n - WINDOW)
    window = scores.gather(-1, start + torch.arange(WINDOW, device=scores.device))
    return start[..., 0] + window.argmax(-1)


def row_statistics(weights: Tensor, names: Container[str] = STATISTICS) -> dict[str, Tensor]:
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
