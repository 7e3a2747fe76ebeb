"""Run a model on windows of a signal and keep its attention as labelled cubes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from laglens.attention.calls import Record
from laglens.attention.capture import read_attention
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import PARTS, Stack, TokenMap
from laglens.progress import track
from laglens.signals.windows import histories

CUBE = ("sample", "layer", "head", "query", "key")
ROW = CUBE[:-1]
DTYPES = {"float16": torch.float16, "float32": torch.float32}


def attention_tree(
    model: Forecaster,
    windows: xr.Dataset,
    *,
    dtype: str = "float16",
    batch: int = 32,
    statistics: bool = True,
    device: torch.device | str = "cpu",
    attrs: dict[str, Any] | None = None,
) -> xr.DataTree:
    """Capture the attention of `model` on every window.

    Parameters
    ----------
    model
        In evaluation mode, with ``history``, ``horizon`` and ``stacks`` (see `laglens.models.registry`).
    windows
        ``series (sample, time)``: history, then horizon (NaN where it is not known).
    dtype
        Of the stored weights, ``float16`` or ``float32``. Row statistics always come from float32.
    batch
        Windows per forward pass.
    statistics
        Whether to keep the row statistics.

    Returns
    -------
    xr.DataTree
        Root: the windows, ``forecast (sample, step)`` and the capture certificate. One node per attention stack:
        ``attention (sample, layer, head, query, key)``, rows summing to 1 over the visible keys, and per row
        ``entropy`` (nats), ``effective_keys`` (1 / sum of squares), ``top_key`` (index of the strongest key).

    Raises
    ------
    LaglensError
        The history holds NaN, or the capture is incomplete (see `laglens.attention.capture.read_attention`).
    """
    history = histories(windows, model.history)
    model = model.eval().to(device)
    n, stacks = len(history), model.stacks
    parts: dict[str, list[dict[str, NDArray]]] = {stack.name: [] for stack in stacks}
    forecasts: list[NDArray] = []
    certificate: dict[str, Any] = {}
    starts = range(0, n, batch)
    for first in track(starts, "capturing attention", total=len(starts)):
        inputs = torch.from_numpy(history[first : first + batch]).to(device)
        # The first batch proves the capture for the model; later ones run the same code.
        output, capture = read_attention(model, inputs, certify=first == 0)
        certificate = certificate or capture.certificate
        forecasts.append(output.cpu().numpy())
        for stack in stacks:
            parts[stack.name].append(_stack_arrays(stack, capture.records, DTYPES[dtype], statistics))
    nodes = {stack.name: _node(stack, parts[stack.name]) for stack in stacks}
    root = windows.assign(forecast=(("sample", "step"), np.concatenate(forecasts)))
    root = root.assign_coords(step=np.arange(model.history, model.history + model.horizon))
    root.attrs |= {"history": model.history, "horizon": model.horizon, "certificate": certificate} | (attrs or {})
    return xr.DataTree.from_dict({"/": root, **nodes})


def _stack_arrays(stack: Stack, records: list[Record], dtype: torch.dtype, statistics: bool) -> dict[str, NDArray]:
    """Weights and row statistics of one batch, layers stacked: ``(sample, layer, head, query[, key])``."""
    found = {record.module: record for record in records if record.call == 0}
    missing = [layer for layer in stack.layers if layer not in found]
    if missing:
        raise LaglensError(f"stack '{stack.name}': no attention call in {', '.join(missing)}")
    layers = [found[layer].weights for layer in stack.layers]
    expected = (len(stack.query), len(stack.key))
    wrong = [name for name, w in zip(stack.layers, layers, strict=True) if tuple(w.shape[-2:]) != expected]
    if wrong:
        raise LaglensError(
            f"stack '{stack.name}': the token map has {expected} tokens, the weights of {wrong[0]} do not"
        )
    weights = torch.stack(layers, dim=1).float()
    found_in_rows = row_statistics(weights) if statistics else {}
    # torch casts to half some 20 times faster than numpy when most weights are subnormal.
    arrays = {"attention": weights.to(dtype)} | found_in_rows
    return {name: array.cpu().numpy() for name, array in arrays.items()}


def row_statistics(weights: Tensor) -> dict[str, Tensor]:
    """Entropy (nats), effective number of keys (1 / sum of squares) and strongest key of each row.

    (..., query, key) -> (..., query) each. A row without visible keys has entropy 0 and 0 effective keys.
    """
    squares = weights.square().sum(-1)
    return {
        "entropy": -torch.special.xlogy(weights, weights).sum(-1),
        "effective_keys": torch.where(squares > 0, 1 / squares, 0.0),
        "top_key": weights.argmax(-1).int(),
    }


def _node(stack: Stack, batches: list[dict[str, NDArray]]) -> xr.Dataset:
    arrays = {name: np.concatenate([part[name] for part in batches]) for name in batches[0]}
    variables = {name: (CUBE if name == "attention" else ROW, array) for name, array in arrays.items()}
    n_layers, n_heads = arrays["attention"].shape[1:3]
    coords: dict[str, Any] = {"layer": np.arange(n_layers), "head": np.arange(n_heads)}
    coords["layer_name"] = ("layer", np.array(stack.layers, dtype=object))
    coords |= token_coordinates("query", stack.query) | token_coordinates("key", stack.key)
    node = xr.Dataset(variables, coords)
    if "entropy" in node:
        node["entropy"].attrs = {"units": "nats"}
    return node


def token_coordinates(axis: str, tokens: TokenMap) -> dict[str, xr.Variable]:
    """Coordinates of a token axis: ``{axis}_time``, ``_start``, ``_end``, ``_row``, ``_part``, ``_readout``."""
    samples = {"units": "input samples from the start of the window"}
    meaning = {"flag_values": list(range(len(PARTS))), "flag_meanings": " ".join(PARTS)}
    return {
        axis: xr.Variable(axis, np.arange(len(tokens))),
        f"{axis}_time": xr.Variable(axis, tokens.time, samples),
        f"{axis}_start": xr.Variable(axis, tokens.start, samples),
        f"{axis}_end": xr.Variable(axis, tokens.end, samples),
        f"{axis}_row": xr.Variable(axis, tokens.row),
        f"{axis}_part": xr.Variable(axis, tokens.part, meaning),
        f"{axis}_readout": xr.Variable(axis, tokens.readout),
    }
