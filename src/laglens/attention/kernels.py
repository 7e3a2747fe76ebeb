"""Torch's own attention functions, across the versions of torch."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from laglens.attention.calls import AttentionCall
from laglens.errors import LaglensError

SDPA = torch._C._nn.scaled_dot_product_attention  # torch's own, whatever F may have been patched with
MHA = F.multi_head_attention_forward
_MHA_SIGNATURE = inspect.signature(MHA)


def run_sdpa(function: Callable, call: AttentionCall, *, grouped: bool) -> Tensor:
    """The output of scaled-dot-product attention for a call, ``(..., query, width)``."""
    groups = {"enable_gqa": True} if grouped else {}  # torch before 2.5 does not know the argument
    return function(*call.operands, call.mask, 0.0, call.is_causal, scale=call.scale, **groups)


def written_out(mask: Tensor | None, device: torch.device) -> Tensor | None:
    """A mask as a tensor, also where it is an empty one that stands for a triangle (``torch.nn.attention.bias``)."""
    materialize = getattr(mask, "_materialize", None)
    return mask if materialize is None else materialize(device)


def bind_mha(args: tuple, kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """All arguments of a call of multi-head attention by name."""
    bound = _MHA_SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound


@contextmanager
def inner_sdpa(replacement: Callable) -> Iterator[None]:
    """Put `replacement` where multi-head attention calls scaled-dot-product attention."""
    before, F.scaled_dot_product_attention = F.scaled_dot_product_attention, replacement
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


def handed_back(weights: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Weights ``(batch, head, query, key)`` as multi-head attention returns them to a caller who asks for them."""
    weights = weights.mean(-3) if arguments["average_attn_weights"] else weights
    return weights.squeeze(0) if arguments["query"].dim() == 2 else weights


def refuse_patched() -> None:
    """Raise `LaglensError` if somebody has replaced torch's function, as SageAttention and others advise to."""
    found = F.scaled_dot_product_attention
    if found is not SDPA:
        raise LaglensError(
            f"torch's scaled_dot_product_attention was replaced by '{getattr(found, '__name__', found)}', whose "
            "weights cannot be read; undo the replacement"
        )


def refuse_dropout(probability: float, module: str) -> None:
    """Raise `LaglensError` if a module in evaluation mode asks for dropout of its weights."""
    if probability > 0:
        raise LaglensError(
            f"'{module}' drops attention at random (dropout_p={probability}) even in evaluation mode; "
            "let it pass dropout_p only while training"
        )


def uncompiled() -> AbstractContextManager:
    """Let ``torch.compile`` step aside: it would compile a model anew, with its capture in it, at every capture."""
    used = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return torch.compiler.set_stance("force_eager") if used else nullcontext()
