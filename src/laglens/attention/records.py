"""What is kept of the calls of a capture, and whether it is what the model used."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from laglens.attention.calls import AttentionCall, Reading, Record
from laglens.attention.weights import empty_queries
from laglens.errors import LaglensError

TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2  # float16, bfloat16, and products that torch was allowed to compute in TF32 or bfloat16


class Records:
    """The records of a capture, in the order of the calls.

    Certificates stay tensors until they are asked for, so that a GPU need not wait at every call.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._records: list[Record] = []
        self._measured: list[tuple[Tensor | None, Tensor | None]] = []

    @property
    def all(self) -> list[Record]:
        """The records, with their certificates."""
        for place in range(len(self._records) - len(self._measured), len(self._records)):
            error, empty = self._measured.pop(0)
            self._records[place] = replace(
                self._records[place],
                error=math.nan if error is None else _number(error),
                empty_rows=0 if empty is None else int(empty),
            )
        return self._records

    @property
    def modules(self) -> set[str]:
        """Names of the modules that made the calls."""
        return set(self.calls)

    @property
    def worst(self) -> float:
        """The largest error of a certificate; 0 if there is none."""
        return max((record.error for record in self.all if not math.isnan(record.error)), default=0.0)

    def add(self, call: AttentionCall, reading: Reading, error: Tensor | None = None) -> None:
        """Keep the reading of a call, and how far it is from the model's own output."""
        empty = empty_queries(call)
        record = Record(
            module=call.module,
            call=call.index,
            source=call.source,
            shape=call.shape,
            weights=reading.weights,
            reduced=reading.reduced,
            selected=call.selected,
            error=math.nan,
            tolerance=_tolerance(call),
            empty_rows=0,
        )
        self._records.append(record)
        self._measured.append((error, None if empty is None else empty.expand(call.rows).sum()))
        self.calls[call.module] += 1

    def check(self, model: nn.Module) -> None:
        """Raise `LaglensError` unless all is finite and every certificate is within its tolerance."""
        for record in self.all:
            if not _is_finite(record):
                raise LaglensError(f"attention weights of '{record.module}' are not finite{_reason(model)}")
            if record.error > record.tolerance:
                raise LaglensError(
                    f"'{record.module}': the captured weights do not reproduce its output (relative error "
                    f"{record.error:.1e}, tolerance {record.tolerance:.0e}); a custom kernel may replace torch's"
                )


def check_output(model: nn.Module, output: Any) -> None:
    """Raise `LaglensError` if weights of the model make its output NaN."""
    if _holds_nan(output) and broken_weight(model) is not None:
        raise LaglensError(f"the output of the model is NaN{_reason(model)}")


def broken_weight(model: nn.Module) -> str | None:
    """Name of the first parameter or buffer of the model that is not finite."""
    parameters = (name for name, tensor in model.named_parameters() if not torch.isfinite(tensor).all())
    # Buffers may hold a mask, and so infinite values.
    buffers = (name for name, tensor in model.named_buffers() if torch.isnan(tensor).any())
    return next(chain(parameters, buffers), None)


def _reason(model: nn.Module) -> str:
    broken = broken_weight(model)
    if broken is None:
        return ", though all weights of the model are; look for NaN in the input"
    module, _, name = broken.rpartition(".")
    return f": '{name}' of '{module}' is the first weight that holds NaN or infinite values; load an intact checkpoint"


def _tolerance(call: AttentionCall) -> float:
    dtype = (call.operands[0] if call.weights is None else call.weights).dtype
    if dtype == torch.float64:
        return TOLERANCE
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return TOLERANCE if exact else HALF_TOLERANCE


def _number(error: Tensor) -> float:
    """NaN would stand for no certificate; here it comes of an output that is not finite though the weights are."""
    return math.inf if math.isnan(error.item()) else error.item()


def _is_finite(record: Record) -> bool:
    if record.weights is not None:
        return bool(torch.isfinite(record.weights.sum(-1)).all())
    kept = (record.reduced or {}).values()
    return all(bool(torch.isfinite(tensor).all()) for tensor in kept if tensor.is_floating_point())


def _holds_nan(output: Any) -> bool:
    if isinstance(output, Tensor):
        return output.is_floating_point() and bool(torch.isnan(output).any())
    if isinstance(output, Mapping):
        return any(_holds_nan(part) for part in output.values())
    return isinstance(output, (list, tuple)) and any(_holds_nan(part) for part in output)
