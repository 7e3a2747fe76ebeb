"""Forecasts that any model has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def seasonal_naive(history: NDArray[np.floating], periods: NDArray[np.floating], horizon: int) -> NDArray[np.float64]:
    """Repeat the last cycle, interpolating linearly: ``(batch, history), (batch,) -> (batch, horizon)``.

    `periods` are in samples and need not be whole numbers.
    """
    length = history.shape[1]
    ahead = np.arange(length, length + horizon)
    cycles = np.ceil((ahead - (length - 1)) / periods[:, None])
    source = ahead - cycles * periods[:, None]
    return np.stack([np.interp(at, np.arange(length), past) for at, past in zip(source, history, strict=True)])
