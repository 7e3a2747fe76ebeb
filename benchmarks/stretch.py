"""How close the time-stretch estimator comes to the true period: ``python -m benchmarks.stretch [SERIES]``.

Waves of known period that were used for nothing else, one window each, read in the head that does best on other waves.
CPU, one thread; a minute and a half for each model.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from benchmarks.measure import keep, show, show_machine
from benchmarks.trained import trained_models
from laglens.attribution.stretch import stretch_probe, stretched_profiles
from laglens.calibration.summary import resampled
from laglens.lags.stretch import StretchCombs, merged_profiles
from laglens.models.forecaster import Forecaster
from laglens.signals.stretch import stretched_waves

SEED = 1  # the probe's waves have 0
GOALS = {"image": 1.5, "numeric": 0.3}


def errors(model: Forecaster, n: int) -> tuple[np.ndarray, int]:
    """Absolute errors on `n` waves [input samples], and samples per token."""
    probe = stretch_probe(model)
    step = min(int(node.attrs["samples_per_token"]) for node in probe.children.values())
    waves = stretched_profiles(model, stretched_waves(n, model.history, step, seed=SEED, name="held out"))
    nodes = {name: node.to_dataset() for name, node in probe.children.items()}
    name = min(nodes, key=lambda name: float(nodes[name]["error"].min()))
    null, node = nodes[name], waves.children[name].to_dataset()
    layer, head = np.unravel_index(int(null["error"].values.argmin()), null["error"].shape)
    merged, grid = merged_profiles(node, null, null["offset"].values)
    combs = StretchCombs.of(grid, node["lag"].values, node["factor"].values, step)
    true = waves.to_dataset()["true_period"].values
    return np.abs(combs.period(merged[:, layer, head]) - true), step


def main(n: int = 200) -> None:
    """Measure every shipped model, print and keep."""
    torch.set_num_threads(1)
    rows, kept = [], {}
    for name, model in trained_models():
        found, step = errors(model, n)
        value, lower, upper = resampled(lambda x: np.median(x[..., 0], axis=-1), found[:, None])
        goal = GOALS[name.split("_")[0]]
        rows.append((name, step, value, f"{lower:.2f} to {upper:.2f}", goal))
        kept[name] = {"median": value, "interval": [lower, upper], "goal": goal, "series": n}
    show(
        f"Error of the time-stretch estimator on {n} waves of each model, in samples (median, 95 % bootstrap)",
        ["", "samples per token", "median error", "95 %", "goal"],
        rows,
    )
    keep("stretch", kept)


if __name__ == "__main__":
    show_machine()
    main(int(sys.argv[1]) if sys.argv[1:] else 200)
