"""How much a head matters for the forecast, by removing it: what it gives becomes 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture
from laglens.attention.weights import repeat_groups
from laglens.errors import LaglensError
from laglens.heads.losses import UNIT, labelled_heads, shown_and_truth, spread, windows_at_once
from laglens.models.forecaster import Forecaster
from laglens.progress import track

Array = NDArray[np.float64]
ABLATION = {
    "error_change": "mean absolute error without the head minus with it",
    "forecast_change": "mean absolute change of the forecast without the head",
}


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


class NoReading:
    """Keeps nothing; the model's own kernel runs."""

    def read(self, call: AttentionCall) -> Reading | None:
        """Read nothing."""
        return None


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
    shown, truth = shown_and_truth(model, windows)
    sd, batch = spread(shown), batch or windows_at_once(model)
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
        nodes[f"/{stack.name}"] = labelled_heads(stack, columns, windows, ABLATION, UNIT)
    return xr.DataTree.from_dict(nodes)


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
        options: dict[str, Any] = {"certify": False, "reader": NoReading() if captures or removed else None}
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


def _mean_known(errors: Array) -> Array:
    known = np.isfinite(errors)
    return np.where(known.any(1), np.where(known, errors, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)
