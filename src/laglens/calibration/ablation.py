"""One of two unrelated periods taken away: what a head shows at it must go, and at the other it must stay."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from laglens.calibration.detection import excess, log_profiles
from laglens.calibration.heads import choose_heads
from laglens.calibration.series import drawn, noise_series
from laglens.models.forecaster import Forecaster

Array = NDArray[np.float64]
CONDITIONS = {"both": (1.0, 1.0), "a removed": (0.0, 1.0), "b removed": (1.0, 0.0), "sham": (0.5**0.5, 0.5**0.5)}
LONGEST = (58.0, 100.0)  # samples, bounds of the period that is asked about
RATIO = (1.25, 1.75)  # of it to the other one
APART = 16.0  # samples from it to the nearest multiple of the other one, at least
NOISE = 0.05  # standard deviation beside waves of 1
NULLS = 300  # white noise series that give the limit of a head
WITHIN = 0.75  # tokens


def unrelated_pairs(n: int, rng: Generator) -> Array:
    """Pairs of periods a > b, with every multiple of b at least 16 samples from a: ``-> (pair, 2)`` [samples].

    Taking a away is then a real change: of sin(n/10) + sin(n/5 + 50), with periods 62.8 and 31.4, the first is a
    multiple of the second, and the sum without it still repeats after 62.8 samples.
    """
    found: list[tuple[float, float]] = []
    while len(found) < n:
        a = rng.uniform(*LONGEST)
        b = a / rng.uniform(*RATIO)
        if abs(a - b * np.round(a / b)) >= APART:
            found.append((a, b))
    return np.array(found)


def pair_series(periods: Array, strength: tuple[float, float], length: int, rng: Generator) -> Array:
    """Two sines of unit standard deviation with random phases times `strength`, and noise: ``-> (pair, time)``."""
    phase = rng.uniform(0, 2 * np.pi, (*periods.shape, 1))
    waves = np.sqrt(2) * np.sin(2 * np.pi * np.arange(length) / periods[..., None] + phase)
    return (waves * np.array(strength)[:, None]).sum(1) + NOISE * rng.normal(size=(len(periods), length))


def remove_periods(model: Forecaster, n: int, *, seed: int, device: torch.device | str = "cpu") -> pd.DataFrame:
    """Show a model pairs of unrelated periods, with both, without either, and with half the energy of both (sham).

    Phases and noise of a pair are the same in all conditions.

    Parameters
    ----------
    n
        Pairs.
    seed
        Of the periods, phases and noise, and of the series on which the heads are chosen.

    Returns
    -------
    pd.DataFrame
        One row per set of single heads (`choose_heads`), condition and pair: ``z_a`` and ``z_b``, the largest z within
        0.75 tokens of each period; ``at_a`` and ``at_b``, whether it passes the 95 % point of the largest z of that
        head over all lags on white noise; ``top_lag``. ``heads`` is ``at_multiple`` or ``at_period``, ``head`` its
        number over all stacks.
    """
    length = model.history + model.horizon
    heads, _ = choose_heads(model, seed=seed, device=device)
    noise = noise_series("white", NULLS, length, drawn(seed, "white", "ablation"))
    null, lag, step = log_profiles(model, noise, device=device)
    # One half standardises, the other half gives the limit: a null that helped to make the sd looks too ordinary.
    limit = np.quantile(excess(null[1::2], null[::2]).max(-1), 0.95, axis=0)
    periods = unrelated_pairs(n, drawn(seed, "pairs", "ablation"))
    near = np.abs(lag - periods[..., None]) <= WITHIN * step  # (pair, period, lag)
    rows = []
    for condition, strength in CONDITIONS.items():
        series = pair_series(periods, strength, length, drawn(seed, "phases", "ablation"))
        z = excess(log_profiles(model, series, device=device)[0], null[::2])
        for name in ("at_multiple", "at_period"):
            head = int(np.argmax(heads[name]))
            at = np.where(near, z[:, None, head], -np.inf).max(-1)  # (pair, period)
            columns = {"period_a": periods[:, 0], "period_b": periods[:, 1], "z_a": at[:, 0], "z_b": at[:, 1]}
            columns |= {"at_a": at[:, 0] > limit[head], "at_b": at[:, 1] > limit[head], "limit": limit[head]}
            columns |= {"top_lag": lag[z[:, head].argmax(-1)], "pair": np.arange(n)}
            rows.append(pd.DataFrame({"heads": name, "head": head, "condition": condition, **columns}))
    return pd.concat(rows, ignore_index=True)
