"""Chronos-Bolt: patches of the history are encoded, and one token of the decoder forecasts the whole horizon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from laglens.models.chronos import ChronosForecaster, centred, chronos_class
from laglens.models.huggingface import length_up_to
from laglens.models.tokens import Stack, TokenMap


class ChronosBoltForecaster(ChronosForecaster):
    """`ChronosBoltModelForForecasting`; the median forecast.

    References
    ----------
    Ansari et al., Fast and accurate zero-shot forecasting with Chronos-Bolt and AutoGluon, AWS 2024.
    """

    architecture = "chronos_bolt"

    @classmethod
    def _network_class(cls, model_type: str) -> Any:
        published = chronos_class("chronos.chronos_bolt", "ChronosBoltModelForForecasting")
        # It forgives a checkpoint without the layers that read and write patches, and draws them at random.
        return type(published.__name__, (published,), {"_keys_to_ignore_on_load_missing": None})

    @classmethod
    def _settings(cls, network_class: Any) -> set[str]:
        return super()._settings(network_class) | {"decoder_start_token_id"}

    def _prepare(self) -> None:
        self.median = self._median()

    def _lengths(self, history: int | None, horizon: int | None) -> tuple[int, int]:
        own = self.chronos_config
        return (
            length_up_to("history", history, own["context_length"], "its context_length"),
            length_up_to("horizon", horizon, own["prediction_length"], "its prediction_length"),
        )

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The encoder, with the token REG last, and the cross-attention of the decoder's one token.

        That token stands for the whole horizon, as all of it is read from it.
        """
        encoded = self.patches.with_special(after=int(self.chronos_config.get("use_reg_token", False)))
        horizon = TokenMap.spans([self.history], [self.history + self.horizon], self.history)
        encoder = tuple(f"network.encoder.block.{i}.layer.0.SelfAttention" for i in range(self.config["num_layers"]))
        cross = tuple(
            f"network.decoder.block.{i}.layer.1.EncDecAttention" for i in range(self.config["num_decoder_layers"])
        )
        return Stack("encoder", encoder, encoded, encoded), Stack("cross", cross, horizon, encoded)

    @property
    def not_in_time(self) -> Mapping[str, str]:  # type: ignore[override]
        """Self-attention of the decoder."""
        return {
            f"network.decoder.block.{i}.layer.0.": "the decoder has one token, which can attend to itself alone"
            for i in range(self.config["num_decoder_layers"])
        }

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, float64, in the units of the input."""
        context, mean = centred(history)
        quantiles = self.network(context=context).quantile_preds
        return quantiles[:, self.median, : self.horizon].double() + mean
