"""Train and judge a forecaster on the synthetic mixture."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from laglens.models.forecaster import Forecaster, ScaledForecaster
from laglens.models.mixture import EVALUATION_KINDS, evaluation_set, training_batch
from laglens.models.naive import seasonal_naive
from laglens.models.watch import WATCHED, attention_entropy
from laglens.progress import track

CURVE_EVERY = 50  # steps averaged into one point of the training curve
WATCHED_SEED = 2_000_000  # of the series whose attention is watched


def learning_rate_factor(step: int, steps: int, *, warmup: int = 100, hold: float = 0.6, floor: float = 0.02) -> float:
    """Schedule: linear rise over `warmup` steps, constant up to the share `hold`, then linear to `floor`."""
    done = step / steps
    decay = 1.0 if done < hold else max(floor, (1 - done) / (1 - hold))
    return min(1.0, (step + 1) / warmup) * decay


def train_on_mixture(
    model: ScaledForecaster,
    *,
    steps: int,
    batch: int = 32,
    learning_rate: float = 1.5e-3,
    weight_decay: float = 0.02,
    seed: int = 0,
) -> xr.Dataset:
    """Train `model` in place on fresh series of the mixture, with AdamW.

    Returns
    -------
    xr.Dataset
        ``loss (step)``: the training loss, averaged over blocks of 50 steps; ``encoder_L00_entropy (step)`` and so on:
        `attention_entropy` of a few other series at the end of each block.
    """
    device = next(model.parameters()).device
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_factor(step, steps))
    losses = np.empty(steps)
    block = min(CURVE_EVERY, steps)
    others = training_batch(WATCHED, model.history + model.horizon, np.random.default_rng(WATCHED_SEED))
    watched, entropies = torch.from_numpy(others).to(device), []
    model.train()
    for step in track(range(steps), "training on the mixture", total=steps):
        series = torch.from_numpy(training_batch(batch, model.history + model.horizon, rng)).to(device)
        loss = model.loss(series)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses[step] = loss.item()
        if (step + 1) % block == 0:
            entropies.append(attention_entropy(model, watched))
    model.eval()
    curve = xr.DataArray(losses, dims="step", coords={"step": np.arange(1, steps + 1)}, name="loss")
    found = curve.coarsen(step=block, boundary="trim", coord_func="max").mean().to_dataset()
    return found.assign({name: ("step", [one[name] for one in entropies]) for name in entropies[0]})


@torch.no_grad()
def horizon_errors(model: ScaledForecaster, *, n_series: int = 500, seed: int = 1_000_000) -> xr.DataArray:
    """Mean absolute horizon error on held-out series, beside two naive forecasts.

    Returns
    -------
    xr.DataArray
        ``(forecast, series_kind)``, in standard deviations of the history. ``seasonal_naive`` knows the true
        period and interpolates; ``last_value`` repeats the last sample.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for kind in EVALUATION_KINDS:
        series, periods = evaluation_set(kind, n_series, model.history + model.horizon, rng)
        scaled = model.normalise(torch.from_numpy(series))[0]
        past, future = scaled[:, : model.history], scaled[:, model.history :].numpy()
        forecasts = {
            "model": _predict(model, past),
            "seasonal_naive": seasonal_naive(past.numpy(), periods, model.horizon),
            "last_value": past[:, -1:].numpy(),
        }
        columns.append([np.abs(forecast - future).mean() for forecast in forecasts.values()])
    return xr.DataArray(
        np.transpose(columns),
        dims=("forecast", "series_kind"),
        coords={"forecast": list(forecasts), "series_kind": list(EVALUATION_KINDS)},
        name="mean_absolute_error",
        attrs={"units": "standard deviations of the history", "n_series": n_series},
    )


def _predict(model: Forecaster, history: Tensor, batch: int = 64) -> np.ndarray:
    device = next(model.parameters()).device
    return np.concatenate([model(part.to(device)).cpu().numpy() for part in history.split(batch)])
