"""How often the comb test of a model is wrong on noise, and right on waves: ``python -m benchmarks.calibration``.

Every series is tested on its own against its own AR(1) controls, over the heads that passed the period swap of their
model. Beside the shipped models stands each architecture with random weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from laglens.calibration.detection import detect, rate
from laglens.calibration.series import NOISES, WAVES, noise_series, wave_series
from laglens.lags.comb_tests import swap_test
from laglens.models.forecaster import Forecaster
from laglens.models.registry import restore_model
from laglens.models.untrained import untrained_model
from laglens.signals.probes import make_probes
from laglens.store import read_card, read_weights
from laglens.time.probes import probe_time_tree

SHIPPED = Path(__file__).parents[1] / "src" / "laglens" / "weights"


def following_heads(model: Forecaster, seed: int) -> np.ndarray:
    """Mark the heads that follow periods at 5 %, over all stacks: ``(head,)``."""
    step = model.stacks[0].key.step
    probes = make_probes(step, model.history, model.horizon, periods=6, inputs=8, noises=1, seed=seed)
    tested = swap_test(probe_time_tree(model, probes["swap"]), seed=seed)
    return np.concatenate([node["p_family"].values.ravel() for node in tested.children.values()]) <= 0.05


def calibrate(model: Forecaster, n: int, controls: int, seed: int) -> pd.DataFrame:
    """One row per kind of series: significant at 5 % with its interval, and for waves whether the place is right."""
    heads, rows = following_heads(model, seed), []
    length, rng = model.history + model.horizon, np.random.default_rng(seed)
    for kind in (*NOISES, *WAVES):
        series, periods = (
            (noise_series(kind, n, length, rng), None) if kind in NOISES else wave_series(kind, n, length, rng)
        )
        row = {"series": kind, "n": n, "heads": int(heads.sum())}
        if heads.any():
            found = detect(model, series, periods, heads=heads, controls=controls, seed=seed, label=kind)
            significant = found["p"] <= 0.05 + 1e-9
            row |= dict(zip(("significant", "lower", "upper"), rate(significant.to_numpy()), strict=True))
            if periods is not None:
                row["lag at kP"] = float((significant & found["lag_at_multiple"]).mean())
                row["chance"] = float(found["chance"].mean())
                row["period error"] = float((found["detected"] - found["period"]).abs().median())
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Print one table for each shipped model and for its architecture with random weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=40, help="series of each kind")
    parser.add_argument("--controls", type=int, default=99, help="AR(1) controls of each series")
    parser.add_argument("--models", nargs="*", default=["image_small", "numeric_small"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        card, state = read_card(SHIPPED / f"{name}.json"), read_weights(SHIPPED / f"{name}.safetensors")
        for title, model in {
            name: restore_model(card, state),
            f"{name}, random weights": untrained_model(card, state, seed=1),
        }.items():
            table = calibrate(model, options.series, options.controls, seed=77)
            print(f"\n{title}: heads that follow periods {table['heads'].iloc[0]}")
            print(table.drop(columns="heads").to_string(index=False, float_format="%.3f", na_rep=""))


if __name__ == "__main__":
    main()
