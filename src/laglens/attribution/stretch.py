"""The period that a head follows, finer than its tokens: windows played slower and faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from laglens.attention.cube import attention_tree
from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset
from laglens.lags.precision import resample_windows
from laglens.lags.profiles import ratio_of_part
from laglens.lags.reach import said_of_none, sort_stacks
from laglens.lags.stretch import calibrate_heads, stretched_periods
from laglens.models.forecaster import Forecaster
from laglens.progress import track
from laglens.signals.stretch import stretch_windows, stretched_noise, stretched_waves
from laglens.time.reduce import to_time

NOISES, WAVES = 60, 40


def stretch_period(
    model: Forecaster,
    value: xr.DataArray,
    *,
    n: int = 16,
    per_series: int = 0,
    probe: xr.DataTree | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    **options: Any,
) -> xr.DataTree:
    """Period that every head follows on a series, to a fraction of a token.

    Every window is shown nine times, stretched by 0.75 to 1.25, so that lags of whole tokens fall between the tokens.
    Shifting instead gains nothing: query and key move together.

    Parameters
    ----------
    model
        Reads the history for its forecast.
    value
        ``(sample, time)``: one recorded series, or several. All factors need history / 0.75 samples.
    n, per_series
        Windows; at least so many of every series.
    probe
        `stretch_probe` of the same model; default: made here.
    confidence
        Of the interval over windows.
    seed
        Of the probe and of the bootstrap.
    options
        ``memory_gb`` and ``device``, as of `laglens.attention.cube.attention_tree`.

    Returns
    -------
    xr.DataTree
        As `laglens.lags.stretch.stretched_periods`.

    Raises
    ------
    LaglensError
        The series is too short, no stack reads the history for the forecast, tokens are as fine as the series, or the
        model takes several channels together.
    """
    shown = stretch_windows(value, model.history, n, per_series=per_series)
    probe = stretch_probe(model, seed=seed, **options) if probe is None else probe
    if "left_out" in probe.attrs:
        raise LaglensError(probe.attrs["left_out"])
    profiles = stretched_profiles(model, shown, **options)
    needed = model.history / float(shown["factor"].min())
    return stretched_periods(profiles, probe, resample_windows(shown, needed, seed=seed), confidence=confidence)


def stretch_or_say_why(model: Forecaster, value: xr.DataArray, **options: Any) -> xr.DataTree:
    """`stretch_period`, or a tree without stacks whose attribute ``left_out`` says why there is none."""
    try:
        return stretch_period(model, value, **options)
    except LaglensError as error:
        return xr.DataTree(xr.Dataset(attrs={"left_out": str(error)}))


def stretch_probe(
    model: Forecaster, *, noises: int = NOISES, waves: int = WAVES, seed: int = 0, name: str = "model", **options: Any
) -> xr.DataTree:
    """What stretching shows of a model whatever the signal: its profiles on noise, and how its heads do on waves.

    Parameters
    ----------
    noises, waves
        White noise series, and waves of known period, all stretched like the windows of a signal.
    seed, name
        The study's seed, and the name of the model; both set the random numbers.
    options
        As in `stretch_period`.

    Returns
    -------
    xr.DataTree
        As `laglens.lags.stretch.calibrate_heads`; no stack, and the reason in the attribute ``left_out``, where
        stretching says nothing about the model.
    """
    noise = stretched_profiles(model, stretched_noise(noises, model.history, seed=seed, name=name), **options)
    if "left_out" in noise.attrs:
        return noise
    step = min(float(node.attrs["samples_per_token"]) for node in noise.children.values())
    try:
        shown = stretched_waves(waves, model.history, step, seed=seed, name=name)
        return calibrate_heads(noise, stretched_profiles(model, shown, **options))
    except LaglensError as error:  # tokens too coarse for two cycles of any period
        return xr.DataTree(xr.Dataset(attrs=noise.attrs | {"left_out": str(error)}))


def stretched_profiles(model: Forecaster, shown: xr.Dataset, **options: Any) -> xr.DataTree:
    """Lag profiles of a model on stretched windows, as ratios to uniform in the headline part of each stack.

    Parameters
    ----------
    shown
        ``series (factor, sample, time)`` from `laglens.signals.stretch`.
    options
        As in `stretch_period`.

    Returns
    -------
    xr.DataTree
        One node per stack that reads the history for the forecast: ``ratio (factor, sample, layer, head, lag)``, past
        lags in input samples of the stretched window. No stack, and the reason in the attribute ``left_out``, where
        there is none, tokens are as fine as the series, or the model takes several channels together.
    """
    if why := _why_not(model):
        return xr.DataTree(xr.Dataset(attrs=shown.attrs | {"left_out": why}))
    found: dict[str, list[xr.DataArray]] = {}
    attrs: dict[str, dict[str, Any]] = {}
    for factor in track(range(shown.sizes["factor"]), "stretching", total=shown.sizes["factor"]):
        series = shown[["series"]].isel(factor=factor, drop=True)
        tree = to_time(attention_tree(model, _with_horizon(series, model), store="time", statistics=(), **options))
        stacks, left_out = sort_stacks(tree)
        if not stacks:
            return xr.DataTree(xr.Dataset(attrs=shown.attrs | {"left_out": said_of_none(left_out)}))
        for name, (part, layout) in stacks.items():
            node = stack_dataset(tree, name)
            past = layout.measured(part) & (layout.lag > 0)
            maps = node["attention"].transpose("sample", "layer", "head", "query", "key")
            ratios = [ratio_of_part(maps.isel(sample=i).values, layout, part)[..., past] for i in range(len(maps))]
            coords = {"layer": node["layer"], "head": node["head"], "lag": layout.lag_samples[past]}
            dims = ("sample", "layer", "head", "lag")
            labelled = xr.DataArray(np.nan_to_num(np.stack(ratios), nan=1.0).astype(np.float32), coords, dims)
            found.setdefault(name, []).append(labelled)
            attrs[name] = {"part": part, "samples_per_token": layout.table.step}
    nodes = {
        f"/{name}": xr.concat(ratios, "factor").assign_coords(factor=shown["factor"]).to_dataset(name="ratio")
        for name, ratios in found.items()
    }
    root = xr.Dataset(coords={name: shown[name] for name in ("true_period",) if name in shown.coords})
    tree = xr.DataTree.from_dict({"/": root.assign_attrs(shown.attrs | {"history": model.history}), **nodes})
    for name, about in attrs.items():
        tree.children[name].attrs = about
    return tree


def _why_not(model: Forecaster) -> str:
    """Why stretching says nothing about a model; empty where it does."""
    if model.channels > 1:
        return "several series enter the model together, and only single ones are stretched"
    if min(stack.key.step for stack in model.stacks) <= 1:
        return "tokens are as fine as the series, so stretching shows nothing more"
    return ""


def _with_horizon(series: xr.Dataset, model: Forecaster) -> xr.Dataset:
    """Windows that end with the history, and a horizon that nobody knows."""
    padded = series["series"].pad(time=(0, model.horizon), constant_values=np.nan)
    return xr.Dataset({"series": padded.assign_coords(time=np.arange(model.history + model.horizon))})
