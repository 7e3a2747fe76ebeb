"""Lag knock-out: what the forecast loses when the attention at a lag is cut."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture, read_attention
from laglens.attribution.cuts import HALF_WIDTH, Cut, CutEdges, one_head_at_a_time, single_lags, token_lags
from laglens.errors import LaglensError
from laglens.heads.losses import spread
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.progress import logger, track
from laglens.signals.windows import histories

Array = NDArray[np.float64]
FORECASTING = ("horizon->history", "readout->history")


class NoReading:
    """Reader that keeps nothing: the model's own kernels run."""

    def read(self, call: AttentionCall) -> Reading | None:
        """Keep nothing of a call."""
        return None


def forecasting_part(stack: Stack, history: int) -> str | None:
    """The query part in which a stack reads the history for the forecast; None where it does not."""
    for part in FORECASTING:
        try:
            token_lags(stack, history, part)
        except LaglensError:
            continue
        return part
    return None


def knock_out(
    model: Forecaster,
    windows: xr.Dataset,
    cuts: Sequence[Cut],
    *,
    half_width: float = HALF_WIDTH,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> xr.Dataset:
    """Forecast every window with each cut, and compare with the intact forecast.

    In every stack that reads the history for the forecast, scores of pairs within `half_width` tokens of a lag of the
    cut become -inf, in all layers or in the heads of the cut, and the softmax renormalises.

    Parameters
    ----------
    model
        In evaluation mode, with a horizon.
    windows
        ``series (sample, time)``; the horizon may hold NaN.
    cuts
        What to cut, with lags for every sample (see `laglens.attribution.cuts`).
    half_width
        [tokens].
    batch
        Windows per forward pass.

    Returns
    -------
    xr.Dataset
        In standard deviations of each window's history: ``forecast_change (cut, sample)``, mean over the horizon of
        the absolute difference from the intact forecast; ``error_change (cut, sample)``, mean absolute error with the
        cut minus without (NaN where the truth is not known); ``error (sample)`` of the intact forecast. ``spared
        (cut)``: queries that would have lost every key, and kept all. Windows of a constant history have no unit: they
        are NaN, and counted in the attribute ``flat_windows``.

    Raises
    ------
    LaglensError
        The model has no horizon or no stack that reads its history for it; a cut has other samples than the windows;
        the history of every window is constant.
    """
    if model.horizon < 1:
        raise LaglensError("the model does not forecast, so a knock-out has no effect to measure")
    lags = _lags_of_modules(model, device)
    wrong = [cut.name for cut in cuts if len(cut.lags) != windows.sizes["sample"]]
    if wrong:
        raise LaglensError(f"cut '{wrong[0]}' has lags for another number of samples than {windows.sizes['sample']}")
    model = model.eval().to(device)
    shown = torch.from_numpy(histories(windows, model.history)).to(device)
    width = half_width * token_step(model)
    started = time.perf_counter()
    batch = max(batch // model.channels, 1) * model.channels
    intact = torch.cat([_forecast(model, part) for part in shown.split(batch)])
    _say_cost(len(cuts), time.perf_counter() - started)
    clean: dict[int, AttentionCapture] = {}
    changed, spared = [], []
    for cut in track(cuts, "cutting lags", total=len(cuts)):
        padded = _padded(cut.lags, device)
        edits = [CutEdges(lags, part, width, cut.heads) for part in padded.split(batch)]
        parts = zip(shown.split(batch), edits, strict=True)
        changed.append(torch.cat([_forecast(model, part, edit, clean) for part, edit in parts]))
        spared.append(sum(edit.spared for edit in edits))
    moved = torch.stack(changed) if changed else intact.new_empty((0, *intact.shape))
    return _effects(windows, model, intact, moved, [cut.name for cut in cuts], spared)


def causal_lag_curve(
    model: Forecaster, windows: xr.Dataset, *, longest: float | None = None, **options: Any
) -> xr.Dataset:
    """Effect of cutting one token lag at a time: ``forecast_change (lag, sample)`` and the rest of `knock_out`.

    Needs no truth: how far the forecast moves says how much it uses the lag.

    Parameters
    ----------
    longest
        Longest lag [input samples]; default: the history.
    options
        As in `knock_out`.
    """
    step = token_step(model)
    cuts = single_lags(windows.sizes["sample"], longest or model.history, step)
    effects = knock_out(model, windows, cuts, half_width=0.5, **options)
    lag = xr.Variable("lag", [float(cut.name) for cut in cuts], {"units": "input samples"})
    return effects.rename_dims(cut="lag").drop_vars("cut").assign_coords(lag=lag)


def knock_out_heads(model: Forecaster, windows: xr.Dataset, cut: Cut, **options: Any) -> xr.DataTree:
    """Effect of a cut in one head at a time: which heads the forecast needs at these lags.

    Parameters
    ----------
    cut
        Its lags are cut in every head of the stacks that read the history for the forecast, one after the other.
    options
        As in `knock_out`.

    Returns
    -------
    xr.DataTree
        One node per stack: ``forecast_change`` and ``error_change (layer, head, sample)``, as in `knock_out`.
    """
    stacks = [stack for stack in model.stacks if forecasting_part(stack, model.history)]
    first = torch.from_numpy(histories(windows.isel(sample=slice(model.channels)), model.history))
    first = first if model.channels == 1 else first[None]
    _, capture = read_attention(model.eval().to("cpu"), first, certify=False, not_attention=model.not_in_time)
    n_heads = {record.module: record.weights.shape[-3] for record in capture.records if record.weights is not None}
    cuts = one_head_at_a_time(stacks, n_heads, cut.lags)
    effects = knock_out(model, windows, cuts, **options)
    nodes, start = {}, 0
    for stack in stacks:
        shape = (len(stack.layers), n_heads[stack.layers[0]])
        mine = effects.isel(cut=slice(start, start := start + shape[0] * shape[1]))
        columns = {name: mine[name].values.reshape(*shape, -1) for name in ("forecast_change", "error_change")}
        coords: dict[str, Any] = {
            "layer": np.arange(shape[0]),
            "head": np.arange(shape[1]),
            "sample": effects["sample"].values,
        }
        coords["layer_name"] = ("layer", np.array(stack.layers, dtype=object))
        nodes[f"/{stack.name}"] = xr.Dataset({k: (("layer", "head", "sample"), v) for k, v in columns.items()}, coords)
    return xr.DataTree.from_dict({"/": effects[["error"]].assign_attrs(cut=cut.name), **nodes})


def token_step(model: Forecaster) -> float:
    """Input samples from one key token to the next, in the first stack that reads the history for the forecast."""
    stacks = [stack for stack in model.stacks if forecasting_part(stack, model.history)] or list(model.stacks)
    return stacks[0].key.step


def _lags_of_modules(model: Forecaster, device: torch.device | str) -> dict[tuple[str, int | None], Tensor]:
    found: dict[tuple[str, int | None], Tensor] = {}
    for stack in model.stacks:
        part = forecasting_part(stack, model.history)
        if part is not None:
            lags = torch.from_numpy(token_lags(stack, model.history, part)).to(device)
            found |= {(module, None if stack.steps else stack.call): lags for module in stack.layers}
    if not found:
        raise LaglensError("no attention stack of the model reads the history for the forecast; nothing to cut")
    return found


def _forecast(
    model: Forecaster, history: Tensor, edit: CutEdges | None = None, clean: dict[int, AttentionCapture] | None = None
) -> Tensor:
    """Forecast ``(sample, history) -> (sample, horizon)``; channels of a window are samples that follow each other.

    `clean` keeps the captures without an edit, by batch size, which a written-out softmax needs to be known by.
    """
    together = history if model.channels == 1 else history.unflatten(0, (-1, model.channels))

    def run(**options: Any) -> tuple[Tensor, AttentionCapture]:
        with torch.no_grad(), AttentionCapture(model, certify=False, reader=NoReading(), **options) as capture:
            return model(together), capture

    if edit is None or clean is None:
        with torch.no_grad():
            forecast = model(together)
    else:
        if len(history) not in clean:
            clean[len(history)] = run()[1]
        forecast = run(edit=edit, clean=clean[len(history)])[0]
    return forecast if model.channels == 1 else forecast.flatten(0, 1)


def _padded(lags: Sequence[Array], device: torch.device | str) -> Tensor:
    longest = max(map(len, lags))
    rows = [np.pad(np.asarray(row, float), (0, longest - len(row)), constant_values=np.nan) for row in lags]
    return torch.from_numpy(np.stack(rows)).to(device)


def _say_cost(n_cuts: int, seconds: float) -> None:
    logger.info("%d cuts, about %.0f s", n_cuts, 1.5 * n_cuts * seconds)


def _effects(
    windows: xr.Dataset, model: Forecaster, intact: Tensor, changed: Tensor, names: list[str], spared: list[int]
) -> xr.Dataset:
    series = windows["series"].transpose("sample", "time").values
    sd = spread(series[:, : model.history])
    flat = np.isnan(sd)
    truth = series[:, model.history : model.history + model.horizon]
    before, after = intact.cpu().numpy(), changed.cpu().numpy()
    error = _mean_known(np.abs(before - truth)) / sd
    unit = {"units": "standard deviations of the history"}
    return xr.Dataset(
        {
            "forecast_change": (("cut", "sample"), np.abs(after - before).mean(2) / sd, unit),
            "error_change": (("cut", "sample"), _mean_known(np.abs(after - truth)) / sd - error, unit),
            "error": ("sample", error, unit),
            "spared": ("cut", np.array(spared)),
        },
        coords={"cut": np.array(names, dtype=object), "sample": windows["sample"].values},
        attrs={"history": model.history, "horizon": model.horizon, "samples_per_token": token_step(model)}
        | ({"flat_windows": int(flat.sum())} if flat.any() else {}),
    )


def _mean_known(errors: Array) -> Array:
    """Mean over the known steps, NaN where none is known: (..., step) -> (...)."""
    known = np.isfinite(errors)
    total = np.where(known, errors, 0.0).sum(-1)
    return np.where(known.any(-1), total / np.maximum(known.sum(-1), 1), np.nan)
