"""The lags of an attribution. Numpy only."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

Array = NDArray[np.float64]


def attribution_lags(attribution: xr.Dataset) -> xr.Dataset:
    """Absolute attribution by lag, relative to an even spread over the history.

    Returns
    -------
    xr.Dataset
        ``profile (attribution_method, lag)``: |attribution| / its mean over the history, mean over windows, and
        ``profile_sd`` over windows; ``n_windows (attribution_method)`` in which the attribution is finite and not 0
        everywhere. ``lag`` in input samples, positive = the past, counted from the explained forecast sample; where
        that is the mean of the horizon, from the first one.
    """
    size = np.abs(attribution["attribution"].transpose("attribution_method", "sample", "time").values)[..., ::-1]
    mean = size.mean(-1, keepdims=True)
    share = np.divide(size, mean, out=np.full_like(size, np.nan), where=mean > 0)
    n = np.isfinite(share).all(-1).sum(1)
    lag = attribution.attrs["target_time"] - attribution["time"].values[::-1].astype(np.float64)
    coords = {"attribution_method": attribution["attribution_method"], "lag": ("lag", lag, {"units": "input samples"})}
    dims, (profile, sd) = ("attribution_method", "lag"), mean_and_sd(share)
    variables = {
        "profile": (dims, profile, {"long_name": "|attribution| / mean over the history"}),
        "profile_sd": (dims, sd),
        "n_windows": ("attribution_method", n),
    }
    return xr.Dataset(variables, coords, attribution.attrs)


def mean_and_sd(values: Array, axis: int = 1) -> tuple[Array, Array]:
    """Mean and sd over the finite values of an axis; NaN where there are none, or one for the sd."""
    known = np.isfinite(values)
    n = known.sum(axis, keepdims=True)
    mean = np.where(n > 0, np.where(known, values, 0).sum(axis, keepdims=True) / np.maximum(n, 1), np.nan)
    squares = (np.where(known, values - mean, 0) ** 2).sum(axis, keepdims=True)
    sd = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
    return mean.squeeze(axis), sd.squeeze(axis)
