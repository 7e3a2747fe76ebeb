"""Informer of the transformers library: attention of few selected queries, and an encoder that halves its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from laglens.models.time_series_transformer import TimeSeriesTransformerForecaster
from laglens.models.tokens import Stack, TokenMap


class InformerForecaster(TimeSeriesTransformerForecaster):
    """`InformerForPrediction`, decoded step by step with the mean of each forecast distribution.

    ProbSparse attention computes the weights of the queries that stand out most against a random sample of keys. The
    sample is drawn afresh in every call, so that two runs of the library differ; here every forward starts from the
    same random state, and does not disturb that of torch.

    Parameters
    ----------
    config, history, horizon
        See `HuggingFaceForecaster`.
    sampling_seed
        Of the sampled keys. Default: the seed that torch was given.

    References
    ----------
    Zhou et al., Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting, AAAI 2021
    (arXiv:2012.07436).
    """

    kinds: ClassVar[Mapping[str, str]] = {"informer": "InformerForPrediction"}

    def __init__(
        self,
        *,
        config: Mapping[str, Any],
        history: int | None = None,
        horizon: int | None = None,
        sampling_seed: int | None = None,
    ) -> None:
        super().__init__(config=config, history=history, horizon=horizon)
        self.sampling_seed = torch.initial_seed() if sampling_seed is None else sampling_seed

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this model again, JSON-native."""
        return super().options | {"sampling_seed": self.sampling_seed}

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Encoder (each layer that sees fewer tokens apart), causal decoder, and cross-attention."""
        encoder = self._encoder_stacks()
        return (*encoder, *self._decoder_stacks(encoder[-1].key))

    def _encoder_stacks(self) -> tuple[Stack, ...]:
        if not self.config["distil"]:
            return super()._encoder_stacks()
        found: list[Stack] = []
        tokens = self.encoder_tokens
        for level, layer in enumerate(self._layers("encoder", "self_attn")):
            found.append(Stack(f"encoder_distilled_{level}" if level else "encoder", (layer,), tokens, tokens))
            tokens = distilled(tokens)
        return tuple(found)

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, in the units of the input."""
        # The library draws on the CPU, whatever the device.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.sampling_seed)
            return super().forward(history)


def distilled(tokens: TokenMap) -> TokenMap:
    """Every second token, which covers five: a convolution over three, then the maximum of three of its results.

    At either end the convolution also sees the token at the other end; that token is left out.
    """
    return tokens.distilled(kernel=5, stride=2, padding=2)
