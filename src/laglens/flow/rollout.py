"""Attention rollout: which input times reach which output times through all layers (Abnar and Zuidema 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.attention.coordinates import samples_per_token
from laglens.flow.columns import in_columns
from laglens.flow.layers import Array, Mask, Mixing
from laglens.flow.path import Path

STREAMED = Mixing()  # what a rollout token by token, made while the model ran, stands for
DIMS = ("sample", "layer", "query", "key")


def rollout(
    attention: NDArray,
    *,
    fusion: str = "mean",
    residual: float = 0.5,
    discard: float = 0.0,
    start: int = 0,
    special: Mask | None = None,
) -> Array:
    r"""Product of the attention of all layers up to each one, the new layer on the left.

    (layer, head, query, key) -> (layer - start, query, key), the queries and keys being the same tokens.

    .. math:: R_l = \tilde A_l R_{l-1}, \quad \tilde A_l = w I + (1 - w)\, \mathrm{rownorm}(\mathrm{fuse}_h A_{l,h})

    Rows sum to 1. A row that the fusion leaves without mass passes on itself alone.

    Parameters
    ----------
    attention
        Weights; rows need not sum to 1.
    fusion, residual, discard, start
        See `laglens.flow.layers.Mixing`.
    special
        Columns that are never discarded (CLS and its like), ``(key,)``.

    Raises
    ------
    LaglensError
        A setting is out of its range.
    """
    mixing = Mixing(fusion, residual, discard, start)
    reached, layers = np.eye(attention.shape[-1]), []
    for heads in attention[start:]:
        reached = mixing.step(heads, special) @ reached
        layers.append(reached)
    return np.stack(layers)


def roll_out(tree: xr.DataTree, **mixing: Any) -> xr.Dataset:
    """Attention rollout of every window, through the encoder, then the decoder, and the cross-attention between them.

    On time columns every row is normalised over them, so paths through special tokens are left out; how much that is,
    is told by ``special_mass``. Where the capture followed the attention token by token (`attention.rollout`) and the
    settings are those of the source, that rollout is taken, whose paths lead through special tokens too; only what
    still rests on them at the end is left out. A tree of tokens is rolled out over all of them, then reduced to time.

    A decoder with tokens of its own makes one map with the encoder, over the tokens of both: its rows begin on
    themselves, and each of its layers moves them by self-attention and then by cross-attention, each with a residual
    connection.

    Parameters
    ----------
    tree
        Time maps (see `laglens.time.reduce.to_time`), or a tree of tokens (see
        `laglens.attention.cube.attention_tree`). Stacks that do not go on from the first one, such as another pass
        through the layers, are left out.
    mixing
        ``fusion``, ``residual``, ``discard`` and ``start`` (see `laglens.flow.layers.Mixing`).

    Returns
    -------
    xr.Dataset
        ``rollout (sample, layer, query, key)``: up to and including each layer, rows summing to 1, and its mean over
        windows ``rollout_mean (layer, query, key)``; ``special_mass (sample, layer, query)``: of time maps the part of
        the rows of each layer that special tokens take, mean over heads; of tokens the part of the rollout that rests
        on them. ``visible (query, key)``: pairs that causality leaves. ``layer`` counts through all stacks; ``stack``
        and ``stack_layer (layer)`` say which one it is. Attributes: ``level``, ``columns`` or ``tokens``;
        ``followed``, the stacks, and ``left_out``, the other ones, each with the reason.

    Raises
    ------
    LaglensError
        A setting is out of its range, or no stack can be rolled out.
    """
    settings = Mixing(**mixing)
    path = Path.of(tree)
    of_tokens = all("special_mass" not in node for node in path.stacks.values())
    streamed = settings == STREAMED and path.cross is None and all("rollout" in node for node in path.stacks.values())
    reached = _of_capture(path) if streamed and not of_tokens else _of_layers(path, settings)
    coords, visible = path.coords, path.visible
    attrs = tree.attrs | settings.settings | path.attrs | {"n_windows": len(reached)}
    if of_tokens:
        reached, special, visible, coords = in_columns(reached, coords, visible)
        reached = reached / reached.sum(-1, keepdims=True)
        attrs["samples_per_token"] = samples_per_token(coords)
    else:
        special = path.rows("special_mass")[:, settings.start :]
    attrs["level"] = "tokens" if streamed or of_tokens else "columns"
    variables = {
        "rollout": (DIMS, reached.astype(np.float32)),
        "rollout_mean": (DIMS[1:], reached.mean(0).astype(np.float32)),
        "special_mass": (DIMS[:-1], special.astype(np.float32)),
        "visible": (("query", "key"), visible),
    }
    windows = tree.to_dataset(inherit=False).drop_dims(["time", "step"], errors="ignore").coords
    # Layers below the first one that is followed have no rollout.
    followed = {name: c[settings.start :] if "layer" in c.dims else c for name, c in coords.items()}
    return xr.Dataset(variables, dict(windows.variables) | followed, attrs)


def _of_layers(path: Path, mixing: Mixing) -> Array:
    """Rollout of the maps of a path, ``(sample, layer, query, key)``."""
    found = []
    # One window at a time: maps of all heads in float64 need not fit in memory at once.
    for sample in range(path.n_samples):
        reached, layers = np.eye(path.n_tokens), []
        for steps in path.layers(sample, mixing):
            for step in steps:
                reached = step @ reached
            layers.append(reached)
        found.append(layers)
    return np.array(found)


def _of_capture(path: Path) -> Array:
    """Rollout that the capture made, ``(sample, layer, query, key)``, its rows over time columns scaled to sum to 1."""
    nodes = [node["rollout"].transpose(*DIMS).values for node in path.stacks.values()]
    made = np.concatenate(nodes, 1).astype(np.float64)
    return made / made.sum(-1, keepdims=True)
