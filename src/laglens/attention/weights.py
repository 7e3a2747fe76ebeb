"""The weights of scaled-dot-product attention, computed from what enters it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laglens.attention.calls import AttentionCall, Reading


def attention_weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Softmax weights of scaled-dot-product attention, at least in float32.

    (..., query, width) and (..., key, width) -> (..., query, key). The causal triangle is aligned top left, as
    torch does; a query that may see no key gets zeros, as its output does.
    """
    key = repeat_groups(key, query)
    dtype = torch.promote_types(query.dtype, torch.float32)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    score = (query.to(dtype) * scale) @ key.to(dtype).transpose(-2, -1)
    if is_causal:
        future = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device).triu(1)
        score = score.masked_fill(future, -math.inf)
    if mask is None:
        return score.softmax(-1)
    score = score.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else score + mask.to(dtype)
    empty = torch.isneginf(score).all(-1, keepdim=True)
    return score.softmax(-1).masked_fill(empty, 0.0)


def repeat_groups(tensor: Tensor, query: Tensor) -> Tensor:
    """Grouped queries share keys and values: repeat them to one per query head."""
    if query.dim() > 2 and tensor.shape[-3] != query.shape[-3]:
        return tensor.repeat_interleave(query.shape[-3] // tensor.shape[-3], -3)
    return tensor


class DenseReader:
    """Keeps all weights of every call."""

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading:
        """Compute the weights, or take them as they are where the model itself computed them."""
        return Reading(weights=weights_of(call))


def weights_of(call: AttentionCall) -> Tensor:
    """Weights of a call, ``(..., query, key)``: after softmax, before dropout."""
    if call.query is None or call.key is None:
        return call.weights.detach()
    return attention_weights(call.query, call.key, call.mask, call.is_causal, call.scale)
