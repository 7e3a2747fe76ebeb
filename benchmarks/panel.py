"""A panel of many series from the table to its verdicts: which of them show a lag, time and memory of every rule.

``python -m benchmarks.panel [SERIES]``; ten minutes for 1,000. Of every ten series four are waves of 24 samples in
noise, two waves of a period of their own of 20 to 60 samples, and four AR(1) noise of coefficients 0 to 0.97.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from benchmarks.measure import SNAKEMAKE, keep, show, show_machine, timed
from benchmarks.study import lay_out, seconds_by_rule

LENGTH, PERIOD, NOISE = 512, 24, 0.5
COEFFICIENTS = (0.0, 0.6, 0.9, 0.97)
MODEL = "image_small"
KINDS = {"period 24": 4, "a period of their own": 2, "noise": 4}  # of every ten


def one(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One series of a kind."""
    time, noise = np.arange(LENGTH), rng.normal(size=LENGTH)
    if kind == "noise":
        coefficient = rng.choice(COEFFICIENTS)
        series = np.zeros(LENGTH)
        for i in range(1, LENGTH):
            series[i] = coefficient * series[i - 1] + noise[i]
        return series
    period = PERIOD if kind == "period 24" else rng.uniform(20, 60)
    return np.sin(2 * np.pi * time / period + rng.uniform(0, 2 * np.pi)) + NOISE * noise


def write_study(folder: Path, n_series: int) -> dict[str, str]:
    """Write the panel and the config; returns the kind of every series."""
    rng = np.random.default_rng(0)
    order = [kind for kind, share in KINDS.items() for _ in range(share)]
    kinds = {f"series_{k:05d}": order[k % len(order)] for k in range(n_series)}
    pd.DataFrame({name: one(kind, rng) for name, kind in kinds.items()}).to_csv(folder / "panel.csv", index=False)
    config = {
        "signals": {"panel": {"file": "panel.csv", "column": "*", "periods": [PERIOD]}},
        "models": {MODEL: {"architecture": "image", "weights": "shipped"}},
        "runs": [{"models": [MODEL], "signals": ["panel"]}],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return kinds


def main(n_series: int = 1000) -> None:
    """Run the study, print and keep."""
    with tempfile.TemporaryDirectory(prefix="laglens-panel-") as temporary:
        folder = Path(temporary)
        lay_out(folder)
        kinds = write_study(folder, n_series)
        # Not attribution, which runs the model many times for every series.
        cost = timed([SNAKEMAKE, "--cores", "1", "results/summary.csv", "results/explorer.html"], folder)
        rules = seconds_by_rule(folder).sort_values("memory", ascending=False)
        table = pd.read_csv(folder / f"results/lags/{MODEL}/panel.series.csv")
    found = []
    for kind, rows in table.groupby(table["series"].map(kinds), sort=False):
        above = rows[rows["above"]]
        lags = ", ".join(f"{lag:g}" for lag in above["lag"].value_counts().index[:3])
        found.append((kind, len(rows), len(above), lags))
    show(f"{n_series:,} series, {cost.cpu:.0f} s of CPU", ["series", "of them", "above", "most often at lags"], found)
    show(
        "Rules by memory of a job",
        ["rule", "jobs", "CPU s", "most memory MiB"],
        [(row.rule, row.jobs, row.cpu, row.memory) for row in rules.itertuples()],
    )
    keep("panel", {"series": n_series, "cost": cost, "found": found, "rules": rules.to_dict("records")})


if __name__ == "__main__":
    show_machine()
    main(*map(int, sys.argv[1:]))
