"""Small models for the tests."""

from __future__ import annotations

import math

import torch
from torch import nn

from laglens.models.registry import build_model

TINY: dict[str, dict] = {
    "image": {
        "history": 32,
        "horizon": 16,
        "patch": 4,
        "width": 16,
        "heads": 2,
        "encoder_depth": 2,
        "decoder_depth": 1,
    },
    "numeric": {
        "history": 32,
        "horizon": 16,
        "patch": 4,
        "width": 16,
        "heads": 2,
        "encoder_depth": 2,
        "decoder_depth": 1,
    },
    "encoder": {"history": 24, "horizon": 6, "width": 16, "heads": 2, "feedforward": 32},
    "encoder_decoder": {"history": 24, "horizon": 6, "width": 16, "heads": 2, "feedforward": 32},
}


def sharpen(model: nn.Module, gain: float = 1.7) -> nn.Module:
    """Re-draw the weights: default initialisation gives near uniform attention, on which any capture test passes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                nn.init.normal_(parameter, std=gain / math.sqrt(parameter.shape[-1]))
    return model.eval()


def tiny(architecture: str, **options) -> nn.Module:
    """A sharpened tiny model of a registered architecture."""
    return sharpen(build_model(architecture, TINY[architecture] | options))


def entropy_ratio(weights: torch.Tensor) -> float:
    """Mean row entropy over that of a uniform row."""
    return float(-torch.special.xlogy(weights, weights).sum(-1).mean() / math.log(weights.shape[-1]))
