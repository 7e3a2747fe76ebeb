"""Small synthetic time trees whose heads are known by construction, for the tests of every later stage.

A head is a kind: ``planted`` attends at one lag, ``uniform`` has no preference, ``first`` looks at the first key,
``same`` looks at itself, ``decay`` prefers near keys. Logits plus seeded noise go through a softmax, so rows sum to 1.
A control tree is the same model on inputs without the lag: its planted heads have lost their preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.models.tokens import PARTS, TokenMap

Array = NDArray[np.float64]


def head_logits(kind: str, query: TokenMap, key: TokenMap, lag: float, strength: float) -> Array:
    """Logits ``(query, key)`` of one kind of head; `strength` = inf puts all mass on the preferred keys."""
    distance = np.subtract.outer(query.time, key.time)
    step = float(np.median(key.end - key.start))
    wanted = {
        "planted": np.abs(distance - lag) <= step / 2,
        "uniform": np.zeros(distance.shape, bool),
        "first": np.broadcast_to(np.arange(len(key)) == 0, distance.shape),
        "same": np.abs(distance) <= step / 2,
        "decay": None,
    }[kind]
    if wanted is None:
        return -np.abs(distance) * min(strength, 30.0) / (len(key) * step)
    reachable = wanted.any(1, keepdims=True)
    return np.where(wanted, 0.0, np.where(reachable, -strength, 0.0))


def softmax(logits: Array) -> Array:
    """Softmax over the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def token_coords(axis: str, tokens: TokenMap) -> dict[str, Any]:
    """Coordinates of one token axis, as every attention and time tree has them."""
    flags = {"flag_values": list(range(len(PARTS))), "flag_meanings": " ".join(PARTS)}
    return {
        axis: np.arange(len(tokens)),
        f"{axis}_time": (axis, tokens.time),
        f"{axis}_start": (axis, tokens.start),
        f"{axis}_end": (axis, tokens.end),
        f"{axis}_row": (axis, tokens.row),
        f"{axis}_part": (axis, tokens.part, flags),
        f"{axis}_readout": (axis, tokens.readout),
    }


def attention_node(
    tokens: TokenMap,
    heads: Sequence[str],
    rng: np.random.Generator,
    *,
    layers: Sequence[int] = (0, 1),
    samples: int = 4,
    windows: int = 1,
    lag: float = 16,
    strength: float = 3.0,
    noise: float = 0.3,
    special_mass: float = 0.0,
    causal: bool = False,
    layer_prefix: str = "encoder.layers",
) -> xr.Dataset:
    """One node of a time tree: ``attention (sample, layer, head, query, key)`` and its row statistics.

    Each sample is the mean over `windows` maps.
    """
    logits = np.stack([head_logits(kind, tokens, tokens, lag, strength) for kind in heads])
    if causal:
        logits = np.where(np.subtract.outer(tokens.time, tokens.time) >= 0, logits, -np.inf)
    shape = (samples, len(layers), *logits.shape)
    weights = sum(softmax(logits + noise * rng.standard_normal(shape)) for _ in range(windows)) / windows
    entropy = -np.sum(weights * np.log(np.where(weights > 0, weights, 1)), axis=-1)
    row, rows = ("sample", "layer", "head", "token"), ("sample", "layer", "head", "query")
    step = float(np.median(tokens.end - tokens.start))
    return xr.Dataset(
        {
            "attention": ((*rows, "key"), ((1 - special_mass) * weights).astype("float32")),
            "special_mass": (rows, np.full(shape[:-1], special_mass, "float32")),
            "entropy": (row, entropy.astype("float32")),
            "effective_keys": (row, np.exp(entropy).astype("float32")),
            "top_key": (row, weights.argmax(-1)),
        },
        coords={
            "sample": np.arange(samples),
            "layer": np.asarray(layers),
            "layer_name": ("layer", np.array([f"{layer_prefix}.{i}.self_attn" for i in layers], dtype=object)),
            "head": np.arange(len(heads)),
            **token_coords("query", tokens),
            **token_coords("key", tokens),
            "token_time": ("token", tokens.time),
            "token_part": ("token", tokens.part),
        },
        attrs={"normalisation": "mass", "samples_per_token": step, "causal": causal},
    )


