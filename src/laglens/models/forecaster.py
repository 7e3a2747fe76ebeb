"""What every model of the workflow is: a module that forecasts a horizon from a history."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from laglens.errors import LaglensError
from laglens.models.tokens import Stack

if TYPE_CHECKING:
    from typing import Self  # not in every Python that a foreign environment may have


class Forecaster(nn.Module):
    """A model that laglens can run and read.

    Attributes
    ----------
    history, horizon
        Samples seen and samples forecast. A horizon of 0: the model does not forecast (an image classifier).
    channels
        Series that enter together. With more than one, ``forward`` maps ``(batch, channel, history)`` to
        ``(batch, channel, horizon)``, and attention layers fold the channels into their batch axis, channel fastest.
    not_in_time
        Attention modules that are seen but belong to no stack, by name or as the beginning of one, each with the
        reason: attention over variables, channels or series has no lag axis.
    differentiable
        Whether the forecast has a gradient in the history; not where values become words of a vocabulary.
    origin
        Of the picture that `draw` makes: ``upper`` where its first row is on top, ``lower`` where that is the row of
        the lowest values.
    """

    history: int
    horizon: int
    channels: int = 1
    not_in_time: Mapping[str, str] = MappingProxyType({})
    differentiable: bool = True
    origin: str = "upper"

    @classmethod
    def from_checkpoint(cls, path: Path, **options: Any) -> Self:
        """Load weights in the format in which the architecture is published.

        Raises
        ------
        LaglensError
            The checkpoint is missing, truncated, or of another format or shape; the architecture has none.
        """
        raise LaglensError(f"{path}: {cls.__name__} has no published format; leave 'checkpoint' out")

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this model again, JSON-native."""
        raise NotImplementedError(f"{type(self).__name__} is not loaded from a checkpoint")

    @property
    @abstractmethod
    def stacks(self) -> tuple[Stack, ...]:
        """The attention stacks, each with its layers and token maps."""

    @abstractmethod
    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, float64, in the units of the input."""

    def draw(self, history: Tensor) -> Tensor | None:
        """The picture that the model makes of a series, in grey: ``(batch, history) -> (batch, row, column)``.

        None: it sees no picture, but numbers.
        """
        return None


class ScaledForecaster(Forecaster):
    """Normalises the history, forecasts in its units, and can be trained.

    Attributes
    ----------
    limit
        Normalised values are clipped to +- this many standard deviations.
    """

    limit: float

    @abstractmethod
    def scaled_forecast(self, history: Tensor) -> Tensor:
        """Normalised history to normalised forecast: ``(batch, history) -> (batch, horizon)``."""

    @abstractmethod
    def loss(self, series: Tensor) -> Tensor:
        """Training loss of whole series ``(batch, history + horizon)``."""

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, in the units of the input."""
        scaled, mean, sd = self.normalise(history)
        return self.scaled_forecast(scaled).double() * sd + mean

    def normalise(self, series: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre and scale ``(batch, time)`` by mean and standard deviation of its history.

        The horizon never enters the statistics; a constant history is only centred.

        Returns
        -------
        scaled, mean, sd
            ``(batch, time)`` float32, ``(batch, 1)`` and ``(batch, 1)`` float64.
        """
        past = series[:, : self.history].double()
        mean, sd = past.mean(1, keepdim=True), past.std(1, keepdim=True)
        sd = torch.where(sd > 1e-9 * past.abs().amax(1, keepdim=True), sd, 1.0)
        return ((series - mean) / sd).clamp(-self.limit, self.limit).float(), mean, sd


def broken_weights(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Names in a state of weights that are not finite, and of buffers that hold NaN: a mask may hold -inf."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    return [k for k, v in state.items() if not (torch.isfinite(v) if k in weights else ~torch.isnan(v)).all()]
