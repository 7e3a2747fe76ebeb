"""The workflow on a cluster: the profile, and a real Slurm on this machine where one can be started."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mini_slurm import MiniSlurm, obstacle, until
from workflow_copy import REPOSITORY, WorkflowCopy

PROFILE = ("--workflow-profile", "profiles/slurm")
# Quick looks at the queue, on a file system that shows a new file at once.
QUICK = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5", "--jobs", "3")
WANTED = "results/signals/wave.zarr.zip"
ON_GPU = {
    "train_forecaster": ("3000M", "02:00:00"),
    "capture_attention": ("3500M", "00:30:00"),
    "capture_controls": ("4000M", "01:00:00"),
    "capture_untrained": ("4000M", "00:30:00"),
    "capture_probes": ("4000M", "00:30:00"),
    "attribute_forecast": ("4000M", "00:30:00"),
    "measure_importance": ("4000M", "01:00:00"),
    "knock_out": ("3000M", "01:00:00"),
}
# In front of every Python that a run starts. The plugin looks at the queue ever less often: here every two seconds.
# The first job that is about to finish a file says so and waits; after it all go through.
BESIDE = """
import os, sys

if "profiles/slurm" in sys.orig_argv:
    import asyncio, signal

    # What was started in the background of a script ignores interrupts, and so does all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sleep = asyncio.sleep
    asyncio.sleep = lambda delay, *result: sleep(min(delay, 2), *result)

replace = os.replace

def pause(source, target, **options):
    if str(target) == {target!r} and not os.path.exists({mark!r}):
        import pathlib, time

        pathlib.Path({mark!r}).touch()
        time.sleep(900)
    return replace(source, target, **options)

