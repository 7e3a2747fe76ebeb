"""Peaks of a lag profile: where, how high, and how high the controls go. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import find_peaks

from laglens.lags.bands import leave_one_out_residuals, order_quantile

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Peaks:
    """Local maxima of one profile; arrays ``(peak,)`` in the order of the lag axis.

    Attributes
    ----------
    index
        Position on the lag axis.
    lag
        Location, refined by a parabola through the peak and its neighbours, in the units of the axis.
    prominence
        Height above the higher of the two valleys that part it from higher ground.
    """

    index: NDArray[np.int64]
    lag: Array
    prominence: Array


def sides(lag: Array) -> list[NDArray[np.int64]]:
    """Positions of the past and of the future lags, without lag 0; a peak never leans on the other side."""
    return [np.flatnonzero(lag > 0), np.flatnonzero(lag < 0)]


def profile_peaks(profile: Array, lag: Array) -> Peaks:
    """Peaks of a profile from which the mean of the controls has been taken.

    Lags are one token apart, so peaks are at least two. An end of the profile is never a peak: it has one flank.

    Parameters
    ----------
    profile
        ``(lag,)``; NaN where a lag is not measured.
    lag
        ``(lag,)``, evenly spaced.
    """
    index, prominence = [np.empty(0, np.int64)], [np.empty(0)]
    for side in sides(lag):
        at = side[np.isfinite(profile[side])]
        found, properties = find_peaks(profile[at], prominence=0)
        index.append(at[found])
        prominence.append(properties["prominences"])
    joined = np.concatenate(index)
    order = np.argsort(joined)
    joined = joined[order]
    return Peaks(joined, refine(profile, lag, joined), np.concatenate(prominence)[order])


def refine(profile: Array, lag: Array, index: NDArray[np.int64]) -> Array:
    """Vertex of the parabola through each peak and its two neighbours, in units of `lag`: ``(peak,)``."""
    before, peak, after = profile[index - 1], profile[index], profile[index + 1]
    curvature = before - 2 * peak + after
    flat = ~(curvature < 0)  # a plateau has no vertex of its own
    shift = np.where(flat, 0.0, 0.5 * (before - after) / np.where(flat, -1.0, curvature))
    return lag[index] + np.clip(shift, -0.5, 0.5) * (lag[1] - lag[0] if len(lag) > 1 else 0.0)


def largest_prominence(profiles: Array, lag: Array) -> Array:
    """Largest prominence of each profile, 0 without a peak: (..., lag) -> (...)."""
    largest = np.zeros(profiles.shape[:-1])
    measured = np.any(np.isfinite(profiles).reshape(-1, len(lag)), axis=0)
    for side in sides(lag):
        at = side[measured[side]]
        for position in np.ndindex(largest.shape):
            prominences = find_peaks(profiles[position][at], prominence=0)[1]["prominences"]
            largest[position] = max(largest[position], prominences.max(initial=0))
    return np.where(np.isfinite(profiles[..., measured]).all(-1), largest, np.nan)


def prominence_limit(controls: Array, lag: Array, confidence: float) -> Array:
    """Prominence that the most prominent peak of a control passes with probability 1 - confidence.

    (replicate, ..., lag) -> (...). Each control is seen against the mean of the others, as the observation is.
    """
    return order_quantile(largest_prominence(leave_one_out_residuals(controls), lag), confidence)
