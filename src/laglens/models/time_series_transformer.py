"""TimeSeriesTransformer of the transformers library: an encoder, and a decoder that forecasts step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from laglens.models.huggingface import length_up_to
from laglens.models.lagged import LaggedForecaster
from laglens.models.tokens import Stack, TokenMap


class TimeSeriesTransformerForecaster(LaggedForecaster):
    """`TimeSeriesTransformerForPrediction`, decoded step by step with the mean of each forecast distribution.

    The library samples 100 paths instead and feeds each its own values. With means the forecast is deterministic, and
    its attention that of one path. The decoder runs on all steps so far at every step, as in the library.
    """

    kinds: ClassVar[Mapping[str, str]] = {"time_series_transformer": "TimeSeriesTransformerForPrediction"}

    def _lengths(self, history: int | None, horizon: int | None) -> tuple[int, int]:
        most = self.config["prediction_length"]
        return self._history(history), length_up_to("horizon", horizon, most, "its prediction_length")

    @property
    def decoder_tokens(self) -> TokenMap:
        """One per step, at the sample that it forecasts."""
        samples = TokenMap.patches(self.history, self.horizon, 1)
        return samples.taken(range(self.history, self.history + self.horizon))

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Encoder, causal decoder, and cross-attention."""
        return (*self._encoder_stacks(), *self._decoder_stacks(self.encoder_tokens))

    def _encoder_stacks(self) -> tuple[Stack, ...]:
        tokens = self.encoder_tokens
        return (Stack("encoder", self._layers("encoder", "self_attn"), tokens, tokens),)

    def _decoder_stacks(self, encoded: TokenMap) -> tuple[Stack, ...]:
        """Decoder and cross-attention to the tokens that the encoder ends with."""
        steps = self.decoder_tokens
        return (
            Stack("decoder", self._layers("decoder", "self_attn"), steps, steps, causal=True, steps=True),
            Stack("cross", self._layers("decoder", "encoder_attn"), steps, encoded, steps=True),
        )

    def _layers(self, part: str, attention: str) -> tuple[str, ...]:
        return tuple(
            f"network.model.{part}.layers.{layer}.{attention}" for layer in range(self.config[f"{part}_layers"])
        )

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, in the units of the input."""
        model, inputs = self.network.model, self.inputs(history)
        future = inputs.pop("future_time_features")
        tokens, loc, scale, static = model.create_network_inputs(**inputs)
        memory = model.encoder(inputs_embeds=tokens).last_hidden_state
        future = torch.cat([static[:, None].expand(-1, future.shape[1], -1), future], -1)
        values, forecast = (inputs["past_values"] - loc) / scale, tokens.new_zeros(len(history), 0)
        for step in range(1, self.horizon + 1):
            lagged = model.get_lagged_subsequences(sequence=values, subsequences_length=step, shift=1)
            tokens = torch.cat([lagged.flatten(2), future[:, :step]], -1)
            # The library's cache of keys would repeat the position of the first step.
            hidden = model.decoder(inputs_embeds=tokens, encoder_hidden_states=memory, use_cache=False)
            parameters = self.network.parameter_projection(hidden.last_hidden_state[:, -1:])
            mean = self.network.output_distribution(parameters, loc=loc, scale=scale).mean
            values, forecast = torch.cat([values, (mean - loc) / scale], 1), torch.cat([forecast, mean], 1)
        return forecast.double()
