"""Series made from a formula, whose periods and lags are therefore known.

Every function draws one series from its section of the config: ``(spec, rng, index) -> Draw``. The first series
(index 0) of a periodic generator has the phases of the config, every further one random phases.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import chirp as swept_cosine
from scipy.signal import lfilter

from laglens.config.generators import Chirp, Harmonics, MultiSeasonality, PlantedLag, RandomWalkEcho, Wave
from laglens.signals.labelled import Draw

FUNCTIONS = {"sin": np.sin, "cos": np.cos}


def wave(spec: Wave, time: NDArray[np.int64], shift: float = 0.0) -> NDArray[np.float64]:
    """One sine or cosine, its phase moved by `shift` radians."""
    # Dividing gives sin(n / 10) to the last bit where multiplying by 0.1 would not.
    angle = time / spec.samples_per_radian + (spec.phase + shift)
    return spec.amplitude * FUNCTIONS[spec.function](angle)


def random_phase(rng: Generator, index: int) -> float:
    """Zero for the first series of a signal, uniform over the circle for the others."""
    phase = rng.uniform(0, 2 * np.pi)
    return phase if index else 0.0


def harmonics(spec: Harmonics | MultiSeasonality, rng: Generator, index: int) -> Draw:
    """Sum of waves and white noise; its periods are those of the waves that are heard."""
    time = np.arange(spec.length)
    # Every wave takes its phase, heard or not: the noise then stays the same when one is taken out.
    value = sum((wave(part, time, random_phase(rng, index)) for part in spec.components), np.zeros(spec.length))
    value = value + spec.noise * rng.normal(size=spec.length)
    periods = [part.samples_per_turn for part in spec.components if part.amplitude]
    return Draw(value, periods=periods)


def chirp(spec: Chirp, rng: Generator, index: int) -> Draw:
    """A sine that changes its period on the way; the period at each sample is the variable ``period``."""
    time, last = np.arange(spec.length), spec.length - 1
    start, end = 1 / spec.period_start, 1 / spec.period_end
    phase = spec.phase + random_phase(rng, index)
    sine = swept_cosine(time, start, last, end, method=spec.sweep, phi=np.degrees(phase) - 90)
    value = spec.amplitude * sine + spec.noise * rng.normal(size=spec.length)
    share = time / last
    frequency = start + (end - start) * share if spec.sweep == "linear" else start * (end / start) ** share
    return Draw(value, extra={"period": 1 / frequency})


def planted_lag(spec: PlantedLag, rng: Generator, index: int) -> Draw:
    """x_t = a x_(t - P) + e_t in its stationary state: as many interleaved AR(1) series as the lag is long."""
    noise = spec.noise * rng.normal(size=spec.length)
    noise[: spec.lag] /= np.sqrt(1 - spec.coefficient**2)
    return Draw(lfilter([1.0], _comb(spec.lag, -spec.coefficient), noise), lags=[spec.lag])


def random_walk_echo(spec: RandomWalkEcho, rng: Generator, index: int) -> Draw:
    """Random walk whose steps come back after the lag: its steps have autocorrelation c / (1 + c^2) there."""
    noise = spec.noise * rng.normal(size=spec.length + spec.lag)
    steps = lfilter(_comb(spec.lag, spec.echo), [1.0], noise)[spec.lag :]
    return Draw(np.cumsum(steps), lags=[spec.lag])


def _comb(lag: int, weight: float) -> NDArray[np.float64]:
    """Coefficients of 1 + weight z^-lag."""
    return np.r_[1.0, np.zeros(lag - 1), weight]
