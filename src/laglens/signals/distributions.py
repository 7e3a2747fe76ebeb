"""The nine series of the distribution study, corrected: ``(spec, rng, index) -> Draw``.

See `laglens.signals.published` for the forms that were published.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import fftconvolve, lfilter

from laglens.config.generators import (
    GARCH11,
    HeavyTailedAR1,
    JumpDiffusion,
    OneOverF,
    RandomWalk,
    RegimeSwitching,
    SeasonTrendOutliers,
    TrendBreaks,
    Wave,
)
from laglens.signals.generators import random_phase, wave
from laglens.signals.labelled import Draw

SPIKE_SHARE = 0.01  # of the innovations, the largest in size, are called spikes
BURST_VARIANCE = 1.5  # times the mean variance; the published GARCH never comes to twice


def heavy_tailed_ar1(spec: HeavyTailedAR1, rng: Generator, index: int) -> Draw:
    """AR(1) with t noise after a burn-in; its autocorrelation at lag l is coefficient^l."""
    burn_in = int(np.ceil(30 / (1 - abs(spec.coefficient))))  # what is left of the start is below e^-30
    noise = spec.scale * rng.standard_t(spec.degrees_of_freedom, burn_in + spec.length)
    value = lfilter([1.0], [1.0, -spec.coefficient], noise)[burn_in:]
    return Draw(value, events={"spikes": spikes(noise[burn_in:] / spec.scale, spec.degrees_of_freedom)})


def garch11(spec: GARCH11, rng: Generator, index: int) -> Draw:
    """Returns r_t = sqrt(v_t) z_t with v_t = omega + alpha r_(t-1)^2 + beta v_(t-1), z of variance 1."""
    persistence = spec.alpha + spec.beta
    burn_in = int(np.ceil(30 / (1 - persistence)))
    innovations = rng.normal(size=burn_in + spec.length)
    if spec.degrees_of_freedom is not None:
        freedom = spec.degrees_of_freedom
        innovations = rng.standard_t(freedom, burn_in + spec.length) * np.sqrt((freedom - 2) / freedom)
    mean = spec.omega / (1 - persistence)
    returns, variance = garch_path(innovations, mean, spec.omega, spec.alpha, spec.beta)
    return Draw(
        returns[burn_in:],
        extra={"variance": variance[burn_in:]},
        events={"bursts": bursts(variance[burn_in:], mean)},
    )


def jump_diffusion(spec: JumpDiffusion, rng: Generator, index: int) -> Draw:
    """Random walk with jumps at known times."""
    jump = rng.random(spec.length) < spec.jump_probability
    steps = rng.normal(spec.drift, spec.volatility, spec.length)
    steps += jump * rng.normal(0, spec.jump_size, spec.length)
    return Draw(np.cumsum(steps), events={"jumps": np.flatnonzero(jump)})


def regime_switching(spec: RegimeSwitching, rng: Generator, index: int) -> Draw:
    """Noise of a hidden state that changes, with equal chances, to one of the others; starts in any of them."""
    n_states = len(spec.means)
    leave = rng.random(spec.length) >= spec.stay
    moves = np.where(leave, rng.integers(1, n_states, spec.length), 0)
    moves[0] = rng.integers(n_states)
    state = np.cumsum(moves) % n_states
    value = rng.normal(np.array(spec.means)[state], np.array(spec.deviations)[state])
    return Draw(value, extra={"state": state}, events={"switches": switches(state)})


def trend_breaks(spec: TrendBreaks, rng: Generator, index: int) -> Draw:
    """Piecewise straight line from zero, plus noise that does not accumulate."""
    breaks = np.round(np.array(spec.breaks) * spec.length).astype(int)
    slope = np.array(spec.slopes)[np.searchsorted(breaks, np.arange(spec.length), side="right")]
    value = np.cumsum(slope) + rng.normal(0, spec.noise, spec.length)
    return Draw(value, events={"breaks": breaks})


def random_walk(spec: RandomWalk, rng: Generator, index: int) -> Draw:
    """Sum of independent steps."""
    return Draw(np.cumsum(rng.normal(spec.drift, spec.volatility, spec.length)))


def season_trend_outliers(spec: SeasonTrendOutliers, rng: Generator, index: int) -> Draw:
    """Line, sine, noise, and outliers at known times."""
    time = np.arange(spec.length)
    season = wave(Wave(period=spec.period, amplitude=spec.amplitude), time, random_phase(rng, index))
    outlier = rng.random(spec.length) < spec.outlier_probability
    value = spec.trend * time + season + rng.normal(0, spec.noise, spec.length)
    value = value + outlier * rng.normal(0, spec.outlier_size, spec.length)
    return Draw(value, events={"outliers": np.flatnonzero(outlier)}, periods=[spec.period])


def one_over_f(spec: OneOverF, rng: Generator, index: int) -> Draw:
    """Noise with a power law, standardised; twice its length is made, so that the end does not lead to the start."""
    white = rng.normal(size=2 * spec.length)
    if spec.method == "spectral":
        frequency = np.fft.rfftfreq(len(white))
        gain = np.r_[0.0, frequency[1:] ** (-spec.exponent / 2)]
        value = np.fft.irfft(np.fft.rfft(white) * gain, len(white))[: spec.length]
    else:
        k = np.arange(1, len(white))
        weights = np.cumprod(np.r_[1.0, (k - 1 + spec.difference) / k])  # of (1 - B)^-d
        value = fftconvolve(white, weights)[spec.length : 2 * spec.length]
    return Draw((value - value.mean()) / value.std())


def garch_path(
    innovations: NDArray[np.float64], start: float, omega: float, alpha: float, beta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns and variances of GARCH(1,1) from variance `start` on: ``(time,) -> (time,), (time,)``."""
    returns, variance = np.empty_like(innovations), np.empty_like(innovations)
    v = start
    for t, z in enumerate(innovations.tolist()):  # plain floats are several times faster here than numpy scalars
        r = v**0.5 * z
        returns[t], variance[t] = r, v
        v = omega + alpha * r * r + beta * v
    return returns, variance


def spikes(innovations: NDArray[np.float64], degrees_of_freedom: float) -> NDArray[np.int64]:
    """Indices of the innovations in the outer 1 % of their t distribution."""
    return np.flatnonzero(np.abs(innovations) > stats.t.isf(SPIKE_SHARE / 2, degrees_of_freedom))


def bursts(variance: NDArray[np.float64], mean: float) -> NDArray[np.int64]:
    """Indices at which the variance rises above one and a half times its mean."""
    high = variance > BURST_VARIANCE * mean
    return np.flatnonzero(high & ~np.r_[False, high[:-1]])


def switches(state: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the first sample of every state but the first."""
    return 1 + np.flatnonzero(np.diff(state))
