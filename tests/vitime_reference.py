"""ViTime in plain numpy and float64, written from its description: what the adapter is checked against."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import erf, softmax
from torch import Tensor

Array = NDArray[np.float64]


@dataclass
class Reference:
    """One history through the network.

    Attributes
    ----------
    picture, completed
        ``(row, column)``: what the network is shown, and its output before the softmax.
    weights
        ``(head, query, key)`` of each block.
    forecast
        ``(horizon,)``.
    """

    picture: Array
    completed: Array
    weights: dict[str, Array]
    forecast: Array


def reference(
    state: Mapping[str, Tensor], args: Namespace, history: Array, horizon: int, order: NDArray[np.int64] | None = None
) -> Reference:
    """Draw, complete and read. `order` of the patches in the encoder: the published code draws one at each call."""
    n, rows, top = len(history), args.h, args.maxScal
    columns = args.size[0] + args.size[2]
    shown = stretched(history, int(n / (n + horizon) * columns))
    sigma, mu = shown.std() + 1e-7, shown.mean()
    if hasattr(args, "muNorm"):
        power = np.mean(shown**args.muNorm * np.sign(shown)) + 1e-7
        mu = np.sign(power) * np.sqrt(np.abs(power))
    step = 2 * top / (rows - 1)
    lit = np.floor((np.clip((shown - mu) / sigma, -top, top) + top) / step).astype(int).clip(0, rows - 1)
    picture = np.zeros((rows, columns))
    picture[lit, np.arange(len(lit))] = 1
    picture = gaussian_filter(picture, 5, radius=15, mode="mirror") * 31
    weights: dict[str, Array] = {}
    completed = network(
        {name: weight.double().numpy() for name, weight in state.items()}, args, picture, weights, order
    )
    values = completed.argmax(0) * step - top
    return Reference(picture, completed, weights, stretched(values * sigma + mu, n + horizon)[n:])


def stretched(series: Array, length: int) -> Array:
    return np.interp(np.linspace(0, len(series) - 1, length), np.arange(len(series)), series)


def network(
    state: dict[str, Array],
    args: Namespace,
    picture: Array,
    weights: dict[str, Array],
    order: NDArray[np.int64] | None,
) -> Array:
    (high, wide), heads = args.patch_size, int(16 * args.modelSize)
    grid = picture.shape[0] // high, picture.shape[1] // wide
    patches = picture.reshape(grid[0], high, grid[1], wide).transpose(0, 2, 1, 3).reshape(-1, high * wide)
    embed = state["patch_embed.proj.weight"]
    hidden = patches @ embed.reshape(len(embed), -1).T + state["patch_embed.proj.bias"] + state["pos_embed"][0, 1:]
    order = np.arange(len(hidden)) if order is None else order
    hidden = np.concatenate([state["cls_token"][0] + state["pos_embed"][0, :1], hidden[order]])
    for i in range(int(12 * args.modelSize)):
        hidden = block(state, f"blocks.{i}", hidden, heads, weights)
    hidden = linear(state, "decoder_embed", norm(state, "norm", hidden))
    hidden[1:] = hidden[1:][np.argsort(order)]
    hidden = hidden + state["decoder_pos_embed"][0]
    for i in range(int(12 * args.modelSize) // 2):
        hidden = block(state, f"decoder_blocks.{i}", hidden, heads, weights)
    pixels = linear(state, "decoder_pred", norm(state, "decoder_norm", hidden))[1:]
    return pixels.reshape(*grid, high, wide).transpose(0, 2, 1, 3).reshape(picture.shape)


def block(state: dict[str, Array], name: str, hidden: Array, heads: int, weights: dict[str, Array]) -> Array:
    qkv = linear(state, f"{name}.attn.qkv", norm(state, f"{name}.norm1", hidden))
    query, key, value = qkv.reshape(len(hidden), 3, heads, -1).transpose(1, 2, 0, 3)
    weights[name] = softmax(query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1]), axis=-1)
    mixed = (weights[name] @ value).transpose(1, 0, 2).reshape(hidden.shape)
    hidden = hidden + linear(state, f"{name}.attn.proj", mixed)
    inner = linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.norm2", hidden))
    return hidden + linear(state, f"{name}.mlp.fc2", inner * (1 + erf(inner / np.sqrt(2))) / 2)


def linear(state: dict[str, Array], name: str, hidden: Array) -> Array:
    return hidden @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state: dict[str, Array], name: str, hidden: Array) -> Array:
    centred = hidden - hidden.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]
