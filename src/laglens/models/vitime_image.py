"""The picture that ViTime draws of a series, and the series it reads from one.

Follows the inference of ViTime as published (Yang et al. 2024, arXiv 2407.07311; predictor of
github.com/IkeYang/ViTime), in float64 and for many series at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLUR = 31  # pixels of the Gaussian kernel along time and along value; the picture is multiplied by it afterwards
SPREAD = 5.0  # its standard deviation in pixels: what OpenCV takes for 31, 0.3 ((31 - 1) / 2 - 1) + 0.8
TINY = 1e-7  # added to the spread, and to the power mean, of a history


def resample(series: Tensor, length: int) -> Tensor:
    """Linear interpolation to `length` evenly spaced times, first and last kept: ``(batch, time)`` to same."""
    at = np.linspace(0, series.shape[1] - 1, length)
    before = at.astype(np.int64)
    after = np.minimum(before + 1, series.shape[1] - 1)
    left, right = (series[:, torch.from_numpy(index).to(series.device)] for index in (before, after))
    return left + (right - left) * torch.from_numpy(at - before).to(series)


def blur(picture: Tensor) -> Tensor:
    """Gaussian blur along the last axis, mirrored at the ends without repeating the edge: ``(..., n)`` to same."""
    reach, n = BLUR // 2, picture.shape[-1]
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SPREAD) ** 2)
    mirrored = torch.from_numpy(np.pad(np.arange(n), reach, mode="reflect")).to(picture.device)
    padded, blurred = picture[..., mirrored], torch.zeros_like(picture)
    # Tap by tap: a convolution of torch in float64 takes some 20 times longer.
    for shift, weight in enumerate(weights / weights.sum()):
        blurred.add_(padded[..., shift : shift + n], alpha=weight)
    return blurred


@dataclass(frozen=True)
class Canvas:
    """How samples and values become pixels.

    Attributes
    ----------
    history, horizon
        Samples that fill the columns of the picture, stretched or squeezed to fit.
    rows, columns
        Pixels: values from the lowest up, time.
    max_scale
        Values are drawn from minus to plus this many standard deviations.
    mu_norm
        Power of the mean that is subtracted (see `normalise`); None: the plain mean.
    """

    history: int
    horizon: int
    rows: int
    columns: int
    max_scale: float
    mu_norm: int | None

    @property
    def history_columns(self) -> int:
        """Columns that the history fills; evaluated in this order, because the result is cut off."""
        return int(self.history / (self.history + self.horizon) * self.columns)

    @property
    def step(self) -> float:
        """Height of a row [standard deviations]."""
        return 2 * self.max_scale / (self.rows - 1)

    def normalise(self, history: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Stretch a history to its columns, centre and scale it.

        .. math:: \mu = \mathrm{sign}(g) \sqrt{|g|}, \quad g = \overline{x^p \, \mathrm{sign}(x)} + 10^{-7}

        With p = 2 this is a signed root mean square, not the mean; other powers keep the square root, as published.

        Returns
        -------
        scaled, mu, sigma
            ``(batch, column)``, and ``(batch, 1)`` each.
        """
        drawn = resample(history, self.history_columns)
        sigma = drawn.std(1, keepdim=True, correction=0) + TINY
        if self.mu_norm is None:
            mu = drawn.mean(1, keepdim=True)
        else:
            power = (drawn**self.mu_norm * drawn.sign()).mean(1, keepdim=True) + TINY
            mu = power.abs().sqrt() * power.sign()
        return (drawn - mu) / sigma, mu, sigma

    def draw(self, scaled: Tensor) -> Tensor:
        """Picture of a normalised history: ``(batch, column) -> (batch, row, column)``.

        One pixel per column of the history, none in the horizon, then blurred: a rim of the history leaks into the
        first 15 columns of the horizon.
        """
        inside = scaled.clamp(-self.max_scale, self.max_scale)
        lit = ((inside + self.max_scale) / self.step).floor().long().clamp(0, self.rows - 1)
        columns = blur(torch.eye(self.rows, dtype=scaled.dtype, device=scaled.device))[lit]  # (batch, column, row)
        return blur(F.pad(columns.transpose(1, 2), (0, self.columns - lit.shape[1]))) * BLUR

    def read(self, picture: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
        """Forecast from a picture, brightest row of each column: ``(batch, row, column) -> (batch, horizon)``.

        A row stands for its lower edge, so that values lie half a row low on average, as published.
        """
        values = picture.argmax(1).to(mu) * self.step - self.max_scale
        return resample(values * sigma + mu, self.history + self.horizon)[:, self.history :]


def position_code(width: int, rows: int, columns: int) -> Tensor:
    """Sines and cosines of the column, then of the row, after a zero for CLS: ``-> (1, 1 + rows * columns, width)``."""
    frequency = torch.exp(-math.log(10000) * torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [at.reshape(-1, 1) * frequency for at in (column, row)]
    code = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)
    return F.pad(code, (0, 0, 1, 0))[None].float()
