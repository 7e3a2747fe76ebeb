"""Every figure of a finished study, drawn in one process on one core: CPU seconds of the drawing itself."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import yaml
from matplotlib.figure import Figure

from benchmarks.measure import ROOT, in_own_process, keep, show, show_machine
from laglens.config.load import canonical, load_study
from laglens.figures.alignment import draw_alignment
from laglens.figures.class_token import draw_class_token
from laglens.figures.comparison import draw_comparison
from laglens.figures.events import draw_events
from laglens.figures.evidence import draw_evidence
from laglens.figures.layers import draw_layers
from laglens.figures.run import draw_run
from laglens.figures.style import render_all
from laglens.figures.tracking import draw_tracking
from laglens.figures.training import draw_training
from laglens.store import read_card, read_dataset, read_table, read_tree

GOAL = 20.0  # seconds
Drawing = Callable[[], Mapping[str, Figure]]
Job = tuple[str, str, Callable[[], Drawing]]  # rule; its first input; what reads, and gives what draws


def jobs(config: Mapping[str, Any], pairs: list[tuple[str, str]]) -> Iterator[Job]:
    """What the rules of the figures do, for every rule whose first input is there; paths are relative to results."""
    figures, confidence = config["figures"], config["lags"]["confidence"]
    for model, signal in pairs:
        of, words = f"{model}/{signal}", {"title": signal, "subtitle": model}
        settings = figures | {"heads": config["models"][model]["drawn_heads"]}
        yield "draw_run", f"flow/{of}.zarr.zip", partial(_run, of, settings, words)
        yield "draw_evidence", f"attribution/{of}.knock_out.zarr.zip", partial(_evidence, of, confidence, words)
        yield "draw_events", f"heads/{of}.events.zarr.zip", partial(_events, of, confidence, words)
        alignment = partial(_of_tree, draw_alignment, f"time/{of}", settings, words)
        yield "draw_alignment", f"heads/{of}.alignment.zarr.zip", alignment
        token = partial(_of_tree, draw_class_token, f"heads/{of}.cls", settings, words)
        yield "draw_class_token", f"heads/{of}.cls.zarr.zip", token
    for model in dict.fromkeys(model for model, _ in pairs):
        signals = sorted(signal for other, signal in pairs if other == model)
        yield "draw_model", f"heads/{model}/{signals[0]}.csv", partial(_layers, model, signals)
        for fit in (model, *(f"{model}/{signal}" for signal in signals)):
            yield "draw_tracking", f"lags/{fit}.tracking.zarr.zip", partial(_tracking, fit, confidence)
            yield "draw_training", f"models/{fit}.csv", partial(_training, fit)
    for name, comparison in config["comparisons"].items():
        yield "draw_comparison", f"comparisons/{name}.zarr.zip", partial(_comparison, name, comparison, figures)


def _tree(path: str) -> Any:
    return read_tree(f"results/{path}.zarr.zip")


def _run(of: str, settings: dict[str, Any], words: dict[str, Any]) -> Drawing:
    time, lags, similarity = (_tree(path) for path in (f"time/{of}", f"lags/{of}", f"heads/{of}.similarity"))
    flow, curves = (read_dataset(f"results/{path}.zarr.zip") for path in (f"flow/{of}", f"lags/{of}.input"))
    return lambda: draw_run(time, lags, settings, flow=flow, similarity=similarity, curves=curves, **words)


def _evidence(of: str, confidence: float, words: dict[str, Any]) -> Drawing:
    verdicts = read_table(f"results/lags/{of}.verdicts.csv")
    cuts = read_table(f"results/attribution/{of}.knock_out.csv", empty=True)
    effects, agreement, time = (
        _tree(path) for path in (f"attribution/{of}.knock_out", f"attribution/{of}", f"time/{of}")
    )
    words = {"compared": _tree(f"attribution/{of}.compared"), "confidence": confidence, **words}
    return lambda: draw_evidence(verdicts, effects, cuts, agreement, time, **words)


def _events(of: str, confidence: float, words: dict[str, Any]) -> Drawing:
    table, tree = read_table(f"results/heads/{of}.events.csv", empty=True), _tree(f"heads/{of}.events")
    return lambda: {"events": draw_events(table, tree, confidence=confidence, **words)}


def _of_tree(draw: Callable[..., Figure], path: str, settings: dict[str, Any], words: dict[str, Any]) -> Drawing:
    tree = _tree(path)
    return lambda: {draw.__name__: draw(tree, settings, **words)}


def _layers(model: str, signals: list[str]) -> Drawing:
    tables = {signal: read_table(f"results/heads/{model}/{signal}.csv") for signal in signals}
    return lambda: {"layers": draw_layers(tables, title=model)}


def _tracking(fit: str, confidence: float) -> Drawing:
    tracking, swap = _tree(f"lags/{fit}.tracking"), _tree(f"lags/{fit}.swap")
    return lambda: {"tracking": draw_tracking(tracking, swap, confidence=confidence, title=fit)}


def _training(fit: str) -> Drawing:
    curve, card = read_table(f"results/models/{fit}.csv"), read_card(f"results/models/{fit}.json")
    return lambda: {"training": draw_training(curve, card, title=card["name"])}


def _comparison(name: str, comparison: Mapping[str, Any], figures: dict[str, Any]) -> Drawing:
    model = comparison["model"]
    paths = (f"comparisons/{name}", *(f"time/{model}/{signal}" for signal in comparison["signals"]))
    tree, a, b = (_tree(path) for path in paths)
    settings = figures | {"heads": comparison["drawn_heads"]}
    return lambda: {"comparison": draw_comparison(tree, a, b, settings, title=name, subtitle=model)}


def measure() -> dict[str, dict[str, Any]]:
    """CPU seconds by rule of the study in the working folder: to read, to build, and to render in all formats."""
    study = load_study(yaml.safe_load(Path("config.yaml").read_text("utf-8")))
    config = canonical(study)
    found: dict[str, dict[str, Any]] = {}
    formats, dpi = config["figures"]["formats"], config["figures"]["dpi"]
    for rule, first, read in jobs(config, study.pairs):
        if not Path("results", first).is_file():
            continue
        row = found.setdefault(rule, {"figures": 0, "read": 0.0, "build": 0.0, "render": 0.0})
        start = process_time()
        draw = read()
        row["read"] += process_time() - start
        start = process_time()
        drawn = draw()
        row["build"] += process_time() - start
        row["figures"] += len(drawn)
        start = process_time()
        for figure in drawn.values():
            render_all(figure, formats, dpi)
        row["render"] += process_time() - start
    return found


def main(source: Path = ROOT) -> None:
    """Print what the figures of the finished study in `source` take."""
    rules = in_own_process("benchmarks.figures", "--one", str(source.resolve()))
    if not rules:
        sys.exit(f"{source}: no results to draw; run `make` first")
    total = sum(row["build"] + row["render"] for row in rules.values())
    keep("figures", {"goal": GOAL, "seconds": total, "rules": rules})
    count = sum(row["figures"] for row in rules.values())
    show(
        f"{count} figures of the study in all formats, one core: {total:.1f} s of CPU (goal {GOAL:g})",
        ["rule", "figures", "read s", "build s", "render s"],
        [(rule, *(row[name] for name in ("figures", "read", "build", "render"))) for rule, row in rules.items()],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--one", action="store_true", help="measure in this process, and print the result as JSON")
    options = parser.parse_args()
    if options.one:
        os.chdir(options.source)
        print(json.dumps(measure()))
    else:
        show_machine()
        main(options.source)
