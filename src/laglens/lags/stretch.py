"""Periods finer than a token, from the lag profiles of windows that were stretched in time."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.lags.alike import stack_dataset
from laglens.lags.combs import log_ratio
from laglens.lags.precision import Resamples, quantile_interval
from laglens.lags.tracking import candidate_combs, refined_period, standardise

Array = NDArray[np.float64]
GRID = 8  # places per token
SMOOTH = 0.4  # standard deviation of the smoothing between lags [tokens]
BOUNDS = ("lower", "upper")


def stretched_periods(
    profiles: xr.DataTree, noise: xr.DataTree, resamples: Resamples, *, confidence: float = 0.95
) -> xr.DataTree:
    """Period that every head follows, finer than its tokens.

    A token lag of l samples in a window stretched by a stands for l / a samples of the series. Log ratios are
    standardised by those of noise stretched alike, lags of all factors are merged and smoothed, and the comb that
    stands out most gives the period.

    Parameters
    ----------
    profiles, noise
        Of the signal and of noise, ``ratio (factor, sample, layer, head, lag)`` for every stack (see
        `laglens.attribution.stretch.stretched_profiles`).
    resamples
        Of the windows.
    confidence
        Of the interval.

    Returns
    -------
    xr.DataTree
        One node per stack: ``period (layer, head)`` with ``period_interval (..., bound)`` [input samples].

    Raises
    ------
    LaglensError
        The lags hold no comb.
    """
    nodes = {}
    for name in profiles.children:
        node, null = stack_dataset(profiles, name), stack_dataset(noise, name)
        contrasts, periods = merged_contrasts(node, null)
        interval = np.full((*contrasts.shape[1:3], 2), np.nan)
        if resamples.weights is not None:
            interval = quantile_interval(refined_period(resamples.means(contrasts), periods), confidence)
        samples = {"units": "input samples"}
        nodes[f"/{name}"] = xr.Dataset(
            {
                "period": (("layer", "head"), refined_period(contrasts.mean(0), periods), samples),
                "period_interval": (("layer", "head", "bound"), interval, samples),
            },
            {"layer": node["layer"], "head": node["head"], "bound": np.array(BOUNDS, dtype=object)},
            node.attrs,
        )
    about = profiles.attrs | {"interval_of": str(resamples), "confidence": confidence}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=about), **nodes})


def merged_contrasts(node: xr.Dataset, noise: xr.Dataset) -> tuple[Array, Array]:
    """Contrast of every window and head at every candidate period: (sample, layer, head, period), (period,)."""
    node, noise = (each.transpose("factor", "sample", "layer", "head", "lag") for each in (node, noise))
    step, lag = float(node.attrs["samples_per_token"]), node["lag"].values
    weights, periods = stretch_combs(lag, node["factor"].values, step)
    logs, null = log_ratio(node["ratio"].values), log_ratio(noise["ratio"].sel(factor=node["factor"]).values)
    z = np.stack([standardise(ours, theirs) for ours, theirs in zip(logs, null, strict=True)])
    return np.einsum("fshdl,pfl->shdp", z, weights, optimize=True), periods


def stretch_combs(lag: Array, factors: Array, step: float) -> tuple[Array, Array]:
    """Weights over the lags of all factors whose sum is the contrast of a period: (period, factor, lag), (period,).

    Parameters
    ----------
    lag
        Token lags [input samples of the stretched window], evenly spaced.
    factors
        Of the windows.
    step
        Input samples per token.
    """
    merged = lag / np.asarray(factors)[:, None]  # lags in samples of the series
    grid = np.arange(merged.min(), merged.max(), step / GRID)
    near = np.exp(-0.5 * ((grid[:, None, None] - merged) / (SMOOTH * step)) ** 2)
    near /= near.sum((1, 2), keepdims=True)
    periods, combs = candidate_combs(grid, step)
    return np.einsum("pg,gfl->pfl", combs, near, optimize=True), periods
