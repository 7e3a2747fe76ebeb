"""The encoder-decoder forecaster of the input-distribution study: one token per sample, forecast step by step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laglens.models.forecaster import ScaledForecaster
from laglens.models.tokens import Stack, TokenMap


class EncoderDecoderForecaster(ScaledForecaster):
    """`nn.Transformer` (post-norm, ReLU) on single samples; the decoder forecasts one sample after the other.

    The decoder's token for a step holds the value before it: the last sample of the history for the first step, then
    what was forecast last (the true value while training). So its place in time is that of the step it forecasts.

    Parameters
    ----------
    history, horizon
        Samples seen and samples forecast.
    width, heads, feedforward, dropout
        As in `nn.Transformer`.
    layers
        Of the encoder, and as many of the decoder.
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
        # Unit variance, as of an embedding: drawn at 0.02, as in the encoder forecaster, it takes far more epochs.
        self.position = nn.Parameter(torch.randn(history + horizon, width))
        self.transformer = nn.Transformer(width, heads, layers, layers, feedforward, dropout, batch_first=True)
        self.head = nn.Linear(width, 1)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Encoder, causal decoder, and cross-attention from the decoder's tokens to the history.

        A decoder token stands for the step that it forecasts, as query and as key.
        """
        past = TokenMap.patches(self.history, 0, 1, readout="none")
        ahead = TokenMap.patches(self.history, self.horizon, 1).taken(range(self.history, self.history + self.horizon))
        encoder, decoder, cross = (
            tuple(f"transformer.{part}.layers.{i}.{attention}" for i in range(self.transformer.encoder.num_layers))
            for part, attention in (("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "multihead_attn"))
        )
        return (
            Stack("encoder", encoder, past, past),
            Stack("decoder", decoder, ahead, ahead, causal=True, steps=True),
            Stack("cross", cross, ahead, past, steps=True),
        )

    def encode(self, history: Tensor) -> Tensor:
        """Normalised history to the encoder's output: ``(batch, history) -> (batch, history, width)``."""
        return self.transformer.encoder(self.embed(history[..., None]) + self.position[: self.history])

    def decode(self, previous: Tensor, memory: Tensor) -> Tensor:
        """Forecast each step from the values before it and the encoder's output.

        ``(batch, step), (batch, history, width) -> (batch, step)``; `previous` begins with the last sample of the
        history.
        """
        steps = previous.shape[1]
        tokens = self.embed(previous[..., None]) + self.position[self.history : self.history + steps]
        future = torch.ones(steps, steps, dtype=torch.bool, device=tokens.device).triu(1)
        return self.head(self.transformer.decoder(tokens, memory, tgt_mask=future, tgt_is_causal=True))[..., 0]

    def scaled_forecast(self, history: Tensor) -> Tensor:
        """Normalised history to normalised forecast, each step fed with the one before.

        ``(batch, history) -> (batch, horizon)``. A forecast beyond the values seen in training is clipped before it is
        fed back.
        """
        memory = self.encode(history)
        previous, forecast = history[:, -1:], history[:, :0]
        for _ in range(self.horizon):
            step = self.decode(previous, memory)[:, -1:]
            forecast = torch.cat([forecast, step], 1)
            previous = torch.cat([previous, step.clamp(-self.limit, self.limit)], 1)
        return forecast

    def loss(self, series: Tensor) -> Tensor:
        """Mean squared error over the horizon of ``(batch, history + horizon)``, normalised, each step given the truth.

        Teacher forcing: the decoder is fed with the true value before each step, so all steps are one pass.
        """
        scaled = self.normalise(series)[0]
        forecast = self.decode(scaled[:, self.history - 1 : -1], self.encode(scaled[:, : self.history]))
        return nn.functional.mse_loss(forecast, scaled[:, self.history :])
