"""Test many kinds of series with a model and with its random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from numpy.random import Generator

from laglens.calibration.detection import Array, detect
from laglens.calibration.heads import choose_heads
from laglens.calibration.series import drawn
from laglens.models.forecaster import Forecaster

Draw = Callable[[str, int, int, Generator], tuple[Array, Array | None]]


def detect_kinds(
    models: Mapping[str, tuple[Forecaster, int]],
    kinds: Sequence[str],
    draw: Draw,
    *,
    controls: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """Look for a period in series of every kind, with heads that were chosen on others.

    Parameters
    ----------
    models
        Model and number of series of each kind, by the name of its weights.
    draw
        ``(kind, n, length, rng) -> series (series, time), periods (series, period)``; None where there are none.
    controls
        Of each series.
    seed
        Of the series, the choice of heads and the controls.

    Returns
    -------
    pd.DataFrame
        Rows of `laglens.calibration.detection.detect`, with ``weights`` and ``kind``.
    """
    found = []
    for name, (built, n) in models.items():
        model = built.to(device)
        heads, white = choose_heads(model, seed=seed, device=device)
        options: dict[str, Any] = {"heads": heads, "white": white, "controls": controls, "seed": seed, "device": device}
        for kind in kinds:
            series, periods = draw(kind, n, model.history + model.horizon, drawn(seed, kind, "testing"))
            found.append(detect(model, series, periods, **options, label=kind).assign(weights=name, kind=kind))
    return pd.concat(found)
