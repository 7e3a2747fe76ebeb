"""Whether an explanation names the lags that a signal is known to have. Numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import rankdata

from laglens.attribution.explanations import blocks

Array = NDArray[np.float64]
SHORTEST = 2  # blocks per period; below, every block holds a true lag


def known_lags(truth: dict[str, Any], longest: float, width: float) -> Array:
    """Lags that a forecast of a signal can rest on, in input samples: its lags, or all multiples of its periods.

    Periods under 2 blocks are left out.

    Parameters
    ----------
    truth
        Attribute ``truth`` of a signal: ``lags`` and ``periods`` [input samples].
    longest
        Longest lag.
    width
        Samples of a block.
    """
    lags = [lag for lag in truth.get("lags", ()) if lag >= SHORTEST * width]
    if not lags:
        periods = [period for period in truth.get("periods", ()) if period >= SHORTEST * width]
        lags = [k * period for period in periods for k in range(1, int(longest / period) + 1)]
    return np.unique([lag for lag in lags if lag <= longest])


def score_truth(explained: xr.Dataset, truth: dict[str, Any]) -> xr.Dataset:
    """How well each explanation tells blocks at a true lag from all others.

    Parameters
    ----------
    explained
        ``importance (explanation, sample, time)`` (see `laglens.attribution.explanations.explanations`), of one
        forecast step: lags count from it.
    truth
        See `known_lags`.

    Returns
    -------
    xr.Dataset
        ``truth_auc (explanation, sample)``: probability that a block at a true lag has a higher value than another one
        (area under the ROC curve): 1 = all first, 0.5 = chance. ``true_block (block)`` says which they are. NaN
        everywhere where the signal has no such lag, every block has one, or the mean of the horizon is explained. With
        ``recency``, the latest block first, as an explanation of its own.
    """
    width, target = int(explained.attrs["occlusion_window"]), float(explained.attrs["target_time"])
    values = blocks(explained["importance"].transpose("explanation", "sample", "time").values, width)
    recent = np.broadcast_to(np.arange(values.shape[-1], dtype=float), values.shape[1:])
    values = np.concatenate([values, recent[None]])
    block = np.arange(explained.sizes["time"]) // width
    true = np.zeros(values.shape[-1], bool)
    if explained.attrs["step"] != "mean":
        at = np.round(target - known_lags(truth, target, width)).astype(int)
        true[block[at[(at >= 0) & (at < len(block))]]] = True
    names = [*explained["explanation"].values, "recency"]
    coords = {"explanation": np.array(names, object), "sample": explained["sample"].values}
    variables = {"truth_auc": (("explanation", "sample"), area(values, true)), "true_block": ("block", true)}
    return xr.Dataset(variables, coords, explained.attrs)


def area(values: Array, true: NDArray[np.bool_]) -> Array:
    """Area under the ROC curve over the last axis, ties counting half: (..., block), (block,) -> (...)."""
    positive, negative = int(true.sum()), int((~true).sum())
    if not positive or not negative:
        return np.full(values.shape[:-1], np.nan)
    ranks = rankdata(values, axis=-1)[..., true].sum(-1)
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)