os.replace = pause
"""


def test_a_cluster_takes_over_what_was_made_here(finished: WorkflowCopy) -> None:
    run = finished.snakemake(*PROFILE, "-n")
    assert run.returncode == 0, run.stdout
    assert "Nothing to be done" in run.stdout, run.stdout


def test_small_jobs_go_together(workflow: WorkflowCopy) -> None:
    workflow.configure({"figures.gamma": 0.7})
    run = workflow.snakemake(*PROFILE, "-n")
    assert run.returncode == 0, run.stdout
    together = re.findall(r"Group job (\w+)", run.stdout)
    assert together == ["draw"]
    assert len(re.findall(r"^    Job \d+: Drawing", run.stdout, re.MULTILINE)) == 4
    assert not re.findall(r"^Job \d+: Drawing", run.stdout, re.MULTILINE)


def test_memory_and_minutes_of_every_rule_grow_with_the_attempt() -> None:
    for file in (REPOSITORY / "rules").glob("*.smk"):
        for rule in file.read_text().split("\nrule ")[1:]:
            for name in ("mem_mb", "runtime"):
                assert re.search(rf"^        {name}=grown\(", rule, re.MULTILINE), (rule.split(":")[0], name)


def rules() -> list[str]:
    return "".join(file.read_text() for file in (REPOSITORY / "rules").glob("*.smk")).split("rule ")[1:]


def rules_on_gpu() -> set[str]:
    return {rule.split(":")[0] for rule in rules() if re.search(r"^        gpu=gpu,$", rule, re.MULTILINE)}


def test_what_runs_a_model_gets_processors_beside_its_gpu() -> None:
    profile = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "profile.yaml").read_text())
    assert set(profile["set-threads"]) == rules_on_gpu() >= set(ON_GPU)
    drawing = {rule.split(":")[0] for rule in rules() if rule.startswith("draw_")}
    assert {rule for rule, group in profile["groups"].items() if group == "draw"} == drawing


def test_both_profiles_say_the_same_of_what_is_stale() -> None:
    keys = ("rerun-triggers", "rerun-incomplete", "max-checksum-file-size")
    texts = [(REPOSITORY / "profiles" / name / "profile.yaml").read_text() for name in ("default", "slurm")]
    for key in keys:
        default, slurm = (re.findall(rf"^{key}: .*$", text, re.MULTILINE) for text in texts)
        assert default == slurm
        assert len(default) == 1


@dataclass
class Submitted:
    """A workflow that runs on a cluster."""

    workflow: WorkflowCopy
    cluster: MiniSlurm
    folder: Path
    running: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def create(cls, workflow: WorkflowCopy, cluster: MiniSlurm, target: str | None = None) -> "Submitted":
        """The first job that is about to finish `target` is held."""
        folder = workflow.root.parent / "beside"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(BESIDE.format(target=target or "?", mark=str(folder / "mark")))
        return cls(workflow, cluster, folder)

    def start(self, *arguments: str) -> None:
        """Start Snakemake in a process group of its own; what it says goes to a file."""
        with self.said.open("wb") as said:
            self.running = subprocess.Popen(
                [sys.executable, "-m", "snakemake", *PROFILE, *QUICK, *arguments],
                cwd=self.workflow.root,
                env=self.workflow.environment(self.folder) | self.cluster.environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, code: int = 0) -> str:
        try:
            self.running.wait(1200)
        finally:
            self.stop()
        said = self.said.read_text(errors="replace")
        assert self.running.returncode == code, said
        return said

    def run(self, *arguments: str, code: int = 0) -> str:
        self.start(*arguments)
        return self.finish(code)

    def held(self) -> str:
        """Wait until the job is held; its number."""
        until(lambda: (self.folder / "mark").exists() or self.running.poll() is not None, what="the job")
        assert self.running.poll() is None, self.said.read_text(errors="replace")
        (number,) = (job["JobId"] for job in self.jobs() if job["JobState"] == "RUNNING")
        return number

    def jobs(self) -> list[dict[str, str]]:
        return self.cluster.jobs(self.workflow.root)

    def states(self) -> list[str]:
        return [job["JobState"] for job in self.jobs()]

    def stop(self) -> None:
        if self.running is not None and self.running.poll() is None:
            os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait()

    @property
    def said(self) -> Path:
        return self.folder / "said"


@pytest.fixture(scope="module")
def cluster() -> Iterator[MiniSlurm]:
    """A Slurm without accounting."""
    missing = obstacle()
    if missing and os.environ.get("LAGLENS_TEST_SLURM") == "required":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with MiniSlurm() as cluster:
        yield cluster


@pytest.fixture
def submitted(workflow: WorkflowCopy, cluster: MiniSlurm) -> Iterator[Submitted]:
    """A finished study in which one job is left to do, and is held."""
    (workflow.root / WANTED).unlink()
    submitted = Submitted.create(workflow, cluster, WANTED)
    yield submitted
    submitted.stop()


def same_results(submitted: Submitted, finished: WorkflowCopy) -> bool:
    return submitted.workflow.results() == finished.results() and submitted.workflow.stale() == {}


def test_a_study_runs_and_every_job_gets_what_it_needs(
    finished: WorkflowCopy, limited: Submitted, cluster: MiniSlurm, tmp_path: Path
) -> None:
    workflow = WorkflowCopy.create(tmp_path / "workflow")
    workflow.configure(
        {
            "device": "auto",
            "runs": [{"models": ["each"], "signals": ["wave"]}],
            "comparisons": None,
            "models.once": None,
        }
    )
    submitted = Submitted.create(workflow, cluster)
    submitted.run()
    jobs = {job["Comment"].removeprefix("rule_").partition("_wildcards")[0]: job for job in submitted.jobs()}
    assert set(ON_GPU) <= set(jobs)
    assert {name.partition("_")[0] for name in jobs} >= {"signals", "measure", "draw"}, "groups"
    assert not {"make_signal", "measure_lags", "draw_run"} & set(jobs)
    for name, job in jobs.items():
        on_gpu = name in rules_on_gpu()
        assert job["JobState"] == "COMPLETED"
        assert job.get("TresPerJob") == ("gres:gpu:1" if on_gpu else None), job
        assert job["Partition"] == ("gpu" if on_gpu else "cpu")
        if on_gpu:
            assert job["NumCPUs"] == "4"
        if name in ON_GPU:
            assert (job["MinMemoryNode"], job["TimeLimit"]) == ON_GPU[name]
        assert job["TimeLimit"] != "08:00:00", "the limit of the partition: none was asked for"
    made, expected = workflow.root / "results", finished.root / "results"
    tables = [path.relative_to(made) for path in made.rglob("*.csv") if "each/wave" in str(path)]
    assert len(tables) > 10
    for table in tables:  # four threads add up in another order than one
        ours, theirs = pd.read_csv(made / table), pd.read_csv(expected / table)
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3, atol=1e-5, obj=str(table))
    assert workflow.stale() == {}
    assert cluster.ask("squeue", "--noheader", "--states=PD,R") == ""


@pytest.fixture(scope="module")
def limited(
    finished: WorkflowCopy, cluster: MiniSlurm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Submitted]:
    """A job of one minute that takes longer; it waits while other tests run."""
    workflow = finished.copy(tmp_path_factory.mktemp("limited") / "workflow")
    (workflow.root / WANTED).unlink()
    workflow.edit("rules/signals.smk", "runtime=grown(10)", "runtime=grown(1)")
    submitted = Submitted.create(workflow, cluster, WANTED)
    submitted.start(WANTED)
    yield submitted
    submitted.stop()


def test_a_cancelled_job_is_run_again(submitted: Submitted, finished: WorkflowCopy) -> None:
    submitted.start(WANTED)
    submitted.cluster.ask("scancel", submitted.held())
    submitted.finish()
    assert submitted.states() == ["CANCELLED", "COMPLETED"]
    assert same_results(submitted, finished)


def test_a_drained_node_holds_jobs_up_until_it_is_resumed(submitted: Submitted, finished: WorkflowCopy) -> None:
    (submitted.folder / "mark").touch()
    drain = ("scontrol", "update", "NodeName=ALL", "Reason=test", "State=DRAIN")
    submitted.cluster.ask(*drain)
    try:
        submitted.start(WANTED)
        until(lambda: submitted.states() == ["PENDING"], what="the job in the queue")
        until(lambda: submitted.jobs()[0]["Reason"] not in {"None", "Priority"}, what="the reason")
        assert not (submitted.workflow.root / WANTED).exists()
    finally:
        submitted.cluster.ask("scontrol", "update", "NodeName=ALL", "State=RESUME")
    submitted.finish()
    assert submitted.states() == ["COMPLETED"]
    assert same_results(submitted, finished)


def test_an_interrupted_run_cancels_its_jobs_and_goes_on_when_asked(
    submitted: Submitted, finished: WorkflowCopy
) -> None:
    submitted.start(WANTED)
    submitted.held()
    os.kill(submitted.running.pid, signal.SIGINT)
    submitted.finish(code=1)
    until(lambda: submitted.states() == ["CANCELLED"], what="the cancellation")
    assert not (submitted.workflow.root / WANTED).exists()
    submitted.run(WANTED)
    assert same_results(submitted, finished)


def test_after_the_main_process_was_killed_unlock_and_the_same_command_mend_it(
    submitted: Submitted, finished: WorkflowCopy
) -> None:
    submitted.start(WANTED)
    job = submitted.held()
    os.kill(submitted.running.pid, signal.SIGKILL)
    submitted.running.wait()
    submitted.cluster.ask("scancel", job)
    until(lambda: submitted.states() == ["CANCELLED"], what="the cancellation")
    assert "--unlock" in submitted.run(WANTED, code=1)
    submitted.run("--unlock")
    submitted.run(WANTED)
    assert submitted.states() == ["CANCELLED", "COMPLETED"]
    assert same_results(submitted, finished)


def test_a_job_past_its_time_limit_gets_more(limited: Submitted) -> None:
    limited.finish()
    records = [(job["JobState"], job["TimeLimit"], job["MinMemoryNode"]) for job in limited.jobs()]
    assert records == [("TIMEOUT", "00:01:00", "1000M"), ("COMPLETED", "00:02:00", "2000M")]


def test_with_accounting_the_database_knows_the_same(
    cluster: MiniSlurm, workflow: WorkflowCopy, finished: WorkflowCopy
) -> None:
    """Last: it takes the place of the other cluster."""
    cluster.__exit__()
    attention = "results/attention/once/wave.zarr.zip"
    for name in (WANTED, attention):
        (workflow.root / name).unlink()
    workflow.edit("config.yaml", "device: cpu", "device: auto")
    with MiniSlurm(accounting=True) as accounted:
        submitted = Submitted.create(workflow, accounted)
        submitted.run(attention, "--default-resources", "slurm_account=lab")
        asked = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=State,Partition,Account,AllocTRES")
        rows = [
            "COMPLETED|cpu|lab|billing=1,cpu=1,mem=1000M,node=1",  # the signal
            "COMPLETED|gpu|lab|billing=4,cpu=4,gres/gpu=1,mem=3000M,node=1",  # the model, for another device
            "COMPLETED|gpu|lab|billing=4,cpu=4,gres/gpu=1,mem=3500M,node=1",  # its attention
        ]
        until(lambda: sorted(accounted.ask(*asked).splitlines()) == rows, what=f"the records {accounted.ask(*asked)}")
