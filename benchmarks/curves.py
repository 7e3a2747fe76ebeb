"""Against what a causal lag curve should be read: ``python -m benchmarks.curves [SERIES] [WEIGHTS ...]``.

Waves with overtones of 40 to 100 samples, other ones than `snakemake calibration` has. Without weights the shipped
models. CPU, one thread; half a minute to two for each model.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import xarray as xr

from benchmarks.measure import keep, show, show_machine
from benchmarks.trained import count_and_files, trained_models, windows_of
from laglens.attribution.causal import relative_lag_curve
from laglens.attribution.knock_out import causal_lag_curve, token_step
from laglens.calibration.detection import near_multiple
from laglens.calibration.knock_outs import FROM, SHORTEST, TO
from laglens.calibration.series import drawn, noise_series, wave_series
from laglens.models.forecaster import Forecaster

SEED = 0


def curve_of(model: Forecaster, series: np.ndarray) -> xr.DataArray:
    """Causal lag curve ``(lag, sample)`` at the lags in which the calibration looks for the largest."""
    curve = causal_lag_curve(model, windows_of(series), longest=TO)["forecast_change"]
    return curve.sel(lag=curve["lag"] >= FROM * token_step(model))


def main(n: int = 60, files: list[str] | None = None) -> None:
    """Read the curves of every model against each baseline, print and keep."""
    torch.set_num_threads(1)
    rows, always, kept = [], [], {}
    for name, model in trained_models(files or []):
        length, step = model.history + model.horizon, token_step(model)
        series, periods = wave_series("harmonic", n, length, drawn(SEED, "harmonic", "curves"), shortest=SHORTEST)
        curve = curve_of(model, series)
        white = curve_of(model, noise_series("white", n, length, drawn(SEED, "white", "curves")))
        mean = white.mean("sample")
        most = float(mean["lag"][int(mean.values.argmax())])
        always.append((name, most, float(mean.max() / mean.median())))
        readings = {
            "as it is": curve,
            "relative to the other waves": relative_lag_curve(curve),
            "relative to white noise": relative_lag_curve(curve, white),
        }
        for reading, values in readings.items():
            top = curve["lag"].values[values.transpose("sample", "lag").values.argmax(1)]
            at = near_multiple(top[None], periods[:, None], step)  # (series, lag of a series)
            share, chance = float(at.diagonal().mean()), float(at[~np.eye(n, dtype=bool)].mean())
            rows.append((f"{name}: {reading}", share, chance))
            kept[f"{name}: {reading}"] = {"at_multiple": share, "chance": chance, "series": n}
    show(
        f"Share of {n} waves whose causal lag curve is highest within a token of a multiple of the period",
        ["", "in kP", "chance"],
        rows,
    )
    show(
        f"Lag whose cut moves the forecast of {n} white noises most, and how many times as much as the median lag",
        ["", "lag", "times"],
        always,
    )
    keep("curves", kept | {"white": always})


if __name__ == "__main__":
    show_machine()
    main(*count_and_files(sys.argv[1:], 60))
