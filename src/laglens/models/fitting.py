"""Train a forecaster on the windows of one signal, with early stopping."""

from __future__ import annotations

import copy
import logging

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from laglens.errors import LaglensError
from laglens.models.forecaster import ScaledForecaster
from laglens.models.naive import seasonal_naive
from laglens.models.watch import WATCHED, attention_entropy
from laglens.progress import track

logger = logging.getLogger("laglens")


def split_windows(
    values: xr.DataArray, length: int, *, stride: int = 1, validation: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Training and validation windows of a signal, split in time.

    Parameters
    ----------
    values
        ``(sample, time)``.
    length
        Samples per window.
    validation
        Share of the series, at its end, that only validation windows see.

    Returns
    -------
    training, validation
        ``(window, length)`` each; no sample is in both.

    Raises
    ------
    LaglensError
        Either part would have no window.
    """
    series = values.transpose("sample", "time").values
    border = round(series.shape[1] * (1 - validation))
    parts = []
    for name, part in (("training", series[:, :border]), ("validation", series[:, border:])):
        if part.shape[1] < length:
            raise LaglensError(
                f"{part.shape[1]} samples are left for {name}, one window needs {length}: "
                "the series is too short for this model; shorten its history or change 'validation'"
            )
        windows = np.lib.stride_tricks.sliding_window_view(part, length, axis=1)[:, ::stride]
        parts.append(torch.tensor(windows.reshape(-1, length), dtype=torch.float64))
    return parts[0], parts[1]


def fit_on_signal(
    model: ScaledForecaster,
    values: xr.DataArray,
    *,
    epochs: int = 40,
    batch: int = 32,
    learning_rate: float = 1e-3,
    patience: int = 5,
    validation: float = 0.2,
    stride: int = 1,
    seed: int = 0,
) -> xr.Dataset:
    """Train `model` in place with Adam; it ends with the weights of its best validation epoch.

    Parameters
    ----------
    values
        ``(sample, time)``, without gaps.
    epochs
        Most passes over the training windows; 0: the model stays as it is.
    patience
        Epochs without a better validation error after which training stops.

    Returns
    -------
    xr.Dataset
        ``training_loss (epoch)`` and ``validation_loss (epoch)``: mean squared error in standard deviations of the
        history, squared; ``encoder_L00_entropy (epoch)`` and so on: `attention_entropy` of a few validation windows;
        attribute ``best_epoch``.

    Raises
    ------
    LaglensError
        The series is too short, or the loss stops being finite.
    """
    parts = split_windows(values, model.history + model.horizon, stride=stride, validation=validation)
    device = next(model.parameters()).device
    training, held_out = (part.to(device) for part in parts)
    optimiser = torch.optim.Adam(model.parameters(), learning_rate)
    generator = torch.Generator().manual_seed(seed)
    losses: list[tuple[float, float]] = []
    watched = held_out[:: max(1, len(held_out) // WATCHED)][:WATCHED]
    entropies: list[dict[str, float]] = []
    best, best_state = 0, model.state_dict()
    if not epochs:
        return _untrained_curve(model, training, held_out, attention_entropy(model, watched))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout
        for epoch in track(range(epochs), "training on the signal", total=epochs):
            order = torch.randperm(len(training), generator=generator).to(device)
            losses.append((_epoch(model, optimiser, training, order.split(batch)), _validate(model, held_out)))
            if not np.isfinite(losses[-1]).all():
                raise LaglensError(f"the loss is not finite in epoch {epoch + 1}; lower 'learning_rate'")
            entropies.append(attention_entropy(model, watched))
            if losses[epoch][1] <= losses[best][1]:
                best, best_state = epoch, copy.deepcopy(model.state_dict())
            if epoch - best >= patience:
                logger.info("no better validation error for %d epochs; stopped after epoch %d", patience, epoch + 1)
                break
    model.load_state_dict(best_state)
    model.eval()
    training_loss, validation_loss = np.transpose(losses)
    return xr.Dataset(
        {"training_loss": ("epoch", training_loss), "validation_loss": ("epoch", validation_loss)}
        | {name: ("epoch", [one[name] for one in entropies]) for name in entropies[0]},
        coords={"epoch": np.arange(1, len(losses) + 1)},
        attrs={"best_epoch": best + 1},
    )


def _untrained_curve(
    model: ScaledForecaster, training: Tensor, held_out: Tensor, entropies: dict[str, float]
) -> xr.Dataset:
    """The losses and entropies of the weights as they are, as epoch 0."""
    losses = {"training_loss": _validate(model, training), "validation_loss": _validate(model, held_out)}
    model.eval()
    columns = {name: ("epoch", [value]) for name, value in (losses | entropies).items()}
    return xr.Dataset(columns, coords={"epoch": [0]}, attrs={"best_epoch": 0})


def validation_errors(
    model: ScaledForecaster,
    values: xr.DataArray,
    *,
    validation: float = 0.2,
    stride: int = 1,
    period: float | None = None,
) -> dict[str, float]:
    """Mean absolute horizon error on the validation windows, in standard deviations of their history.

    ``last_value`` repeats the last sample, ``mean`` forecasts the mean of the history, and ``seasonal_naive``, where
    a `period` in samples is known, repeats the last cycle.
    """
    length = model.history + model.horizon
    windows = split_windows(values, length, stride=stride, validation=validation)[1]
    scaled = model.normalise(windows)[0].numpy()
    past, future = scaled[:, : model.history], scaled[:, model.history :]
    forecasts = {"last_value": past[:, -1:], "mean": np.zeros((1, 1))}
    if period is not None:
        forecasts["seasonal_naive"] = seasonal_naive(past, np.full(len(past), period), model.horizon)
    device = next(model.parameters()).device
    with torch.no_grad():
        batches = torch.from_numpy(past).double().to(device).split(256)
        forecasts["model"] = torch.cat([model(part) for part in batches]).cpu().numpy()
    return {name: float(np.abs(forecast - future).mean()) for name, forecast in forecasts.items()}


def _epoch(
    model: ScaledForecaster, optimiser: torch.optim.Optimizer, windows: Tensor, batches: tuple[Tensor, ...]
) -> float:
    model.train()
    total = 0.0
    for rows in batches:
        loss = model.loss(windows[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item() * len(rows)
    return total / len(windows)


@torch.no_grad()
def _validate(model: ScaledForecaster, windows: Tensor) -> float:
    model.eval()
    return sum(model.loss(part).item() * len(part) for part in windows.split(256)) / len(windows)
