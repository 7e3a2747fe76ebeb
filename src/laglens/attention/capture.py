"""Read the attention weights of any torch model while it runs, and prove that they are the ones it used.

The model's code and attention settings stay untouched: a `torch.overrides.TorchFunctionMode` sees the calls of
scaled-dot-product attention, multi-head attention and softmax, and hooks name the module that makes them. Needs
torch (2.1 or later) and numpy alone, so it also runs inside a model's own environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from laglens.attention import kernels
from laglens.attention.calls import AttentionCall, Reader, Reading, Record
from laglens.attention.completeness import Completeness
from laglens.attention.kernels import MHA, SDPA
from laglens.attention.modules import RunningModules
from laglens.attention.records import Records, check_output
from laglens.attention.softmax import (
    PRODUCT,
    SOFTMAX,
    TOPK,
    FollowedSoftmax,
    UnknownSoftmaxError,
    masked_softmax,
    over_keys,
)
from laglens.attention.weights import DenseReader, as_computed, deviation, weights_of, without_autocast, zero_if_empty

OTHER_KERNEL = re.compile(r"attn|attention", re.IGNORECASE)

Edit = Callable[[AttentionCall], AttentionCall]


def read_attention(
    model: nn.Module,
    *inputs: Any,
    certify: bool = True,
    reader: Reader | None = None,
    edit: Edit | None = None,
    clean: AttentionCapture | None = None,
    not_attention: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[Any, AttentionCapture]:
    """Run ``model(*inputs, **options)`` without gradients; return its output and the capture with its ``records``.

    Parameters
    ----------
    certify, reader, edit, clean, not_attention
        See `AttentionCapture`. Under an `edit`, a model that writes its softmax out runs again unless `clean` is given.

    Raises
    ------
    LaglensError
        The model is in training mode; an attention module ran but nothing was captured in it; weights are not
        finite; the certificate is above its tolerance. The message names the modules.
    """
    settings: dict[str, Any] = {"certify": certify, "reader": reader, "edit": edit, "not_attention": not_attention}
    try:
        with torch.no_grad(), AttentionCapture(model, clean=clean, **settings) as capture:
            output = model(*inputs, **options)
    except UnknownSoftmaxError:
        if clean is not None:
            raise
    else:
        capture.check()
        check_output(model, output)
        return output, capture
    _, clean = read_attention(model, *inputs, certify=False, not_attention=not_attention, **options)
    return read_attention(model, *inputs, clean=clean, **settings, **options)


class AttentionCapture(TorchFunctionMode):
    """Record every attention call of `model` while active.

    Parameters
    ----------
    certify
        Compare the weights times V with the output that the model computed. It costs one product per call; where the
        reader replaces the kernel, the kernel runs too.
    reader
        Decides what is kept of each call. Default: all its weights.
    edit
        Changes each call before the kernel and the reader see it, to intervene in the model (see
        `AttentionCall.without`).
    clean
        An earlier capture of the same model, without an edit, on inputs of the same shape. It tells which softmax
        results are attention, so that `edit` reaches those too: their calls hold the unedited `weights`; the `mask`
        of the edited call enters the softmax, or its `weights` take their place.
    not_attention
        Modules that are called attention but are none, such as gates: their name, the beginning of it, or the name
        of their class, each with the reason. What a model declares itself (``not_in_time``) need not be repeated.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        certify: bool = True,
        reader: Reader | None = None,
        edit: Edit | None = None,
        clean: AttentionCapture | None = None,
        not_attention: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.certify, self.edit = model, certify, edit
        self.reader: Reader = reader or DenseReader()
        self._records = Records()
        self._softmax = FollowedSoftmax()
        self._modules = RunningModules(model, self._softmax.leave)
        self._completeness = Completeness(self._modules, {**getattr(model, "not_in_time", {}), **(not_attention or {})})
        # Softmax results that are attention, by module and their number in it, with the index of the call.
        self._confirmed: dict[tuple[str, int], int] = {}
        self._expected = dict(clean._confirmed) if clean else {}
        self._handlers: dict[Callable, Callable | None] = {}

    def __enter__(self) -> AttentionCapture:
        kernels.refuse_patched()
        self._handlers = {SDPA: self._sdpa, MHA: self._mha}
        self._handlers |= dict.fromkeys(SOFTMAX, self._softmaxed) | dict.fromkeys(TOPK, self._top)
        with ExitStack() as undo:
            undo.callback(self._softmax.drop)
            undo.callback(self._modules.detach)
            self._modules.attach()
            undo.enter_context(kernels.uncompiled())
            super().__enter__()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._undo.close()
        # Without reference to itself a capture is gone, and its arrays with it, as soon as nobody holds it.
        self._handlers = {}
        self.__dict__.pop("_last", None)

    def __repr__(self) -> str:
        about = self.certificate
        worst = f", worst |W V - output| {about['worst']:.1e}" if about["worst"] else ""
        return (
            f"AttentionCapture of {type(self.model).__name__}: {about['captured']} of {about['found']} attention "
            f"modules, {about['calls']} calls{worst}"
        )

    @property
    def records(self) -> list[Record]:
        """The calls in the order in which they happened."""
        return self._records.all

    @property
    def ignored(self) -> list[tuple[str, tuple[int, ...]]]:
        """Module and shape of softmax results that did not turn out to be attention (gates, routers, outputs)."""
        return self._softmax.ignored

    @property
    def found(self) -> list[str]:
        """Names of the innermost attention modules that ran, without those that are excused."""
        return self._completeness.found

    @property
    def certificate(self) -> dict[str, Any]:
        """Attention modules found, captured and excused, calls, and the worst relative error |W V - output|."""
        missing = self._completeness.missing(self._records.modules)
        return {
            "found": len(self.found),
            "captured": len(self.found) - len(missing),
            "excused": self._completeness.excuses,
            "calls": len(self.records),
            "worst": self._records.worst,
        }

    def check(self) -> None:
        """Raise `LaglensError` unless everything was captured, is finite and is certified."""
        seen = self._records.modules
        self._completeness.check(seen, {module for module, _ in self.ignored})
        self._completeness.check_stacks(seen, getattr(self.model, "stacks", None))
        self._records.check(self.model)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        try:
            handler = self._handlers[func]
        except KeyError:
            handler = self._handlers[func] = self._handler(func)
        if handler is not None:
            return handler(func, *args, **kwargs)
        if not self._softmax:
            return func(*args, **kwargs)
        if func in PRODUCT:
            self._weigh(func, args, kwargs)
        output = func(*args, **kwargs)
        self._softmax.follow(func, args[0] if args else None, output)
        return output

    def _handler(self, func: Callable) -> Callable | None:
        """For a function that was not met before: nothing to do, unless by its name it computes attention."""
        return self._unreadable if OTHER_KERNEL.search(getattr(func, "__name__", "")) else None

    def _unreadable(self, func: Callable, *args: Any, **kwargs: Any) -> Any:
        name = str(func)
        self._completeness.kernels[self._modules.current].add(func.__name__ if name.startswith("<") else name)
        return func(*args, **kwargs)

    def _sdpa(
        self,
        func: Callable,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        source: str = "sdpa",
    ) -> Tensor:
        module = self._modules.current
        kernels.refuse_dropout(dropout_p, module)
        selected = self._softmax.chosen(module, query.shape[:-1])
        place = module, self._records.calls[module], source
        mask = kernels.written_out(attn_mask, query.device)
        call = AttentionCall(*place, query, key, value, mask, is_causal, scale, selected=selected)
        return self._attend(self.edit(call) if self.edit else call, partial(kernels.run_sdpa, func, grouped=enable_gqa))

    def _attend(self, call: AttentionCall, kernel: Callable[[AttentionCall], Tensor]) -> Tensor:
        """Read a call, run its kernel unless the reader replaces it, and compare the two."""
        read = as_computed(call)
        device = read.operands[0].device
        with without_autocast(device):
            reading = self.reader.read(read) or Reading()
        output, error = reading.output, None
        if output is None or self.certify:
            expected = kernel(call) if self.edit is None else zero_if_empty(kernel(call), call)
            with without_autocast(device):
                error = deviation(read, reading, expected) if self.certify else None
            output = expected if output is None else output
        if call.source == "mha":
            self._last = read, reading
        self._records.add(read, reading, error)
        return output

    def _mha(self, func: Callable, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Inside a handler the mode is off, so the inner call is reached by swapping torch's global."""
        bound = kernels.bind_mha(args, kwargs)
        call = bound.arguments
        wanted = call["need_weights"]
        call["need_weights"] = False  # with weights torch leaves SDPA and nothing can be certified
        if wanted and call["attn_mask"] is not None:
            call["is_causal"] = False  # with weights torch uses the mask and not the hint
        with kernels.inner_sdpa(partial(self._sdpa, SDPA, source="mha")):
            output, _ = func(*bound.args, **bound.kwargs)
        read, reading = self.__dict__.pop("_last")  # the tensors of a call are not held longer than it lasts
        if not wanted:
            return output, None
        weights = weights_of(read) if reading.weights is None else reading.weights
        return output, kernels.handed_back(weights.to(output.dtype), call)

    def _softmaxed(self, func: Callable, *args: Any, **kwargs: Any) -> Tensor:
        output = func(*args, **kwargs)
        if not over_keys(output, args, kwargs):
            return output
        module = self._modules.current
        followed = self._softmax.start(module, output, self._softmax.chosen(module, output.shape[:-1]))
        index = self._expected.get((module, followed.ordinal))
        if self.edit is None or index is None:
            return output
        call = self.edit(AttentionCall(module, index, "softmax", weights=output, selected=followed.selected))
        result = call.weights if call.mask is None else masked_softmax(func, args, kwargs, call.mask)
        if result is None or result is output:
            return output
        self._softmax.change(followed, result, call.mask)
        return result

    def _top(self, func: Callable, *args: Any, **kwargs: Any) -> Any:
        output = func(*args, **kwargs)
        self._softmax.choose(self._modules.current, output.indices)
        return output

    def _weigh(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> None:
        """Read a softmax result if this product proves it to be attention."""
        found = self._softmax.confirm(func, args, kwargs)
        if found is None:
            return
        place, index = (found.module, found.ordinal), self._records.calls[found.module]
        self._confirmed[place] = index
        if self.edit is not None and place not in self._expected:
            raise UnknownSoftmaxError(found.module)
        call = AttentionCall(found.module, index, "softmax", value=found.value, mask=found.mask, weights=found.weights)
        call = replace(call, selected=found.selected)
        with without_autocast(found.weights.device):
            reading = self.reader.read(call)
        self._records.add(call, reading or Reading())
