"""What a weights file is: architecture, data, budget, seed, errors."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import xarray as xr
from torch import nn

from laglens.models.patch import PatchForecaster
from laglens.models.pretraining import horizon_errors

MIXTURE = "synthetic mixture: random harmonics, trends, noise, AR(1); see laglens.models.mixture"


def model_card(
    model: nn.Module,
    architecture: str,
    options: Mapping[str, Any],
    training: Mapping[str, Any],
    curve: xr.Dataset,
    errors: Mapping[str, Any],
    *,
    data: str,
) -> dict[str, Any]:
    """Describe trained weights, JSON-native and the same for the same training.

    Parameters
    ----------
    options, training
        Keyword arguments of the class and of the training function.
    errors
        Mean absolute horizon error by forecast (and by evaluation set), in standard deviations of the history.
    data
        What it was trained on.
    """
    return {
        "architecture": architecture,
        "options": dict(options),
        "history": model.history,
        "horizon": model.horizon,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": data,
        "training": dict(training),
        "final_loss": {str(name): float(values[-1]) for name, values in curve.data_vars.items()},
        "mean_absolute_error": dict(errors),
        "torch": version("torch"),
    }


def mixture_card(
    model: PatchForecaster,
    architecture: str,
    options: Mapping[str, Any],
    training: Mapping[str, Any],
    curve: xr.Dataset,
) -> dict[str, Any]:
    """Card of a model trained on the mixture, judged on held-out series (see `horizon_errors`)."""
    table = horizon_errors(model)
    errors = {
        str(forecast): {str(kind): round(float(table.sel(forecast=forecast, series_kind=kind)), 4) for kind in table.series_kind.values}
        for forecast in table["forecast"].values
    }
    return model_card(model, architecture, options, training, curve, errors, data=MIXTURE)
