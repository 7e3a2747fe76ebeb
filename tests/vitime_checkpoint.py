"""Checkpoints in ViTime's published layout, with seeded weights whose attention is not flat."""

from argparse import Namespace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laglens.models.registry import load_model
from laglens.models.vitime import ViTimeForecaster

SHARPER = np.sqrt(6)  # times the weights of queries and keys


class Draw:
    """Weights in the order in which they are drawn, by name."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.state: dict[str, Tensor] = {}

    def keep(self, name: str, values: np.ndarray) -> None:
        self.state[name] = torch.tensor(values.astype(np.float32))

    def token(self, name: str, width: int) -> None:
        self.keep(name, np.float32(0.02) * self.rng.standard_normal((1, 1, width)).astype(np.float32))

    def linear(self, name: str, out: int, *into: int) -> None:
        bound = np.sqrt(6 / (out + np.prod(into[-2:])))
        self.keep(f"{name}.weight", self.rng.uniform(-bound, bound, (out, *into)))
        self.keep(f"{name}.bias", np.float32(0.02) * self.rng.standard_normal(out).astype(np.float32))

    def norm(self, name: str, width: int) -> None:
        self.keep(f"{name}.weight", 1 + 0.1 * self.rng.standard_normal(width))
        self.keep(f"{name}.bias", 0.02 * self.rng.standard_normal(width))

    def block(self, name: str, width: int) -> None:
        self.norm(f"{name}.norm1", width)
        self.linear(f"{name}.attn.qkv", 3 * width, width)
        self.state[f"{name}.attn.qkv.weight"][: 2 * width] *= SHARPER
        self.linear(f"{name}.attn.proj", width, width)
        self.norm(f"{name}.norm2", width)
        self.linear(f"{name}.mlp.fc1", 4 * width, width)
        self.linear(f"{name}.mlp.fc2", width, 4 * width)


def waves(width: int, at: np.ndarray) -> np.ndarray:
    angle = np.outer(at.ravel(), 10000.0 ** (-np.arange(width // 2) / (width / 2)))
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)


def position_code(width: int, rows: int, columns: int) -> np.ndarray:
    column, row = np.meshgrid(np.arange(columns), np.arange(rows))
    code = np.concatenate([waves(width // 2, column), waves(width // 2, row)], 1)
    return np.concatenate([np.zeros((1, width)), code])[None]


def settings(**changes: Any) -> Namespace:
    """Settings of the training script; those that a forecast needs, and some that it does not."""
    known: dict[str, Any] = {
        "h": 64, "maxScal": 3.5, "size": [256, 0, 384], "patch_size": [4, 32], "modelSize": 0.1875, "muNorm": 2,
        "dropout": 0.1, "dNorm": 1, "out_channels": 1, "loss": "JS", "features": "S", "target": "OT", "upscal": False,
        "ks": [31, 31], "device": "cpu", "flag": "test", "realInputLength": 512, "inferenceType": "General",
    }  # fmt: skip
    return Namespace(**known | changes)


def weights(
    model_size: float = 0.1875,
    h: int = 64,
    patch: tuple[int, int] = (4, 32),
    size: tuple[int, int, int] = (256, 0, 384),
    seed: int = 11,
) -> dict[str, Tensor]:
    """The state of ViTime's masked autoencoder, drawn once for all."""
    return {key: value.clone() for key, value in _weights(model_size, h, patch, size, seed).items()}


@cache
def _weights(
    model_size: float, h: int, patch: tuple[int, int], size: tuple[int, int, int], seed: int
) -> dict[str, Tensor]:
    width, depth = int(1024 * model_size), int(12 * model_size)
    grid = h // patch[0], (size[0] + size[2]) // patch[1]
    draw = Draw(seed)
    draw.token("cls_token", width)
    draw.keep("pos_embed", position_code(width, *grid))
    draw.token("mask_token", width // 2)
    draw.keep("decoder_pos_embed", position_code(width // 2, *grid))
    draw.linear("patch_embed.proj", width, 1, *patch)
    for i in range(depth):
        draw.block(f"blocks.{i}", width)
    draw.norm("norm", width)
    draw.linear("decoder_embed", width // 2, width)
    for i in range(depth // 2):
        draw.block(f"decoder_blocks.{i}", width // 2)
    draw.norm("decoder_norm", width // 2)
    draw.linear("decoder_pred", patch[0] * patch[1], width // 2)
    return draw.state


def write(path: Path, *, prefix: str = "model.", state: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    """A checkpoint as published: ``{'args': Namespace, 'model': state_dict}``, and the epoch."""
    args = settings(**changes)
    state = state_of(args) if state is None else state
    torch.save({"model": {prefix + key: value for key, value in state.items()}, "epoch": 3, "args": args}, path)
    return path


def state_of(args: Namespace) -> dict[str, Tensor]:
    """The weights that fit these settings."""
    return weights(args.modelSize, args.h, tuple(args.patch_size), tuple(args.size))


def loaded(path: Path, history: int = 128, horizon: int = 192) -> ViTimeForecaster:
    model = load_model("vitime", path, {"history": history, "horizon": horizon})
    assert isinstance(model, ViTimeForecaster)
    return model
