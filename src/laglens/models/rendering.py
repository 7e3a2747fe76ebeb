"""Pictures of a series for models that look at images.

Time runs from left to right over the whole width, stretched or squeezed to fit: of T samples in W columns of pixels,
sample i fills the columns from i W / T to (i + 1) W / T. Values are in standard deviations around the mean of the
series, and beyond `LIMIT` of them they are drawn at the edge.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LIMIT = 3.5  # standard deviations from the middle of the picture to its upper and lower edge
PEN = 1.0  # pixels: standard deviation of the Gaussian profile of a line


def standardise(series: Tensor) -> Tensor:
    """Series in standard deviations around their means, float32: ``(batch, time)`` to same; a constant becomes 0."""
    centred = series.double() - series.double().mean(1, keepdim=True)
    sd = centred.std(1, keepdim=True)
    flat = sd <= 1e-9 * series.abs().amax(1, keepdim=True)
    return (centred / sd).masked_fill(flat, 0.0).float()


def draw_line(values: Tensor, height: int, width: int) -> Tensor:
    """Draw a dark curve on a light ground, as in a plot: ``(batch, time) -> (batch, height, width)`` from 0 to 1.

    The curve joins the samples by straight lines. In each column of pixels it covers the values from the lowest to the
    highest that it takes there, so no sample is lost where several share a column.
    """
    lowest, highest = column_range(values.clamp(-LIMIT, LIMIT), width)
    centres = LIMIT - (torch.arange(height, device=values.device, dtype=values.dtype) + 0.5) * (2 * LIMIT / height)
    above = centres[:, None] - highest[:, None]
    below = lowest[:, None] - centres[:, None]
    pixels = torch.maximum(above, below).clamp_min(0) * (height / (2 * LIMIT))
    return 1 - torch.exp(-0.5 * (pixels / PEN) ** 2)


def column_range(values: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of the joined samples within each column: ``(batch, time) -> (batch, width)`` twice."""
    n = values.shape[1]
    # The curve at the borders of the columns, in samples; beyond the middle of the first and last sample it is flat.
    border = (torch.arange(width + 1, device=values.device, dtype=torch.float64) * n / width - 0.5).clamp(0, n - 1)
    before = border.floor().long()
    after = (before + 1).clamp_max(n - 1)
    at_border = torch.lerp(values[:, before], values[:, after], (border - before).to(values))
    column = torch.arange(1, 2 * n, 2, device=values.device).mul(width).div(2 * n, rounding_mode="floor")
    column = column.expand(len(values), -1)
    lowest = torch.minimum(at_border[:, :-1], at_border[:, 1:]).scatter_reduce(1, column, values, "amin")
    highest = torch.maximum(at_border[:, :-1], at_border[:, 1:]).scatter_reduce(1, column, values, "amax")
    return lowest, highest


def draw_raster(values: Tensor, height: int, width: int) -> Tensor:
    """Draw each time as a column of one grey, from 0 to 1: ``(batch, time) -> (batch, height, width)``.

    Light where the value is high. Columns between samples are interpolated, samples that share a column averaged.
    """
    mode = "linear" if values.shape[1] < width else "area"
    grey = F.interpolate(values.clamp(-LIMIT, LIMIT)[:, None], width, mode=mode) / (2 * LIMIT) + 0.5
    return grey.expand(-1, height, -1)


DRAWINGS = {"line": draw_line, "raster": draw_raster}
