"""What TimeSeriesTransformer, Informer and Autoformer of the transformers library share: tokens of lagged values."""

from __future__ import annotations

import torch
from torch import Tensor

from laglens.errors import LaglensError
from laglens.models.huggingface import HuggingFaceForecaster, exact_length
from laglens.models.tokens import TokenMap


class LaggedForecaster(HuggingFaceForecaster):
    """A model with one token per sample, which holds the values at fixed lags before that sample, not its own.

    The token of sample ``t`` holds the samples ``t - lag`` for every lag in ``lags_sequence``, its age, and the
    location and scale of the history. Calendar features, covariates and static features, where a checkpoint has them,
    are 0: a series alone has none.
    """

    def _prepare(self) -> None:
        if self.config["input_size"] != 1:
            raise LaglensError(
                f"input_size {self.config['input_size']}: a token holds all series at once, and laglens runs one; take "
                "a checkpoint with input_size 1"
            )
        if min(self.config["lags_sequence"]) < 1:
            raise LaglensError("lags_sequence: a lag below 1 would show a token the sample that it forecasts")

    @property
    def longest_lag(self) -> int:
        """Samples before the first token that enter through its lags."""
        return max(self.config["lags_sequence"])

    def _history(self, asked: int | None) -> int:
        context = self.config["context_length"]
        setting = f"its context_length {context} and longest lag {self.longest_lag}"
        return exact_length("history", asked, context + self.longest_lag, setting)

    @property
    def encoder_tokens(self) -> TokenMap:
        """One sample each; the samples that only enter as lags have none."""
        samples = TokenMap.patches(self.history, 0, 1, readout="none")
        return samples.taken(range(self.longest_lag, self.history))

    def inputs(self, history: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the network for ``history (batch, history)``.

        Of the time features the last of ``num_time_features`` is the age, ``log10(2 + t)`` with ``t`` in samples from
        the start of the window, as GluonTS makes it; the others are 0, which is the middle of the year.
        """
        batch, steps = len(history), self.history + self.config["prediction_length"]
        n_time = self.config["num_time_features"]
        time = history.new_zeros(batch, steps, n_time + self.config["num_dynamic_real_features"], dtype=torch.float32)
        if n_time:
            time[..., n_time - 1] = torch.log10(2 + torch.arange(steps, device=history.device))
        past = history.float()
        given = {
            "past_values": past,
            "past_observed_mask": torch.ones_like(past),
            "past_time_features": time[:, : self.history],
            "future_time_features": time[:, self.history :],
        }
        if n_real := self.config["num_static_real_features"]:
            given["static_real_features"] = past.new_zeros(batch, n_real)
        if n_categories := self.config["num_static_categorical_features"]:
            given["static_categorical_features"] = past.new_zeros(batch, n_categories, dtype=torch.long)
        return given
