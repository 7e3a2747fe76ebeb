"""kill -9 in the middle of a job, then the same command again: the same bytes as without disturbance."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workflow_copy import WorkflowCopy

# Put on the job's path: stops it where a file is about to get its final name, and says who it is.
PAUSE = """
import os, pathlib, time

replace = os.replace

def pause(source, target, **options):
    if str(target).endswith({target!r}):
        pathlib.Path({mark!r}).write_text(str(os.getpid()))
        time.sleep(600)
    return replace(source, target, **options)

os.replace = pause
"""


@contextmanager
def stopped_at(workflow: WorkflowCopy, target: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run until a job is about to finish `target`; gives Snakemake, in a process group of its own, and the job's id."""
    mark, path = tmp_path / "mark", tmp_path / "path"
    path.mkdir()
    (path / "sitecustomize.py").write_text(PAUSE.format(target=target, mark=str(mark)))
    running = subprocess.Popen(
        workflow.command(f"results/{target}"),
        cwd=workflow.root,
        env=workflow.environment(path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (mark.is_file() and mark.read_text()):
            assert running.poll() is None, running.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield running, int(mark.read_text())
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def forget(workflow: WorkflowCopy, *names: str) -> None:
    for name in names:
        (workflow.root / "results" / name).unlink()


def test_a_killed_job_leaves_nothing_and_the_same_command_mends_it(
    finished: WorkflowCopy, workflow: WorkflowCopy, tmp_path: Path
) -> None:
    trained = [f"models/each/wave.{suffix}" for suffix in ("csv", "safetensors", "json")]
    forget(workflow, *trained)
    with stopped_at(workflow, trained[-1], tmp_path) as (running, job):
        os.kill(job, signal.SIGKILL)  # the other two files already have their names
        said, _ = running.communicate(timeout=60)
    assert running.returncode == 1, said
    assert not {name for name in workflow.results() if name in trained}
    again = workflow.snakemake(f"results/{trained[-1]}")
    assert again.returncode == 0, again.stdout
    assert workflow.results() == finished.results()
    assert workflow.stale() == {}


@pytest.mark.parametrize("target", ["attention/once/wave.zarr.zip", "models/each/wave.safetensors"])
def test_after_everything_was_killed_unlock_and_the_same_command_mend_it(
    finished: WorkflowCopy, workflow: WorkflowCopy, tmp_path: Path, target: str
) -> None:
    forget(workflow, target)
    with stopped_at(workflow, target, tmp_path) as (running, _):
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=60)
    assert not (workflow.root / "results" / target).exists()
    locked = workflow.snakemake(f"results/{target}")
    assert locked.returncode == 1
    assert "--unlock" in locked.stdout
    assert workflow.snakemake("--unlock").returncode == 0
    again = workflow.snakemake(f"results/{target}")
    assert again.returncode == 0, again.stdout
    assert workflow.results() == finished.results()
    assert workflow.stale() == {}
