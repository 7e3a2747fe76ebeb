"""Synthetic series for training and judging the small forecasters.

The training mixture has random harmonics, trends, noise and AR(1) series: pure sines alone do not teach
a model to look one period back.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import lfilter

TAU = 2 * np.pi
EVALUATION_KINDS = ("sine", "harmonic", "two_periods")


def log_uniform(low: float, high: float, size: tuple[int, ...], rng: Generator) -> NDArray[np.float64]:
    """Draws whose logarithm is uniform between `low` and `high`."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def unit_sd(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale each row of ``(..., time)`` to standard deviation 1."""
    return series / series.std(-1, keepdims=True)


def random_waves(periods: NDArray[np.float64], length: int, rng: Generator, *, orders: int = 4) -> NDArray[np.float64]:
    """Periodic series with random overtones and phases, one per period: ``(series,) -> (series, length)``.

    Overtone m > 1 is present with probability 1/2, its amplitude normal with sd 0.6 / sqrt(m).
    """
    n = len(periods)
    order = np.arange(1, orders + 1)
    amplitude = rng.normal(size=(n, orders)) * 0.6 / np.sqrt(order) * (rng.random((n, orders)) < 0.5)
    amplitude[:, 0] = 1.0
    phase = TAU * rng.random((n, orders, 1))
    angle = TAU * order[:, None] * np.arange(length) / periods[:, None, None] + phase
    return unit_sd(np.einsum("nm,nmt->nt", amplitude, np.sin(angle)))


def autoregressive(coefficients: NDArray[np.float64], length: int, rng: Generator) -> NDArray[np.float64]:
    """AR(1) series started at zero, one per coefficient: ``(series,) -> (series, length)``."""
    noise = rng.normal(size=(len(coefficients), length))
    rows = [lfilter([1.0], [1.0, -phi], e) for phi, e in zip(coefficients, noise, strict=True)]
    return np.reshape(rows, noise.shape)


def training_batch(
    n_series: int, length: int, rng: Generator, *, shortest: float = 8.0, longest: float = 100.0
) -> NDArray[np.float64]:
    """Draw series of the training mixture: ``-> (n_series, length)``.

    One to three waves of log-uniform period, a trend, white noise; 12 % are AR(1), of which 30 % random walks.
    """
    count = np.where(rng.random(n_series) < 0.5, 1, rng.integers(1, 4, n_series))
    series = np.zeros((n_series, length))
    for k in range(3):
        rows = count > k
        periods = log_uniform(shortest, longest, (int(rows.sum()),), rng)
        strength = np.exp(-1.2 * rng.random((len(periods), 1))) if k else 1.0
        series[rows] += strength * random_waves(periods, length, rng)
    trended = rng.random((n_series, 1)) < 0.3
    series += trended * rng.normal(size=(n_series, 1)) * 1.5 * np.arange(length) / length
    series += log_uniform(0.01, 0.6, (n_series, 1), rng) * rng.normal(size=series.shape)
    rows = rng.random(n_series) < 0.12
    phi = np.where(rng.random(rows.sum()) < 0.3, 1.0, 0.98 * rng.random(rows.sum()))
    series[rows] = autoregressive(phi, length, rng)
    return series


def evaluation_set(
    kind: str,
    n_series: int,
    length: int,
    rng: Generator,
    *,
    shortest: float = 24.0,
    longest: float = 100.0,
    noise: float = 0.05,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Series of known period: ``-> (n_series, length), (n_series,)``.

    Parameters
    ----------
    kind
        ``sine``; ``harmonic``, a sine with overtones 2 to 4; ``two_periods``, a sine and a second one of
        0.35 to 0.65 times its period at 0.8 of its amplitude.
    shortest, longest
        Bounds of the log-uniform period, in samples.
    noise
        Standard deviation of the white noise; each wave has 1.

    Raises
    ------
    ValueError
        Unknown `kind`.
    """
    if kind not in EVALUATION_KINDS:
        raise ValueError(f"evaluation set '{kind}' is not one of {', '.join(EVALUATION_KINDS)}")
    periods = log_uniform(shortest, longest, (n_series,), rng)
    series = _sines(periods, length, rng, overtones=kind == "harmonic")
    if kind == "two_periods":
        second = periods * rng.uniform(0.35, 0.65, n_series)
        series += 0.8 * (_sines(second, length, rng) + noise * rng.normal(size=series.shape))
    return series + noise * rng.normal(size=series.shape), periods


def _sines(
    periods: NDArray[np.float64], length: int, rng: Generator, *, overtones: bool = False
) -> NDArray[np.float64]:
    order = np.arange(1, 5 if overtones else 2)
    n = len(periods)
    amplitude = rng.uniform(0.3, 0.8, (n, len(order))) / np.sqrt(order / 2) * (rng.random((n, len(order))) < 0.7)
    amplitude[:, 0] = 1.0
    phase = TAU * rng.random((n, len(order), 1))
    angle = TAU * order[:, None] * np.arange(length) / periods[:, None, None] + phase
    return unit_sd(np.einsum("nm,nmt->nt", amplitude, np.sin(angle)))
