"""Softmax written out by the model: which results are attention weights, and of which queries."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laglens.errors import LaglensError

SOFTMAX = {F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax}
PRODUCT = {torch.matmul, torch.bmm, torch.einsum, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
TOPK = {torch.topk, Tensor.topk}
# What may lie between the softmax and the product. Without a change of the weights:
KEEPS_WEIGHTS = {
    F.dropout,
    torch.dropout,
    torch.reshape,
    Tensor.to,
    Tensor.type,
    Tensor.type_as,
    Tensor.double,
    Tensor.float,
    Tensor.half,
    Tensor.bfloat16,
    Tensor.view,
    Tensor.reshape,
    Tensor.flatten,
    Tensor.contiguous,
    Tensor.clone,
}
# and with one, after which the result is the weights: rows without a visible key set to 0.
CHANGES_WEIGHTS = {torch.masked_fill, Tensor.masked_fill, torch.nan_to_num, Tensor.nan_to_num}


class UnknownSoftmaxError(LaglensError):
    """A softmax result turned out to be attention after it could have been edited."""

    def __init__(self, module: str) -> None:
        super().__init__(
            f"the softmax of '{module}' was not known to be attention when it could be edited: give the capture of a "
            "run without an edit, on inputs of the same shape, as `clean`"
        )


@dataclass(frozen=True)
class Followed:
    """A tensor that may turn out to be attention weights.

    Attributes
    ----------
    tensor
        The softmax result, or what became of it. Held so that its ``id`` stays its own.
    version
        Of `tensor` when it was made: it counts changes in place.
    weights
        The weights, at the precision of the softmax.
    module, ordinal
        Where the softmax ran: the module, and which softmax of that module it was.
    selected
        ``(..., selected)``: which queries the rows belong to; None: all in order.
    mask
        What an intervention added to the input of the softmax.
    value
        What the weights are multiplied with, ``(..., key, width)``, once they are known to be attention. All heads of
        it may share weights of one. None where its layout cannot be told.
    """

    tensor: Tensor
    version: int
    weights: Tensor
    module: str
    ordinal: int
    selected: Tensor | None
    mask: Tensor | None = None
    value: Tensor | None = None


class FollowedSoftmax:
    """Follows softmax results until they weight values, or are dropped.

    A result is attention when it becomes a factor of a product with per-sample values, summed over the axis of the
    softmax. Gates and routers never do; an expectation over bins or a codebook has values of rank 1 or 2.

    Attributes
    ----------
    ignored
        Module and shape of the results that did not turn out to be attention.
    """

    def __init__(self) -> None:
        self.ignored: list[tuple[str, tuple[int, ...]]] = []
        self._followed: dict[int, Followed] = {}
        self._chosen: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._followed)

    def start(self, module: str, tensor: Tensor, selected: Tensor | None) -> Followed:
        """Follow a new softmax result."""
        ordinal = self._counts[module]
        self._counts[module] += 1
        return self._keep(Followed(tensor, _version(tensor), tensor, module, ordinal, selected))

    def change(self, followed: Followed, tensor: Tensor, mask: Tensor | None) -> None:
        """An intervention put `tensor` in the place of a softmax result."""
        del self._followed[id(followed.tensor)]
        self._keep(replace(followed, tensor=tensor, version=_version(tensor), weights=tensor, mask=mask))

    def follow(self, function: Callable, source: Any, result: Any) -> None:
        """Keep following where `function` made `result` of a followed tensor."""
        found = self._followed.get(id(source))
        if found is None:
            return
        if function in KEEPS_WEIGHTS:
            self._keep(replace(found, tensor=result, version=_version(result), weights=_current(found)))
        elif function in CHANGES_WEIGHTS:
            self._keep(replace(found, tensor=result, version=_version(result), weights=result))

    def confirm(self, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Followed | None:
        """The softmax result that this product proves to be attention weights, if any; it is followed no longer."""
        for factor, values, terms in _factors(function, args, kwargs):
            found = self._followed.get(id(factor))
            if found is None or not isinstance(values, Tensor) or values.dim() < 3:
                continue
            weights = _current(found)
            if weights.shape[-2:] == factor.shape[-2:]:
                place = (found.module, found.ordinal)
                others = self._followed.items()
                self._followed = {key: other for key, other in others if (other.module, other.ordinal) != place}
                return replace(found, weights=weights, value=_beside(weights, factor, values, terms))
        return None

    def choose(self, module: str, indices: Tensor) -> None:
        """A module took the top of something: perhaps the queries that it will compute (ProbSparse attention)."""
        self._chosen[module] = indices

    def chosen(self, module: str, rows: torch.Size) -> Tensor | None:
        """Which queries the rows of a call with row shape ``(..., row)`` are, where the module chose some."""
        indices = self._chosen.get(module)
        if indices is None or indices.numel() != math.prod(rows) or indices.shape[-1] != rows[-1]:
            return None
        return indices.reshape(rows)

    def leave(self, module: str) -> None:
        """Let go, when a module returns, of what only it can use: holding a result holds memory."""
        self._chosen.pop(module, None)
        if module == "":
            self.drop()

    def drop(self) -> None:
        """Let go of everything that was not used as weights."""
        unused = {(found.module, found.ordinal): tuple(found.weights.shape) for found in self._followed.values()}
        self.ignored.extend((module, shape) for (module, _), shape in unused.items())
        self._followed.clear()
        self._chosen.clear()

    def _keep(self, followed: Followed) -> Followed:
        self._followed[id(followed.tensor)] = followed
        return followed


def over_keys(result: Tensor, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a softmax ran over the last axis of a tensor with at least three."""
    axis = kwargs["dim"] if "dim" in kwargs else args[1] if len(args) > 1 else None
    return result.dim() >= 3 and axis in (-1, result.dim() - 1)


