"""What every head shows beside its test: its strongest lag, the period it seems to follow, what else explains it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.combs import GUARDS, comb_contrast, log_ratio
from laglens.lags.headlines import Headline
from laglens.lags.inputs import rank_correlation, token_autocorrelation
from laglens.lags.precision import Resamples, quantile_interval
from laglens.lags.tracking import candidate_combs, refined_period, standardise

Array = NDArray[np.float64]
BOUNDS = ("lower", "upper")


def describe_heads(
    line: Headline,
    periods: Sequence[float],
    resamples: Resamples,
    shown: xr.DataArray | None = None,
    *,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Readings of every head of a stack, on the lags of its headline part.

    Parameters
    ----------
    periods
        [input samples], all testable.
    resamples
        Of the windows.
    shown
        What the model saw of them, ``(sample, time)``.
    confidence
        Of the intervals, which are NaN with fewer than 3 independent windows.

    Returns
    -------
    xr.Dataset
        ``strongest_lag (layer, head)``: past lag whose log ratio is farthest above the controls, in their standard
        deviations; ``multiple (..., period)``: the k whose kP lies within a token of it, 0 for none; ``at_period``:
        whether it lies within a token of P. ``detected (layer, head)``: period of the comb that stands out most
        from the controls, whatever the tested periods, with ``detected_interval (..., bound)``. ``contrast_interval
        (..., period, bound)``. ``guard (..., period, comb)``: contrast at P/2, 2P and 1.618 P, NaN where lags or tokens
        cannot show it. ``special_mass (layer, head)``. ``acf_correlation (layer, head)``: rank correlation of the ratio
        with the autocorrelation of the input averaged in tokens; NaN without `shown`.
    """
    z = standardise(log_ratio(line.ratio), log_ratio(line.controls))
    strongest = line.lag[z.argmax(-1)]
    at = nearest_multiple(strongest[..., None], np.asarray(periods, float), line.step)
    detected, interval = _detected(line, z, resamples, confidence)
    heads = ("layer", "head")
    samples = {"units": "input samples"}
    return xr.Dataset(
        {
            "strongest_lag": (heads, strongest, samples),
            "multiple": ((*heads, "period"), at),
            "at_period": ((*heads, "period"), np.abs(strongest[..., None] - np.asarray(periods, float)) <= line.step),
            "detected": (heads, detected, samples),
            "detected_interval": ((*heads, "bound"), interval, samples),
            "contrast_interval": (
                (*heads, "period", "bound"),
                _contrast_interval(line, periods, resamples, confidence),
            ),
            "guard": ((*heads, "period", "comb"), _guards(line, periods)),
            "special_mass": (heads, line.special_mass),
            "acf_correlation": (heads, _acf_correlation(line, shown)),
        },
        {
            **line.labels,
            "period": np.asarray(periods, float),
            "comb": np.array(list(GUARDS), dtype=object),
            "bound": np.array(BOUNDS, dtype=object),
        },
    )


def nearest_multiple(lag: Array, period: Array, step: float) -> NDArray[np.int64]:
    """The k of the nearest kP where it lies within a token of the lag, else 0: (...), (...) -> (...)."""
    multiple = np.maximum(1, np.round(lag / period)).astype(np.int64)
    return np.where(np.abs(lag - multiple * period) <= step, multiple, 0)


def _acf_correlation(line: Headline, shown: xr.DataArray | None) -> Array:
    try:
        curve = None if shown is None else token_autocorrelation(shown, line.step, line.lag)
    except LaglensError:  # a straight line, or a history of a few tokens
        curve = None
    return np.full(line.ratio.shape[:-1], np.nan) if curve is None else rank_correlation(line.ratio, curve)


def _guards(line: Headline, periods: Sequence[float]) -> Array:
    """Contrast at the guards of every period: -> (layer, head, period, comb)."""
    ratio = _labelled(line, line.ratio)
    found = np.full((*line.ratio.shape[:-1], len(periods), len(GUARDS)), np.nan)
    for i, period in enumerate(periods):
        for j, factor in enumerate(GUARDS.values()):
            try:
                found[..., i, j] = comb_contrast(ratio, [factor * period], step=line.step).values[..., 0]
            except LaglensError:
                continue
    return found


def _contrast_interval(line: Headline, periods: Sequence[float], resamples: Resamples, confidence: float) -> Array:
    shape = (*line.ratio.shape[:-1], len(periods), 2)
    if resamples.weights is None or not len(periods):
        return np.full(shape, np.nan)
    found = np.empty(shape)
    for layer in range(shape[0]):  # one layer at a time: resamples of all heads at once need much memory
        drawn = np.maximum(resamples.means(line.windows[:, layer]), 0)
        ratio = xr.DataArray(drawn, dims=("resample", "head", "lag"), coords={"lag": line.lag})
        contrasts = comb_contrast(ratio, [float(p) for p in periods], step=line.step).values
        found[layer] = quantile_interval(contrasts, confidence)
    return found


def _detected(line: Headline, z: Array, resamples: Resamples, confidence: float) -> tuple[Array, Array]:
    """Period of the comb that stands out most, ``(layer, head)``, with its interval ``(layer, head, bound)``."""
    nothing = np.full((*z.shape[:2], 2), np.nan)
    try:
        periods, combs = candidate_combs(line.lag, line.step)
    except LaglensError:  # too few lags for any comb
        return nothing[..., 0], nothing
    detected = refined_period(z @ combs.T, periods)
    if resamples.weights is None:
        return detected, nothing
    null, interval = log_ratio(line.controls), nothing.copy()
    for layer in range(len(z)):
        drawn = np.maximum(resamples.means(line.windows[:, layer]), 0)
        found = refined_period(standardise(log_ratio(drawn), null[:, layer]) @ combs.T, periods)
        interval[layer] = quantile_interval(found, confidence)
    return detected, interval


def _labelled(line: Headline, ratio: Array) -> xr.DataArray:
    return xr.DataArray(ratio, dims=("layer", "head", "lag"), coords={"lag": line.lag})
