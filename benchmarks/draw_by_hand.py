"""Draw the figures of a finished study in one process, as a person would without a workflow.

Run from the folder of the study: ``python draw_by_hand.py TARGET``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from laglens.config.load import canonical, load_study
from laglens.config.study import Study
from laglens.figures.difference import draw_difference
from laglens.figures.head_sheet import draw_head_sheet
from laglens.figures.lag_strip import draw_lag_strip
from laglens.figures.mosaic import draw_mosaic
from laglens.figures.style import render
from laglens.store import read_tree


def save(figure: Figure, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a figure in every format of the study."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in settings["formats"]:
        path.with_suffix(f".{suffix}").write_bytes(render(figure, suffix, settings["dpi"]))


def draw(study: Study, target: Path) -> None:
    """Draw every run and every comparison."""
    config = canonical(study)
    for model, signal in study.pairs:
        settings = config["figures"] | {"heads": config["models"][model]["drawn_heads"]}
        time, lags = (read_tree(f"results/{stage}/{model}/{signal}.zarr.zip") for stage in ("time", "lags"))
        names = {"title": signal, "subtitle": model}
        save(draw_head_sheet(time, lags, settings, **names), target / model / signal / "head_sheet", settings)
        save(draw_mosaic(time, lags, settings, **names), target / model / signal / "mosaic", settings)
        save(draw_lag_strip(lags, settings, **names), target / model / signal / "lag_strip", settings)
    for name, comparison in config["comparisons"].items():
        settings = config["figures"] | {"heads": comparison["drawn_heads"]}
        tree = read_tree(f"results/comparisons/{name}.zarr.zip")
        figure = draw_difference(tree, settings, title=name, subtitle=comparison["model"])
        save(figure, target / "comparisons" / name, settings)


if __name__ == "__main__":
    draw(load_study(yaml.safe_load(Path("config.yaml").read_text("utf-8"))), Path(sys.argv[1]))
