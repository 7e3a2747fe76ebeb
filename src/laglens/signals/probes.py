"""Inputs that ask a model one question: noise without any period, and waves whose periods are swapped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.random import Generator
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.signals.streams import stream

Array = NDArray[np.float64]
SHORTEST = 4.5  # tokens; below 4 a comb has no flanks of its own
CYCLES = 2.5  # of the longest period within the longest lag
TOO_CLOSE = 0.06  # relative distance of a period from a multiple of another
OVERTONES = (2, 3, 4)
NOISE = 0.05  # standard deviation beside a wave of 1, as in the evaluation series of the mixture


def swap_periods(step: float, longest: float, n: int = 6) -> Array:
    """Periods for the period-swap test: `n` or fewer, spread evenly in log, none near a multiple of another.

    Parameters
    ----------
    step
        Input samples per token; the shortest period has 4.5 tokens.
    longest
        Longest lag that is measured [input samples]; it holds two and a half cycles of the longest period.

    Raises
    ------
    LaglensError
        The lags leave no room for two periods.
    """
    first, last = SHORTEST * step, longest / CYCLES
    for fewer in range(n, 1, -1) if last > first else ():
        chosen = _unrelated(first, last, fewer)
        if chosen is not None:
            return chosen
    raise LaglensError(
        f"lags up to {longest:g} samples at {step:g} samples per token hold no two unrelated periods of at least "
        f"{SHORTEST:g} tokens; give the model a longer history"
    )


def _unrelated(first: float, last: float, n: int) -> Array | None:
    """`n` periods, each the free one nearest to its place on an even grid; None where none is free."""
    candidates, chosen = np.geomspace(first, last, 40 * n), list[float]()
    for target in np.geomspace(first, last, n):
        free = [p for p in candidates if not any(_related(p, q) for q in chosen)]
        if not free:
            return None
        chosen.append(float(min(free, key=lambda p: abs(np.log(p / target)))))
    return np.sort(chosen)


def _related(a: float, b: float) -> bool:
    """Whether one period is near a multiple of the other, so that their combs share teeth."""
    ratio = max(a, b) / min(a, b)
    return any(abs(ratio / multiple - 1) < TOO_CLOSE for multiple in (1, 2, 3, 4))


def make_probes(
    step: float,
    history: int,
    horizon: int,
    *,
    periods: int,
    inputs: int,
    noises: int,
    seed: int = 0,
    name: str = "model",
) -> dict[str, xr.Dataset]:
    """The probes of one model: ``swap`` and ``white``.

    Where its tokens are too coarse for two periods, ``swap`` has no sample, and its attribute ``left_out`` the reason.

    Parameters
    ----------
    step, history, horizon
        Input samples per token, seen, and forecast.
    periods, inputs
        Periods of the swap probe, and waves of each.
    noises
        White noise series.
    """
    length = history + horizon
    white = make_white_probe(noises, length, seed=seed, name=name)
    try:
        chosen = swap_periods(step, history, periods)
    except LaglensError as error:
        swap = white.isel(sample=slice(0)).assign_attrs(control="swap", left_out=str(error))
    else:
        swap = make_swap_probe(chosen, length, inputs=inputs, seed=seed, name=name)
    return {"swap": swap, "white": white}


def make_swap_probe(
    periods: Sequence[float] | Array, length: int, *, inputs: int = 8, seed: int = 0, name: str = "model"
) -> xr.Dataset:
    """Waves with random phases, overtones and noise; `inputs` for each period.

    All are drawn independently and in the same way, so that under the null any of them may have any period.

    Parameters
    ----------
    periods
        [samples].
    length
        Samples in time.
    inputs
        Waves per period.
    seed, name
        The study's seed, and whom the waves are for; both set the random numbers.

    Returns
    -------
    xr.Dataset
        ``value (sample, time)`` with ``true_period (sample)``; attribute ``control`` is ``swap``.

    Raises
    ------
    LaglensError
        Fewer than two periods, or no input.
    """
    if len(periods) < 2 or inputs < 1:
        raise LaglensError(f"{len(periods)} periods of {inputs} inputs: swapping needs at least 2 periods and 1 input")
    of_sample = np.repeat(np.asarray(periods, float), inputs)
    children = stream(seed, name, "swap").spawn(len(of_sample))
    pairs = zip(of_sample, children, strict=True)
    values = [wave(period, length, np.random.default_rng(child)) for period, child in pairs]
    coords = {"sample": np.arange(len(values)), "true_period": ("sample", of_sample)}
    attrs = {"name": f"{name}.swap", "control": "swap", "truth": {}}
    return xr.Dataset({"value": (("sample", "time"), np.stack(values))}, coords, attrs)


def make_white_probe(n: int, length: int, *, seed: int = 0, name: str = "model") -> xr.Dataset:
    """White noise, ``value (sample, time)``: what a model shows without any memory in its input."""
    if n < 1:
        raise LaglensError(f"{n} noise series: at least 1 is needed")
    rng = np.random.default_rng(stream(seed, name, "white"))
    attrs = {"name": f"{name}.white", "control": "white", "truth": {}}
    return xr.Dataset({"value": (("sample", "time"), rng.normal(size=(n, length)))}, {"sample": np.arange(n)}, attrs)


def wave(period: float, length: int, rng: Generator) -> Array:
    """One wave of standard deviation 1 with overtones, and noise: ``-> (time,)``.

    Overtones 2, 3 and 4 have amplitude (0.3 + 0.5 U) / sqrt(m / 2), each present with probability 0.7.
    """
    phase, strength = rng.uniform(0, 2 * np.pi, 4), 0.3 + 0.5 * rng.uniform(size=3)
    present, noise = rng.uniform(size=3) < 0.7, rng.normal(size=length)
    time = np.arange(length)
    total = np.sin(2 * np.pi * time / period + phase[0])
    for m, at, amplitude, on in zip(OVERTONES, phase[1:], strength, present, strict=True):
        total = total + on * amplitude / np.sqrt(m / 2) * np.sin(2 * np.pi * m * time / period + at)
    power = 0.5 + 0.5 * np.sum(present * (strength / np.sqrt(np.array(OVERTONES) / 2)) ** 2)
    return total / np.sqrt(power) + NOISE * noise
