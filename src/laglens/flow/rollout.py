"""Attention rollout: which input times reach which output times through all layers (Abnar and Zuidema 2020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset

Array = NDArray[np.float64]
FUSIONS: dict[str, Callable[..., Array]] = {"mean": np.mean, "max": np.max, "min": np.min}
ORDER = ("encoder", "decoder")  # of the stacks a signal passes; a tree read from disk has them in another
STREAMED = {"fusion": "mean", "residual": 0.5}  # what a rollout token by token, made while the model ran, stands for
AXIS = ("time", "start", "end", "part", "readout")
MAP = ("sample", "layer", "head", "query", "key")


def rollout(attention: NDArray, *, fusion: str = "mean", residual: float = 0.5) -> Array:
    r"""Product of the attention of all layers up to each one, the new layer on the left.

    (layer, head, query, key) -> (layer, query, key), the queries and keys being the same tokens.

    .. math:: R_l = \tilde A_l R_{l-1}, \quad \tilde A_l = w I + (1 - w)\, \mathrm{rownorm}(\mathrm{fuse}_h A_{l,h})

    Rows sum to 1. A row that the fusion leaves without mass passes on itself alone.

    Parameters
    ----------
    attention
        Weights; rows need not sum to 1.
    fusion
        Over heads: ``mean``, ``max`` or ``min``; rows are normalised after it.
    residual
        Weight w of the residual connection.
    """
    n = attention.shape[-1]
    reached, layers = np.eye(n), []
    for heads in attention:
        fused = FUSIONS[fusion](heads.astype(np.float64), axis=0)
        total = fused.sum(-1, keepdims=True)
        rows = np.divide(fused, total, out=np.eye(n), where=total > 0)
        reached = (residual * np.eye(n) + (1 - residual) * rows) @ reached
        layers.append(reached)
    return np.stack(layers)


def roll_out(time_tree: xr.DataTree, *, fusion: str = "mean", residual: float = 0.5) -> xr.Dataset:
    """Attention rollout of every window, through the encoder and then the decoder.

    Works on time columns: every row is normalised over them, so paths through special tokens are left out; how much
    that is, is told by ``special_mass``. Where the capture followed the attention token by token (`attention.rollout`)
    and the settings are those of the source, that rollout is taken, whose paths lead through special tokens too; only
    what still rests on them at the end is left out.

    Parameters
    ----------
    time_tree
        Time maps (see `laglens.time.reduce.to_time`). Stacks that do not go on from the first one on the same tokens,
        such as cross-attention or another pass through the layers, are left out.
    fusion
        Over heads, before rows are normalised: ``mean``, ``max`` or ``min``.
    residual
        Weight of the residual connection, from 0 to 1; 0.5 is that of the source.

    Returns
    -------
    xr.Dataset
        ``rollout (sample, layer, query, key)``: up to and including each layer, rows summing to 1, and its mean over
        windows ``rollout_mean (layer, query, key)``; ``special_mass (sample, layer, query)``, mean over heads.
        ``layer`` counts through all stacks; ``stack`` and ``stack_layer (layer)`` say which one it is. Attributes:
        ``level``, ``columns`` or ``tokens``; ``left_out``, the other stacks, each with the reason.

    Raises
    ------
    LaglensError
        Unknown fusion, a residual outside 0 to 1, or no stack that can be rolled out.
    """
    if fusion not in FUSIONS:
        raise LaglensError(f"fusion '{fusion}' is not one of {', '.join(FUSIONS)}")
    if not 0 <= residual <= 1:
        raise LaglensError(f"residual is {residual:g}; the weight of the residual connection lies between 0 and 1")
    stacks, left_out = _stacks(time_tree)
    settings = {"fusion": fusion, "residual": residual}
    streamed = settings == STREAMED and all("rollout" in node for node in stacks.values())
    reached = _of_tokens(stacks) if streamed else _of_columns(stacks, fusion=fusion, residual=residual)
    special = [node["special_mass"].transpose(*MAP[:-1]).values.mean(2) for node in stacks.values()]
    variables = {
        "rollout": (("sample", "layer", "query", "key"), reached.astype(np.float32)),
        "rollout_mean": (("layer", "query", "key"), reached.mean(0).astype(np.float32)),
        "special_mass": (("sample", "layer", "query"), np.concatenate(special, 1)),
    }
    attrs = time_tree.attrs | settings | {"n_windows": len(reached), "left_out": left_out}
    attrs["level"] = "tokens" if streamed else "columns"
    first = next(iter(stacks.values()))
    attrs |= {name: first.attrs[name] for name in ("samples_per_token", "causal") if name in first.attrs}
    windows = time_tree.to_dataset(inherit=False).drop_dims(["time", "step"], errors="ignore").coords
    return xr.Dataset(variables, dict(windows.variables) | _coordinates(stacks), attrs)


def _of_columns(stacks: dict[str, xr.Dataset], *, fusion: str, residual: float) -> Array:
    """Rollout of the time maps, ``(sample, layer, query, key)``."""
    maps = [node["attention"].transpose(*MAP) for node in stacks.values()]
    # One window at a time: maps of all heads in float64 need not fit in memory at once.
    return np.stack(
        [
            rollout(np.concatenate([map_.isel(sample=i).values for map_ in maps]), fusion=fusion, residual=residual)
            for i in range(maps[0].sizes["sample"])
        ]
    )


def _of_tokens(stacks: dict[str, xr.Dataset]) -> Array:
    """Rollout that the capture made, ``(sample, layer, query, key)``, its rows over time columns scaled to sum to 1."""
    dims = ("sample", "layer", "query", "key")
    made = np.concatenate([node["rollout"].transpose(*dims).values for node in stacks.values()], 1).astype(np.float64)
    return made / made.sum(-1, keepdims=True)


def _stacks(time_tree: xr.DataTree) -> tuple[dict[str, xr.Dataset], dict[str, str]]:
    """The stacks in the order a signal passes them, and why the others are left out."""
    stacks: dict[str, xr.Dataset] = {}
    left_out = {name: f"rollout follows {' and then '.join(ORDER)}" for name in time_tree.children if name not in ORDER}
    for name in (name for name in ORDER if name in time_tree.children):
        node = stack_dataset(time_tree, name)
        first = next(iter(stacks.values()), node)
        if not _same_axis(node, "key", node, "query"):
            left_out[name] = "its queries and keys are not the same tokens"
        elif not _same_axis(node, "query", first, "query"):
            left_out[name] = f"its tokens are not those of '{next(iter(stacks))}'"
        else:
            stacks[name] = node
    if not stacks:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in left_out.items()) or "it has no stack at all"
        raise LaglensError(f"there is nothing to roll out in this tree: {reasons}")
    return stacks, left_out


def _same_axis(first: xr.Dataset, axis: str, second: xr.Dataset, other: str) -> bool:
    """Whether two axes have the same tokens."""
    return all(
        np.array_equal(first[f"{axis}_{what}"], second[f"{other}_{what}"], equal_nan=True) for what in ("start", "end")
    )


def _coordinates(stacks: dict[str, xr.Dataset]) -> dict[str, Any]:
    first = next(iter(stacks.values()))
    depth = {name: node.sizes["layer"] for name, node in stacks.items()}
    coords: dict[str, Any] = {
        "layer": np.arange(sum(depth.values())),
        "stack": ("layer", np.array([name for name, n in depth.items() for _ in range(n)], dtype=object)),
        "stack_layer": ("layer", np.concatenate([node["layer"].values for node in stacks.values()])),
        "layer_name": ("layer", np.concatenate([node["layer_name"].values for node in stacks.values()])),
    }
    names = ["query", "key", *(f"{axis}_{name}" for axis in ("query", "key") for name in AXIS)]
    return coords | {name: first[name].variable for name in names if name in first.coords}
