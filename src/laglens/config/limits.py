"""Checks of numbers against each other and against the models: what no window, control, token or layer can give."""

from __future__ import annotations

import math
from collections.abc import Iterator

from laglens.config.models import PatchModel, SignalModel
from laglens.config.study import Study


def unreachable(study: Study) -> Iterator[str]:
    """One line per number that the other settings rule out, whatever the models."""
    for key, window in (("figures.window", study.figures.window), ("report.window", study.report.window)):
        if window >= study.attention.windows:
            yield (
                f"{key}: there is no window {window}; attention.windows is {study.attention.windows} and windows are "
                "counted from 0"
            )
    confidence, fewest = study.lags.confidence, fewest_controls(study.lags.confidence)
    if study.lags.controls < fewest:
        yield (
            f"lags.confidence: {confidence:g} needs at least {fewest} controls, lags.controls is "
            f"{study.lags.controls}; raise lags.controls or lower lags.confidence"
        )


def fewest_controls(confidence: float) -> int:
    """Controls with which `confidence` can be reached, as in `laglens.lags.bands.smallest_controls` without numpy."""
    return math.ceil(confidence / (1 - confidence) - 1e-9)


def beyond_models(study: Study) -> Iterator[str]:
    """One line per number that a model of the runs is too small for, as far as its sizes are known from the config."""
    attribution, lags = study.attribution, study.lags
    for name in dict.fromkeys(model for model, _ in study.pairs):
        model = study.models[name]
        horizon, step = model.horizon, attribution.step or 1
        if horizon and step > horizon:
            yield f"attribution.step: {step} is beyond the horizon of {name}, which forecasts {horizon} samples"
        occluded = "occlusion" in attribution.methods and horizon != 0 and model.architecture != "recording"
        history, window = model.history, attribution.window
        if occluded and history and window != "auto" and window >= history:
            yield f"attribution.window: {window} samples are the whole history of {name}, which sees {history}"
        if not isinstance(model, PatchModel | SignalModel):
            continue  # its tokens and layers are known once it is read
        token = model.patch if isinstance(model, PatchModel) else 1
        if lags.max_lag != "auto" and lags.max_lag < token:
            yield f"lags.max_lag: {lags.max_lag} is less than one token of {name}, which has {token} samples"
        layers = len({label.rpartition(" ")[0] for label in model.head_labels if not label.startswith("cross ")})
        if study.flow.start >= layers:
            yield f"flow.start: there is no layer {study.flow.start} in {name}, which has {layers}, counted from 0"
