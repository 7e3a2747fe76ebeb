"""Noise that shares a signal's short memory and nothing else: the control of every lag profile."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import norm, rankdata
from statsmodels.regression.linear_model import burg

from laglens.errors import LaglensError
from laglens.labels import require_dims
from laglens.signals.streams import stream

LARGEST = 1 - 1e-6  # coefficient; a straight line or an alternating series would give 1
KEPT = ("sample", "time", "series_name", "start")


def make_control(signal: xr.Dataset, replicates: int, seed: int = 0) -> xr.Dataset:
    """AR(1) noise matched to every sample of a signal, in memory and in values.

    Each replicate is the sample's own values in the order of Gaussian AR(1) noise: the largest value where the noise is
    largest, and so on. The coefficient is Burg's estimate from the normal scores of the sample, which stays within +-1
    whatever the series; the noise starts in its stationary state. With normal values instead, a wave in random order,
    which has no memory at all, would be told from its controls by its values alone, in a third of cases at 5 %.

    Parameters
    ----------
    signal
        ``value (sample, time)``.
    replicates
        Independent copies of the whole signal.
    seed
        The study's seed; the noise depends on it and on the signal's name alone.

    Returns
    -------
    xr.Dataset
        ``value (replicate, sample, time)``; the attribute ``coefficient`` has one number per sample.

    Raises
    ------
    LaglensError
        Fewer than one replicate, or a sample that is constant or not finite.
    """
    if replicates < 1:
        raise LaglensError(f"{replicates} control replicates: at least 1 is needed")
    require_dims(signal["value"], "sample", "time")
    observed = signal["value"].transpose("sample", "time")
    name = signal.attrs.get("name", "signal")
    coefficient = [_lag_one(series, f"signal '{name}', sample {k}") for k, series in enumerate(observed.values)]
    children = stream(seed, name, "ar1").spawn(replicates)
    noise = np.empty((replicates, *observed.shape))  # the largest array of a study with panels: no second copy
    for replicate, child in zip(noise, children, strict=True):
        replicate[:] = _replicate(observed.values, coefficient, np.random.default_rng(child))
    return xr.Dataset(
        {"value": (("replicate", "sample", "time"), noise, observed.attrs)},
        # Noise has no dates.
        coords={"replicate": np.arange(replicates)} | {c: observed[c].variable for c in observed.coords if c in KEPT},
        attrs=signal.attrs | {"control": "ar1", "coefficient": coefficient},
    )


def ar1_noise(coefficient: float, length: int, rng: Generator) -> NDArray[np.float64]:
    """Stationary AR(1) with unit innovations, from its first sample on: ``-> (time,)``."""
    innovations = rng.normal(size=length)
    innovations[0] /= np.sqrt(1 - coefficient**2)
    return lfilter([1.0], [1.0, -coefficient], innovations)


def _replicate(observed: NDArray[np.float64], coefficient: list[float], rng: Generator) -> NDArray[np.float64]:
    """The values of each sample in the order of noise: ``(sample, time) -> (sample, time)``."""
    noise = np.stack([ar1_noise(phi, observed.shape[1], rng) for phi in coefficient])
    rank = noise.argsort(1).argsort(1)
    return np.take_along_axis(np.sort(observed, axis=1), rank, 1)


def _lag_one(series: NDArray[np.float64], which: str) -> float:
    if not np.isfinite(series).all() or np.ptp(series) == 0:
        raise LaglensError(f"{which} is constant or not finite: no noise can be matched to it")
    # Equal values share a score, so that a series of few values is not given a memory by the order of its ties.
    scores = norm.ppf((rankdata(series) - 0.5) / len(series))
    return float(np.clip(burg(scores, order=1, demean=True)[0][0], -LARGEST, LARGEST))
