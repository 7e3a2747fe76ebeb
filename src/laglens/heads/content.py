"""Whether a head's map depends on what the model is shown, or on positions alone."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.heads.rows import Array, Mask, share_of_keys

SMOOTHING = 1e-3  # share of uniform attention that keeps the logarithm finite, as in Clark et al. 2019
FLAT = 1e-6  # variance of the log below which a map in half precision is uniform


class ContentScore:
    """Takes the maps of one window after the other, and holds two maps whatever their number.

    With each log map centred and of length 1, the mean correlation over all pairs of S windows is
    ``(|sum|^2 - S) / (S (S - 1))``.

    Parameters
    ----------
    counts
        Keys that count for each query, ``(query, key)``.
    """

    def __init__(self, counts: Mask) -> None:
        self.counts, self.windows = counts, 0
        self._number = counts.sum(1).astype(np.float64)
        self._sum: Array | float = 0.0
        self._flat: NDArray[np.bool_] | bool = False

    def add(self, weights: Array) -> None:
        """Take the maps of one window, ``(..., query, key)``."""
        rows = np.nan_to_num(share_of_keys(weights, self.counts))
        uniform = SMOOTHING / np.maximum(self._number, 1)[:, None]
        # Over the uniform row, or the number of keys under a causal mask would correlate all maps.
        ratio = ((1 - SMOOTHING) * rows + uniform) * self._number[:, None]
        log = np.log(ratio[..., self.counts])
        log -= log.mean(-1, keepdims=True)
        length = np.sqrt((log**2).sum(-1, keepdims=True))
        self._flat = self._flat | (length[..., 0] ** 2 < FLAT * log.shape[-1])
        self._sum = self._sum + log / np.where(length > 0, length, 1.0)
        self.windows += 1

    @property
    def score(self) -> Array:
        """1 - mean correlation, ``(...)``; NaN for a single window and for uniform maps."""
        n = self.windows
        total = (np.asarray(self._sum) ** 2).sum(-1)
        if n < 2:
            return np.full(total.shape, np.nan)
        return np.where(self._flat, np.nan, 1 - (total - n) / (n * (n - 1)))


def content_score(attention: xr.DataArray, visible: xr.DataArray | None = None, *, dim: str = "sample") -> xr.DataArray:
    """1 - mean correlation of log attention between inputs: (..., sample, query, key) -> (...).

    0: the map is the same whatever the model is shown (position alone); about 1: another map for each input. The
    logarithm is that of 0.999 times the ratio to uniform attention plus 0.001. NaN for uniform maps.

    Parameters
    ----------
    attention
        Maps of the same model on several inputs.
    visible
        Keys that count for each query, ``(query, key)``; default: all.
    dim
        The inputs.

    Raises
    ------
    LaglensError
        There are fewer than two inputs.
    """
    if attention.sizes.get(dim, 1) < 2:
        raise LaglensError(
            f"a content score compares inputs, and attention has {attention.sizes.get(dim, 1)} of '{dim}'"
        )
    shape = attention.sizes["query"], attention.sizes["key"]
    counts = np.ones(shape, bool) if visible is None else visible.transpose("query", "key").values.astype(bool)

    def scored(weights: NDArray) -> Array:
        content = ContentScore(counts)
        for i in range(weights.shape[-3]):
            content.add(weights[..., i, :, :].astype(np.float64))
        return content.score

    return xr.apply_ufunc(scored, attention, input_core_dims=[[dim, "query", "key"]])
