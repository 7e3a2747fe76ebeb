"""Matrix products for blocks of attention, by the faster of the two libraries that torch brings along."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

SMALLEST = 2**20  # multiply-adds of a product below which calling oneDNN costs more than it saves
ALONE = 2**22  # multiply-adds above which a product with oneDNN is faster than several at once without
HEAP = 2**25 - 2**16  # bytes; above it glibc never raises its limit


def product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """``(part, row, inner) @ (part, inner, column)``, in `out` unless a new tensor is faster.

    torch hands float32 products to MKL, which keeps to AVX2 on processors that are not Intel's; oneDNN, which torch
    uses for its compiled linear layers, takes AVX-512 where there is any: half the time on an AMD EPYC (Zen 5).
    """
    linear = _linear() if len(left) == 1 and _may(left) else None
    if linear is None or left.numel() * right.shape[-1] < SMALLEST:
        return torch.bmm(left, right, out=out)
    return linear(left[0], right[0].t(), None, "none", [], "")[None]


def better_alone(query: Tensor, n_keys: int) -> bool:
    """Whether heads are best worked on one at a time."""
    return query.shape[-2] * query.shape[-1] * n_keys >= ALONE and _may(query) and _linear() is not None


def _may(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype != torch.float64


@lru_cache(maxsize=1)
def _linear() -> Callable[..., Tensor] | None:
    """The linear layer ``x @ weight.T`` of oneDNN, as torch's own compiler calls it; None where torch has none."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    try:
        linear = torch.ops.mkldnn._linear_pointwise
        x, weight = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
        works = torch.equal(linear(x, weight, None, "none", [], ""), x @ weight.t())
    except (AttributeError, RuntimeError):
        return None
    return linear if works else None


@lru_cache(maxsize=1)
def keep_heap() -> None:
    """Let freed blocks stay with the process: oneDNN's products are new tensors.

    glibc hands blocks back to the system and fetches them anew, page by page, at four times the cost of the product,
    until it has seen one freed that was larger; this one is never touched.
    """
    torch.empty(HEAP, dtype=torch.uint8)


def give_back_heap() -> None:
    """Hand what `keep_heap` let the process keep back to the system: once a call, not once a product.

    Otherwise it lies there, 60 to 80 MB, while the layer that follows the attention needs most memory.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@lru_cache(maxsize=1)
def _malloc_trim() -> Callable[[int], int] | None:
    """Of glibc; None with any other C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None
