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

    def _prepare(self) -> None:
        if not self.config["share_projection"]:
            raise LaglensError(
                "share_projection: false: transformers cannot run its PatchTST with a head per channel; take a "
                "checkpoint with a shared one"
            )
        self.channels = self.config["num_input_channels"]

    def _lengths(self, history: int | None, horizon: int | None) -> tuple[int, int]:
        return (
            exact_length("history", history, self.config["context_length"], "its context_length"),
            length_up_to("horizon", horizon, self.config["prediction_length"], "its prediction_length"),
        )

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """One encoder: the first call of each layer. With ``channel_attention`` there is a second, over channels.

        The last patch ends with the history; samples before the first have no patch. The forecast is read from every
        patch, or from the CLS token where there is one.
        """
        patch, stride = self.config["patch_length"], self.config["patch_stride"]
        tokens = TokenMap.patches(
            self.history, 0, patch, stride=stride, first=(self.history - patch) % stride, readout="none"
        )
        if self.config["use_cls_token"]:
            tokens = tokens.with_special(before=1)
        else:
            tokens = replace(tokens, readout=np.ones(len(tokens), bool))
        layers = tuple(
            f"network.model.encoder.layers.{layer}.self_attn" for layer in range(self.config["num_hidden_layers"])
        )
        return (Stack("encoder", layers, tokens, tokens),)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch[, channel], history) -> (batch[, channel], horizon)``, in the units of the input."""
        series = history.float().reshape(len(history), self.channels, self.history)
        output = self.network(past_values=series.transpose(1, 2), return_dict=True)
        forecast = output.prediction_outputs
        if self.network.distribution_output:
            forecast = self.network.distribution_output.distribution(forecast, loc=output.loc, scale=output.scale).mean
        return forecast.transpose(1, 2)[..., : self.horizon].reshape(*history.shape[:-1], self.horizon).double()
