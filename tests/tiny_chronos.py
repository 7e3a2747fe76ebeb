"""Tiny Chronos models, and series for them."""

import copy
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from models import sharpen
from torch import Tensor

from laglens.models.chronos import ChronosForecaster
from laglens.models.registry import build_model

QUANTILES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2, "decoder_start_token_id": 0}
PATCHES = {"context_length": 128, "input_patch_size": 16, "input_patch_stride": 16, "quantiles": QUANTILES}
TINY: dict[str, dict] = {
    "chronos_t5": T5
    | {
        "vocab_size": 80,
        "chronos_config": {
            "tokenizer_class": "MeanScaleUniformBins",
            "tokenizer_kwargs": {"low_limit": -5.0, "high_limit": 5.0},
            "context_length": 64,
            "prediction_length": 8,
            "n_tokens": 80,
            "n_special_tokens": 2,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "use_eos_token": True,
            "model_type": "seq2seq",
            "num_samples": 20,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    },
    "chronos_bolt": T5 | {"chronos_config": PATCHES | {"prediction_length": 24, "use_reg_token": True}},
    "chronos_2": {
        "initializer_factor": 1.0,  # the weights of its norms
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_heads": 4,
        "num_layers": 2,
        "chronos_config": PATCHES
        | {"output_patch_size": 16, "max_output_patches": 3, "use_reg_token": True, "use_arcsinh": True},
    },
}
# Histories: one that fills all patches, one that leaves the first patch short; horizons up to what each has at most.
LENGTHS = {
    "chronos_t5": [(64, 8), (50, 5)],
    "chronos_bolt": [(128, 24), (50, 10)],
    "chronos_2": [(128, 48), (50, 20)],
}
CASES = [(name, *lengths) for name in TINY for lengths in LENGTHS[name]]


def tiny(name: str, history: int | None = None, horizon: int | None = None, **changes) -> ChronosForecaster:
    """A sharpened tiny model; `changes` are of its `chronos_config`."""
    config = copy.deepcopy(TINY[name])
    config["chronos_config"] |= changes
    model = sharpen(build_model(name, {"config": config, "history": history, "horizon": horizon}), 1.2)
    assert isinstance(model, ChronosForecaster)
    return model


def histories(model: ChronosForecaster, n: int = 3, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, model.history)).cumsum(1))


def windows(model: ChronosForecaster, n: int = 3) -> xr.Dataset:
    series = np.pad(histories(model, n).numpy(), ((0, 0), (0, model.horizon)), constant_values=np.nan)
    return xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(n)})


def folder_of(model: ChronosForecaster, folder: Path) -> Path:
    """The model in the published format."""
    model.network.save_pretrained(folder)
    return folder
