"""Chronos on T5: values become words of a vocabulary, and the next words are forecast one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laglens.errors import LaglensError
from laglens.models.chronos import ChronosForecaster, chronos_class
from laglens.models.huggingface import length_up_to
from laglens.models.tokens import Stack, TokenMap

TOKENIZER = "MeanScaleUniformBins"
BESIDE_T5 = {"decoder_start_token_id", "tie_word_embeddings", "scale_decoder_outputs"}  # set for it, not declared by it


class ChronosT5Forecaster(ChronosForecaster):
    """`T5ForConditionalGeneration` on values divided by their mean size and put into even bins; one word per sample.

    At every step the likeliest word is taken (greedy decoding), whose bin's centre is the forecast; the package draws
    words instead. So the forecast is that of ``ChronosPipeline.predict(..., num_samples=1, top_k=1)``, and the same
    each time.

    References
    ----------
    Ansari et al., Chronos: Learning the Language of Time Series, TMLR 2024 (arXiv:2403.07815).
    """

    architecture = "chronos_t5"
    differentiable = False  # values become words

    @classmethod
    def _settings(cls, network_class: Any) -> set[str]:
        return super()._settings(network_class) | BESIDE_T5

    def _prepare(self) -> None:
        own = self.chronos_config
        if own["tokenizer_class"] != TOKENIZER:
            raise LaglensError(f"tokenizer_class: {own['tokenizer_class']!r} is not known; {TOKENIZER} is")
        try:
            settings = chronos_class("chronos.chronos", "ChronosConfig")(**own)
            self.tokenizer = settings.create_tokenizer()
        except (AssertionError, TypeError) as error:
            raise LaglensError(f"chronos_config: chronos-forecasting cannot use it ({error})") from error
        if settings.model_type != "seq2seq":
            raise LaglensError(f"chronos_config: model_type is '{settings.model_type}'; only 'seq2seq' is read")
        if settings.n_tokens > self.config["vocab_size"]:
            raise LaglensError(f"n_tokens: {settings.n_tokens} words do not fit vocab_size {self.config['vocab_size']}")

    def _lengths(self, history: int | None, horizon: int | None) -> tuple[int, int]:
        own = self.chronos_config
        return (
            length_up_to("history", history, own["context_length"], "its context_length"),
            length_up_to("horizon", horizon, own["prediction_length"], "its prediction_length"),
        )

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Encoder, with the word EOS last, causal decoder, and cross-attention, step by step.

        A decoder token stands for the step that it forecasts, as query and as key; what it holds is the step before.
        """
        past = TokenMap.patches(self.history, 0, 1, readout="none").with_special(after=int(self._ends_with_eos))
        ahead = TokenMap.patches(self.history, self.horizon, 1).taken(range(self.history, self.history + self.horizon))
        encoder, decoder, cross = (
            tuple(f"network.{part}.block.{i}.layer.{sub}.{kind}" for i in range(self.config[depth]))
            for part, depth, sub, kind in (
                ("encoder", "num_layers", 0, "SelfAttention"),
                ("decoder", "num_decoder_layers", 0, "SelfAttention"),
                ("decoder", "num_decoder_layers", 1, "EncDecAttention"),
            )
        )
        return (
            Stack("encoder", encoder, past, past),
            Stack("decoder", decoder, ahead, ahead, causal=True, steps=True),
            Stack("cross", cross, ahead, past, steps=True),
        )

    @property
    def _ends_with_eos(self) -> bool:
        return self.chronos_config["use_eos_token"]

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, float64, in the units of the input."""
        from transformers import GenerationConfig

        words, mask, scale = self.tokenizer.context_input_transform(history.cpu())
        settings = GenerationConfig(
            min_new_tokens=self.horizon,
            max_new_tokens=self.horizon,
            do_sample=False,
            # The library's cache has as many layers as the encoder.
            use_cache=self.config["num_layers"] == self.config["num_decoder_layers"],
            eos_token_id=self.tokenizer.config.eos_token_id,
            pad_token_id=self.tokenizer.config.pad_token_id,
            decoder_start_token_id=self.network.config.decoder_start_token_id,
        )
        device = history.device
        spoken = self.network.generate(words.to(device), attention_mask=mask.to(device), generation_config=settings)
        values = self.tokenizer.output_transform(spoken[:, None, 1:].cpu(), scale)
        return values[:, 0].to(device, torch.float64)