def root_dataset(
    history: int, horizon: int, samples: int, rng: np.random.Generator, signal: dict[str, Any], periods: Sequence[float]
) -> xr.Dataset:
    """Root of the tree: the windows as the model saw them, its forecasts, and the attributes."""
    time = np.arange(history + horizon)
    start = 8 * np.arange(samples)
    phase = start[:, None] + time
    series = sum((np.sin(2 * np.pi * phase / period) for period in periods), 0.1 * rng.standard_normal(phase.shape))
    return xr.Dataset(
        {
            "series": (("sample", "time"), series),
            "forecast": (("sample", "step"), series[:, history:] + 0.1 * rng.standard_normal((samples, horizon))),
        },
        coords={
            "sample": np.arange(samples),
            "time": time,
            "step": time[history:],
            "signal_sample": ("sample", np.zeros(samples, int)),
            "start": ("sample", start),
        },
        attrs={
            "model": {"name": "planted", "architecture": "planted", "history": history, "horizon": horizon},
            "signal": signal,
            "spec": {"windows": samples},
            "versions": {},
            "certificate": {"found": 1, "captured": 1, "worst": 0.0},
            "history": history,
            "horizon": horizon,
        },
    )


def time_tree(
    *,
    history: int = 128,
    horizon: int = 64,
    step: int = 4,
    heads: Sequence[str] = ("planted", "uniform", "first", "decay"),
    stacks: dict[str, Sequence[int]] | None = None,
    samples: int = 4,
    periods: Sequence[float] | None = None,
    lag: float = 32,
    horizon_tokens: bool = True,
    readout: str = "horizon",
    control: str | None = None,
    seed: int = 0,
    **options: Any,
) -> xr.DataTree:
    """A time tree with known heads.

    Parameters
    ----------
    history, horizon, step
        Samples of the window and per token.
    heads
        One kind per head (see the module docstring).
    stacks
        Layers of each node; default ``{"encoder": (0, 1), "decoder": (2,)}``.
    samples
        Windows, or replicates of a control.
    periods
        True periods of the signal [samples]; default: the planted lag.
    lag
        Lag [samples] of the planted heads.
    horizon_tokens
        False: the stack has history tokens only, as an encoder that forecasts from its last token.
    readout
        ``horizon`` or ``last``: the tokens the forecast is read from.
    control
        Name of the null (``"ar1"``); planted heads lose their preference and `samples` are replicates.
    options
        Passed to `attention_node`: ``windows``, ``strength``, ``noise``, ``special_mass``, ``causal``.
    """
    rng = np.random.default_rng(seed)
    tokens = TokenMap.patches(history, horizon if horizon_tokens else 0, step, readout=readout)
    periods = [lag] if periods is None else list(periods)
    signal: dict[str, Any] = {
        "source": "harmonics",
        "parameters": {},
        "truth": {"periods": [float(period) for period in periods], "lags": [], "events": {}},
        "seed": seed,
        "time_step": 1.0,
        "time_unit": "samples",
        "unit": "",
    }
    kinds = list(heads)
    if control is not None:
        signal["control"] = control
        kinds = ["uniform" if kind == "planted" else kind for kind in kinds]
    nodes = {
        f"/{name}": attention_node(
            tokens, kinds, rng, layers=layers, samples=samples, lag=lag, layer_prefix=f"{name}.layers", **options
        )
        for name, layers in (stacks or {"encoder": (0, 1), "decoder": (2,)}).items()
    }
    root = root_dataset(history, horizon, samples, rng, signal, periods if control is None else [])
    if control is not None:
        root.attrs |= {"control": control, "n_windows": options.get("windows", 1)}
    return xr.DataTree.from_dict({"/": root, **nodes})


def control_tree(*, replicates: int = 99, windows: int = 4, seed: int = 1, **options: Any) -> xr.DataTree:
    """The control of `time_tree` with the same options: each replicate averages `windows` maps without the lag."""
    return time_tree(samples=replicates, windows=windows, control="ar1", seed=seed, **options)


def node_of(tree: xr.DataTree, name: str = "encoder") -> xr.Dataset:
    """One stack of a tree, without what it inherits from the root."""
    return tree.children[name].to_dataset(inherit=False)


def with_maps(node: xr.Dataset, maps: Array) -> xr.Dataset:
    """The node with other attention, `maps` ``(sample, layer, head, query, key)``; the labels are cut to fit."""
    small = node.isel(sample=slice(maps.shape[0]), layer=slice(maps.shape[1]), head=slice(maps.shape[2]))
    return small.assign(attention=(node["attention"].dims, maps.astype("float32")))
