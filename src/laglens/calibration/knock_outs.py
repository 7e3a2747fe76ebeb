"""Knock-outs on many series, each at its own period: what the multiples of it are worth against what lies between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.attribution.causal import relative_lag_curve
from laglens.attribution.cuts import HALF_WIDTH, matched_cuts
from laglens.attribution.knock_out import causal_lag_curve, knock_out, token_step
from laglens.calibration.detection import near_multiple
from laglens.calibration.series import drawn, noise_series, wave_series
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster

Array = NDArray[np.float64]
SHORTEST = 40.0  # samples; the teeth of shorter combs leave no room for those of the controls
KINDS = ("harmonic", "ar1_0.9")
FROM, TO = 2, 136  # lags of the causal curve in which the largest is looked for: tokens, input samples


def knock_out_series(
    model: Forecaster, kind: str, n: int, *, seed: int, half_width: float = HALF_WIDTH, **options: Any
) -> pd.DataFrame:
    """Cut combs and bands at the period of every series, and single lags.

    Parameters
    ----------
    kind
        ``harmonic``, waves of 40 to 100 samples with overtones; or a kind of noise, cut at the periods that the waves
        have: what a knock-out costs where there is nothing to lose.
    n
        Series.
    half_width
        Of a band on either side of its lag [tokens].
    options
        ``batch`` and ``device``, as in `laglens.attribution.knock_out.knock_out`.

    Returns
    -------
    pd.DataFrame
        One row per series, in standard deviations of the history: ``error`` of the intact forecast; ``comb`` and
        ``band``, what its error grows by; ``comb_control`` and ``band_control``, the mean over the controls. Of waves:
        ``curve_lag``, where the causal lag curve, relative to that of the other series, is highest between 2 tokens and
        136 samples; ``curve_at_period`` and ``curve_at_multiple``, whether that is within a token of P or of a kP;
        ``curve_chance``, how often the lags of the other series are within a token of its kP.
    """
    length, step = model.history + model.horizon, token_step(model)
    series, periods = wave_series("harmonic", n, length, drawn(seed, "harmonic", "knock-out"), shortest=SHORTEST)
    if kind != "harmonic":
        series = noise_series(kind, n, length, drawn(seed, kind, "knock-out"))
    windows = xr.Dataset({"series": (("sample", "time"), series)}, coords={"sample": np.arange(n)})
    cuts = matched_cuts(periods[:, 0].tolist(), model.history, step, drawn(seed, kind, "control lags"))
    effects = knock_out(model, windows, cuts, half_width=half_width, **options)
    change = effects["error_change"]
    columns = {"period": periods[:, 0], "error": effects["error"].values}
    for target in ("comb", "band"):
        controls = [name for name in change["cut"].values if name.startswith(f"{target} ")]
        columns[target] = change.sel(cut=target).values
        columns[f"{target}_control"] = change.sel(cut=controls).mean("cut").values
    table = pd.DataFrame({"kind": kind, "series": np.arange(n), **columns})
    if kind != "harmonic":
        return table
    curve = causal_lag_curve(model, windows, **options)["forecast_change"]
    return table.assign(**_highest(curve, periods, step))


def _highest(curve: xr.DataArray, periods: Array, step: float) -> dict[str, NDArray]:
    """Where the curve of every series is highest against those of the others, and whether that is at its period."""
    reached = curve.sel(lag=(curve["lag"] >= FROM * step) & (curve["lag"] <= TO))
    if not reached.sizes["lag"]:
        raise LaglensError(f"tokens of {step:g} samples leave no lag between {FROM} tokens and {TO} samples")
    relative = relative_lag_curve(reached).transpose("sample", "lag")
    top = reached["lag"].values[relative.values.argmax(1)]
    at = near_multiple(top[None], periods[:, None], step)  # (series, lag of a series)
    return {
        "curve_lag": top,
        "curve_at_period": np.abs(top - periods[:, 0]) <= step,
        "curve_at_multiple": at.diagonal(),
        "curve_chance": at.mean(1, where=~np.eye(len(top), dtype=bool)),
    }
