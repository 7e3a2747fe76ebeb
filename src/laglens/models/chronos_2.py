"""Chronos-2: patches of history and horizon in one encoder, with attention over time and over series."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laglens.errors import LaglensError
from laglens.models.chronos import ChronosForecaster, centred, chronos_class
from laglens.models.huggingface import length_up_to
from laglens.models.tokens import Stack, TokenMap


class Chronos2Forecaster(ChronosForecaster):
    """`Chronos2Model`; the median forecast.

    Parameters
    ----------
    config, history, horizon
        As in `HuggingFaceForecaster`.
    channels
        Series that are forecast together: they attend to each other between the layers of attention over time.

    References
    ----------
    Ansari et al., Chronos-2: From Univariate to Universal Forecasting, 2025 (arXiv:2510.15821).
    """

    architecture = "chronos_2"

    def __init__(
        self,
        *,
        config: Mapping[str, Any],
        history: int | None = None,
        horizon: int | None = None,
        channels: int = 1,
    ) -> None:
        super().__init__(config=config, history=history, horizon=horizon)
        self.channels = channels

    @classmethod
    def _network_class(cls, model_type: str) -> Any:
        return chronos_class("chronos.chronos2", "Chronos2Model")

    @classmethod
    def _settings(cls, network_class: Any) -> set[str]:
        named = set(inspect.signature(network_class.config_class.__init__).parameters)
        return named - {"self", "kwargs", "attn_implementation"} | {"chronos_config"}

    def _prepare(self) -> None:
        if not self.chronos_config.get("use_reg_token"):
            raise LaglensError("use_reg_token: chronos-forecasting runs Chronos-2 with its token REG alone")
        self.median = self._median()

    def _lengths(self, history: int | None, horizon: int | None) -> tuple[int, int]:
        own = self.chronos_config
        most = own.get("max_output_patches", 1) * self.patch
        return (
            length_up_to("history", history, own["context_length"], "its context_length"),
            length_up_to("horizon", horizon, most, "max_output_patches x output_patch_size"),
        )

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this model again, JSON-native."""
        return super().options | {"channels": self.channels}

    @property
    def patch(self) -> int:
        """Samples of a patch of the horizon."""
        return self.chronos_config["output_patch_size"]

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Attention over time: patches of the history, the token REG, patches of the horizon."""
        past = self.patches
        ahead = self.history + self.patch * np.arange(-(-self.horizon // self.patch))
        both = TokenMap.spans(np.append(past.start, ahead), np.append(past.end, ahead + self.patch), self.history)
        order = np.insert(np.arange(len(both)), len(past), len(both))
        tokens = both.clipped(0, self.history + self.horizon).with_special(after=1).taken(order)
        return (Stack("encoder", self._layers(0), tokens, tokens),)

    @property
    def not_in_time(self) -> Mapping[str, str]:  # type: ignore[override]
        """Attention over series."""
        return dict.fromkeys(self._layers(1), "attention over series has no lag axis")

    def _layers(self, which: int) -> tuple[str, ...]:
        return tuple(
            f"network.encoder.block.{i}.layer.{which}.self_attention" for i in range(self.config["num_layers"])
        )

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch[, channel], history) -> (batch[, channel], horizon)``, in the units of the input."""
        context, mean = centred(history)
        # Series of one group see each other, those of different windows do not.
        groups = torch.arange(len(history), device=history.device).repeat_interleave(self.channels)
        quantiles = self.network(
            context=context.reshape(-1, self.history),
            group_ids=groups,
            num_output_patches=-(-self.horizon // self.patch),
        ).quantile_preds
        forecast = quantiles[:, self.median, : self.horizon].reshape(*history.shape[:-1], self.horizon)
        return forecast.double() + mean
