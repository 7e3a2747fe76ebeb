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
    that is, is told by ``special_mass``.

    Parameters
    ----------
    time_tree
        Time maps (see `laglens.time.reduce.to_time`) whose stacks share one axis of tokens for queries and keys.
    fusion
        Over heads, before rows are normalised: ``mean``, ``max`` or ``min``.
    residual
        Weight of the residual connection, from 0 to 1; 0.5 is that of the source.

    Returns
    -------
    xr.Dataset
        ``rollout (sample, layer, query, key)``: up to and including each layer, rows summing to 1, and its mean over
        windows ``rollout_mean (layer, query, key)``; ``special_mass (sample, layer, query)``, mean over heads.
        ``layer`` counts through all stacks; ``stack`` and ``stack_layer (layer)`` say which one it is.

    Raises
    ------
    LaglensError
        Unknown fusion, a residual outside 0 to 1, or stacks that do not follow each other on the same tokens.
    """
    if fusion not in FUSIONS:
        raise LaglensError(f"fusion '{fusion}' is not one of {', '.join(FUSIONS)}")
    if not 0 <= residual <= 1:
        raise LaglensError(f"residual is {residual:g}; the weight of the residual connection lies between 0 and 1")
    stacks = _stacks(time_tree)
    maps = [node["attention"].transpose(*MAP) for node in stacks.values()]
    n_samples = maps[0].sizes["sample"]
    # One window at a time: maps of all heads in float64 need not fit in memory at once.
    reached = np.stack(
        [
            rollout(np.concatenate([map_.isel(sample=i).values for map_ in maps]), fusion=fusion, residual=residual)
            for i in range(n_samples)
        ]
    )
    special = [node["special_mass"].transpose(*MAP[:-1]).values.mean(2) for node in stacks.values()]
    variables = {
        "rollout": (("sample", "layer", "query", "key"), reached.astype(np.float32)),
        "rollout_mean": (("layer", "query", "key"), reached.mean(0).astype(np.float32)),
        "special_mass": (("sample", "layer", "query"), np.concatenate(special, 1)),
    }
    attrs = time_tree.attrs | {"fusion": fusion, "residual": residual, "n_windows": n_samples}
    first = next(iter(stacks.values()))
    attrs |= {name: first.attrs[name] for name in ("samples_per_token", "causal") if name in first.attrs}
    windows = time_tree.to_dataset(inherit=False).drop_dims(["time", "step"], errors="ignore").coords
    return xr.Dataset(variables, dict(windows.variables) | _coordinates(stacks), attrs)


def _stacks(time_tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """The stacks in the order a signal passes them, checked to follow each other."""
    names = list(time_tree.children)
    foreign = [name for name in names if name not in ORDER]
    if foreign or not names:
        found = f"'{foreign[0]}'" if foreign else "no stack at all"
        raise LaglensError(f"rollout follows {' and then '.join(ORDER)} over the same tokens; this tree has {found}")
    stacks = {name: stack_dataset(time_tree, name) for name in ORDER if name in names}
    first = next(iter(stacks.values()))
    for name, node in stacks.items():
        for axis in ("query", "key"):
            same = node.sizes[axis] == first.sizes["query"] and np.array_equal(
                node[f"{axis}_start"], first["query_start"], equal_nan=True
            )
            if not same:
                raise LaglensError(
                    f"rollout needs the same tokens everywhere: the {axis} axis of '{name}' has {node.sizes[axis]}, "
                    f"the query axis of '{next(iter(stacks))}' {first.sizes['query']}, or they lie elsewhere in time"
                )
    return stacks


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
