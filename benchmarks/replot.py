"""Figures again after a change of gamma: the workflow against one bare Python process that draws the same."""

from __future__ import annotations

import filecmp
import shutil
import sys
import tempfile
from itertools import cycle
from pathlib import Path

import yaml

from benchmarks import study
from benchmarks.measure import ROOT, SNAKEMAKE, Cost, alternately, keep, show, show_machine, timed

GOAL = 1.5
GAMMAS = cycle([0.45, 0.55, 0.65])


def workplace(source: Path, folder: Path) -> None:
    """Copy a finished study with its dates and Snakemake's records.

    Raises
    ------
    SystemExit
        Something in it is stale, so more than figures would be measured.
    """
    study.lay_out(folder)
    for name in ("results", ".snakemake"):
        shutil.copytree(source / name, folder / name, symlinks=True)
    timed([SNAKEMAKE, "--dry-run"], folder)
    if "Nothing to be done" not in (folder / "output.txt").read_text("utf-8"):
        sys.exit(f"{source}: the study is not finished, or stale; run `make` first")


def change_gamma(folder: Path) -> None:
    """Give the study of `folder` another gamma."""
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    config["figures"]["gamma"] = next(GAMMAS)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")


def by_workflow(folder: Path) -> Cost:
    """Change gamma and let Snakemake draw what is stale."""
    change_gamma(folder)
    return study.run(folder)


def by_hand(folder: Path) -> Cost:
    """Draw every figure that depends on gamma in one Python process, into a folder of its own.

    Raises
    ------
    SystemExit
        Its figures are not those of the workflow, so the times would not compare.
    """
    target = folder / "by_hand"
    shutil.rmtree(target, ignore_errors=True)
    cost = timed([sys.executable, str(Path(__file__).with_name("draw_by_hand.py")), str(target)], folder)
    drawn = [path.relative_to(target) for path in target.rglob("*") if path.is_file()]
    _, different, missing = filecmp.cmpfiles(target, folder / "results/figures", drawn, shallow=False)
    if different or missing or not drawn:
        sys.exit(f"drawn by hand: {len(drawn)} figures, of which {different} differ and {missing} are not in the study")
    return cost


def main(source: Path = ROOT, repeats: int = 3) -> None:
    """Measure on a copy of the finished study in `source`."""
    with tempfile.TemporaryDirectory(prefix="laglens-replot-") as temporary:
        folder = Path(temporary)
        workplace(source, folder)
        costs = alternately(repeats, workflow=lambda: by_workflow(folder), by_hand=lambda: by_hand(folder))
        figures = sum(path.is_file() for path in (folder / "by_hand").rglob("*"))
    workflow, hand = costs["workflow"], costs["by_hand"]
    ratio = workflow.wall / hand.wall
    keep("replot", {"repeats": repeats, "goal": GOAL, "figures": figures, **costs, "ratio": ratio})
    show(
        f"{figures} figure files again after a change of gamma (medians of {repeats}; goal {GOAL:g}x)",
        ["", "wall s", "CPU s"],
        [
            (f"snakemake --cores {study.CORES}", workflow.wall, workflow.cpu),
            ("one Python process", hand.wall, hand.cpu),
            ("ratio", f"{ratio:.2f}x", f"{workflow.cpu / hand.cpu:.2f}x"),
        ],
    )


if __name__ == "__main__":
    show_machine()
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT)
