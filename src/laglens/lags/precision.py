"""How precise a mean over windows is: bootstrap over windows, in blocks where windows of one series overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from laglens.lags.layout import Layout
from laglens.lags.profiles import mean_by_bin, uniform_scale

Array = NDArray[np.float64]
FEWEST = 3  # independent windows; of two, an interval would only say how far they are apart
ENOUGH = 20  # independent windows from which bias and skewness can be told (BCa)
RESAMPLES = 999
AT_ONCE = 2000  # columns whose resampled means are held together


@dataclass(frozen=True)
class Resamples:
    """Bootstrap samples of windows.

    Attributes
    ----------
    weights
        Share of each window in each resample, ``(resample, window)``; None with fewer than 3 independent windows.
    blocks
        Share of each window in each of the independent blocks, ``(block, window)``.
    independent
        Windows, or, where they overlap, how many blocks of overlapping windows there are.
    widen
        What the deviations of resampled means are multiplied by: blocks as long as the overlap miss part of the
        variance (see `resample_runs`).
    """

    weights: Array | None
    blocks: Array
    independent: float
    widen: float = 1.0

    def means(self, values: Array) -> Array:
        """Resampled means over windows: (window, ...) -> (resample, ...), around the mean of all.

        Raises
        ------
        ValueError
            There are no resamples.
        """
        if self.weights is None:
            raise ValueError(str(self))
        # Blocks show the windows in the middle of a series more often than those at its ends.
        away = self.weights - self.weights.mean(0)
        return np.asarray(values.mean(0) + self.widen * np.tensordot(away, values, 1))

    def __str__(self) -> str:
        windows = self.blocks.shape[1]
        if self.independent == windows:
            return f"{windows} windows" + (f"; an interval needs {FEWEST}" if self.weights is None else "")
        text = f"{windows} overlapping windows, as good as {self.independent:.2g} independent ones"
        return text if self.weights is not None else f"{text}; an interval needs {FEWEST}"


def resample_windows(windows: xr.Dataset, history: float, *, n_resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
    """Resamples of the windows of a time tree.

    Windows of different series are independent, as are those of one series that share no sample of their history.
    Where they do, whole runs of windows as long as the overlap are drawn (moving blocks, Kuensch 1989).

    Parameters
    ----------
    windows
        Root of a time tree. Coordinates ``signal_sample`` and ``start (sample)`` say where a window comes from; without
        them all windows count as independent.
    history
        Samples that the model sees of a window.
    """
    n, rng = windows.sizes["sample"], np.random.default_rng(seed)
    if "start" not in windows.coords:
        return resample_runs([np.arange(n)], 1, n_resamples, rng)
    start, series = windows["start"].values, np.zeros(n)
    # Channels that a model sees together are not independent of each other.
    if "signal_sample" in windows.coords and "channel" not in windows.coords:
        series = windows["signal_sample"].values
    runs = [np.flatnonzero(series == one) for one in np.unique(series)]
    runs = [run[np.argsort(start[run], kind="stable")] for run in runs]
    # Of every window, how many begin before its history ends, itself among them.
    overlapping = [np.searchsorted(start[run], start[run] + history) - np.arange(len(run)) for run in runs]
    return resample_runs(runs, int(np.concatenate(overlapping).max()), n_resamples, rng)


def resample_runs(runs: list[NDArray[np.int64]], length: int, n_resamples: int, rng: Generator) -> Resamples:
    r"""Resamples by blocks of `length` windows.

    The autocovariance of windows that share samples falls to 0 at `length` windows, about linearly. Of the variance of
    their mean, blocks of just that length m see the share
    :math:`[1 + 2 \sum_{k<m} (1 - k/m)^2] / m`, two thirds where m is large. Deviations are
    widened by one over its root.

    Parameters
    ----------
    runs
        Windows of each series, in the order of time.
    """
    n = sum(map(len, runs))
    moving = [run[i : i + length] for run in runs for i in range(max(len(run) - length, 0) + 1)]
    apart = [run[i : i + length] for run in runs for i in range(0, len(run), length)]
    shares = [np.bincount(block, minlength=n) / len(block) for block in moving]
    blocks = np.array([np.bincount(block, minlength=n) / len(block) for block in apart])
    independent = sum(len(run) / min(length, len(run)) for run in runs)
    if independent < FEWEST:
        return Resamples(None, blocks, independent)
    drawn = rng.multinomial(int(independent), np.full(len(moving), 1 / len(moving)), n_resamples)
    share = (1 + 2 * np.sum((1 - np.arange(1, length) / length) ** 2)) / length
    return Resamples(drawn @ np.asarray(shares) / int(independent), blocks, independent, 1 / np.sqrt(share))


def mean_interval(values: Array, resamples: Resamples, confidence: float = 0.95) -> Array:
    """Bootstrap interval of the mean over windows: (window, ...) -> (..., 2).

    Bias corrected and accelerated (BCa, Efron 1987) from 20 independent windows, percentiles below; NaN under 3, and
    where a value is not finite.
    """
    flat = values.reshape(len(values), -1)
    found = np.full((flat.shape[1], 2), np.nan)
    if resamples.weights is None:
        return found.reshape(*values.shape[1:], 2)
    for first in range(0, flat.shape[1], AT_ONCE):
        part = flat[:, first : first + AT_ONCE]
        drawn, mean = resamples.means(part), part.mean(0)
        levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])[:, None]
        if resamples.independent >= ENOUGH:
            levels = _accelerated(levels, drawn, mean, resamples.blocks @ part)
        found[first : first + AT_ONCE] = _at_levels(drawn, np.broadcast_to(levels, (2, part.shape[1]))).T
    return found.reshape(*values.shape[1:], 2)


def quantile_interval(drawn: Array, confidence: float = 0.95) -> Array:
    """Percentile interval of resampled values: (resample, ...) -> (..., 2)."""
    return np.moveaxis(np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0), 0, -1)


def _accelerated(levels: Array, drawn: Array, mean: Array, blocks: Array) -> Array:
    """Levels of BCa: (bound, 1), (resample, column), (column,), (block, column) -> (bound, column)."""
    below = ((drawn < mean).mean(0) + (drawn <= mean).mean(0)) / 2
    bias = ndtri(np.clip(below, 1 / (2 * len(drawn)), 1 - 1 / (2 * len(drawn))))
    away = blocks - blocks.mean(0)
    squares = (away**2).sum(0)
    acceleration = (away**3).sum(0) / (6 * np.maximum(squares, np.finfo(float).tiny) ** 1.5)
    shifted = bias + ndtri(levels)
    return np.asarray(ndtr(bias + shifted / (1 - acceleration * shifted)))


def _at_levels(drawn: Array, levels: Array) -> Array:
    """Quantiles of every column at its own levels, linear between order statistics: -> (bound, column)."""
    ordered = np.sort(drawn, axis=0)
    position = np.clip(levels, 0, 1) * (len(drawn) - 1)
    lower = np.floor(np.nan_to_num(position)).astype(int)  # the value stays NaN
    upper = np.minimum(lower + 1, len(drawn) - 1)
    column = np.arange(drawn.shape[1])
    return np.asarray(ordered[lower, column] + (position - lower) * (ordered[upper, column] - ordered[lower, column]))


def window_ratios(node: xr.Dataset, layout: Layout, parts: Iterable[str]) -> dict[str, Array]:
    r"""What every window adds to the ratio to uniform of the mean map, by part: -> (sample, layer, head, lag) each.

    With :math:`\bar A` the mean map and :math:`\bar S` its row sums over the visible keys, the ratio is linear in
    :math:`A_i - \bar A (S_i / \bar S - 1)` to first order. The mean over windows is the ratio of the mean map, exactly;
    without special tokens, where all rows sum to 1, each is the ratio of the window's own map.
    """
    maps = node["attention"].transpose("sample", "layer", "head", "query", "key")
    total, visible = np.zeros(maps.shape[1:]), layout.table.visible
    for i in range(maps.sizes["sample"]):  # one at a time: a tree read from disk need not fit in memory
        total += maps.isel(sample=i).values
    mean = total / maps.sizes["sample"]
    sums, scale = mean.sum(-1, where=visible), uniform_scale(mean, visible)
    bins = {part: layout.bins(part, fixed=True) for part in parts}
    found: dict[str, list[Array]] = {part: [] for part in bins}
    for i in range(maps.sizes["sample"]):
        window = maps.isel(sample=i).values.astype(np.float64)
        more = np.divide(window.sum(-1, where=visible), sums, out=np.ones_like(sums), where=sums > 0) - 1
        window -= mean * more[..., None]
        for part, collected in found.items():
            collected.append(mean_by_bin(window, bins[part], len(layout.lag), scale))
    return {part: np.stack(collected) for part, collected in found.items()}
