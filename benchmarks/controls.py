"""What controls must share with a series: ``python -m benchmarks.controls [SERIES] [WEIGHTS ...]``.

False alarms on shuffled waves, which have no memory but values that are not normal, and detections of waves, each
tested against AR(1) noise of the series' own values and of normal values. A fifth as many waves as shuffled ones, and a
quarter for random weights. Without weights the shipped models. CPU, one thread; a minute or two for each model.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import xarray as xr

from benchmarks.measure import keep, show, show_machine
from benchmarks.trained import count_and_files, random_weights, trained_models, weight_files
from laglens.calibration.detection import log_profiles
from laglens.calibration.heads import choose_heads
from laglens.calibration.series import drawn, noise_series, wave_series
from laglens.calibration.summary import rate
from laglens.lags.permutation import pooled_max_test
from laglens.lags.tracking import candidate_combs
from laglens.models.forecaster import Forecaster
from laglens.signals.controls import ar1_noise, make_control

SEED, CONTROLS, LEVEL = 0, 39, 0.05


def noise_of(values: np.ndarray, name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """AR(1) noise matched to one series, ``(control, time)``, with its own and with normal values."""
    signal = xr.Dataset({"value": (("sample", "time"), values[None])}, attrs={"name": name})
    own = make_control(signal, CONTROLS, SEED)
    (coefficient,) = own.attrs["coefficient"]
    normal = np.stack([ar1_noise(coefficient, len(values), rng) for _ in range(CONTROLS)])
    return {"its own values": own["value"].values[:, 0], "normal values": normal}


def significant(model: Forecaster, series: np.ndarray, heads: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """Whether each series passes at 5 % against each kind of control ``(series,)``, family-wise over heads."""
    rng = drawn(SEED, kind, "normal controls")
    found: dict[str, list[bool]] = {}
    for i, values in enumerate(series):
        for control, noise in noise_of(values, f"{kind} {i}", rng).items():
            profiles, lag, step = log_profiles(model, np.concatenate([values[None], noise]))
            contrast = (profiles[:, heads] @ candidate_combs(lag, step)[1].T).reshape(len(profiles), -1)
            _, p = pooled_max_test(contrast[0], contrast[1:])
            found.setdefault(control, []).append(bool(p.min() <= LEVEL))
    return {control: np.array(hits) for control, hits in found.items()}


def main(n: int = 100, files: list[str] | None = None) -> None:
    """Test every model and its random weights, print and keep."""
    torch.set_num_threads(1)
    rows, kept = [], {}
    for (name, model), file in zip(trained_models(files or []), weight_files(files or []), strict=True):
        length = model.history + model.horizon
        shuffled = noise_series("shuffled", n, length, drawn(SEED, "shuffled", "controls"))
        waves, _ = wave_series("harmonic", max(n // 5, 1), length, drawn(SEED, "harmonic", "controls"))
        following = choose_heads(model, seed=SEED)[0]["following"]
        untrained = random_weights(file, seed=SEED)
        tested = {
            "shuffled waves": significant(model, shuffled, following, "shuffled"),
            "shuffled waves, random weights": significant(
                untrained, shuffled[: max(n // 4, 1)], np.ones_like(following), "shuffled"
            ),
            "waves": significant(model, waves, following, "harmonic"),
        }
        for what, by_control in tested.items():
            for control, hits in by_control.items():
                _, lower, upper = rate(hits)
                interval = f"{lower:.2f} to {upper:.2f}"
                rows.append((f"{name}, {what}, {control}", f"{hits.sum()} of {len(hits)}", interval))
                kept[f"{name}, {what}, {control}"] = {"significant": int(hits.sum()), "series": len(hits)}
    show(f"Significant at 5 % against {CONTROLS} controls", ["", "series", "95 %"], rows)
    keep("controls", kept)


if __name__ == "__main__":
    show_machine()
    main(*count_and_files(sys.argv[1:], 100))
