"""Periods finer than a token, from the lag profiles of windows that were stretched in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset
from laglens.lags.combs import comb_teeth, comb_weights, log_ratio
from laglens.lags.precision import Resamples, quantile_interval
from laglens.lags.tracking import refined_period, standardise

Array = NDArray[np.float64]
GRID = 8  # places per token
SMOOTH = 0.5  # standard deviation of the smoothing between lags [tokens]
SHORTEST, CYCLES, CANDIDATES = 3.0, 2.5, 400  # tokens of the shortest period; cycles of the longest within the lags
NEAR = 8  # candidates on either side of the best among which it is refined, 3 % of the period
OFFSETS = np.linspace(-1, 1, 17)  # [tokens]
BOUNDS = ("lower", "upper")
DIMS = ("factor", "sample", "layer", "head", "lag")


def stretched_periods(
    profiles: xr.DataTree, probe: xr.DataTree, resamples: Resamples, *, confidence: float = 0.95
) -> xr.DataTree:
    """Period that every head follows, finer than its tokens.

    A token lag of l samples in a window stretched by a stands for l / a samples of the series. Log ratios are
    standardised by those of noise stretched alike, lags of all factors are merged and smoothed, and the comb that
    stands out most gives the period. It is refined among combs of the same teeth: with a tooth more or less the
    contrast jumps, and the largest lies beside the period.

    Parameters
    ----------
    profiles
        Of the signal, ``ratio (factor, sample, layer, head, lag)`` for every stack (see
        `laglens.attribution.stretch.stretched_profiles`).
    probe
        The same of noise, with the ``offset`` and the ``error (layer, head)`` of every head (`calibrate_heads`).
    resamples
        Of the windows.
    confidence
        Of the interval.

    Returns
    -------
    xr.DataTree
        One node per stack: ``period (layer, head)`` with ``period_interval (..., bound)``, and the ``error`` of the
        head on waves of known period, all in input samples. Attribute ``best``: stack, layer and head of the smallest
        error.

    Raises
    ------
    LaglensError
        The lags hold no comb of two teeth.
    """
    nodes, errors = {}, []
    for name in profiles.children:
        node, null = stack_dataset(profiles, name), stack_dataset(probe, name)
        merged, grid = merged_profiles(node, null, null["offset"].values)
        combs = StretchCombs.of(grid, node["lag"].values, node["factor"].values, _step(node))
        interval = np.full((*merged.shape[1:3], 2), np.nan)
        if resamples.weights is not None:
            interval = quantile_interval(combs.period(resamples.means(merged)), confidence)
        samples = {"units": "input samples"}
        heads, error = ("layer", "head"), null["error"].values
        nodes[f"/{name}"] = xr.Dataset(
            {
                "period": (heads, combs.period(merged.mean(0)), samples),
                "period_interval": ((*heads, "bound"), interval, samples),
                "error": (heads, error, samples),
            },
            {"layer": node["layer"], "head": node["head"], "bound": np.array(BOUNDS, dtype=object)},
            node.attrs,
        )
        layer, head = np.unravel_index(int(error.argmin()), error.shape)
        place = {"stack": name, "layer": int(node["layer"][layer]), "head": int(node["head"][head])}
        errors.append((float(error.min()), place))
    about = {
        "interval_of": str(resamples),
        "confidence": confidence,
        "best": min(errors, key=lambda found: found[0])[1],
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=profiles.attrs | about), **nodes})


def calibrate_heads(noise: xr.DataTree, waves: xr.DataTree) -> xr.DataTree:
    """Where each head looks beside the period, and how far off its periods are, from waves of known period.

    A head may look a fixed part of a token beside the lags at which its input repeats, and its periods would be off by
    as much. The offset is the one with the smallest median error over the waves.

    Parameters
    ----------
    noise, waves
        `laglens.attribution.stretch.stretched_profiles` of noise, and of waves whose ``true_period (sample)`` is at the
        root.

    Returns
    -------
    xr.DataTree
        `noise`, with ``offset (layer, head)`` [tokens] and ``error (layer, head)``, the median absolute error of the
        period on the waves [input samples].
    """
    true, nodes = waves.to_dataset()["true_period"].values, {}
    for name in noise.children:
        node, null = stack_dataset(waves, name), stack_dataset(noise, name)
        z, shape = _standardised(node, null), (node.sizes["layer"], node.sizes["head"])
        errors, lag, factors = [], node["lag"].values, node["factor"].values
        grid = _grid(lag, factors, _step(node))
        combs = StretchCombs.of(grid, lag, factors, _step(node))
        for offset in OFFSETS:
            merging = _merging(grid, lag, factors, _step(node), offset)
            found = combs.period(np.einsum("fshdl,gfl->shdg", z, merging, optimize=True))
            errors.append(np.median(np.abs(found - true[:, None, None]), axis=0))
        best = np.argmin(errors, axis=0)
        nodes[f"/{name}"] = null.assign(
            offset=(("layer", "head"), OFFSETS[best], {"units": "tokens"}),
            error=(("layer", "head"), np.min(errors, axis=0).reshape(shape), {"units": "input samples"}),
        )
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=noise.attrs | {"n_waves": len(true)}), **nodes})


def merged_profiles(node: xr.Dataset, noise: xr.Dataset, offset: Array) -> tuple[Array, Array]:
    """Profile of every window and head over the lags of all factors: (sample, layer, head, place), (place,).

    Parameters
    ----------
    node, noise
        ``ratio (factor, sample, layer, head, lag)``.
    offset
        By how much every head looks beyond the lags at which its input repeats [tokens], ``(layer, head)``.
    """
    z, lag, factors = _standardised(node, noise), node["lag"].values, node["factor"].values
    grid = _grid(lag, factors, _step(node))
    merged = np.empty((*z.shape[1:4], len(grid)))
    for one in np.unique(offset):
        at = offset == one
        merging = _merging(grid, lag, factors, _step(node), one)
        merged[:, at] = np.einsum("fshl,gfl->shg", z[:, :, at], merging, optimize=True)
    return merged, grid


@dataclass(frozen=True)
class StretchCombs:
    """Combs over merged lags.

    Attributes
    ----------
    periods
        Candidates, ``(period,)`` [input samples].
    weights
        ``(period, place)``, of norm 1: combs of many teeth and of few then vary alike on noise.
    around
        The candidates around each, ``(period, 2 NEAR + 1)`` [input samples].
    finer
        Their combs, with the teeth that all of them have, ``(period, 2 NEAR + 1, place)``.
    """

    periods: Array
    weights: Array
    around: Array
    finer: Array

    @classmethod
    def of(cls, grid: Array, lag: Array, factors: Array, step: float) -> Self:
        """Of a grid of lags, as in `merged_profiles`."""
        periods = candidate_periods(lag, factors, step)
        weights = np.stack([comb_weights(grid, period) for period in periods])
        around = periods[:, None] * (periods[1] / periods[0]) ** np.arange(-NEAR, NEAR + 1)
        finer = []
        for near in around:
            teeth = np.intersect1d(comb_teeth(grid, near[0]), comb_teeth(grid, near[-1]))
            finer.append(np.stack([comb_weights(grid, period, teeth) for period in near]))
        return cls(periods, weights / np.linalg.norm(weights, axis=1, keepdims=True), around, np.stack(finer))

    def period(self, merged: Array) -> Array:
        """Period of the largest comb: (..., place) -> (...)."""
        profiles = merged.reshape(-1, merged.shape[-1])
        largest = (profiles @ self.weights.T).argmax(-1)
        found = np.empty(len(profiles))
        for i in np.unique(largest):
            found[largest == i] = refined_period(profiles[largest == i] @ self.finer[i].T, self.around[i])
        return found.reshape(merged.shape[:-1])


def _merging(grid: Array, lag: Array, factors: Array, step: float, offset: float) -> Array:
    """Weights that smooth the lags of all factors onto a grid: (place, factor, lag)."""
    merged = (lag - offset * step) / np.asarray(factors)[:, None]  # lags in samples of the series
    near = np.exp(-0.5 * ((grid[:, None, None] - merged) / (SMOOTH * step)) ** 2)
    return np.asarray(near / near.sum((1, 2), keepdims=True))


def candidate_periods(lag: Array, factors: Array, step: float) -> Array:
    """Periods whose comb has two teeth within the lags of all factors, evenly in log: (period,) [input samples].

    Raises
    ------
    LaglensError
        There is none of at least 3 tokens.
    """
    grid = _grid(lag, np.asarray(factors), step)
    if not len(grid) or grid[-1] <= CYCLES * SHORTEST * step:
        raise LaglensError(
            f"lags up to {lag[-1]:g} samples hold no two multiples of a period of {SHORTEST:g} tokens, "
            f"{SHORTEST * step:g} samples; give the model a longer history"
        )
    return np.geomspace(SHORTEST * step, grid[-1] / CYCLES, CANDIDATES)


def _grid(lag: Array, factors: Array, step: float) -> Array:
    """Lags that heads of every offset reach with some factor [input samples]."""
    return np.arange((lag[0] + step) / factors.min(), lag[-1] / factors.min() - step, step / GRID)


def _standardised(node: xr.Dataset, noise: xr.Dataset) -> Array:
    """Log ratios in standard deviations of those of noise, factor by factor: (factor, sample, layer, head, lag)."""
    ours = log_ratio(node["ratio"].transpose(*DIMS).values)
    theirs = log_ratio(noise["ratio"].sel(factor=node["factor"]).transpose(*DIMS).values)
    return np.stack([standardise(one, null) for one, null in zip(ours, theirs, strict=True)])


def _step(node: xr.Dataset) -> float:
    return float(node.attrs["samples_per_token"])
