"""The weights of scaled-dot-product attention, computed from what enters it."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.kernels import SDPA


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


def weights_of(call: AttentionCall) -> Tensor:
    """Weights of a call, ``(..., query, key)``: after softmax, before dropout."""
    if call.weights is not None:
        return call.weights.detach()
    query, key, _ = call.operands
    return attention_weights(query, key, call.mask, call.is_causal, call.scale)


class DenseReader:
    """Keeps all weights of every call."""

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading:
        """Compute the weights, or take them as they are where the model itself computed them."""
        return Reading(weights=weights_of(call))


def as_computed(call: AttentionCall) -> AttentionCall:
    """The call with its tensors in the type that the kernel casts them to under autocast."""
    operands, mask = call.operands, call.mask
    device = operands[0].device.type
    autocast = _autocast_dtype(device)
    dtype = torch.float32 if autocast is None else _cast_by_kernel(device, autocast)
    if dtype == torch.float32:
        return call

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32) else tensor

    query, key, value = map(cast, operands)
    return replace(call, query=query, key=key, value=value, mask=None if mask is None else cast(mask))


@torch.no_grad()
def deviation(call: AttentionCall, reading: Reading, kernel: Tensor) -> Tensor | None:
    """How far a reading is from the model's own output: max|output - kernel| / max|kernel|, without dimensions.

    The output of the reading is the one that it gives, else its weights times the values; None if it has neither.
    Not finite where only one of the two is.
    """
    output = reading.output
    if output is None:
        if reading.weights is None:
            return None
        query, _, value = call.operands
        output = reading.weights @ repeat_groups(value, query).to(reading.weights)
    difference = output - kernel
    empty = empty_queries(call)
    if empty is not None:  # the kernel returned NaN there before torch 2.5
        difference = difference.masked_fill(empty[..., None], 0.0)
        kernel = kernel.masked_fill(empty[..., None], 0.0)
    return difference.abs().max() / kernel.abs().max().clamp_min(1e-12)


def empty_queries(call: AttentionCall) -> Tensor | None:
    """Queries that may see no key, bool, broadcasts to ``(..., query)``: by the mask, never by the weights.

    An added mask forbids by -inf or, as transformers does, by the smallest number of its type.
    """
    mask = call.mask
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        return ~mask.any(-1)
    return (mask <= torch.finfo(mask.dtype).min / 2).all(-1)


def zero_if_empty(output: Tensor, call: AttentionCall) -> Tensor:
    """The output of a kernel, 0 where it is NaN for want of a visible key, as it is before torch 2.5."""
    empty = empty_queries(call)
    return output if empty is None else output.masked_fill(empty[..., None] & output.isnan(), 0.0)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Scores and certificates in their own precision, whatever the model computes in."""
    if _autocast_dtype(device.type) is None:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@lru_cache
def _cast_by_kernel(device: str, autocast: torch.dtype) -> torch.dtype:
    """What the kernel makes of float32 under this autocast: not every device and version of torch casts here."""
    probe = torch.zeros(1, 1, 1, 1, device=device)
    with torch.autocast(device, dtype=autocast):
        return SDPA(probe, probe, probe).dtype


def _autocast_dtype(device: str) -> torch.dtype | None:
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
