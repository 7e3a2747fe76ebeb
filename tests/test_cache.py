"""Results between working folders: carried over with their records; and why not through Snakemake's own cache."""

import shutil
from pathlib import Path

import yaml
from workflow_copy import WorkflowCopy

from laglens.store.records import record_path
from laglens.verify import UNKNOWN, verify

WAVE, TWIN = (f"results/signals/{name}.zarr.zip" for name in ("wave", "twin"))
BENCHMARK = '    benchmark:\n        "logs/make_signal/{signal}.tsv"\n'
CACHED = "    cache: True\n"


def test_another_folder_goes_on_from_results_that_were_carried_there(finished: WorkflowCopy, tmp_path: Path) -> None:
    other = WorkflowCopy.create(tmp_path / "another study")
    runs = [{"models": ["once"], "signals": ["wave", "line"]}]
    line = {"generator": "planted_lag", "lag": 9, "length": 120}
    other.configure({"runs": runs, "signals.line": line, "comparisons": None, "models.each": None})
    for part in ("results", ".snakemake/metadata"):
        shutil.copytree(finished.root / part, other.root / part)  # without the times of change
    jobs = other.stale()
    assert {"make_signal": 1, "capture_attention": 1, "draw_run": 1}.items() <= jobs.items()
    assert not {"train_model", "draw_training", "capture_probes"} & set(jobs)
    found = verify(other.root / "results")
    assert not found.wrong and len(found.right) == len(finished.results())


def test_snakemakes_cache_refuses_rules_that_are_measured(workflow: WorkflowCopy) -> None:
    workflow.edit("rules/signals.smk", BENCHMARK, BENCHMARK + CACHED)
    run = workflow.snakemake("-n", "--cache", WAVE)
    assert run.returncode == 1
    assert "benchmark directive may not be marked as eligible" in run.stdout


def test_snakemakes_cache_takes_one_signal_for_another_and_brings_no_record(
    workflow: WorkflowCopy, tmp_path: Path
) -> None:
    """Its key leaves out names, which the noise of a signal is drawn by; so no rule asks for it."""
    settings = yaml.safe_load((workflow.root / "config.yaml").read_text())["signals"]["wave"]
    workflow.configure({"signals.twin": settings})
    assert workflow.snakemake(TWIN).returncode == 0
    wave, twin = ((workflow.root / name).read_bytes() for name in (WAVE, TWIN))
    assert wave != twin
    workflow.edit("rules/signals.smk", BENCHMARK, CACHED)
    for name in (WAVE, TWIN):
        (workflow.root / name).unlink()
        record_path(workflow.root / name, workflow.root / "results").unlink()
    (tmp_path / "cache").mkdir()
    place = {"SNAKEMAKE_OUTPUT_CACHE": str(tmp_path / "cache")}
    run = workflow.snakemake("--cores", "1", WAVE, TWIN, "--cache", environment=place)
    assert run.returncode == 0, run.stdout
    assert (workflow.root / WAVE).read_bytes() == (workflow.root / TWIN).read_bytes()
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o002, "anybody may write it"
    wrong = verify(workflow.root / "results").wrong
    unknown = {str(path.relative_to(workflow.root)) for path, said in wrong.items() if said == UNKNOWN}
    assert len(unknown) == 1 and unknown < {WAVE, TWIN}
