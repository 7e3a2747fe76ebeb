"""Scale a series by what the model may see of it."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_by_history(series: Tensor, history: int, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and scale ``(batch, time)`` by mean and standard deviation of its first `history` samples.

    The horizon never enters the statistics; a constant history is only centred. Values are clipped to +- `limit`.

    Returns
    -------
    scaled, mean, sd
        ``(batch, time)`` float32, ``(batch, 1)`` and ``(batch, 1)`` float64.
    """
    past = series[:, :history].double()
    mean, sd = past.mean(1, keepdim=True), past.std(1, keepdim=True)
    sd = torch.where(sd > 1e-9 * past.abs().amax(1, keepdim=True), sd, 1.0)
    return ((series - mean) / sd).clamp(-limit, limit).float(), mean, sd
