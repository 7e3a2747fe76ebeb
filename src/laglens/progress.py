"""Progress of long work: a line that moves on a terminal; in a job of the workflow plain lines, few and far between."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
logger = logging.getLogger("laglens")

LONGEST = 60.0  # seconds between two lines; they grow to it from `every` as the work goes on
SHARE = 0.1  # of the time so far, likewise


@dataclass
class _Work:
    label: str
    total: int | None
    start: float
    done: int = 0

    def __str__(self) -> str:
        return f"{self.label}, {self.done} of {self.total or '?'}"

    def left(self) -> str:
        """Time left at the pace so far; "" where that is not known."""
        if not self.done or not self.total:
            return ""
        seconds = (monotonic() - self.start) / self.done * (self.total - self.done)
        return f", about {_length(seconds)} left"


_running: list[_Work] = []  # the outermost first
_said: list[float] = []  # when the last line was written, by this process


def track(items: Iterable[T], label: str, *, total: int | None = None, every: float = 10.0) -> Iterator[T]:
    """Yield `items`, showing progress under `label`.

    On a terminal one line moves. Jobs of the workflow run side by side, so theirs write a line to stderr instead, at
    most one in `every` seconds and, where they take long, in a minute; work inside other work shares that line. The
    log gets the same lines, and one at the end.
    """
    job = _job()
    bar = tqdm(items, desc=label, total=total, disable=True if job else None, leave=False, dynamic_ncols=True)
    work = _Work(label, total or bar.total, monotonic())
    _running.append(work)
    try:
        for item in bar:
            yield item
            work.done += 1
            _say(job, every)
        logger.info("%s: %d done in %s", label, work.done, _length(monotonic() - work.start))
    finally:
        _running.remove(work)


def _job() -> str:
    """Rule and wildcards of the job of the workflow that runs here, or "" elsewhere."""
    snakemake = getattr(sys.modules.get("__main__"), "snakemake", None)
    if snakemake is None:
        return ""
    return " ".join(filter(None, [str(snakemake.rule), "/".join(map(str, snakemake.wildcards))]))


def _say(job: str, every: float) -> None:
    """Write where the work stands, unless that was done a short while ago."""
    first, inner, now = _running[0], _running[-1], monotonic()
    if not _said:
        _said.append(first.start)
    if now - _said[-1] < max(every, min(LONGEST, SHARE * (now - first.start))):
        return
    _said[-1] = now
    line = f"{first}{f' ({inner})' if inner is not first else ''}{first.left()}"
    logger.info(line)
    if job:
        print(f"{job}: {line}", file=sys.stderr, flush=True)


def _length(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
