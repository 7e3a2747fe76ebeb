"""The encoder forecaster of the input-distribution study: one token per sample, trained on one signal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laglens.models.forecaster import ScaledForecaster
from laglens.models.tokens import Stack, TokenMap


class EncoderForecaster(ScaledForecaster):
    """`nn.TransformerEncoder` (post-norm, ReLU) on single samples; the last token forecasts the whole horizon.

    Parameters
    ----------
    history, horizon
        Samples seen and samples forecast.
    width, heads, layers, feedforward, dropout
        As in `nn.TransformerEncoderLayer`.
    """

    limit = 8.0

    def __init__(
        self,
        *,
        history: int = 100,
        horizon: int = 20,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        feedforward: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.history, self.horizon = history, horizon
        self.embed = nn.Linear(1, width)
        self.position = nn.Parameter(0.02 * torch.randn(history, width))
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, horizon)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """One stack of self-attention over the history; the forecast is read from the last token."""
        tokens = TokenMap.patches(self.history, 0, 1, readout="last")
        layers = tuple(f"encoder.layers.{i}.self_attn" for i in range(len(self.encoder.layers)))
        return (Stack("encoder", layers, tokens, tokens),)

    def scaled_forecast(self, history: Tensor) -> Tensor:
        """Normalised history to normalised forecast: ``(batch, history) -> (batch, horizon)``."""
        tokens = self.embed(history[..., None]) + self.position
        return self.head(self.encoder(tokens)[:, -1])

    def loss(self, series: Tensor) -> Tensor:
        """Mean squared error over the horizon of whole series ``(batch, history + horizon)``, normalised."""
        scaled = self.normalise(series)[0]
        forecast = self.scaled_forecast(scaled[:, : self.history])
        return nn.functional.mse_loss(forecast, scaled[:, self.history :])
