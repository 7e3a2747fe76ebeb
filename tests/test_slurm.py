"""The workflow on a cluster: the profile, and a real Slurm on this machine where one can be started."""

import re

from workflow_copy import REPOSITORY, WorkflowCopy

PROFILE = ("--workflow-profile", "profiles/slurm")


def test_a_cluster_takes_over_what_was_made_here(finished: WorkflowCopy) -> None:
    run = finished.snakemake(*PROFILE, "-n")
    assert run.returncode == 0, run.stdout
    assert "Nothing to be done" in run.stdout, run.stdout


def test_small_jobs_go_together(workflow: WorkflowCopy) -> None:
    workflow.configure({"figures.gamma": 0.7})
    run = workflow.snakemake(*PROFILE, "-n")
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("Group job draw") == 1
    assert len(re.findall(r"^    Job \d+: Drawing", run.stdout, re.MULTILINE)) == 4


def test_memory_and_minutes_of_every_rule_grow_with_the_attempt() -> None:
    for file in (REPOSITORY / "rules").glob("*.smk"):
        for rule in file.read_text().split("\nrule ")[1:]:
            for name in ("mem_mb", "runtime"):
                assert re.search(rf"^        {name}=grown\(", rule, re.MULTILINE), (rule.split(":")[0], name)


def test_both_profiles_say_the_same_of_what_is_stale() -> None:
    keys = ("rerun-triggers", "rerun-incomplete", "max-checksum-file-size")
    texts = [(REPOSITORY / "profiles" / name / "profile.yaml").read_text() for name in ("default", "slurm")]
    for key in keys:
        default, slurm = (re.findall(rf"^{key}: .*$", text, re.MULTILINE) for text in texts)
        assert default == slurm
        assert len(default) == 1
