"""One GPU and many cores on one machine: jobs that run a model take turns, others run beside them."""

from itertools import pairwise
from pathlib import Path

import pytest
from workflow_copy import WorkflowCopy

WANTED = [f"results/{name}.zarr.zip" for name in ("attention/once/wave", "attention/each/wave", "signals/wave.ar1")]
# Beside every Python: a job says when it begins and when it ends, and waits for company: one that makes a control for
# one that runs a model, and that for another such job, or for a control where such jobs may not overlap.
BESIDE = """
import atexit, pathlib, sys, time

rule = sys.orig_argv[-1].rpartition("/")[2].partition(".")[2].removesuffix(".py")
company = {{"capture_attention": {company!r}, "make_control": "capture_attention"}}.get(rule)
if company:
    folder = pathlib.Path({folder!r})
    begun, name = time.monotonic_ns(), f"{{rule}}.{{__import__('os').getpid()}}"
    (folder / f"{{name}}.begun").touch()
    atexit.register(lambda: (folder / f"{{name}}.ended").write_text(f"{{begun}} {{time.monotonic_ns()}}"))
    end = time.monotonic() + 120
    while time.monotonic() < end and not set(folder.glob(f"{{company}}.*.begun")) - {{folder / f"{{name}}.begun"}}:
        time.sleep(0.05)
"""


def times(folder: Path, rule: str) -> list[tuple[int, int]]:
    """Beginning and end of every job of a rule, in order."""
    return sorted(tuple(map(int, path.read_text().split())) for path in folder.glob(f"{rule}.*.ended"))


def overlapping(jobs: list[tuple[int, int]]) -> int:
    """How many jobs began before the one before them had ended."""
    return sum(later[0] < earlier[1] for earlier, later in pairwise(jobs))


@pytest.mark.parametrize(("gpus", "company"), [(1, "make_control"), (2, "capture_attention")])
def test_jobs_that_need_the_gpu_overlap_only_when_allowed(
    finished: WorkflowCopy, workflow: WorkflowCopy, tmp_path: Path, gpus: int, company: str
) -> None:
    path, marks = tmp_path / "path", tmp_path / "marks"
    path.mkdir()
    marks.mkdir()
    (path / "sitecustomize.py").write_text(BESIDE.format(folder=str(marks), company=company))
    # As on a machine with a GPU, whether there is one or not; what was made on the processor is accepted.
    workflow.edit("src/laglens/launch.py", 'return Path("/dev/nvidiactl").exists()', "return True")
    workflow.configure({"device": "auto"})
    assert workflow.snakemake("--touch").returncode == 0
    for name in WANTED:
        (workflow.root / name).unlink()
    allowed = [] if gpus == 1 else ["--resources", f"gpu={gpus}"]
    run = workflow.snakemake("--cores", "4", *WANTED, *allowed, python_path=path)
    assert run.returncode == 0, run.stdout
    captures, controls = times(marks, "capture_attention"), times(marks, "make_control")
    assert len(captures) == 2 and len(controls) == 1
    assert overlapping(captures) == gpus - 1
    assert gpus == 2 or overlapping(sorted([captures[0], *controls])), "others run beside them"
