"""How much a head matters for the forecast: by the gradient of the loss (Michel et al. 2019), and all other ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from laglens.attention.assembly import Batch
from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture
from laglens.attention.weights import attention_weights, repeat_groups
from laglens.errors import LaglensError
from laglens.heads.ablation import ablate_heads
from laglens.heads.losses import labelled_heads, shown_and_truth, spread, windows_at_once
from laglens.heads.norms import head_norms
from laglens.heads.nothing import NothingToMeasureError
from laglens.heads.zeroing import zeroed_heads
from laglens.lags.alike import stack_dataset
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.progress import logger

Array = NDArray[np.float64]
GRADIENT = {
    "michel": "|sum of A dL/dA| of a window (Michel et al. 2019)",
    "michel_token": "sum over queries of |sum over keys of A dL/dA|",
    "michel_map": "sum over pairs of |A dL/dA|",
    "signed": "sum of A dL/dA: minus what removing the head adds to the loss, to first order",
}


@dataclass
class GradientReader:
    """Computes attention so that a loss has a gradient in its weights, and keeps them by module.

    Attributes
    ----------
    weights
        Of each module the weights of its calls, ``(..., query, key)``, in order.
    """

    weights: dict[str, list[Tensor]] = field(default_factory=dict)

    def read(self, call: AttentionCall) -> Reading:
        """Keep the weights of a call, and replace its kernel where it has one."""
        if call.weights is not None:
            weights, output = call.weights, None
        else:
            query, key, value = call.operands
            weights = attention_weights(query, key, call.mask, call.is_causal, call.scale)
            output = weights.to(value.dtype) @ repeat_groups(value, query)
        self.weights.setdefault(call.module, []).append(weights)
        return Reading(output=output)


def measure_importance(
    model: Forecaster, windows: xr.Dataset, *, device: torch.device | str = "cpu", **options: Any
) -> xr.DataTree:
    """All measures of importance of every head.

    `head_importance`, `laglens.heads.ablation.ablate_heads`, `laglens.heads.norms.head_norms` and
    `laglens.heads.zeroing.zeroed_heads`.

    What the model or the windows do not allow is left out, with the reason in the attribute ``left_out``.

    Parameters
    ----------
    model, windows, options
        As `head_importance`.

    Raises
    ------
    LaglensError
        The model has no horizon.
    """
    parts, reason = [ablate_heads(model, windows, device=device, **options)], None
    try:
        parts.append(head_importance(model, windows, device=device, **options))
    except NothingToMeasureError as error:
        reason = str(error)
    parts.append(head_norms(model, windows, device=device, **options))
    try:
        parts.append(zeroed_heads(model, windows, batch=windows_at_once(model), device=device))
        told = [f"value zeroing of stack '{name}': {why}" for name, why in parts[-1].attrs["left_out"].items()]
    except LaglensError as error:  # layers that cannot run alone
        told = [str(error)]
    if flat := np.count_nonzero(np.isnan(spread(shown_and_truth(model, windows)[0]))):
        said = f"{flat} of {windows.sizes['sample']} windows, whose history is constant, have no error in its units"
        logger.warning(said)
        told.append(said)
    reason = "; ".join(filter(None, (reason, *told)))
    merged = {
        name: xr.merge([stack_dataset(part, name) for part in parts if name in part.children], compat="no_conflicts")
        for name in parts[0].children
    }
    root = xr.Dataset(attrs={**windows.attrs, "left_out": reason})
    return xr.DataTree.from_dict({"/": root, **{f"/{name}": node for name, node in merged.items()}})


def head_importance(
    model: Forecaster, windows: xr.Dataset, *, batch: int | None = None, device: torch.device | str = "cpu"
) -> xr.DataTree:
    r"""Importance of every head by the gradient of its forecast error; one node per attention stack.

    With a gate :math:`\xi_h` on the output of head h, :math:`dL/d\xi_h = \sum_{ij} A_{ij}\, dL/dA_{ij}`: one backward
    pass for all heads, and one loss per window, so that nothing accumulates over a batch.

    Parameters
    ----------
    model
        Differentiable, with a horizon.
    windows
        ``series (sample, time)``; the loss is the mean squared error over the known horizon, in units of the history.
    batch
        Windows per pass; changes nothing but the memory. Default: up to 16, as many as fit in 2 GB.

    Returns
    -------
    xr.DataTree
        ``michel``, ``michel_token``, ``michel_map`` and ``signed (sample, layer, head)``: always michel <= michel_token
        <= michel_map. NaN for windows without a known horizon or of a constant history. Decoding steps are summed, as
        one gate acts on all.

    Raises
    ------
    LaglensError
        The model has no horizon, no gradient, or no window has a known horizon.

    References
    ----------
    Michel et al. 2019 (arXiv 1905.10650); ``michel_token`` is what their published code computes.
    """
    if model.horizon < 1:
        raise LaglensError("the model does not forecast, so no head matters for its forecast")
    if not model.differentiable:
        raise NothingToMeasureError(
            "the forecast of this model has no gradient; remove heads one by one instead (ablate_heads)"
        )
    model = model.eval().to(device)
    shown, truth = shown_and_truth(model, windows)
    sd = spread(shown)
    truth = np.where(np.isnan(sd)[:, None], np.nan, truth)  # no error where it has no unit
    if not np.isfinite(truth).any():
        raise NothingToMeasureError("no window has a known horizon, so the forecast has no error")
    step = max((batch or windows_at_once(model)) // model.channels, 1) * model.channels
    found: dict[str, dict[str, list[Array]]] = {stack.name: {} for stack in model.stacks}
    for start in range(0, len(shown), step):
        part = slice(start, start + step)
        for place, name, values in _of_batch(model, shown[part], truth[part], np.nan_to_num(sd[part], nan=1.0), device):
            found[place].setdefault(name, []).append(values)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(truth).any(1))[:, None]
    nodes = {}
    for stack in model.stacks:
        columns = {name: np.where(known[..., None], np.concatenate(parts), np.nan)
                   for name, parts in found[stack.name].items()}  # fmt: skip
        nodes[f"/{stack.name}"] = labelled_heads(stack, columns, windows, GRADIENT, "1")
    return xr.DataTree.from_dict(nodes)


def importance_table(importance: xr.DataTree) -> pd.DataFrame:
    """One row per head: every measure of importance, its mean over windows.

    Parameters
    ----------
    importance
        Nodes with variables of `head_importance`, `ablate_heads` or both.

    Returns
    -------
    pd.DataFrame
        ``stack``, ``layer``, ``head``; means over windows; ``{measure}_relative`` of the three after Michel: divided by
        the L2 norm over the heads of the layer, as they do; ``n_windows`` with a known horizon.
    """
    tables = []
    for name in importance.children:
        node = stack_dataset(importance, name).drop_vars("layer_name", errors="ignore")
        means = node.mean("sample")
        for measure in [key for key in GRADIENT if key in means and key != "signed"]:
            norm = (means[measure] ** 2).sum("head") ** 0.5
            means[f"{measure}_relative"] = means[measure] / norm.where(norm > 0)
        table = means.to_dataframe(dim_order=["layer", "head"]).reset_index()
        counted = node["michel"] if "michel" in node else node["error_change"]
        tables.append(table.assign(stack=name, n_windows=int(counted.isel(layer=0, head=0).count())))
    table = pd.concat(tables, ignore_index=True)
    first = ["stack", "layer", "head"]
    return table[[*first, *table.columns.drop(first)]]


def _of_batch(
    model: Forecaster, shown: Array, truth: Array, sd: Array, device: torch.device | str
) -> Iterator[tuple[str, str, Array]]:
    """Stack, measure and values ``(sample, layer, head)`` of the windows of a batch."""
    reader = GradientReader()
    history = torch.from_numpy(shown).to(device).requires_grad_()
    together = history if model.channels == 1 else history.unflatten(0, (-1, model.channels))
    with torch.enable_grad(), AttentionCapture(model, certify=False, reader=reader):
        forecast = model(together)
        forecast = forecast if model.channels == 1 else forecast.flatten(0, 1)
        loss = _loss(forecast, torch.from_numpy(truth).to(device), torch.from_numpy(sd).to(device))
    calls = {layer: _calls(stack, reader.weights, layer) for stack in model.stacks for layer in stack.layers}
    weights = [tensor for tensors in calls.values() for tensor in tensors]
    if not loss.requires_grad or not all(tensor.requires_grad for tensor in weights):
        raise NothingToMeasureError("the forecast of this model has no gradient in its attention weights")
    gradients = iter(torch.autograd.grad(loss, weights, allow_unused=True))
    placed = Batch(slice(0, len(shown) // model.channels), None if model.channels == 1 else model.channels)
    of_layer = {layer: [(tensor, next(gradients)) for tensor in tensors] for layer, tensors in calls.items()}
    for stack in model.stacks:
        columns: dict[str, list[Array]] = {name: [] for name in GRADIENT}
        for layer in stack.layers:
            for name, values in _reduced(of_layer[layer], placed, layer).items():
                columns[name].append(values)
        for name, layers in columns.items():
            yield stack.name, name, np.stack(layers, 1)


def _calls(stack: Stack, weights: Mapping[str, list[Tensor]], layer: str) -> list[Tensor]:
    found = weights.get(layer, [])
    chosen = found if stack.steps else found[stack.call : stack.call + 1]
    if not chosen:
        raise LaglensError(f"stack '{stack.name}': no attention call in {layer}")
    return chosen


def _reduced(calls: Sequence[tuple[Tensor, Tensor | None]], batch: Batch, layer: str) -> dict[str, Array]:
    """Sums over all calls of a layer, ``(sample, head)`` each."""
    sums: list[list[Array]] = []
    for weights, gradient in calls:
        product = torch.zeros_like(weights) if gradient is None else (weights * gradient).detach()
        product = batch.unfold(product.double(), product.shape[:-2], layer)
        product = product if batch.channels is None else product.flatten(0, 1)
        rows = product.sum(-1)
        found = rows.sum(-1), rows.abs().sum(-1), product.abs().sum((-1, -2))
        sums.append([values.cpu().numpy() for values in found])
    signed, token, pair = np.sum(sums, axis=0)
    return {"michel": np.abs(signed), "michel_token": token, "michel_map": pair, "signed": signed}


def _loss(forecast: Tensor, truth: Tensor, sd: Tensor) -> Tensor:
    """Sum over windows of the mean squared error over the known horizon."""
    known = torch.isfinite(truth)
    error = torch.where(known, (forecast - torch.where(known, truth, 0.0)) / sd[:, None], 0.0)
    return ((error**2).sum(1) / known.sum(1).clamp_min(1)).sum()
