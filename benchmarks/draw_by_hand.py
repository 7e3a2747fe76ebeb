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
from laglens.figures.comparison import draw_comparison
from laglens.figures.run import draw_run
from laglens.figures.style import render_all
from laglens.store import read_dataset, read_tree


def save(figure: Figure, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a figure in every format of the study."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in render_all(figure, settings["formats"], settings["dpi"]).items():
        path.with_suffix(f".{suffix}").write_bytes(content)


def draw(study: Study, target: Path) -> None:
    """Draw every run and every comparison."""
    config = canonical(study)
    for model, signal in study.pairs:
        settings = config["figures"] | {"heads": config["models"][model]["drawn_heads"]}
        time, lags = (read_tree(f"results/{stage}/{model}/{signal}.zarr.zip") for stage in ("time", "lags"))
        more: dict[str, Any] = {
            "flow": read_dataset(f"results/flow/{model}/{signal}.zarr.zip"),
            "curves": read_dataset(f"results/lags/{model}/{signal}.input.zarr.zip"),
            "similarity": read_tree(f"results/heads/{model}/{signal}.similarity.zarr.zip"),
        }
        for name, figure in draw_run(time, lags, settings, **more, title=signal, subtitle=model).items():
            save(figure, target / model / signal / name, settings)
    for name, comparison in config["comparisons"].items():
        model, settings = comparison["model"], config["figures"] | {"heads": comparison["drawn_heads"]}
        paths = [f"comparisons/{name}", *(f"time/{model}/{signal}" for signal in comparison["signals"])]
        tree, a, b = (read_tree(f"results/{path}.zarr.zip") for path in paths)
        figure = draw_comparison(tree, a, b, settings, title=name, subtitle=model)
        save(figure, target / "comparisons" / name, settings)


if __name__ == "__main__":
    draw(load_study(yaml.safe_load(Path("config.yaml").read_text("utf-8"))), Path(sys.argv[1]))
