"""Kill jobs: python kill_jobs.py JOBS SEED, in the folder of a finished workflow; prints what happened as JSON.

JOBS is a folder of jobs that forks.py kept. Each is killed where it is about to do something to a file (open it for
writing, rename it, force it to the disk, delete it), at places drawn at random, and at random times between.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from forks import ended, fork, outputs, warm

from laglens.store.records import digest, read_record, record_path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "tempfile.mkdtemp")
DECISIVE = (
    "open",
    "fsync",
    "fdatasync",
    "os.rename",
)  # of what happens to a file; each job is killed before one of them


@dataclass
class Report:
    rules: int = 0
    kills: int = 0
    places: dict[str, int] = field(default_factory=dict)  # kills by what was about to happen
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


@dataclass
class Job:
    script: Path
    outputs: dict[Path, bytes]

    @classmethod
    def read(cls, script: Path) -> "Job":
        return cls(script, {path: path.read_bytes() for path in outputs(script)})

    def forget(self) -> None:
        """As Snakemake does before it starts a job."""
        for path in self.outputs:
            path.unlink(missing_ok=True)

    def complete(self, report: Report) -> None:
        """Run it to its end as Snakemake would again."""
        self.forget()
        code = ended(quiet_fork(self.script))
        if code or not all(is_right(path, content, recorded=True) for path, content in self.outputs.items()):
            report.unfinished.append(self.script.stem)


def is_right(path: Path, content: bytes, *, recorded: bool) -> bool:
    """Whether an artifact is whole, and its record that of these bytes; it may have none if its job did not finish."""
    record = read_record(record_path(path))
    if not path.exists() or (recorded and record is None):
        return False
    return path.read_bytes() == content and (record is None or record["sha256"] == digest(path))


def quiet_fork(script: Path, before: Callable[[], None] = lambda: None) -> int:
    """Fork a job without what it says; `before` runs in the fork."""

    def prepare() -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        before()

    return fork(script, prepare)


def watched(act: Callable[[str], None]) -> None:
    """Call `act` before this process does anything to a file of the results."""

    def hook(event: str, arguments: tuple) -> None:
        writes = event in EVENTS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)
        if writes and "results" in str(arguments[0]):
            act(event)

    def counted(name: str, call: Callable) -> Callable:
        def instead(descriptor: int) -> None:
            act(name)
            call(descriptor)

        return instead

    for name in ("fsync", "fdatasync"):
        setattr(os, name, counted(name, getattr(os, name)))
    sys.addaudithook(hook)


def places(job: Job) -> list[str]:
    """What a job does to files, in order."""
    reader, writer = os.pipe()
    process = quiet_fork(job.script, lambda: watched(lambda name: os.write(writer, f"{name}\n".encode())))
    os.close(writer)
    with os.fdopen(reader) as said:
        names = said.read().split()
    assert ended(process) == 0, job.script
    return names


def kill_at(job: Job, place: int) -> bool:
    """Kill a job where it is about to do the nth thing to a file; False where it ended before."""
    left = [place]

    def die(_: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return ended(quiet_fork(job.script, lambda: watched(die))) == -signal.SIGKILL


def kill_after(job: Job, seconds: float) -> bool:
    process = quiet_fork(job.script)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return ended(process) == -signal.SIGKILL


def kill(job: Job, chance: random.Random, report: Report) -> None:
    """Kill a job over what it made before, of which nothing may be lost; then let it finish, from nothing."""
    begin = time.monotonic()
    met = places(job)
    seconds = time.monotonic() - begin
    decisive = [i for i, name in enumerate(met) if name in DECISIVE]
    kills = [(met[i], i) for i in (chance.choice(decisive), chance.randrange(len(met)))] + [("time", chance.random())]
    for name, moment in kills:
        killed = kill_after(job, moment * seconds) if name == "time" else kill_at(job, int(moment))
        report.kills += killed
        report.places[name] = report.places.get(name, 0) + killed
        for path, content in job.outputs.items():
            if not path.exists():
                report.lost.append(f"{path}: {name} {moment}")
            elif not is_right(path, content, recorded=False):
                report.wrong.append(f"{path}: {name} {moment}")
    job.complete(report)


def main(folder: Path, seed: int) -> None:
    warm(Path("scripts"))
    chance, report = random.Random(seed), Report()
    for script in sorted(folder.glob("*.py")):
        report.rules += 1
        kill(Job.read(script), chance, report)
    left = [str(path) for path in Path("results").rglob(".*")]
    print(json.dumps(vars(report) | {"left": left}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
