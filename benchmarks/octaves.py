"""How often the strongest lag is the period itself: ``python -m benchmarks.octaves [SERIES] [WEIGHTS ...]``.

Sines of 24 to 100 samples that were used for nothing else, read in single heads that were chosen on waves with
overtones. Without weights the shipped models. CPU, one thread; half a minute to two for each model.
"""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import torch

from benchmarks.measure import keep, show, show_machine
from benchmarks.trained import count_and_files, trained_models
from laglens.calibration.detection import excess, log_profiles, near_multiple
from laglens.calibration.heads import choose_heads
from laglens.calibration.series import drawn, wave_series
from laglens.models.forecaster import Forecaster

SEED = 0
EDGES = (24, 32, 45, 60, 100)
LEVEL = 0.05


def readings(model: Forecaster, n: int) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """Lag of each series by several readings ``(series,)``, their true periods, and samples per token."""
    heads, white = choose_heads(model, seed=SEED)
    series, periods = wave_series("sine", n, model.history + model.horizon, drawn(SEED, "sine", "octaves"))
    profiles, lag, step = log_profiles(model, series)
    z, noise = excess(profiles, white), excess(white, white)
    at_period, at_multiple = (int(np.flatnonzero(heads[name])[0]) for name in ("at_period", "at_multiple"))
    limit = np.quantile(noise[:, at_period].max(-1), 1 - LEVEL)
    found = {
        "strongest lag, head chosen for P": lag[z[:, at_period].argmax(-1)],
        "strongest lag, head chosen for kP": lag[z[:, at_multiple].argmax(-1)],
        "first significant lag, head chosen for P": first_peak(z[:, at_period], lag, limit),
        "strongest lag, all heads together": lag[z.clip(0).mean(1).argmax(-1)],
    }
    return found, periods[:, 0], step


def first_peak(z: np.ndarray, lag: np.ndarray, limit: float) -> np.ndarray:
    """Shortest lag at which a profile has a peak above the limit, else its strongest: (series, lag) -> (series,)."""
    inner = z[:, 1:-1]
    peak = (inner >= z[:, :-2]) & (inner > z[:, 2:]) & (inner > limit)
    return np.where(peak.any(1), lag[1:-1][peak.argmax(1)], lag[z.argmax(1)])


def main(n: int = 150, files: list[str] | None = None) -> None:
    """Read every model, print and keep."""
    torch.set_num_threads(1)
    rows, kept = [], {}
    for name, model in trained_models(files or []):
        found, periods, step = readings(model, n)
        for reading, lag in found.items():
            hit = np.abs(lag - periods) <= step
            bins = [hit[(periods >= low) & (periods < high)] for low, high in pairwise(EDGES)]
            shares = [float(part.mean()) if len(part) else np.nan for part in (*bins, hit)]
            multiple = float(near_multiple(lag, periods[:, None], step).mean())
            rows.append((f"{name}: {reading}", *shares, multiple))
            kept[f"{name}: {reading}"] = {"at_period": shares, "at_multiple": multiple, "series": n}
    show(
        f"Share of {n} sines whose lag is within a token of P, by P in samples; last column: of any kP",
        ["", *(f"{low}-{high}" for low, high in pairwise(EDGES)), "all", "kP"],
        rows,
    )
    keep("octaves", kept)


if __name__ == "__main__":
    show_machine()
    main(*count_and_files(sys.argv[1:], 150))
