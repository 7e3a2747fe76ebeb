"""Make a forecaster of any torch module: how to call it, and which samples its attention tokens stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.models.inferred import infer_stacks
from laglens.models.tokens import Stack

Predict = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Adaptation:
    """How a module is run and read; see `adapt`."""

    history: int
    horizon: int
    stacks: tuple[Stack, ...] | None = None
    predict: Predict | None = None
    channels: int = 1
    not_in_time: Mapping[str, str] = field(default_factory=dict)
    differentiable: bool = True


def adapt(
    module: nn.Module,
    *,
    history: int,
    horizon: int,
    stacks: Sequence[Stack] | None = None,
    predict: Predict | None = None,
    channels: int = 1,
    not_in_time: Mapping[str, str] = MappingProxyType({}),
    differentiable: bool = True,
) -> AdaptedForecaster:
    """Wrap a module, so that every stage of laglens can run and read it.

    Parameters
    ----------
    module
        Anything that attends. Its code is not changed.
    history, horizon
        Samples it sees and forecasts; a horizon of 0: it does not forecast.
    stacks
        Its attention layers, by their names in `module`, and the samples that their tokens stand for. None: told from
        a run where that is beyond doubt (see `laglens.models.inferred.infer_stacks`).
    predict
        ``predict(module, history)``, with histories ``(batch, history)`` in float64, gives forecasts
        ``(batch, horizon)``. None: the module is called with the histories in the type of its weights.
    channels, not_in_time, differentiable
        As in `laglens.models.forecaster.Forecaster`; `not_in_time` by names in `module`.

    Raises
    ------
    LaglensError
        A stack names a module that does not exist.
    """
    given = None if stacks is None else tuple(stacks)
    adaptation = Adaptation(history, horizon, given, predict, channels, dict(not_in_time), differentiable)
    return AdaptedForecaster(module, adaptation)


class AdaptedForecaster(Forecaster):
    """Any module as a forecaster; see `adapt`."""

    def __init__(self, module: nn.Module, adaptation: Adaptation) -> None:
        super().__init__()
        self.model, self.adaptation = module, adaptation
        self.training = module.training  # a module in evaluation mode stays in it
        self.history, self.horizon, self.channels = adaptation.history, adaptation.horizon, adaptation.channels
        self.differentiable = adaptation.differentiable
        self.not_in_time = {inside(name): reason for name, reason in adaptation.not_in_time.items()}
        self.predict: Predict = adaptation.predict or call_with_histories
        self._stacks = None if adaptation.stacks is None else self._placed(adaptation.stacks)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks that were given, or those told from a run.

        Raises
        ------
        LaglensError
            None were given, and what the tokens stand for cannot be told.
        """
        if self._stacks is None:
            if self.channels > 1:
                raise LaglensError(
                    f"a model of {self.channels} channels needs its stacks: laglens.adapt(..., stacks=...)"
                )
            found = infer_stacks(
                self.model, self.predict, self.history, self.horizon, not_in_time=self.adaptation.not_in_time
            )
            self._stacks = self._placed(found)
        return self._stacks

    def _placed(self, stacks: Sequence[Stack]) -> tuple[Stack, ...]:
        """The same stacks with the names that their modules have here."""
        names = dict(self.model.named_modules())
        for stack in stacks:
            for layer in stack.layers:
                if layer not in names:
                    close = get_close_matches(layer, names, n=3, cutoff=0.3)
                    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see model.named_modules()"
                    raise LaglensError(
                        f"stack '{stack.name}': {type(self.model).__name__} has no module '{layer}'; {hint}"
                    )
        return tuple(replace(stack, layers=tuple(map(inside, stack.layers))) for stack in stacks)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, float64, in the units of the input.

        Raises
        ------
        LaglensError
            The module, or `predict`, gives something else.
        """
        forecast = self.predict(self.model, history)
        expected = (*history.shape[:-1], self.horizon)
        if self.horizon == 0:
            return history.new_zeros(expected)
        if not isinstance(forecast, Tensor) or forecast.shape != expected:
            given = tuple(forecast.shape) if isinstance(forecast, Tensor) else type(forecast).__name__
            raise LaglensError(
                f"the forecast of {type(self.model).__name__} is {given}, not a tensor of shape {expected}; give "
                "laglens.adapt a function predict(model, history) that returns one of shape (batch, horizon)"
            )
        return forecast.double()


def inside(name: str) -> str:
    """Name that a part of an adapted module has in its forecaster; "" is the module itself."""
    return f"model.{name}".rstrip(".")


def call_with_histories(model: nn.Module, history: Tensor) -> Any:
    """Call a module with histories in the type of its weights."""
    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)
    return model(history.to(dtype))
