"""Tell from one run of a model which samples its attention tokens stand for, where that is beyond doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laglens.attention.assembly import Batch
from laglens.attention.calls import AttentionCall, Reading, Record
from laglens.attention.capture import AttentionCapture, read_attention
from laglens.attention.weights import repeat_groups, weights_of
from laglens.errors import LaglensError
from laglens.models.tokens import Stack, TokenMap

BATCH = 2  # histories in the run; 1 would hide what else is folded into the batch axis
Shape = tuple[int, int]


def infer_stacks(
    model: nn.Module,
    predict: Callable[[Any, Tensor], Any],
    history: int,
    horizon: int,
    *,
    not_in_time: Mapping[str, str],
) -> tuple[Stack, ...]:
    """Stacks of a model whose tokens are single samples.

    Told from the number of tokens: as many as samples of history, of history and horizon together, or, for an encoder
    with a decoder, of history in the one and of horizon in the other. An axis is causal where no query gave weight to a
    later key. In an encoder the forecast is read from those tokens of the last layer that it has a gradient in; where
    it has none at all, from the last token if the encoder is causal, else from which one is not known.

    Parameters
    ----------
    predict
        ``predict(model, histories)`` runs the model on ``(batch, history)``.
    not_in_time
        Modules to pass over, by name or its beginning, each with the reason.

    Raises
    ------
    LaglensError
        Tokens that are no single samples, layers that run more than once, or a batch axis that holds more than windows.
        The message lists the attention modules with their tokens, and code that says what they stand for.
    """
    records = _outlines(model, predict, history, not_in_time)
    found: dict[Shape, list[Record]] = {}
    for record in records:
        found.setdefault(record.shape, []).append(record)
    samples = TokenMap.patches(history, horizon, 1)
    shapes = set(found) if all(_is_plain(record) for record in records) else set()
    both, cross = (history + horizon,) * 2, (horizon, history)
    if shapes in ({(history, history)}, {both}):
        causal = _is_causal(records)
        tokens = samples if shapes == {both} else TokenMap.patches(history, 0, 1, readout="last" if causal else "none")
        read = _read_tokens(_Run(model, predict), records[-1].module, history, not_in_time)
        tokens = tokens if read is None else replace(tokens, readout=read)
        return (_stack("encoder", records, tokens, tokens, causal),)
    if cross in shapes and shapes <= {(history, history), (horizon, horizon), cross} and history != horizon > 1:
        past, ahead = samples.taken(range(history)), samples.taken(range(history, history + horizon))
        axes = {"encoder": (past, past), "decoder": (ahead, ahead), "cross": (ahead, past)}
        own = {name: found.get((len(query), len(key)), []) for name, (query, key) in axes.items()}
        return tuple(
            _stack(name, own[name], *axes[name], name == "decoder" and _is_causal(own[name]))
            for name in axes
            if own[name]
        )
    raise LaglensError(_refusal(records, history, horizon))


@dataclass(frozen=True)
class OutlineReader:
    """Keeps of each call its leading dims, ``lead``, and the largest weight on a key later than its query, ``ahead``.

    Attributes
    ----------
    weigh
        Whether to look at the weights at all.
    """

    weigh: bool = True

    def read(self, call: AttentionCall) -> Reading:
        """Read one call."""
        operand = call.weights if call.query is None else call.query
        kept = {"lead": torch.tensor(operand.shape[:-2], dtype=torch.int64)}
        if self.weigh:
            kept["ahead"] = weights_of(call).triu(1).max()
        return Reading(reduced=kept)


@dataclass
class FreshOutput:
    """Puts a tensor of its own, with the same values, in place of the output of one module's attention.

    Attributes
    ----------
    module
        Whose output.
    output
        The tensor, ``(..., query, width)``; None if the module did not leave its output to torch.
    """

    module: str
    output: Tensor | None = None

    def read(self, call: AttentionCall) -> Reading | None:
        """Read one call."""
        if call.module != self.module or call.query is None or call.value is None:
            return None
        with torch.no_grad():
            weights = weights_of(call)
            output = weights @ repeat_groups(call.value, call.query).to(weights)
        self.output = output.to(call.query.dtype).requires_grad_()
        return Reading(reduced={}, output=self.output)


class _Run(nn.Module):
    """A module and the way it is called, as one module."""

    def __init__(self, model: nn.Module, predict: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.model, self.predict = model, predict

    def forward(self, history: Tensor) -> Any:
        return self.predict(self.model, history)


def noise(model: nn.Module, *shape: int) -> Tensor:
    """The same noise every time, float64, where the model is."""
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)


def _outlines(
    model: nn.Module, predict: Callable[[Any, Tensor], Any], history: int, not_in_time: Mapping[str, str]
) -> list[Record]:
    """Attention calls of a run on noise, with the names that modules have in `model`."""
    run = _Run(model, predict).eval()
    excused = {f"model.{name}".rstrip("."): reason for name, reason in not_in_time.items()}
    capture = read_attention(
        run, noise(model, BATCH, history), reader=OutlineReader(), certify=False, not_attention=excused
    )[1]
    named = [replace(record, module=record.module.removeprefix("model").lstrip(".")) for record in capture.records]
    return [record for record in named if not any(record.module.startswith(name) for name in not_in_time)]


def _read_tokens(run: _Run, last: str, history: int, not_in_time: Mapping[str, str]) -> NDArray[np.bool_] | None:
    """Tokens of the last layer in which the forecast has a gradient, ``(token,)``; None where it has none at all."""
    reader = FreshOutput(f"model.{last}".rstrip("."))
    excused = {f"model.{name}".rstrip("."): reason for name, reason in not_in_time.items()}
    with torch.enable_grad(), AttentionCapture(run.eval(), reader=reader, certify=False, not_attention=excused):
        forecast = run(noise(run, BATCH, history))
    if reader.output is None or not isinstance(forecast, Tensor) or not forecast.requires_grad:
        return None
    # Uneven weights, as the sum of a forecast may be the same whatever it is.
    one = (forecast.double() * noise(run, *forecast.shape)).sum()
    (gradient,) = torch.autograd.grad(one, reader.output, allow_unused=True)
    if gradient is None or not gradient.any():
        return None
    return (gradient != 0).any(-1).flatten(0, -2).any(0).cpu().numpy()


def _kept(record: Record, name: str) -> Tensor:
    return (record.reduced or {})[name]


def _is_plain(record: Record) -> bool:
    """Whether the layer ran once, with windows and heads before its tokens, and computed all rows."""
    lead = tuple(_kept(record, "lead").tolist())
    try:
        Batch(slice(0, BATCH)).unfold(torch.empty(lead), lead, record.module)
    except LaglensError:
        return False
    return record.call == 0 and record.selected is None


def _is_causal(records: list[Record]) -> bool:
    return all(not _kept(record, "ahead").item() for record in records)


def _stack(name: str, records: list[Record], query: TokenMap, key: TokenMap, causal: bool) -> Stack:
    return Stack(name, tuple(record.module for record in records), query, key, causal=causal)


def _refusal(records: list[Record], history: int, horizon: int) -> str:
    """Every attention module with its tokens, and code that says what they stand for."""
    calls: dict[tuple[Shape, int], list[str]] = {}
    for module in dict.fromkeys(record.module for record in records):
        own = [record for record in records if record.module == module]
        calls.setdefault((own[0].shape, len(own)), []).append(module)
    listed = [
        f"{', '.join(modules)}: {shape[0]} query and {shape[1]} key tokens" + (f", {n} calls" if n > 1 else "")
        for (shape, n), modules in calls.items()
    ]
    (queries, keys), _ = next(iter(calls))
    layers = tuple(next(iter(calls.values())))
    return (
        f"the model sees {history} samples and forecasts {horizon}, but which of them its attention tokens stand for "
        f"cannot be told ({'; '.join(listed)}); say it, such as: laglens.adapt(model, history={history}, "
        f"horizon={horizon}, stacks=[laglens.Stack('encoder', {layers!r}, "
        f"query={_suggestion(queries, history, horizon)}, key={_suggestion(keys, history, horizon)})])"
    )


def _suggestion(n: int, history: int, horizon: int) -> str:
    """A token map of `n` tokens that a model may well have."""
    for special in (0, 1):
        for ahead in (0, horizon):
            patch, rest = divmod(history + ahead, max(n - special, 1))
            if patch and not rest:
                made = f"laglens.TokenMap.patches({history}, {ahead}, {patch})"
                return f"{made}.with_special(before=1)" if special else made
    return f"laglens.TokenMap.spans(start, end, {history})"
