"""What a machine does to a run: a full or read-only disk, a second run, a config changed meanwhile, a wrong clock."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from forks import outputs
from test_workflow import DRAWN
from workflow_copy import WorkflowCopy

Disk = Callable[[Path], AbstractContextManager[None]]
CONTROL = "results/signals/wave.ar1.zarr.zip"
# Beside every Python: the script of the rule says that it has begun, and waits until it may go on.
BESIDE = """
import pathlib, sys, time

if sys.orig_argv[-1].endswith("make_control.py"):
    folder = pathlib.Path({folder!r})
    (folder / "begun").touch()
    end = time.monotonic() + 120
    while not (folder / "go").exists() and time.monotonic() < end:
        time.sleep(0.05)
"""


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount at a folder; skipped where one may not."""
    mount = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    with mounted(folder, "-t", "tmpfs", "-o", "size=4k", "none"):
        (folder / "all that fits").write_bytes(bytes(4096))
        yield


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield


@pytest.mark.parametrize("place", ["attention", "provenance"])
@pytest.mark.parametrize(("disk", "said"), [(full, "No space left"), (read_only, "Read-only file system")])
def test_a_disk_that_takes_nothing_is_named_and_nothing_half_written_stays(
    workflow: WorkflowCopy, disk: Disk, said: str, place: str
) -> None:
    before = workflow.results()
    (output,) = outputs(workflow.jobs / "capture_attention.py")
    made = workflow.root / output
    made.unlink()
    with disk(made.parent if place == "attention" else workflow.root / "results/provenance"):
        refused = workflow.job("capture_attention")
        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr, refused.stderr
        assert refused.stderr.startswith("capture_attention: ") and said in refused.stderr
        assert not list((workflow.root / "results").rglob(".*"))
        assert not made.exists() or made.read_bytes() == before["/".join(made.parts[-3:])]
    again = workflow.job("capture_attention")
    assert again.returncode == 0, again.stderr
    assert workflow.results() == before


def test_a_run_on_read_only_results_changes_nothing(workflow: WorkflowCopy) -> None:
    before = workflow.results()
    workflow.configure({"figures.gamma": 0.7})
    with read_only(workflow.root / "results"):
        run = workflow.snakemake("results/figures/each/wave/mosaic.png")
        assert run.returncode == 1
        assert "Write-protected output files" in run.stdout
    assert workflow.results() == before


def test_a_second_run_is_refused_and_a_config_changed_meanwhile_is_of_the_next_run(
    finished: WorkflowCopy, workflow: WorkflowCopy, tmp_path: Path
) -> None:
    path, marks = tmp_path / "path", tmp_path / "marks"
    path.mkdir()
    marks.mkdir()
    (path / "sitecustomize.py").write_text(BESIDE.format(folder=str(marks)))
    (workflow.root / CONTROL).unlink()
    first = subprocess.Popen(
        workflow.command(CONTROL),
        cwd=workflow.root,
        env=workflow.environment(path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not (marks / "begun").exists():
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.1)
        second = workflow.snakemake(CONTROL)
        assert second.returncode == 1
        assert "locked" in second.stdout
        workflow.configure({"figures.gamma": 0.7})
        (marks / "go").touch()
        said, _ = first.communicate(timeout=300)
    finally:
        first.kill()
        first.wait()
    assert first.returncode == 0, said
    assert workflow.results() == finished.results()
    assert workflow.stale() == DRAWN


def test_a_clock_that_went_backwards_is_said_and_touching_files_of_the_future_mends_it(workflow: WorkflowCopy) -> None:
    before = workflow.results()
    tomorrow = time.time() + 86400
    for file in (workflow.root / "results").rglob("*"):
        os.utime(file, (tomorrow, tomorrow))
    (workflow.root / CONTROL).unlink()
    run = workflow.snakemake(CONTROL)
    assert run.returncode == 1 and "clock skew" in run.stdout
    assert workflow.results() == {name: content for name, content in before.items() if f"results/{name}" != CONTROL}
    subprocess.run(["find", "results", "-newermt", "now", "-exec", "touch", "{}", "+"], cwd=workflow.root, check=True)
    again = workflow.snakemake(CONTROL)
    assert again.returncode == 0, again.stdout
    assert workflow.results() == before
    assert workflow.stale() == {}
