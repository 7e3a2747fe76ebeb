"""TimesFM 2.0 and 2.5 of the transformers library: causal attention over patches, one forecast from the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from laglens.models.huggingface import HuggingFaceForecaster, length_up_to
from laglens.models.tokens import Stack, TokenMap

TWO_PASSES = "timesfm2_5"


class TimesFMForecaster(HuggingFaceForecaster):
    """`TimesFmModelForPrediction` (2.0) or `TimesFm2_5ModelForPrediction`, by the ``model_type`` of its configuration.

    The history is not padded to the whole context but to whole patches, so that no token is without a sample. Version
    2.5 runs all layers twice, on the history and on its negative, and forecasts half the difference.

    Parameters
    ----------
    config, history, horizon
        See `HuggingFaceForecaster`.
    frequency
        Of the series, for version 2.0: 0 high (up to daily), 1 medium (weekly, monthly), 2 low (quarterly, yearly).

    References
    ----------
    Das et al., A decoder-only foundation model for time-series forecasting, ICML 2024 (arXiv:2310.10688).
    """

    kinds: ClassVar[Mapping[str, str]] = {
        "timesfm": "TimesFmModelForPrediction",
        TWO_PASSES: "TimesFm2_5ModelForPrediction",
    }

    def __init__(
        self,
        *,
        config: Mapping[str, Any],
        history: int | None = None,
        horizon: int | None = None,
        frequency: int | None = None,
    ) -> None:
        super().__init__(config=config, history=history, horizon=horizon)
        self.frequency = frequency or 0

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this model again, JSON-native."""
        return super().options | {"frequency": self.frequency}

    def _lengths(self, history: int | None, horizon: int | None) -> tuple[int, int]:
        return (
            length_up_to("history", history, self.config["context_length"], "its context_length"),
            length_up_to("horizon", horizon, self.config["horizon_length"], "its horizon_length"),
        )

    @property
    def padded(self) -> int:
        """The history in whole patches, in samples."""
        patch = self.config["patch_length"]
        return -(-self.history // patch) * patch

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The layers on the history, and on its negative. The first patch is short where the history is no multiple."""
        first = self.history - self.padded
        tokens = TokenMap.patches(self.history, 0, self.config["patch_length"], first=first, readout="last")
        tokens = tokens.clipped(0, self.history)
        part = "model" if self.model_type == TWO_PASSES else "decoder"
        layers = tuple(f"network.{part}.layers.{i}.self_attn" for i in range(self.config["num_hidden_layers"]))
        passes = ["encoder"]
        if self.config.get("force_flip_invariance"):
            passes.append("encoder_flipped")
        return tuple(Stack(name, layers, tokens, tokens, causal=True, call=call) for call, name in enumerate(passes))

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, in the units of the input."""
        settings: dict[str, Any] = {
            "forecast_context_len": self.padded,
            "truncate_negative": False,
            "return_dict": True,
        }
        if self.model_type != TWO_PASSES:
            settings["freq"] = [self.frequency] * len(history)
        series = list(history.float())
        forecast = self.network(past_values=series, **settings).mean_predictions[:, : self.horizon].double()
        if self.config.get("infer_is_positive"):
            # The library cuts at 0 only if all series of the batch are positive; here each stands for itself.
            positive = history.amin(1, keepdim=True) >= 0
            forecast = torch.where(positive, forecast.clamp_min(0), forecast)
        return forecast
