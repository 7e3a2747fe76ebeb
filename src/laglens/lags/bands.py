"""What control inputs through the same model look like: mean, pointwise band, and a limit for all lags at once.

Numpy only. The first axis is the control replicate. A replicate is compared with the *other* replicates wherever it
serves as a null (leave one out): standardised by a mean and sd that it helped to make it looks too ordinary, and of
null signals 7 % (99 replicates) to 25 % (19) would pass a 5 % limit over 40 lags, 27 to 89 % one over 32 heads too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laglens.errors import LaglensError

Array = NDArray[np.float64]
ROUNDING = 2.0**-11  # relative precision of float16, in which the observed maps may be stored


@dataclass(frozen=True)
class Bands:
    """Control profiles at each lag; arrays ``(..., lag)``.

    Attributes
    ----------
    mean
        Mean of the controls.
    lower, upper
        Pointwise band.
    limit_lower, limit_upper
        Simultaneous limits over the tested lags, NaN at the others. One-sided tests use the upper one alone.
    z
        The observation standardised by the controls.
    """

    mean: Array
    lower: Array
    upper: Array
    limit_lower: Array
    limit_upper: Array
    z: Array


def smallest_controls(confidence: float) -> int:
    """Fewest replicates with which `confidence` can be reached: 19 for 0.95.

    The smallest p-value of n controls is 1 / (n + 1).
    """
    return int(np.ceil(confidence / (1 - confidence) - 1e-9))


def check_controls(n: int, confidence: float) -> None:
    """Raise where `n` controls cannot give `confidence`.

    Raises
    ------
    LaglensError
        `confidence` is not between 0 and 1, there are no controls, or too few.
    """
    if not 0 < confidence < 1:
        raise LaglensError(f"confidence is {confidence:g}; it must lie between 0 and 1, such as 0.95")
    if n < (fewest := max(smallest_controls(confidence), 3)):
        found = "no controls" if n == 0 else f"{n} control{'s' * (n > 1)}"
        raise LaglensError(
            f"confidence {confidence:g} needs at least {fewest} controls, found {found}; "
            "raise lags.controls (99 is the default) or lower lags.confidence"
        )


def order_quantile(values: Array, confidence: float) -> Array:
    """Smallest control value that a fresh control exceeds with a probability of at most 1 - confidence.

    (replicate, ...) -> (...). It is the ceil(confidence (n + 1))-th smallest: passing it is the same as
    p = (1 + number of controls at least as large) / (n + 1) <= 1 - confidence. NaN where any replicate is NaN.
    """
    n = len(values)
    rank = int(np.ceil(confidence * (n + 1) - 1e-9))
    chosen = np.sort(values, axis=0)[min(rank, n) - 1]
    return np.where(np.isnan(values).any(0), np.nan, chosen)


def rounding(controls: Array) -> Array:
    """Deviation from the controls that rounding alone can make: (replicate, ...) -> (...)."""
    return ROUNDING * np.abs(controls).mean(0) + np.finfo(float).tiny


def leave_one_out_residuals(controls: Array) -> Array:
    """Each replicate minus the mean of the others: (replicate, ...) -> (replicate, ...)."""
    n = len(controls)
    return (controls - controls.mean(0)) * (n / (n - 1))


def leave_one_out_z(controls: Array, floor: Array | float = 0.0) -> Array:
    """Each replicate standardised by mean and sd of the others: (replicate, ...) -> (replicate, ...).

    The sd is at least `floor` (...).
    """
    n = len(controls)
    centred = controls - controls.mean(0)
    others = (centred**2).sum(0) - centred**2 * (n / (n - 1))
    return leave_one_out_residuals(controls) / np.maximum(np.sqrt(np.maximum(others, 0) / (n - 2)), floor)


def control_bands(
    observed: Array,
    controls: Array,
    tested: NDArray[np.bool_],
    *,
    confidence: float = 0.95,
    two_sided: bool = False,
    floor: Array | None = None,
) -> Bands:
    r"""Compare an observed profile with control profiles.

    Parameters
    ----------
    observed
        ``(..., lag)``.
    controls
        ``(replicate, ..., lag)``.
    tested
        Lags over which the limit holds simultaneously, ``(lag,)``: those that every query of the window has, without
        lag 0.
    confidence
        Of the band at each lag, and of the limit over all tested lags of one head.
    two_sided
        Take the limit from the largest \|z\|, for differences; else from the largest z.
    floor
        Smallest sd, and smallest distance of the limit from the mean, ``(..., lag)``. Default: `rounding` of the
        controls, so that a head that ignores its input gives z = 0 and not 0 / 0.

    Returns
    -------
    Bands
        ``limit_upper = mean + sd q``, where q is the `order_quantile` over replicates of the largest leave-one-out z.

    Raises
    ------
    LaglensError
        Too few controls for the confidence (see `check_controls`).
    """
    check_controls(len(controls), confidence)
    floor = rounding(controls) if floor is None else floor
    mean, sd = controls.mean(0), np.maximum(controls.std(0, ddof=1), floor)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    lower, upper = np.quantile(controls, tails, axis=0)
    z = leave_one_out_z(controls[..., tested], floor[..., tested])
    q = largest_quantile(np.abs(z) if two_sided else z, confidence)[..., None]
    margin = np.where(tested, np.maximum(sd * q, floor), np.nan)
    return Bands(mean, lower, upper, mean - margin, mean + margin, (observed - mean) / sd)


def largest_quantile(z: Array, confidence: float) -> Array:
    """The `order_quantile` over replicates of the largest value over lags: (replicate, ..., lag) -> (...)."""
    if z.shape[-1] == 0:
        return np.full(z.shape[1:-1], np.nan)
    return order_quantile(z.max(-1), confidence)
