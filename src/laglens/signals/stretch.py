"""The same windows played slower and faster, so that lags of whole tokens fall between the tokens."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from laglens.errors import LaglensError
from laglens.signals.probes import CYCLES, SHORTEST, wave
from laglens.signals.streams import stream
from laglens.signals.windows import windows

Array = NDArray[np.float64]
FACTORS = tuple(np.linspace(0.75, 1.25, 9).tolist())
FEWEST = 5  # factors; fewer leave most of a token without a lag


def stretch_windows(value: xr.DataArray, history: int, n: int, *, per_series: int = 0) -> xr.Dataset:
    """Up to `n` windows of a series, each stretched in time by every factor and ending at the same instant.

    Window x of factor a is x(t / a), by cubic interpolation between the samples that are there: a token lag of l
    samples then stands for l / a samples of the series. A factor below 1 needs history / a samples before the
    end of a window; those for which the series is too short are left out.

    Parameters
    ----------
    value
        ``(sample, time)``, evenly spaced.
    history
        Samples that the model sees.

    Returns
    -------
    xr.Dataset
        ``series (factor, sample, time)``, `history` samples in time; coordinates as of `laglens.signals.windows`.

    Raises
    ------
    LaglensError
        The series is too short for 5 of the 9 factors.
    """
    length = value.sizes["time"]
    factors = [a for a in FACTORS if _needed(history, a) <= length]
    if len(factors) < FEWEST:
        raise LaglensError(
            f"{length} samples are too few to stretch windows of {history}: {_needed(history, FACTORS[-FEWEST])} are "
            f"needed for {FEWEST} of the {len(FACTORS)} factors, and {_needed(history, FACTORS[0])} for all"
        )
    whole = windows(value, _needed(history, factors[0]), 0, n, per_series=per_series)
    series = whole["series"].transpose("sample", "time").values
    found = np.stack([stretch(series, factor, history) for factor in factors])
    labels = {name: whole[name] for name in ("sample", "signal_sample", "start")}
    coords = labels | {"factor": factors, "time": np.arange(history)}
    return xr.Dataset({"series": (("factor", "sample", "time"), found)}, coords)


def stretched_noise(n: int, history: int, *, seed: int = 0, name: str = "model") -> xr.Dataset:
    """White noise stretched like the windows of a signal: what position makes of it, ``series (factor, sample, time)``.

    Parameters
    ----------
    n
        Noise series.
    history
        Samples that the model sees.
    seed, name
        The study's seed, and whom the noise is for; both set the random numbers.
    """
    rng = np.random.default_rng(stream(seed, name, "stretch"))
    noise = xr.DataArray(rng.normal(size=(n, _needed(history, FACTORS[0]))), dims=("sample", "time"))
    return stretch_windows(noise, history, n).assign_attrs(name=f"{name}.stretch", control="white", truth={})


def stretched_waves(n: int, history: int, step: float, *, seed: int = 0, name: str = "model") -> xr.Dataset:
    """Waves of known period stretched like the windows of a signal, ``series (factor, sample, time)``.

    Parameters
    ----------
    n
        Waves, each of its own ``true_period (sample)``, log-uniform from 4.5 tokens to two fifths of the history;
        phases, overtones and noise as of `laglens.signals.probes.wave`.
    history
        Samples that the model sees.
    step
        Input samples per token.

    Raises
    ------
    LaglensError
        The history has no room for such periods.
    """
    first, last = SHORTEST * step, history / CYCLES
    if first >= last:
        raise LaglensError(
            f"a history of {history} samples has no room for waves of {SHORTEST:g} tokens of {step:g} samples"
        )
    rng = np.random.default_rng(stream(seed, name, "stretched waves"))
    periods, length = np.exp(rng.uniform(np.log(first), np.log(last), n)), _needed(history, FACTORS[0])
    values = np.stack([wave(period, length, rng) for period in periods])
    shown = stretch_windows(xr.DataArray(values, dims=("sample", "time")), history, n)
    return shown.assign_coords(true_period=("sample", periods[shown["signal_sample"].values]))


def stretch(series: Array, factor: float, length: int) -> Array:
    """The last samples of series played `factor` times slower: ``(..., time) -> (..., length)``."""
    last = series.shape[-1] - 1
    at = last - np.arange(length)[::-1] / factor
    return np.asarray(CubicSpline(np.arange(last + 1), series, axis=-1)(at))


def _needed(history: int, factor: float) -> int:
    """Samples before the end of a window that a factor needs."""
    return int(np.ceil((history - 1) / factor - 1e-9)) + 1
