"""What every model of the workflow is: a module that forecasts a horizon from a history."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from laglens.models.tokens import Stack


class Forecaster(nn.Module):
    """Normalises the history, forecasts in its units, and says what its tokens stand for.

    Attributes
    ----------
    history, horizon
        Samples seen and samples forecast.
    limit
        Normalised values are clipped to +- this many standard deviations.
    """

    history: int
    horizon: int
    limit: float

    @property
    @abstractmethod
    def stacks(self) -> tuple[Stack, ...]:
        """The attention stacks, each with its layers and token maps."""

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
