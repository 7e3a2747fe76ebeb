"""Statistics of the rows of attention: its entropy, effective number of keys and strongest key."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor

STATISTICS = ("entropy", "effective_keys", "top_key")


def block_statistics(scores: Tensor, weights: Tensor, names: Container[str]) -> dict[str, Tensor]:
    """Statistics of rows from their scores, which are spent, and weights: ``(..., row, key) -> (..., row)``.

    The entropy is log-sum-exp - sum p s, in nats; the log-sum-exp is the largest score less the log of its weight.
    """
    found = {}
    if "effective_keys" in names:
        found["effective_keys"] = torch.linalg.vector_norm(weights, dim=-1).pow_(-2)
    if "entropy" in names or "top_key" in names:
        largest = weights.amax(-1)
    if "entropy" in names:
        log_sum_exp = scores.amax(-1) - largest.log()
        found["entropy"] = (log_sum_exp - scores.mul_(weights).sum(-1)).clamp_(min=0)
    if "top_key" in names:
        # `argmax` takes three times as long as marking the largest and looking for the first mark.
        n = scores.shape[-1]
        first_counts_most = torch.arange(n, 0, -1, dtype=scores.dtype, device=scores.device)
        marked = torch.ge(weights, largest[..., None], out=scores).mul_(first_counts_most)
        found["top_key"] = (n - marked.amax(-1)).clamp_(max=n - 1)
    return found


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
