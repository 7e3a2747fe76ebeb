"""What the rules add to Snakemake itself: dry runs, and jobs as executed, against an empty Snakefile with as many jobs.

``python -m benchmarks.dry_run``, or with the numbers of runs to measure: ``python -m benchmarks.dry_run 110``.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.measure import ROOT, keep, show, show_machine, timed

MODELS = {
    "image_small": {"architecture": "image", "weights": "shipped"},
    "numeric_small": {"architecture": "numeric", "weights": "shipped"},
}
RUNS = (110, 2000)  # the second: 1,000 signals x 2 models
EXECUTED = (2, 26)  # jobs; the difference leaves out what a run costs whatever its jobs
GOALS = {"seconds": 15.0, "dry run": 2.0, "executed": 1.3}
EMPTY = """
rule all:
    input:
        expand("out/{{job}}", job=range({jobs})),


rule empty:
    output:
        "out/{{job}}",
    script:
        "empty.py"
"""
# Snakemake's own figures: of its process alone, of the processes of its jobs, and the most memory it had.
WITHIN = """
import atexit, json, pathlib, resource, sys
def tell():
    own, jobs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    told = {"own": own.ru_utime + own.ru_stime, "jobs": jobs.ru_utime + jobs.ru_stime}
    pathlib.Path("told.json").write_text(json.dumps(told | {"mb": int(peak.split()[1]) * 1024 / 1e6}))
atexit.register(tell)
from snakemake.cli import main
main()
"""


@dataclass(frozen=True)
class Ran:
    """What one Snakemake took.

    Attributes
    ----------
    wall
        Seconds on the clock.
    own, jobs
        Processor seconds of Snakemake's process, and of those of its jobs.
    mb
        Its largest memory [10^6 bytes].
    """

    wall: float
    own: float
    jobs: float
    mb: float


def ran(folder: Path, snakefile: Path, *arguments: str) -> Ran:
    """Run Snakemake in `folder`."""
    command = [sys.executable, "-c", WITHIN, "--snakefile", str(snakefile), "--cores", "1", *arguments]
    wall = timed(command, folder).wall
    return Ran(wall, **json.loads((folder / "told.json").read_text("utf-8")))


def in_turn(repeats: int, **commands: Callable[[], Ran]) -> dict[str, Ran]:
    """Median figures of each command; they take turns, so that a busy moment of the machine meets all of them."""
    all_: dict[str, list[Ran]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            all_[name].append(command())
    columns = ("wall", "own", "jobs", "mb")
    return {name: Ran(*(median(getattr(r, c) for r in found) for c in columns)) for name, found in all_.items()}


def study_of(runs: int) -> dict[str, object]:
    """Build a config with so many runs: every model on every one of many harmonic signals."""
    signals = {
        f"wave_{n}": {"generator": "harmonics", "length": 512, "components": [{"period": 20 + n / 10}]}
        for n in range(runs // len(MODELS))
    }
    return {"signals": signals, "models": MODELS, "runs": [{"models": [*MODELS], "signals": [*signals]}]}


def study_in(folder: Path, runs: int) -> Path:
    """Make a folder with such a config; the Snakefile that reads it."""
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps(study_of(runs)), "utf-8")
    return ROOT / "Snakefile"


def empty_in(folder: Path, jobs: int) -> Path:
    """Make a folder with a Snakefile whose jobs do nothing."""
    folder.mkdir()
    (folder / "Snakefile").write_text(EMPTY.format(jobs=jobs), "utf-8")
    (folder / "empty.py").write_text("open(snakemake.output[0], 'w').close()\n", "utf-8")
    return folder / "Snakefile"


def jobs_in(folder: Path) -> int:
    """Count the jobs that the last dry run in `folder` listed, without the target itself."""
    total = re.search(r"^total\s+(\d+)", (folder / "output.txt").read_text("utf-8"), re.MULTILINE)
    if total is None:
        raise SystemExit(f"{folder}: the dry run listed no jobs")
    return int(total[1]) - 1


def dry_runs(runs: int, repeats: int, work: Path) -> dict[str, object]:
    """A dry run of a study, and of an empty Snakefile with as many jobs."""
    study, empty = work / f"study_{runs}", work / f"empty_{runs}"
    snakefile = study_in(study, runs)
    options = ("--dry-run", "--quiet", "rules")
    first = ran(study, snakefile, *options)  # fills the caches of both sides and tells the number of jobs
    jobs = jobs_in(study)
    nothing = empty_in(empty, jobs)
    found = {"laglens": first, "empty": ran(empty, nothing, *options)}
    if repeats > 1:
        sides = {"laglens": (study, snakefile), "empty": (empty, nothing)}
        found = in_turn(repeats, **{name: lambda at=at: ran(*at, *options) for name, at in sides.items()})
    return {"runs": runs, "jobs": jobs, "ratio": found["laglens"].own / found["empty"].own, **found}


def executed(repeats: int, work: Path) -> dict[str, dict[str, float]]:
    """Processor seconds of one more job, by side: in Snakemake's process, and in that of the job.

    The jobs make signals of 512 samples, which takes next to nothing beside what a job imports.
    """
    found: dict[str, dict[int, Ran]] = {"laglens": {}, "empty": {}}
    for n in EXECUTED:

        def laglens(n: int = n) -> Ran:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                # As large for few jobs as for many: reading the config is no part of a job.
                snakefile = study_in(Path(folder) / "study", len(MODELS) * max(EXECUTED))
                targets = [f"results/signals/wave_{k}.zarr.zip" for k in range(n)]
                return ran(Path(folder) / "study", snakefile, *targets)

        def empty(n: int = n) -> Ran:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                return ran(Path(folder) / "empty", empty_in(Path(folder) / "empty", n))

        for name, cost in in_turn(repeats, laglens=laglens, empty=empty).items():
            found[name][n] = cost
    few, many = EXECUTED
    return {
        name: {
            column: (getattr(of[many], column) - getattr(of[few], column)) / (many - few) for column in ("own", "jobs")
        }
        for name, of in found.items()
    }


def main(*sizes: int, repeats: int = 3) -> None:
    """Measure, print and keep."""
    with tempfile.TemporaryDirectory(prefix="laglens-dry-run-") as folder:
        work = Path(folder)
        # Minutes are steady enough without a repetition.
        dry = [dry_runs(runs, repeats if runs < 1000 else 1, work) for runs in sizes or RUNS]
        each = executed(1, work)
    keep("dry_run", {"repeats": repeats, "goals": GOALS, "dry": dry, "executed": each})
    show(
        f"Dry run against an empty Snakefile (goals {GOALS['dry run']:g}x, {GOALS['seconds']:g} s for 2,000 runs)",
        ["runs", "jobs", "laglens s", "CPU s", "MB", "empty s", "CPU s", "MB", "CPU ratio"],
        [
            (
                f"{r['runs']:,}",
                r["jobs"],
                *(getattr(r[side], c) for side in each for c in ("wall", "own", "mb")),
                f"{r['ratio']:.2f}x",
            )
            for r in dry
        ],
    )
    ours, theirs = each["laglens"], each["empty"]
    show(
        f"One job as executed, CPU s (goal {GOALS['executed']:g}x in Snakemake's process)",
        ["", "laglens", "empty script", "ratio"],
        [
            (title, ours[column], theirs[column], f"{ours[column] / theirs[column]:.2f}x")
            for column, title in {"own": "Snakemake's process", "jobs": "process of the job, with its imports"}.items()
        ],
    )


if __name__ == "__main__":
    show_machine()
    main(*map(int, sys.argv[1:]))
