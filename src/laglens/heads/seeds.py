"""Intervals over trainings: the seed is what varies independently."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FEWEST_SEEDS = 3


def over_seeds(effects: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Student's interval of the mean of one effect per seed; NaN for fewer than 3, and for seeds that do not differ.

    Effects without any spread are of the same training over and over, or of one that the seed does not enter.
    """
    if len(effects) < FEWEST_SEEDS or effects.min() == effects.max():
        return np.nan, np.nan
    half = stats.t.ppf((1 + confidence) / 2, len(effects) - 1) * effects.std(ddof=1) / np.sqrt(len(effects))
    return float(effects.mean() - half), float(effects.mean() + half)
