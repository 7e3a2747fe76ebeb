"""What the Snakefile does around the rules: read the study, set up the jobs' environment, say where to look."""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from laglens.config.load import load_study
from laglens.config.study import Study
from laglens.config.twice import keys_written_twice
from laglens.errors import LaglensError
from laglens.provenance import file_hashes

EXPLORER, SUMMARY = Path("results/explorer.html"), Path("results/summary.csv")
LINES = 30  # of the table of verdicts that ends a run


def read_study(written: Mapping[str, Any], sources: Sequence[str]) -> Study:
    """Check the config, or print its problems, one line each, and leave with exit code 1.

    Parameters
    ----------
    written
        Content of the config.
    sources
        Files it was read from, the last one for the messages. Each is looked through for keys that are written twice,
        of which `written` has the last alone.
    """
    twice = [f"{source}: {line}" for source in sources for line in keys_written_twice(Path(source))]
    if twice:
        print(*twice, sep="\n", file=sys.stderr)
        sys.exit(1)
    source = sources[-1] if sources else "config"
    try:
        return load_study(written)
    except LaglensError as error:
        for line in str(error).splitlines():
            print(f"{source}: {line}", file=sys.stderr)
        sys.exit(1)


def run_from(source: Path) -> None:
    """Let every job import the package from `source`, whatever environment it runs in.

    What runs is then what the rules' `code` was hashed from.
    """
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(source))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), *others])


def spare_scheduler(workflow: Any) -> None:
    """Lift Snakemake's default limit of 100 new jobs a second; one that was asked for stays.

    With a limit, every pass of the scheduler sets a timer for another pass, so that while jobs wait for a free core it
    looks as many times a second as jobs have ended (seen in Snakemake 9.27 on 384 jobs: a quarter of a core).
    """
    scheduler = getattr(workflow, "scheduler", None)
    limit = getattr(scheduler, "job_rate_limiter", None)
    if limit is not None and (limit.max_jobs, limit.timespan) == (100, 1):
        scheduler.job_rate_limiter = None


def checkpoint_files(model: Any) -> list[str]:
    """Files that a model of others is read from: its checkpoint, or all files of that folder."""
    checkpoint = getattr(model, "checkpoint", None)
    if checkpoint is None:
        return []
    path = Path(checkpoint)
    return sorted(file.as_posix() for file in path.iterdir() if file.is_file()) if path.is_dir() else [checkpoint]


def own_code(model: Any) -> dict[str, str]:
    """Digests of a person's own files that make the model (see `laglens.provenance.file_hashes`)."""
    factory = getattr(model, "factory", "").rpartition(":")[0]
    return file_hashes(Path(factory)) if factory else {}


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA device, without importing torch."""
    return Path("/dev/nvidiactl").exists()


def page_digests(source: Path) -> dict[str, str]:
    """Digests of the files that the explorer is put together from; those of code do not see them."""
    folder = source / "laglens" / "report" / "page"
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in sorted(folder.iterdir())}


def plan(rules: Iterable[str]) -> str:
    """How many jobs a run has and how long they will take, by what jobs of the same rules took here before.

    Parameters
    ----------
    rules
        The rule of every job that will run.
    """
    jobs = Counter(rules)
    jobs.pop("all", None)
    took = {rule: seconds for rule in jobs if (seconds := _seconds(rule)) is not None}
    said = f"\n{_jobs(jobs.total())} to run"
    if not took:
        return f"{said}; how long they take is known here once their rules have run."
    minutes = sum(seconds * jobs[rule] for rule, seconds in took.items()) / 60
    length = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{60 * minutes:.0f} seconds"
    new = jobs.total() - sum(jobs[rule] for rule in took)
    beside = f", and {_jobs(new)} of rules that have not run yet" if new else ""
    return f"{said}: about {length} of work on one core, as earlier jobs took{beside}; divide by the cores."


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _seconds(rule: str) -> float | None:
    """Median time of the jobs of a rule so far, from what Snakemake measured beside their logs."""
    took = []
    for path in [*Path("logs", rule).rglob("*.tsv"), Path("logs", f"{rule}.tsv")]:
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                took += [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
    return median(took) if took else None


def elsewhere(workflow: Any) -> str:
    """Where a storage plugin keeps the results; empty where they stay on this machine."""
    settings = getattr(workflow, "storage_settings", None)
    if settings is None or settings.default_storage_provider is None:
        return ""
    return f"{settings.default_storage_prefix or ''}/results".lstrip("/")


def report(targets: Iterable[str], place: str = "") -> str:
    """What a finished run found, and where to begin; of results that are elsewhere, the place."""
    if place:
        return f"\n  results      {place}"
    figures = [Path(path) for path in targets if path.startswith("results/figures/")]
    drawn = [path for path in figures if path.is_file()]
    said = [verdicts(SUMMARY)] if SUMMARY.is_file() else []
    if EXPLORER.is_file():
        said.append(f"  open         {EXPLORER}")
    if SUMMARY.is_file():
        said.append(f"  all answers  {SUMMARY.with_suffix('.html')} and .csv")
    said.append(f"  figures      {len(drawn)} of {len(figures)} files of the study are in results/figures")
    return "\n" + "\n".join(said)


def verdicts(summary: Path) -> str:
    """The summary as a short table, one line for every model and signal: the periods found, or why there are none."""
    with summary.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    questions = list(dict.fromkeys(row["question"] for row in rows))
    runs = list(dict.fromkeys((row["model"], row["signal"]) for row in rows))
    lines = [["model", "signal", *questions]]
    for run in runs[:LINES]:
        asked = [row for row in rows if (row["model"], row["signal"]) == run]
        lines.append([*run, *(_periods([row for row in asked if row["question"] == name]) for name in questions)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    said = ["  " + "  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join(said + ([f"  and {len(runs) - LINES} more runs"] if len(runs) > LINES else []))


def _periods(rows: Sequence[Mapping[str, str]]) -> str:
    """Supported periods with their unit; "no" where none is, "not testable" where none could be."""
    found = [row for row in rows if row["verdict"] == "supported"]
    if found:
        periods = [f"{float(row['period_time']):.4g}" if row["period_time"] else "of a grid" for row in found]
        return f"{', '.join(periods)} {found[0]['time_unit']}"
    kinds = {row["verdict"] for row in rows}
    return "no" if "not supported" in kinds else "not testable" if kinds else "–"


def apology(logs: Sequence[str]) -> str:
    """What a person can do after a failed run; `logs` are those of Snakemake itself."""
    return (
        "\nA job failed. Its message is above; its own log is logs/RULE/..., Snakemake's is "
        f"{', '.join(map(str, logs))}\nWhat is finished stays: mend the cause and give the same command again."
    )
