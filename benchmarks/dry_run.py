"""Dry run of a study against an empty Snakefile: what the rules add to Snakemake itself."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import ROOT, SNAKEMAKE, Cost, alternately, keep, show, show_machine, timed

MODELS = {
    "image_small": {"architecture": "image", "weights": "shipped"},
    "numeric_small": {"architecture": "numeric", "weights": "shipped"},
}
GOAL = 2.0
EMPTY = """
rule all:
    input:
        expand("out/{{job}}", job=range({jobs})),


rule empty:
    output:
        "out/{{job}}",
    shell:
        "touch {{output}}"
"""


@dataclass(frozen=True)
class Comparison:
    """A study and an empty Snakefile with as many jobs."""

    runs: int
    jobs: int
    laglens: Cost
    empty: Cost

    @property
    def ratio(self) -> float:
        """Processor time, laglens over empty."""
        return self.laglens.cpu / self.empty.cpu


def study_of(runs: int) -> dict[str, object]:
    """Build a config with so many runs: every model on every one of many harmonic signals."""
    signals = {
        f"wave_{n}": {"generator": "harmonics", "length": 512, "components": [{"period": 20 + n / 10}]}
        for n in range(runs // len(MODELS))
    }
    return {"signals": signals, "models": MODELS, "runs": [{"models": [*MODELS], "signals": [*signals]}]}


def dry_run(folder: Path, snakefile: Path) -> Cost:
    """Time ``snakemake -n`` in `folder`."""
    return timed([SNAKEMAKE, "--dry-run", "--snakefile", str(snakefile), "--directory", str(folder)], folder)


def jobs_in(folder: Path) -> int:
    """Count the jobs that the last dry run in `folder` listed, without the target itself."""
    total = re.search(r"^total\s+(\d+)", (folder / "output.txt").read_text("utf-8"), re.MULTILINE)
    if total is None:
        raise SystemExit(f"{folder}: the dry run listed no jobs")
    return int(total[1]) - 1


def compare(runs: int, repeats: int, work: Path) -> Comparison:
    """Measure a study with so many runs, and an empty Snakefile with as many jobs as that study has."""
    study, empty = work / f"study_{runs}", work / f"empty_{runs}"
    study.mkdir()
    empty.mkdir()
    (study / "config.yaml").write_text(json.dumps(study_of(runs)), "utf-8")
    dry_run(study, ROOT / "Snakefile")  # fills the caches of both sides and tells the number of jobs
    jobs = jobs_in(study)
    (empty / "Snakefile").write_text(EMPTY.format(jobs=jobs), "utf-8")
    costs = alternately(
        repeats,
        laglens=lambda: dry_run(study, ROOT / "Snakefile"),
        empty=lambda: dry_run(empty, empty / "Snakefile"),
    )
    return Comparison(runs, jobs, **costs)


def main(repeats: int = 3) -> None:
    """Measure 1,000 runs, and as many runs as make about 1,000 jobs."""
    with tempfile.TemporaryDirectory(prefix="laglens-dry-run-") as work:
        results = [compare(runs, repeats, Path(work)) for runs in (110, 1000)]
    keep("dry_run", {"repeats": repeats, "goal": GOAL, "results": [asdict(r) | {"ratio": r.ratio} for r in results]})
    show(
        f"Dry run: laglens against an empty Snakefile with as many jobs (medians of {repeats}; goal {GOAL:g}x)",
        ["runs", "jobs", "laglens s", "CPU s", "empty s", "CPU s", "CPU ratio"],
        [
            (f"{r.runs:,}", r.jobs, r.laglens.wall, r.laglens.cpu, r.empty.wall, r.empty.cpu, f"{r.ratio:.2f}x")
            for r in results
        ],
    )


if __name__ == "__main__":
    show_machine()
    main()
