"""Attribute the forecast of a model to the samples of its history."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from laglens.attribution.integrated import BASELINES, POINTS, averaged
from laglens.attribution.methods import METHODS, Explained
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster, ScaledForecaster
from laglens.models.tokens import SPECIAL
from laglens.signals.windows import histories

logger = logging.getLogger("laglens")

ALL = ("gradient", "input_x_gradient", *BASELINES, "occlusion")
DEFAULT = ("gradient", "input_x_gradient", "integrated_gradients", "occlusion")
WITHOUT_GRADIENT = ("occlusion",)


def attribute_forecast(
    model: Forecaster,
    windows: xr.Dataset,
    *,
    methods: Sequence[str] = DEFAULT,
    step: int | None = None,
    window: int | str = "auto",
    points: int = POINTS,
    seed: int = 0,
    batch: int = 128,
    device: torch.device | str = "cpu",
) -> xr.Dataset:
    """Attribute one number of the forecast to every history sample.

    Parameters
    ----------
    model
        With ``history``, ``horizon`` and ``forward (batch, history) -> (batch, horizon)`` in the units of the input;
        ``stacks`` for ``window="auto"`` (see `laglens.models.registry`).
    windows
        ``series (sample, time)``, the history first; such as the root of a time tree, so that both see the same. Of a
        model of several channels each channel is a sample, those of a window one after the other, and its forecast is
        attributed to its own history; the other channels stay as they are.
    methods
        ``gradient``, ``input_x_gradient``, ``occlusion`` (see `laglens.attribution.methods`), ``integrated_gradients``
        from the mean of the history, ``integrated_gradients_trend`` from its straight line, and
        ``integrated_gradients_surrogates``, averaged over AR(1) noise like it (see `laglens.attribution.integrated`).
        Those that need a gradient are left out for a model that is not ``differentiable``.
    step
        Forecast sample that is explained, 1 = the first after the history; None: the mean of the horizon.
    window
        Samples that occlusion takes out together; ``auto``: one token.
    points
        Of the integral of integrated gradients.
    seed
        Of the surrogates.
    batch
        Windows per pass through the model.

    Returns
    -------
    xr.Dataset
        ``attribution (attribution_method, sample, time)``, signed: forecast per input unit for the gradient, else in
        units of the forecast; ``completeness (attribution_method, sample)`` of integrated gradients, NaN for others:
        relative difference of their sum from what they explain; ``explained (sample)``: the forecast itself. ``time``
        in input samples from the window's start. (The dimension is not called `method`, which `sel` takes for its own
        argument.) Attributes of `windows`, and ``step`` (a number or ``mean``), ``target_time``, ``occlusion_window``,
        ``scaling``, ``left_out`` (names of methods).

    Raises
    ------
    LaglensError
        Unknown method, a step beyond the horizon, a window without history, a model without gradient and no method
        that does without, or a forecast that is not finite.
    """
    _check(methods, step, model.horizon)
    left_out = _without_gradient(model, methods)
    methods = [name for name in methods if name not in left_out]
    width = token_width(model) if window == "auto" else int(window)
    if width < 1:
        raise LaglensError(f"window is {window!r}; it must be 'auto' or at least one input sample")
    shown = torch.from_numpy(histories(windows, model.history)).to(device)
    explained = Explained(model.eval().to(device), step, batch, *_beside(shown, windows, getattr(model, "channels", 1)))
    with torch.no_grad():
        every = torch.arange(len(shown), device=shown.device).split(batch)
        forecast = torch.cat([explained(shown[part], part) for part in every])
    if broken := int((~torch.isfinite(forecast)).sum()):
        raise LaglensError(f"the forecast of {broken} of {len(forecast)} windows is not finite; look into the weights")
    found, completeness = {}, {}
    for i, name in enumerate(methods):
        if name in METHODS:
            values, gap = METHODS[name](explained, shown, width), torch.full_like(forecast, torch.nan)
        else:
            values, gap = averaged(name, explained, shown, points, np.random.default_rng([seed, i]))
        found[name], completeness[name] = values.cpu().numpy(), gap.cpu().numpy()
    attrs = windows.attrs | {"history": model.history, "horizon": model.horizon, "occlusion_window": width}
    attrs |= {"step": step or "mean", "target_time": model.history + (step or 1) - 1}
    attrs["left_out"] = left_out
    attrs["scaling"] = "of the intact history" if isinstance(model, ScaledForecaster) else "of the history shown"
    labelled = _labelled(found, forecast.cpu().numpy(), windows, attrs)
    gaps = np.stack(list(completeness.values()))
    return labelled.assign(completeness=(("attribution_method", "sample"), gaps))


def token_width(model: Forecaster) -> int:
    """Input samples of one token of the model's first stack, whole ones, at least 1."""
    tokens = model.stacks[0].key
    return max(1, int(np.median((tokens.end - tokens.start)[tokens.part != SPECIAL])))


def _beside(shown: torch.Tensor, windows: xr.Dataset, channels: int) -> tuple[torch.Tensor, torch.Tensor] | tuple[()]:
    """Every channel with all channels of its window, ``(sample, channel, history)``, and which one it is."""
    if channels == 1:
        return ()
    each = np.arange(len(shown)) % channels
    if "channel" not in windows.coords or not np.array_equal(windows["channel"], each):
        raise LaglensError(
            f"the model takes {channels} channels together, and the windows do not say which they are; give the root "
            "of a time tree"
        )
    together = shown.unflatten(0, (-1, channels)).repeat_interleave(channels, 0)
    return together, torch.from_numpy(each).to(shown.device)


def _check(methods: Sequence[str], step: int | None, horizon: int) -> None:
    if not horizon:
        raise LaglensError("this model does not forecast, so there is nothing to attribute to its history")
    unknown = [name for name in methods if name not in ALL]
    if unknown or not methods:
        named = f"method '{unknown[0]}' is not one of" if unknown else "no method given; choose from"
        raise LaglensError(f"{named} {', '.join(ALL)}")
    if step is not None and not 1 <= step <= horizon:
        raise LaglensError(f"step is {step}; this model forecasts {horizon} samples, counted from 1")


def _without_gradient(model: Forecaster, methods: Sequence[str]) -> list[str]:
    """Methods that this model cannot have, which the log tells.

    Raises
    ------
    LaglensError
        None of the methods is left.
    """
    if getattr(model, "differentiable", True):
        return []
    left_out = [name for name in methods if name not in WITHOUT_GRADIENT]
    reason = f"the forecast of {type(model).__name__} has no gradient in its history"
    if len(left_out) == len(methods):
        raise LaglensError(f"{reason}, which {' and '.join(left_out)} need; add 'occlusion' to attribution.methods")
    if left_out:
        logger.info("%s: %s left out", reason, " and ".join(left_out))
    return left_out


def _labelled(found: dict[str, NDArray], forecast: NDArray, windows: xr.Dataset, attrs: dict[Any, Any]) -> xr.Dataset:
    stacked = np.stack(list(found.values()))
    coords: dict[Any, Any] = {name: c.variable for name, c in windows.coords.items() if c.dims == ("sample",)}
    units = {"units": "input samples from the start of the window"}
    coords["time"] = xr.Variable("time", np.arange(stacked.shape[-1]), units)
    coords["attribution_method"] = np.array(list(found), dtype=object)
    variables = {"attribution": (("attribution_method", "sample", "time"), stacked), "explained": ("sample", forecast)}
    return xr.Dataset(variables, coords, attrs)