def masked_softmax(function: Callable, args: tuple, kwargs: dict[str, Any], mask: Tensor) -> Tensor:
    """The same softmax with a mask: True where a query may see a key, or added. Emptied rows are 0."""
    score, *rest = args
    score = score.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else score + mask
    empty = torch.isneginf(score).all(-1, keepdim=True)
    return function(score, *rest, **kwargs).masked_fill(empty, 0.0)


Factors = tuple[Any, Any, tuple[str, str] | None]


def _factors(function: Callable, args: tuple, kwargs: dict[str, Any]) -> list[Factors]:
    """Weights and values that a product may stand for, with their letters in an einsum."""
    if function is torch.einsum:
        return _einsum_factors(args)
    named = [*args, *(kwargs[name] for name in ("input", "other", "mat2") if name in kwargs)]
    return [(named[0], named[1], None)]


def _einsum_factors(args: tuple) -> list[Factors]:
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or "->" not in equation:
        return []
    terms, output = equation.replace(" ", "").split("->")
    left, right = terms.split(",")
    pairs = ((left, right, operands), (right, left, operands[::-1]))
    return [(*factors, (w, v)) for w, v, factors in pairs if _sums_over_keys(w, v, output)]


def _beside(weights: Tensor, factor: Tensor, values: Tensor, terms: tuple[str, str] | None) -> Tensor | None:
    """Values laid out like the weights, ``(..., key, width)``; None where they cannot be."""
    if terms is not None:
        of_weights, of_values = terms
        lead, key = of_weights[:-2], of_weights[-1]
        width = "".join(letter for letter in of_values if letter not in of_weights)
        shared = "".join(letter for letter in lead if letter in of_values)
        values = torch.einsum(f"{of_values}->{shared}{key}{width}", values).flatten(len(shared) + 1)
        for place, letter in enumerate(lead):
            values = values if letter in of_values else values.unsqueeze(place)
    if values.dim() > factor.dim() or values.shape[-2] != factor.shape[-1]:
        return None
    values = values.expand(*np.broadcast_shapes(factor.shape[:-2], values.shape[:-2]), *values.shape[-2:])
    if weights.shape == factor.shape:
        return values
    if values.shape[:-2].numel() != weights.shape[:-2].numel():
        return None
    return values.reshape(*weights.shape[:-2], *values.shape[-2:])  # samples and heads in one, or apart


def _sums_over_keys(weights: str, values: str, output: str) -> bool:
    """Each query sums the same values over the last axis of the weights; experts of a router differ by query."""
    if len(weights) < 2:
        return False
    query, key = weights[-2], weights[-1]
    return key in values and key not in output and query in output and query not in values


def _current(found: Followed) -> Tensor:
    """The weights, or what a change in place has made of them."""
    return found.weights if _version(found.tensor) == found.version else found.tensor


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
