"""Tiny models of the transformers library, and what the library itself says about them."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from models import sharpen
from torch import Tensor

from laglens.models.huggingface import HuggingFaceForecaster
from laglens.models.registry import build_model

LAGGED = {
    "prediction_length": 6,
    "context_length": 24,
    "lags_sequence": [1, 2, 5],
    "num_time_features": 1,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}
TIMESFM = {
    "patch_length": 32,
    "context_length": 256,
    "horizon_length": 16,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 32,
    "head_dim": 8,
    "num_attention_heads": 4,
}
TINY: dict[str, dict] = {
    "patchtst": {
        "context_length": 64,
        "patch_length": 16,
        "patch_stride": 8,
        "prediction_length": 8,
        "d_model": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "ffn_dim": 16,
    },
    "time_series_transformer": LAGGED,
    "informer": LAGGED | {"sampling_factor": 3},
    "autoformer": LAGGED | {"label_length": 10, "moving_average": 5},
    "timesfm": TIMESFM | {"model_type": "timesfm"},
    "timesfm2_5": TIMESFM | {"model_type": "timesfm2_5", "num_key_value_heads": 2, "output_quantile_len": 16},
}


def tiny(name: str, gain: float = 1.7, *, changes: dict | None = None, **options) -> HuggingFaceForecaster:
    """A sharpened tiny model; `changes` are of its configuration, `options` of the adapter."""
    config = TINY[name] | (changes or {})
    return sharpen(build_model(name.removesuffix("2_5"), {"config": config, **options}), gain)


def histories(model: HuggingFaceForecaster, batch: int = 3) -> Tensor:
    """Noisy waves of different periods, ``(batch[, channel], history)``."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, model.history) if model.channels == 1 else (batch, model.channels, model.history)
    period = 5 + 20 * torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64)
    wave = torch.sin(2 * torch.pi * torch.arange(model.history) / period)
    return 3 + 2 * wave + 0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@torch.no_grad()
def eager_weights(model: HuggingFaceForecaster, history: Tensor) -> dict[tuple[str, int], Tensor]:
    """Weights that the library's own eager attention returns, by module and call."""
    model = copy.deepcopy(model)
    model.network.set_attn_implementation("eager")
    calls: Counter[str] = Counter()
    found: dict[tuple[str, int], Tensor] = {}

    def keep(name):
        def hook(module, args, output):
            found[name, calls[name]] = output[1]
            calls[name] += 1

        return hook

    for name, module in model.named_modules():
        if type(module).__name__.endswith("Attention"):
            module.register_forward_hook(keep(name))
    model(history)
    return found
