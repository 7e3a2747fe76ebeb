"""Paired effects of a knock-out: its target against its controls, over samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import bootstrap

from laglens.errors import LaglensError

Array = NDArray[np.float64]
MEASURES = ("error_change", "forecast_change")


@dataclass(frozen=True)
class PairedEffect:
    """Effect of a target cut beside that of its controls, averaged per sample.

    Attributes
    ----------
    effect, control
        Mean over samples [standard deviations of the history].
    share
        Effect over the mean error of the intact forecast; NaN where the truth is not known.
    lower, upper
        Percentile bootstrap interval of the mean difference, over samples.
    win
        Share of samples whose target effect is above that of the controls.
    size
        Mean over standard deviation of the paired difference (Cohen's d of paired samples).
    n
        Samples.
    """

    effect: float
    control: float
    share: float
    lower: float
    upper: float
    win: float
    size: float
    n: int


def paired_effect(
    effects: xr.Dataset,
    target: str = "comb",
    *,
    measure: str = "error_change",
    confidence: float = 0.95,
    seed: int = 0,
    n_resamples: int = 2000,
) -> PairedEffect:
    """Compare a cut with its controls, the cuts whose names begin with that of the target.

    A large share, small controls and a large difference belong together: alone, `win` and `size` are met by random
    weights too, whose effects are a fiftieth of the error.

    Parameters
    ----------
    effects
        From `laglens.attribution.knock_out.knock_out`.
    target
        Name of the cut.
    measure
        ``error_change`` (needs the truth) or ``forecast_change``.
    confidence, seed, n_resamples
        Of the bootstrap.

    Raises
    ------
    LaglensError
        An unknown measure or target, a target without controls, or fewer than 3 samples with a known effect.
    """
    if measure not in MEASURES:
        raise LaglensError(f"measure '{measure}' is not one of {', '.join(MEASURES)}")
    names = [str(name) for name in effects["cut"].values]
    controls = [name for name in names if name != target and name.startswith(target)]
    if target not in names or not controls:
        raise LaglensError(f"no cut '{target}' with controls; there are {', '.join(names)}")
    ours = effects[measure].sel(cut=target).values
    theirs = effects[measure].sel(cut=controls).mean("cut").values
    known = np.isfinite(ours) & np.isfinite(theirs)
    if np.count_nonzero(known) < 3:
        raise LaglensError(
            f"{np.count_nonzero(known)} samples have a known {measure}; at least 3 are needed: use measure="
            "'forecast_change', which needs no truth, or more windows"
        )
    difference = (ours - theirs)[known]
    lower, upper = _interval(difference, confidence, seed, n_resamples)
    error = float(np.mean(effects["error"].values[known]))
    spread = float(difference.std())
    return PairedEffect(
        effect=float(ours[known].mean()),
        control=float(theirs[known].mean()),
        share=float(ours[known].mean()) / error if error > 0 else float("nan"),
        lower=lower,
        upper=upper,
        win=float((difference > 0).mean()),
        size=float(difference.mean()) / spread if spread > 0 else float("nan"),
        n=len(difference),
    )


def _interval(difference: Array, confidence: float, seed: int, n_resamples: int) -> tuple[float, float]:
    if np.ptp(difference) == 0:
        return float(difference[0]), float(difference[0])
    found = bootstrap(
        (difference,),
        np.mean,
        confidence_level=confidence,
        n_resamples=n_resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
