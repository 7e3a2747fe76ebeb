"""Small modules that compute attention in the ways that models do, and ways that only look like it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from models import sharpen
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as imported_by_name

from laglens.attention.calls import Record
from laglens.attention.capture import AttentionCapture


def naive_weights(query: Tensor, key: Tensor, allowed: Tensor, scale: float) -> Tensor:
    """Float64 softmax written out, with a mask: (..., query, width), (..., key, width) -> (..., query, key)."""
    score = torch.einsum("...ld,...sd->...ls", query.double(), key.double()) * scale
    score = score.masked_fill(~allowed, -math.inf)
    score = score - score.amax(-1, keepdim=True).nan_to_num(neginf=0)
    return score.exp() / score.exp().sum(-1, keepdim=True).clamp_min(1e-300)


class Call(nn.Module):
    """One call of torch's function, with the options given."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options
        self.eval()

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, **self.options)


class ByName(nn.Module):
    """A call site that a monkey patch of torch.nn.functional does not reach."""

    def forward(self, x: Tensor) -> Tensor:
        return imported_by_name(x, x, x)


class Projected(nn.Module):
    """Queries and keys by a projection, so that weights are not symmetric; attention by `weigh` of a subclass."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.inputs(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.output(self.weigh(query, key, value).transpose(1, 2).flatten(2))


class FusedAttention(Projected):
    """Scaled-dot-product attention."""

    def weigh(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value)


class EagerAttention(Projected):
    """Softmax written out, as models before fused kernels do."""

    def weigh(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = torch.softmax(query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]), -1)
        return F.dropout(weights, 0.1, self.training) @ value


class TalkingHeadsAttention(Projected):
    """Heads are mixed after the softmax, so that the softmax is not what weights the values."""

    def weigh(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = torch.softmax(query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]), -1)
        return weights.flip(1).lerp(weights, 0.3) @ value


class Flash(torch.autograd.Function):
    """Stands for a kernel that torch does not know, such as that of flash-attn."""

    @staticmethod
    def forward(context, query, key, value):
        score = torch.einsum("bhld,bhsd->bhls", query, key).sub_(1).exp_()
        return torch.einsum("bhls,bhsd->bhld", score / score.sum(-1, keepdim=True), value)


class FlashAttention(Projected):
    """A kernel of its own."""

    def weigh(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return Flash.apply(query, key, value)


class SpectralAttention(nn.Module):
    """Named attention, but computes no softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, dim=1).abs() ** 2, dim=1)


class Gate(nn.Module):
    """Softmax results that are not attention: a gate, an expectation over bins, a codebook."""

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.softmax(x, -1)
        expectation = torch.softmax(x, -1) @ torch.linspace(0, 1, x.shape[-1])
        codebook = torch.softmax(x, -1) @ torch.ones(x.shape[-1], 4)
        return x * gate + expectation[..., None] + codebook.sum(-1, keepdim=True)


def multihead_weights(model: nn.Module, *inputs: Tensor, **options) -> list[Tensor]:
    """Weights that torch's own explicit path returns for every multi-head attention, ``(batch, head, query, key)``.

    Each module is called again, on what it was given, and asked for its weights.
    """
    calls: list[tuple[nn.Module, tuple, dict]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls.append((module, args, kwargs))

    attention = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in attention]
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            model(*inputs, **options)
            for hook in hooks:
                hook.remove()
            asked = {"need_weights": True, "average_attn_weights": False}
            return [module(*args, **{**kwargs, **asked})[1] for module, args, kwargs in calls]
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def records_of(model: nn.Module, *inputs: Tensor) -> list[Record]:
    """Records of one run without checks."""
    with torch.no_grad(), AttentionCapture(model) as capture:
        model(*inputs)
    return capture.records


def sharp(model: nn.Module, gain: float = 1.7) -> nn.Module:
    """The model with weights drawn anew, so that attention is far from uniform."""
    return sharpen(model, gain)
