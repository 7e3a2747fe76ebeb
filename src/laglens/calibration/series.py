"""Held-out random series: noise that has no period, and waves whose period is known."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.models.mixture import EVALUATION_KINDS, evaluation_set, log_uniform
from laglens.signals.controls import ar1_noise
from laglens.signals.streams import stream

Array = NDArray[np.float64]
NOISES = ("white", "shuffled", "ar1_0.6", "ar1_0.9", "ar1_0.97", "random_walk")
WAVES = EVALUATION_KINDS


def drawn(seed: int, kind: str, purpose: str) -> Generator:
    """Random numbers of one kind of series for one purpose: no two of these share a series."""
    return np.random.default_rng(stream(seed, kind, purpose))


def noise_series(kind: str, n: int, length: int, rng: Generator) -> Array:
    """Series without a period: ``-> (n, length)``.

    ``white``; ``shuffled``, waves with overtones in random order; ``ar1_0.6`` and so on, stationary AR(1) of that
    coefficient; ``random_walk``.

    Raises
    ------
    LaglensError
        Unknown kind.
    """
    if kind not in NOISES:
        raise LaglensError(f"noise '{kind}' is not one of {', '.join(NOISES)}")
    if kind == "white":
        return rng.normal(size=(n, length))
    if kind == "shuffled":
        return rng.permuted(wave_series("harmonic", n, length, rng)[0], axis=1)
    if kind == "random_walk":
        return rng.normal(size=(n, length)).cumsum(1)
    coefficient = float(kind.removeprefix("ar1_"))
    return np.stack([ar1_noise(coefficient, length, rng) for _ in range(n)])


def wave_series(kind: str, n: int, length: int, rng: Generator, *, shortest: float = 24.0) -> tuple[Array, Array]:
    """Series of known periods: ``-> (n, length), (n, period)``, kinds as in `laglens.models.mixture.evaluation_set`.

    Both periods of ``two_periods`` are true: an aligned pair of waves repeats at multiples of either.
    """
    if kind != "two_periods":
        series, periods = evaluation_set(kind, n, length, rng, shortest=shortest)
        return series, periods[:, None]
    first = log_uniform(shortest, 100.0, (n,), rng)
    periods = np.stack([first, first * rng.uniform(0.35, 0.65, n)], axis=1)
    angle = 2 * np.pi * (np.arange(length) / periods[..., None] + rng.uniform(size=(n, 2, 1)))
    waves = np.sqrt(2) * np.sin(angle) * np.array([1.0, 0.8])[:, None]
    return waves.sum(1) + 0.05 * rng.normal(size=(n, length)), periods
