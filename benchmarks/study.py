"""The whole default study from nothing: seconds per stage, and until the first figures."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.measure import ROOT, SNAKEMAKE, Cost, keep, show, show_machine, timed

PARTS = ("Snakefile", "rules", "scripts", "src", "profiles", "envs", "data", "config.yaml")
CORES = os.environ.get("CORES", "4")
GOAL = "12 minutes in all, 3 minutes to the first figures, on 2 cores"


def lay_out(folder: Path) -> None:
    """Copy the workflow and its config into an empty folder, without results."""
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(ROOT / name, folder)


def run(folder: Path) -> Cost:
    """Run the study of `folder`, or what is stale of it."""
    return timed([SNAKEMAKE, "--cores", CORES], folder)


def stage_of() -> dict[str, str]:
    """Stage of each rule: the name of the rules file that defines it."""
    return {
        rule: path.stem
        for path in (ROOT / "rules").glob("*.smk")
        for rule in re.findall(r"^rule (\w+):", path.read_text("utf-8"), re.MULTILINE)
    }


def seconds_by_rule(folder: Path) -> pd.DataFrame:
    """Read Snakemake's own measurements: ``jobs``, ``wall``, ``cpu`` in seconds and ``memory`` in MB, by rule."""
    stages = stage_of()
    rows = []
    for path in (folder / "logs").rglob("*.tsv"):
        measured = pd.read_csv(path, sep="\t", na_values="-").iloc[-1]
        rule = path.relative_to(folder / "logs").parts[0]
        rows.append((stages[rule], rule, measured["s"], measured["cpu_time"], measured["max_rss"]))
    jobs = pd.DataFrame(rows, columns=["stage", "rule", "wall", "cpu", "memory"])
    summary = jobs.groupby(["stage", "rule"]).agg(
        jobs=("wall", "size"),
        wall=("wall", "sum"),
        cpu=("cpu", "sum"),
        longest=("wall", "max"),
        memory=("memory", "max"),
    )
    return summary.sort_values("wall", ascending=False).reset_index()


def seconds_to_figures(folder: Path, start: float) -> float:
    """Seconds from `start`, in the clock of the file system, to the first head sheet."""
    return min(path.stat().st_mtime for path in (folder / "results/figures").rglob("head_sheet.*")) - start


def main(folder: Path | None = None) -> None:
    """Run the study in `folder`, or in a temporary one, and print what each rule took."""
    with tempfile.TemporaryDirectory(prefix="laglens-study-") as temporary:
        folder = folder or Path(temporary)
        lay_out(folder)
        print(f"\nRunning the default study with {CORES} jobs at a time; this takes minutes.", flush=True)
        start = time.time()
        cost = run(folder)
        rules, first = seconds_by_rule(folder), seconds_to_figures(folder, start)
    result = {"cores": int(CORES), "study": cost, "first_figures": first, "rules": rules.to_dict("records")}
    keep("study", result)
    show(
        f"Default study: {cost.wall:.0f} s ({cost.cpu:.0f} s CPU), first figures after {first:.0f} s (goal: {GOAL})",
        ["stage", "rule", "jobs", "wall s, summed", "CPU s", "longest job s", "most memory MB"],
        [(r.stage, r.rule.ljust(17), r.jobs, r.wall, r.cpu, r.longest, r.memory) for r in rules.itertuples()],
    )


if __name__ == "__main__":
    show_machine()
    main()
