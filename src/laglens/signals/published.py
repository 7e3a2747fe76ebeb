"""The nine series of the distribution study as they were published.

Each is the series that `numpy.random.RandomState` (seed 42 in the study) gives in the order of draws of the
published code, with what went on behind it: ``(rng, length) -> Draw``. What is wrong with some of them is told
in ``docs/signals.md``; do not mend them here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState
from scipy.signal import lfilter

from laglens.signals.distributions import bursts, garch_path, spikes, switches
from laglens.signals.labelled import Draw

TAU = 2 * np.pi


def heavy_tailed_ar1(rng: RandomState, length: int) -> Draw:
    """x_t = 0.7 x_(t-1) + t(3) noise, x_0 = 0."""
    noise = np.r_[0.0, rng.standard_t(3, length - 1)]
    return Draw(lfilter([1.0], [1.0, -0.7], noise), events={"spikes": spikes(noise, 3)})


def garch11(rng: RandomState, length: int) -> Draw:
    """The running SUM of GARCH(1,1) returns: omega 0.1, alpha 0.1, beta 0.8, r_0 = 0, variance_0 = 1."""
    omega, alpha, beta = 0.1, 0.1, 0.8
    innovations = np.r_[0.0, rng.normal(size=length - 1)]
    returns, variance = garch_path(innovations, omega / (1 - alpha - beta), omega, alpha, beta)
    return Draw(np.cumsum(returns), extra={"variance": variance}, events={"bursts": bursts(variance, 1.0)})


def jump_diffusion(rng: RandomState, length: int) -> Draw:
    """Steps N(0, 1), with probability 0.05 plus N(0, 5^2); x_0 = 0."""
    steps, jumps = np.zeros(length), []
    for t in range(1, length):
        steps[t] = rng.normal()
        if rng.random_sample() < 0.05:
            steps[t] += rng.normal(0, 5)
            jumps.append(t)
    return Draw(np.cumsum(steps), events={"jumps": np.array(jumps, dtype=np.int64)})


def regime_switching(rng: RandomState, length: int) -> Draw:
    """Means -2 and 2, deviations 0.5 and 2, the state stays with probability 0.95."""
    value, state = np.empty(length), np.empty(length, dtype=np.int64)
    stay = np.array([[0.95, 0.05], [0.05, 0.95]])
    current = rng.randint(0, 2)
    for t in range(length):
        state[t] = current
        value[t] = rng.normal((-2, 2)[current], (0.5, 2)[current])
        current = rng.choice(2, p=stay[current])
    return Draw(value, extra={"state": state}, events={"switches": switches(state)})


def trend_breaks(rng: RandomState, length: int) -> Draw:
    """Slopes 0.1, -0.1, 0.05 that change at 300 and 700; the noise (0.5) ACCUMULATES, so it is a random walk."""
    breaks = np.array([300, 700])
    slope = np.array([0.1, -0.1, 0.05])[np.searchsorted(breaks, np.arange(length), side="right")]
    value = np.cumsum(slope + rng.normal(0, 0.5, length))
    return Draw(value, events={"breaks": breaks[breaks < length]})


def random_walk(rng: RandomState, length: int) -> Draw:
    """Running sum of N(0, 1)."""
    return Draw(np.cumsum(rng.normal(0, 1, length)))


def season_trend_outliers(rng: RandomState, length: int) -> Draw:
    """0.01 t + 2 sin(2 pi t / 10) + N(0, 0.3^2), and 2 % outliers N(0, 5^2)."""
    time = np.arange(length)
    noise = rng.normal(0, 0.3, length)
    outlier = rng.random_sample(length) < 0.02
    size = np.zeros(length)
    size[outlier] = rng.normal(0, 5, outlier.sum())
    value = 0.01 * time + 2 * np.sin(TAU * 0.1 * time) + noise + size
    return Draw(value, events={"outliers": np.flatnonzero(outlier)}, periods=[10])


def multi_seasonality(rng: RandomState, length: int) -> Draw:
    """3 sin(2 pi t / 10) + 1.5 sin(2 pi t / 20 + pi / 4) + N(0, 0.2^2): the periods are NESTED."""
    time = np.arange(length)
    value = 3 * np.sin(TAU * 0.1 * time) + 1.5 * np.sin(TAU * 0.05 * time + np.pi / 4)
    return Draw(value + rng.normal(0, 0.2, length), periods=[10, 20])


def one_over_f(rng: RandomState, length: int) -> Draw:
    """An AR(1) of coefficient 0.5, standardised: NOT 1/f noise."""
    value = lfilter([1.0], [1.0, -0.5], rng.normal(0, 1, 2 * length))[:length]
    return Draw((value - value.mean()) / value.std())


PUBLISHED: dict[str, Callable[[RandomState, int], Draw]] = {
    make.__name__: make
    for make in (
        heavy_tailed_ar1,
        garch11,
        jump_diffusion,
        regime_switching,
        trend_breaks,
        random_walk,
        season_trend_outliers,
        multi_seasonality,
        one_over_f,
    )
}
