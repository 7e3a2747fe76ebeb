"""Integrated gradients: the gradient along the way from a baseline to the history (Sundararajan et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from scipy.signal import lfilter
from torch import Tensor

from laglens.attribution.methods import Explained, intact_scaling
from laglens.errors import LaglensError
from laglens.progress import track

SURROGATES = 4
POINTS = 16


def of_mean(history: Tensor, rng: Generator) -> Tensor:
    """Baseline: the mean of each history: (window, time) -> (1, window, time)."""
    return history.mean(1, keepdim=True).expand_as(history)[None]


def of_trend(history: Tensor, rng: Generator) -> Tensor:
    """Baseline: the straight line of least squares through each history: (window, time) -> (1, window, time)."""
    time = torch.arange(history.shape[1], dtype=history.dtype, device=history.device)
    time = time - time.mean()
    slope = (history * time).sum(1, keepdim=True) / (time**2).sum()
    return (history.mean(1, keepdim=True) + slope * time)[None]


def of_surrogates(history: Tensor, rng: Generator, n: int = SURROGATES) -> Tensor:
    """Baselines: AR(1) noise with the lag-one correlation, mean and deviation of each history.

    (window, time) -> (n, window, time).
    """
    values = history.detach().cpu().double().numpy()
    centred = values - values.mean(1, keepdims=True)
    # Burg's estimate of order 1 stays within +-1 whatever the series.
    power = (centred[:, 1:] ** 2 + centred[:, :-1] ** 2).sum(1)
    both = 2 * (centred[:, 1:] * centred[:, :-1]).sum(1)
    coefficient = np.clip(np.divide(both, power, out=np.zeros_like(both), where=power > 0), -0.999, 0.999)
    noise = rng.normal(size=(n, *values.shape))
    noise[..., 0] /= np.sqrt(1 - coefficient**2)
    for i, phi in enumerate(coefficient):
        noise[:, i] = lfilter([1.0], [1.0, -phi], noise[:, i])
    noise = (noise - noise.mean(-1, keepdims=True)) / noise.std(-1, keepdims=True)
    scaled = values.mean(1, keepdims=True) + centred.std(1, keepdims=True) * noise
    return torch.from_numpy(scaled).to(history)


BASELINES: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "integrated_gradients": of_mean,
    "integrated_gradients_trend": of_trend,
    "integrated_gradients_surrogates": of_surrogates,
}


def integrated_gradients(explained: Explained, history: Tensor, baseline: Tensor, points: int) -> tuple[Tensor, Tensor]:
    r"""Integrated gradients, and how far their sum is from the difference that they explain.

    .. math:: (x - x') \int_0^1 \nabla y(x' + a (x - x')) \, da

    (window, time) -> (window, time), (window,). The integral is Gauss-Legendre with `points` nodes. Mean and spread by
    which the model scales stay those of the intact history (see `intact_scaling`): scaled anew, every point on the way
    from the mean of the history would look the same to the model.

    Parameters
    ----------
    baseline
        ``(window, time)``.

    Returns
    -------
    attribution, completeness
        Forecast units; ``|sum of the attribution - (y(x) - y(x'))| / |y(x) - y(x')|``.

    Raises
    ------
    LaglensError
        The forecast has no gradient.
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    total = torch.zeros_like(history)
    window = torch.arange(len(history), device=history.device)
    for part in window.split(explained.batch):
        shown, origin = history[part], baseline[part]
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            total[part] += weight * _gradient(explained, origin + node * (shown - origin), shown, part)
    attribution = (history - baseline) * total
    with torch.no_grad(), intact_scaling(explained.model, history):
        difference = explained(history, window) - explained(baseline, window)
    return attribution, (attribution.sum(1) - difference).abs() / difference.abs()


def averaged(name: str, explained: Explained, history: Tensor, points: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Integrated gradients over the baselines of a method: their mean, and the mean of their completeness."""
    baselines = BASELINES[name](history, rng)
    found = [
        integrated_gradients(explained, history, baseline, points)
        for baseline in track(baselines, name.replace("_", " "), total=len(baselines))
    ]
    attribution, completeness = zip(*found, strict=True)
    return torch.stack(attribution).mean(0), torch.stack(completeness).mean(0)


def _gradient(explained: Explained, at: Tensor, shown: Tensor, window: Tensor) -> Tensor:
    inputs = at.clone().requires_grad_()
    with torch.enable_grad(), intact_scaling(explained.model, shown):
        y = explained(inputs, window).sum()
        if not y.requires_grad:
            raise LaglensError("the forecast has no gradient; use the method occlusion")
        return torch.autograd.grad(y, inputs, materialize_grads=True)[0]
