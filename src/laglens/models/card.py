"""What a weights file is: architecture, data, budget, seed, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laglens.models.forecaster import Forecaster, ScaledForecaster
from laglens.models.pretraining import horizon_errors

MIXTURE = "synthetic mixture of random harmonics, trends, noise and AR(1) series (laglens.models.mixture)"


def model_card(
    model: Forecaster,
    *,
    name: str,
    architecture: str,
    options: Mapping[str, Any],
    trained_on: str,
    training: Mapping[str, Any],
    held_out_errors: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Describe trained weights: JSON-native, and the same for the same training.

    Parameters
    ----------
    options, training
        Keyword arguments of the class and of the training function.
    held_out_errors
        Mean absolute horizon error by forecast, in standard deviations of the history.
    versions
        Of the packages that change the numbers.
    """
    return {
        "name": name,
        "architecture": architecture,
        "options": dict(options),
        "history": model.history,
        "horizon": model.horizon,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_on": trained_on,
        "training": dict(training),
        "held_out_errors": dict(held_out_errors),
        "versions": dict(versions),
    }


def mixture_errors(model: ScaledForecaster) -> dict[str, Any]:
    """`horizon_errors` as a card holds them: ``{forecast: {kind of series: error}}``, four digits."""
    table = horizon_errors(model)
    errors = {
        str(forecast): {str(row["series_kind"].item()): round(row.item(), 4) for row in table.sel(forecast=forecast)}
        for forecast in table["forecast"].values
    }
    return errors | {"n_series": table.attrs["n_series"]}
