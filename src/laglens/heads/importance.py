"""How much a head matters for the forecast: by the gradient of the loss (Michel et al. 2019) and by removing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from laglens.heads.norms import head_norms
from laglens.heads.nothing import NothingToMeasureError
from laglens.lags.alike import stack_dataset
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.progress import track
from laglens.signals.windows import histories

Array = NDArray[np.float64]
GRADIENT = {
    "michel": "|sum of A dL/dA| of a window (Michel et al. 2019)",
    "michel_token": "sum over queries of |sum over keys of A dL/dA|",
    "michel_map": "sum over pairs of |A dL/dA|",
    "signed": "sum of A dL/dA: minus what removing the head adds to the loss, to first order",
}
ABLATION = {
    "error_change": "mean absolute error without the head minus with it",
    "forecast_change": "mean absolute change of the forecast without the head",
}
UNIT = "standard deviations of the history"


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


@dataclass(frozen=True)
class RemovedHeads:
    """Edit of a capture that sets what heads give to 0, by module.

    Attributes
    ----------
    heads
        Modules and heads.
    samples
        Rows of the batch, which some models fold together with the heads.
    """

    heads: Mapping[str, Sequence[int]]
    samples: int

    def __call__(self, call: AttentionCall) -> AttentionCall:
        """Remove the heads from one call."""
        chosen = list(self.heads.get(call.module, ()))
        if not chosen:
            return call
        if call.weights is not None:
            folded = call.weights.dim() == 3
            weights = call.weights.unflatten(0, (self.samples, -1)) if folded else call.weights
            weights = weights.clone()
            weights[..., chosen, :, :] = 0
            return replace(call, weights=weights.flatten(0, 1) if folded else weights)
        query, key, value = call.operands
        value = repeat_groups(value, query).clone()
        value[..., chosen, :, :] = 0
        return replace(call, key=repeat_groups(key, query), value=value)


class _NoReading:
    def read(self, call: AttentionCall) -> Reading | None:
        return None


def measure_importance(
    model: Forecaster, windows: xr.Dataset, *, device: torch.device | str = "cpu", **options: Any
) -> xr.DataTree:
    """All measures of importance of every head: `head_importance`, `ablate_heads` and `laglens.heads.norms.head_norms`.

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
    merged = {
        name: xr.merge([stack_dataset(part, name) for part in parts], compat="no_conflicts")
        for name in parts[0].children
    }
    root = xr.Dataset(attrs={**windows.attrs, "left_out": reason or ""})
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
        <= michel_map. NaN for windows without a known horizon. Decoding steps are summed, as one gate acts on all.

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
    shown, truth = _shown_and_truth(model, windows)
    if not np.isfinite(truth).any():
        raise NothingToMeasureError("no window has a known horizon, so the forecast has no error")
    step = max((batch or windows_at_once(model)) // model.channels, 1) * model.channels
    found: dict[str, dict[str, list[Array]]] = {stack.name: {} for stack in model.stacks}
    for start in range(0, len(shown), step):
        part = slice(start, start + step)
        for place, name, values in _of_batch(model, shown[part], truth[part], device):
            found[place].setdefault(name, []).append(values)
    known: NDArray[np.bool_] = np.asarray(np.isfinite(truth).any(1))[:, None]
    nodes = {}
    for stack in model.stacks:
        columns = {name: np.where(known[..., None], np.concatenate(parts), np.nan)
                   for name, parts in found[stack.name].items()}  # fmt: skip
        nodes[f"/{stack.name}"] = _labelled(stack, columns, windows, GRADIENT, "1")
    return xr.DataTree.from_dict(nodes)


def ablate_heads(
    model: Forecaster, windows: xr.Dataset, *, batch: int | None = None, device: torch.device | str = "cpu"
) -> xr.DataTree:
    """Remove one head after the other (its output is 0), and see what the forecast loses; one node per stack.

    Parameters
    ----------
    model, windows, batch
        As `head_importance`; needs no gradient, and one forecast per head.

    Returns
    -------
    xr.DataTree
        ``error_change`` (NaN where the truth is not known) and ``forecast_change (sample, layer, head)``, in standard
        deviations of the history of each window.

    Raises
    ------
    LaglensError
        The model has no horizon.
    """
    if model.horizon < 1:
        raise LaglensError("the model does not forecast, so no head matters for its forecast")
    model = model.eval().to(device)
    shown, truth = _shown_and_truth(model, windows)
    sd, batch = _spread(shown), batch or windows_at_once(model)
    intact, heads, clean = _run(model, shown, batch, device)
    n_runs = sum(heads[layer] for stack in model.stacks for layer in stack.layers)
    progress = iter(track(range(n_runs), "removing heads", total=n_runs))
    nodes: dict[str, xr.Dataset] = {}
    before = np.abs(intact - truth)
    for stack in model.stacks:
        shape = (len(shown), len(stack.layers), heads[stack.layers[0]])
        columns = {name: np.full(shape, np.nan) for name in ABLATION}
        for layer, head in np.ndindex(shape[1:]):
            next(progress, None)
            changed = _run(model, shown, batch, device, {stack.layers[layer]: [head]}, clean)[0]
            columns["forecast_change"][:, layer, head] = np.abs(changed - intact).mean(1) / sd
            columns["error_change"][:, layer, head] = _mean_known(np.abs(changed - truth) - before) / sd
        nodes[f"/{stack.name}"] = _labelled(stack, columns, windows, ABLATION, UNIT)
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


def windows_at_once(model: Forecaster, memory: float = 2e9) -> int:
    """How many windows' weights and their gradients fit in `memory` bytes, 1 to 16, at 8 heads per layer."""
    steps = {stack.name: model.horizon if stack.steps else 1 for stack in model.stacks}
    pairs = sum(len(s.layers) * len(s.query) * len(s.key) * steps[s.name] for s in model.stacks)
    return int(np.clip(memory / (pairs * 8 * 4 * 4), 1, 16))


def _of_batch(
    model: Forecaster, shown: Array, truth: Array, device: torch.device | str
) -> Iterator[tuple[str, str, Array]]:
    """Stack, measure and values ``(sample, layer, head)`` of the windows of a batch."""
    reader = GradientReader()
    history = torch.from_numpy(shown).to(device).requires_grad_()
    together = history if model.channels == 1 else history.unflatten(0, (-1, model.channels))
    with torch.enable_grad(), AttentionCapture(model, certify=False, reader=reader):
        forecast = model(together)
        forecast = forecast if model.channels == 1 else forecast.flatten(0, 1)
        loss = _loss(forecast, torch.from_numpy(truth).to(device), torch.from_numpy(_spread(shown)).to(device))
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


def _shown_and_truth(model: Forecaster, windows: xr.Dataset) -> tuple[Array, Array]:
    series = windows["series"].transpose("sample", "time").values.astype(np.float64)
    return histories(windows, model.history), series[:, model.history : model.history + model.horizon]


def _spread(shown: Array) -> Array:
    sd = shown.std(1, ddof=1)
    if not (sd > 0).all():
        raise LaglensError(f"the history of window {int(sd.argmin())} is constant, so errors have no unit")
    return sd


def _run(
    model: Forecaster,
    shown: Array,
    batch: int,
    device: torch.device | str,
    removed: Mapping[str, Sequence[int]] | None = None,
    clean: dict[int, AttentionCapture] | None = None,
) -> tuple[Array, dict[str, int], dict[int, AttentionCapture]]:
    """Forecast ``(sample, step)``; without `removed` also the heads of each module and the captures by batch size."""
    forecasts, heads, captures = [], dict[str, int](), clean or {}
    step = max(batch // model.channels, 1) * model.channels
    for start in range(0, len(shown), step):
        history = torch.from_numpy(shown[start : start + step]).to(device)
        n = len(history)
        together = history if model.channels == 1 else history.unflatten(0, (-1, model.channels))
        options: dict[str, Any] = {"certify": False, "reader": _NoReading() if captures or removed else None}
        if removed is not None:
            options |= {"edit": RemovedHeads(removed, n), "clean": captures[n]}
        with torch.no_grad(), AttentionCapture(model, **options) as capture:
            forecast = model(together)
        if removed is None:
            captures = captures | {n: capture}
            shapes = ((record.module, record.weights) for record in capture.records if record.weights is not None)
            for module, weights in shapes:
                heads.setdefault(module, weights.shape[-3] if weights.dim() > 3 else len(weights) // n)
        forecasts.append((forecast if model.channels == 1 else forecast.flatten(0, 1)).double().cpu().numpy())
    return np.concatenate(forecasts), heads, captures


def _labelled(
    stack: Stack, columns: Mapping[str, Array], windows: xr.Dataset, labels: Mapping[str, str], unit: str
) -> xr.Dataset:
    dims = ("sample", "layer", "head")
    variables = {name: (dims, values, {"long_name": labels[name], "units": unit}) for name, values in columns.items()}
    shape = next(iter(columns.values())).shape
    coords: dict[str, Any] = {
        "sample": windows["sample"].values,
        "layer": np.arange(shape[1]),
        "head": np.arange(shape[2]),
        "layer_name": ("layer", np.array(stack.layers, dtype=object)),
    }
    return xr.Dataset(variables, coords)


def _mean_known(errors: Array) -> Array:
    known = np.isfinite(errors)
    return np.where(known.any(1), np.where(known, errors, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)
