"""PatchTST of the transformers library: patches of each channel, attention in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from laglens.errors import LaglensError
from laglens.models.huggingface import HuggingFaceForecaster, exact_length, length_up_to
from laglens.models.tokens import Stack, TokenMap


class PatchTSTForecaster(HuggingFaceForecaster):
    """`PatchTSTForPrediction`; the whole horizon at once. The mean, where the model forecasts a distribution.

    References
    ----------
    Nie et al., A Time Series is Worth 64 Words, ICLR 2023 (arXiv:2211.14730).
    """

    kinds: ClassVar[Mapping[str, str]] = {"patchtst": "PatchTSTForPrediction"}

    def _check(self) -> None:
        if not self.config["share_projection"]:
            raise LaglensError(
                "share_projection: false: transformers cannot run its PatchTST with a head per channel; take a "
                "checkpoint with a shared one"
            )

    def _lengths(self, history: int | None, horizon: int | None) -> tuple[int, int]:
        return (
            exact_length("history", history, self.config["context_length"], "its context_length"),
            length_up_to("horizon", horizon, self.config["prediction_length"], "its prediction_length"),
        )

    @property
    def channels(self) -> int:  # type: ignore[override]
        """Series that enter together."""
        return self.config["num_input_channels"]

    @property
    def not_in_time(self) -> Mapping[str, str]:  # type: ignore[override]
        """Attention of a patch's channels over each other: the second call of each layer, where there is one."""
        if not self.config["channel_attention"]:
            return {}
        return {f"{layer}:1": "attention over channels has no lag axis" for layer in self.layers}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the attention modules."""
        return tuple(
            f"network.model.encoder.layers.{layer}.self_attn" for layer in range(self.config["num_hidden_layers"])
        )

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """One encoder. Where the last patch would end beyond the history, the first samples have no patch.

        The forecast is read from every patch, or from the CLS token where there is one.
        """
        patch, stride = self.config["patch_length"], self.config["patch_stride"]
        tokens = TokenMap.patches(
            self.history, 0, patch, stride=stride, first=(self.history - patch) % stride, readout="none"
        )
        if self.config["use_cls_token"]:
            tokens = tokens.with_special(before=1)
        else:
            tokens = replace(tokens, readout=np.ones(len(tokens), bool))
        return (Stack("encoder", self.layers, tokens, tokens),)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch[, channel], history) -> (batch[, channel], horizon)``, in the units of the input."""
        series = history.float().reshape(len(history), self.channels, self.history)
        output = self.network(past_values=series.transpose(1, 2), return_dict=True)
        forecast = output.prediction_outputs
        if self.network.distribution_output:
            forecast = self.network.distribution_output.distribution(forecast, loc=output.loc, scale=output.scale).mean
        return forecast.transpose(1, 2)[..., : self.horizon].reshape(*history.shape[:-1], self.horizon).double()
