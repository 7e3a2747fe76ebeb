"""Read the attention weights of any torch model while it runs, and prove that they are the ones it used.

The model's code and attention settings stay untouched: a `torch.overrides.TorchFunctionMode` sees the calls of
scaled-dot-product attention, multi-head attention and softmax, and hooks name the module that makes them. Needs
torch and numpy alone, so it also runs inside a model's own environment.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from laglens.attention.calls import AttentionCall, Reader, Reading, Record
from laglens.attention.weights import DenseReader, repeat_groups, weights_of
from laglens.errors import LaglensError

SDPA = F.scaled_dot_product_attention
MHA = F.multi_head_attention_forward
MHA_SIGNATURE = inspect.signature(MHA)
SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}
PRODUCT = {torch.matmul, torch.bmm, torch.einsum, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
KEEPS_WEIGHTS = {
    F.dropout,
    torch.dropout,
    Tensor.to,
    Tensor.type_as,
    Tensor.float,
    Tensor.half,
    Tensor.bfloat16,
    Tensor.view,
    Tensor.reshape,
    Tensor.contiguous,
}
ATTENTION_CLASS = re.compile(r"attn|attention|^mha$", re.IGNORECASE)
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-2}


def read_attention(
    model: nn.Module,
    *inputs: Any,
    certify: bool = True,
    reader: Reader | None = None,
    edit: Callable[[AttentionCall], AttentionCall] | None = None,
    **options: Any,
) -> tuple[Any, AttentionCapture]:
    """Run ``model(*inputs, **options)`` without gradients; return its output and the capture with its ``records``.

    Parameters
    ----------
    certify
        Compare the weights times V with the output that the model computed. It costs one product per call; where the
        reader replaces the kernel, the kernel runs too.
    reader
        Decides what is kept of each call. Default: all its weights.
    edit
        Changes each call before the kernel and the reader see it, to intervene in the model.

    Raises
    ------
    LaglensError
        The model is in training mode; an attention module ran but nothing was captured in it; weights are not
        finite; the certificate is above its tolerance. The message names the modules.
    """
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise LaglensError(
            f"the model is in training mode ({', '.join(training[:3])}), so attention is seen after dropout; "
            "call model.eval() first"
        )
    with torch.no_grad(), AttentionCapture(model, certify=certify, reader=reader, edit=edit) as capture:
        output = model(*inputs, **options)
    capture.check()
    return output, capture


class AttentionCapture(TorchFunctionMode):
    """Record every attention call of `model` while active.

    Attributes
    ----------
    records
        The calls in the order in which they happened.
    ignored
        Module and shape of softmax results that did not turn out to be attention (gates, routers, outputs).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        certify: bool = True,
        reader: Reader | None = None,
        edit: Callable[[AttentionCall], AttentionCall] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.certify, self.edit = model, certify, edit
        self.reader: Reader = reader or DenseReader()
        self.records: list[Record] = []
        self.ignored: list[tuple[str, tuple[int, ...]]] = []
        self._stack: list[str] = []
        self._visited: set[str] = set()
        self._calls: Counter[str] = Counter()
        self._candidates: dict[int, tuple[Tensor, Tensor, str]] = {}

    def __enter__(self) -> AttentionCapture:
        self._hooks = []
        for name, module in self.model.named_modules():
            self._hooks.append(module.register_forward_pre_hook(self._enters(name)))
            self._hooks.append(module.register_forward_hook(self._leave, always_call=True))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._drop_candidates()
        super().__exit__(*exception)

    @property
    def found(self) -> list[str]:
        """Names of the innermost attention modules that ran."""
        kinds = {name: type(module).__name__ for name, module in self.model.named_modules()}
        ran = [name for name in self._visited if ATTENTION_CLASS.search(kinds[name])]
        return sorted(name for name in ran if not any(_inside(other, name) for other in ran if other != name))

    @property
    def certificate(self) -> dict[str, Any]:
        """Attention modules found and captured, calls, and the worst relative error |W V - output|."""
        errors = [record.error for record in self.records if math.isfinite(record.error)]
        modules = {record.module for record in self.records}
        captured = sum(any(_inside(module, name) for module in modules) for name in self.found)
        worst = max(errors, default=0.0)
        return {"found": len(self.found), "captured": captured, "calls": len(self.records), "worst": worst}

    def check(self) -> None:
        """Raise `LaglensError` unless everything was captured, finite and certified."""
        seen = {record.module for record in self.records}
        missing = [name for name in self.found if not any(_inside(module, name) for module in seen)]
        if missing or not seen:
            raise LaglensError(
                f"found {len(self.found)} attention modules, captured {len(self.found) - len(missing)}: nothing seen "
                f"in {', '.join(missing) or 'any module'}; compiled (jit), flash-attn or xformers kernels are "
                "invisible, so switch the model to torch's own attention"
            )
        for record in self.records:
            if record.weights is not None and not torch.isfinite(record.weights.sum(-1)).all():
                raise LaglensError(
                    f"attention weights of '{record.module}' are not finite; "
                    "look for NaN in the input or in the model's weights"
                )
            if record.error > record.tolerance:
                raise LaglensError(
                    f"'{record.module}': the captured weights do not reproduce its output (relative error "
                    f"{record.error:.1e}, tolerance {record.tolerance:.0e}); a custom kernel may replace torch's"
                )

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is SDPA:
            return self._sdpa(*args, **kwargs)
        if func is MHA:
            return self._mha(*args, **kwargs)
        first = args[0] if args else None
        if func in PRODUCT and self._candidates:
            self._confirm(*(args[1:3] if func is torch.einsum else args[:2]))
        output = func(*args, **kwargs)
        if func in SOFTMAX and output.dim() >= 3:
            self._candidates[id(output)] = (output, output, self._module)
        elif func in KEEPS_WEIGHTS and id(first) in self._candidates:
            _, weights, module = self._candidates[id(first)]
            self._candidates[id(output)] = (output, weights, module)
        return output

    def _sdpa(
        self,
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
        index = self._calls[self._module]
        call = AttentionCall(self._module, index, source, query, key, value, attn_mask, is_causal, scale)
        call = self._last = self.edit(call) if self.edit else call
        reading = self.reader.read(call) or Reading()
        output = reading.output
        if output is None or self.certify:
            # Before torch 2.5 there is no `enable_gqa`.
            groups = {"enable_gqa": True} if enable_gqa else {}
            kernel = SDPA(
                call.query, call.key, call.value, call.mask, dropout_p, call.is_causal, scale=call.scale, **groups
            )
            error = self._deviation(call, reading, kernel) if self.certify else math.nan
            output = kernel if output is None else output
        else:
            error = math.nan
        self._record(call, reading, error, TOLERANCE[query.dtype])
        return output

    @staticmethod
    @torch.no_grad()
    def _deviation(call: AttentionCall, reading: Reading, kernel: Tensor) -> float:
        """Certificate of a reading: max|its output - the kernel's| / max|the kernel's|; NaN if it has none."""
        output = reading.output
        if output is None:
            if reading.weights is None:
                return math.nan
            output = reading.weights @ repeat_groups(call.value, call.query).to(reading.weights)
        return ((output - kernel).abs().max() / kernel.abs().max().clamp_min(1e-12)).item()

    def _mha(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Inside a handler the mode is off, so the inner call is reached by swapping torch's global."""
        call = MHA_SIGNATURE.bind(*args, **kwargs)
        call.apply_defaults()
        wanted, average = call.arguments["need_weights"], call.arguments["average_attn_weights"]
        call.arguments["need_weights"] = False  # with weights torch leaves SDPA and nothing can be certified
        F.scaled_dot_product_attention = partial(self._sdpa, source="mha")
        try:
            output, _ = MHA(*call.args, **call.kwargs)
        finally:
            F.scaled_dot_product_attention = SDPA
        if not wanted:
            return output, None
        weights = weights_of(self._last).to(output.dtype)
        weights = weights.mean(-3) if average else weights
        return output, weights.squeeze(0) if call.arguments["query"].dim() == 2 else weights

    def _confirm(self, weights: Any = None, values: Any = None) -> None:
        """A softmax result is attention when it becomes the left factor of a product with per-sample values.

        Gates and routers never do; an expectation over bins or a codebook has values of rank 1 or 2.
        """
        found = self._candidates.get(id(weights))
        if found is None or not isinstance(values, Tensor) or values.dim() < 3:
            return
        _, weights, module = found
        self._candidates = {k: c for k, c in self._candidates.items() if c[1] is not weights}
        call = AttentionCall(module, self._calls[module], "softmax", weights=weights)
        self._record(call, self.reader.read(call) or Reading(), math.nan, math.nan)

    def _record(self, call: AttentionCall, reading: Reading, error: float, tolerance: float) -> None:
        weights = reading.weights
        empty = 0 if weights is None else int((weights.sum(-1) == 0).sum())
        record = Record(
            call.module,
            call.index,
            call.source,
            call.shape,
            weights,
            reading.reduced,
            call.selected,
            error,
            tolerance,
            empty,
        )
        self.records.append(record)
        self._calls[call.module] += 1

    @property
    def _module(self) -> str:
        return self._stack[-1] if self._stack else ""

    def _enters(self, name: str) -> Callable:
        def enter(module: nn.Module, args: Any) -> None:
            self._stack.append(name)
            self._visited.add(name)

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        # A hook must return None: any other value replaces the module's output.
        self._stack.pop()
        if not self._stack:
            self._drop_candidates()

    def _drop_candidates(self) -> None:
        """Let go of softmax results that the whole model left unused as weights: holding them holds memory."""
        unused = {id(weights): (module, tuple(weights.shape)) for _, weights, module in self._candidates.values()}
        self.ignored.extend(unused.values())
        self._candidates.clear()


def _inside(module: str, parent: str) -> bool:
    return parent in ("", module) or module.startswith(f"{parent}.")
