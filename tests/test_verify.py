"""What made every artifact is recorded; a flipped bit in any kind of artifact is noticed, named, and mended."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from workflow_copy import WorkflowCopy

from laglens.__main__ import main
from laglens.errors import LaglensError
from laglens.store.records import digest, digests_of_inputs, forget, keep, read_record, record_path

Checked = Callable[..., tuple[int, list[str]]]
# The summary is made from all others, so it is mended apart. Of the first file it is the record that is cut short.
OF_EACH_KIND = [
    ["results/summary.csv", "results/summary.html"],
    [
        "results/figures/each/wave/training.pdf",
        "results/figures/each/wave/training.png",
        "results/figures/each/wave/training.svg",
        "results/models/each/wave.csv",
        "results/models/each/wave.json",
        "results/models/each/wave.safetensors",
        "results/signals/wave.zarr.zip",
    ],
]
WINDOWS = "results/windows/elsewhere/wave.npz"
MADE = "results/lags/a.csv"


def flip(path: Path, place: float = 0.5) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Checked:
    """Exit code and lines of the command, run in a folder."""

    def verified(folder: Path, *arguments: str) -> tuple[int, list[str]]:
        monkeypatch.chdir(folder)
        code = main(["verify", *arguments])
        return code, capsys.readouterr().out.splitlines()

    return verified


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two artifacts, the second made from the first and from a file of a person."""
    monkeypatch.chdir(tmp_path)
    for name in ("results/signals/a.csv", MADE, "mine.csv"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f"{name}\n1\n")
    keep(["results/signals/a.csv"], {"rule": "make", "inputs": {}, "versions": {}})
    inputs = digests_of_inputs(["mine.csv", "results/signals/a.csv"])
    keep([MADE], {"rule": "measure", "inputs": inputs, "versions": {"numpy": "0.1"}})
    return tmp_path


def test_every_artifact_says_what_made_it(finished: WorkflowCopy) -> None:
    for name in finished.results():
        path = record_path(finished.root / "results" / name, finished.root / "results")
        record = read_record(path)
        assert record is not None, name
        assert record["sha256"] == digest(finished.root / "results" / name)
        assert record["rule"] + ".py" in record["code"] and record["code"]["laglens/job.py"]
        assert {"python", "laglens", "numpy", "torch"} <= set(record["versions"])
        assert str(finished.root) not in path.read_text(), "the same in another folder"
    record = read_record(finished.root / "results/provenance/lags/once/wave.csv.json")
    assert record["spec"] == {"confidence": 0.95, "max_lag": "auto", "seed": 0}
    record = read_record(finished.root / "results/provenance/signals/table.zarr.zip.json")
    assert record["inputs"] == {"series.csv": digest(finished.root / "series.csv")}


def test_a_flipped_bit_in_every_kind_of_artifact_is_named_and_mended(
    finished: WorkflowCopy, workflow: WorkflowCopy, checked: Checked
) -> None:
    workflow.configure({"figures.formats": ["png", "svg", "pdf"]})
    drawn = workflow.snakemake(*OF_EACH_KIND[1][:3])
    assert drawn.returncode == 0, drawn.stdout
    before = workflow.results()
    assert {Path(name).suffix for name in before} == {Path(name).suffix for group in OF_EACH_KIND for name in group}
    cut = record_path(workflow.root / OF_EACH_KIND[0][0], workflow.root / "results")
    for group in OF_EACH_KIND:
        for name in group:
            if name != OF_EACH_KIND[0][0]:
                flip(workflow.root / name)
            else:
                cut.write_bytes(cut.read_bytes()[:-20])
        code, lines = checked(workflow.root)
        said = r"(.*): (damaged, or changed by something else than|results/provenance/.*: this record is damaged) .*"
        named = [found[1] for line in lines if (found := re.fullmatch(said, line))]
        assert (code, named) == (1, group)
        (command,) = [line.partition(": ")[2] for line in lines if line.startswith("to make them again: ")]
        program, *arguments = shlex.split(command)
        assert program == "snakemake"
        mended = workflow.in_forks(*arguments)
        assert mended.returncode == 0, mended.stdout
        assert workflow.results() == before
    assert finished.results().items() <= before.items()


def test_what_is_made_beside_the_study_is_named_and_mended_too(workflow: WorkflowCopy, checked: Checked) -> None:
    recorded = {"architecture": "recording", "folder": "recordings", "history": 32, "horizon": 8}
    runs = [{"models": ["once", "elsewhere"], "signals": ["wave"]}]
    workflow.configure({"models.elsewhere": recorded, "runs": runs, "comparisons": None})
    made = workflow.snakemake("windows")
    assert made.returncode == 0, made.stdout
    before = workflow.results()
    flip(workflow.root / WINDOWS)
    code, lines = checked(workflow.root)
    assert (code, lines[0]) == (1, f"{WINDOWS}: damaged, or changed by something else than export_windows")
    assert f"to make them again: snakemake --cores 4 --force {WINDOWS}" in lines
    mended = workflow.snakemake("--force", WINDOWS)
    assert mended.returncode == 0, mended.stdout
    assert workflow.results() == before


def test_a_job_does_not_go_on_from_a_damaged_input(workflow: WorkflowCopy) -> None:
    (workflow.root / "results/summary.csv").unlink()
    flip(workflow.root / "results/lags/once/wave.verdicts.csv")
    run = workflow.snakemake("results/summary.csv")
    assert run.returncode == 1
    said = "summarise: results/lags/once/wave.verdicts.csv: damaged, or changed by something else than its rule; "
    assert f"{said}make it again: snakemake --force results/lags/once/wave.verdicts.csv" in run.stdout
    assert not (workflow.root / "results/summary.csv").exists()


def test_what_another_config_or_other_code_would_make_is_stale(workflow: WorkflowCopy, checked: Checked) -> None:
    total = len(workflow.results())
    assert checked(workflow.root) == (0, [f"{total} of {total} artifacts are as their rules made them"])
    workflow.configure({"figures.gamma": 0.7})
    code, lines = checked(workflow.root)
    stale = {line.partition(": ")[0] for line in lines if "made by another study" in line}
    assert code == 1 and lines[-1] == "to make the stale ones again: snakemake --cores 4"
    drawn = r"results/figures/.*/(mosaic|head_sheet|lag_strip|flow|arcs|similarity|contrast)\.png"
    assert stale and all(re.fullmatch(drawn, name) for name in stale)
    (workflow.root / "results/figures/notes.txt").write_text("mine")
    code, lines = checked(workflow.root)
    assert lines[0].startswith("results/figures/notes.txt: nothing says what made it")
    assert lines[-1].startswith("no rule of this study makes these; ")
    assert lines[-1].endswith(" results/figures/notes.txt")


def test_every_kind_of_fault_is_said(made: Path, checked: Checked) -> None:
    code, lines = checked(made)
    assert code == 0
    assert lines[0] == "2 of 2 artifacts are as their rules made them"
    assert re.fullmatch(r"1 were made with numpy 0\.1, now \d.*", lines[1])
    flip(Path(MADE))
    code, lines = checked(made)
    assert (code, lines[0]) == (1, f"{MADE}: damaged, or changed by something else than measure")
    flip(Path(MADE))
    flip(Path("mine.csv"))
    assert checked(made)[1][0] == f"{MADE}: made from another mine.csv than the one that is there"
    Path("mine.csv").unlink()
    assert checked(made)[0] == 0, "the table of a person may be elsewhere"
    Path("results/signals/a.csv").write_text("another\n")
    keep(["results/signals/a.csv"], {"rule": "make", "inputs": {}, "versions": {}})
    assert checked(made)[1][0] == f"{MADE}: made from another results/signals/a.csv than the one that is there"
    Path("results/signals/a.csv").unlink()
    assert checked(made)[1][0] == "1 of 1 artifacts are as their rules made them; 1 more were made and deleted since"
    record = record_path(MADE)
    whole = record.read_text()
    for text in (whole[: len(whole) // 2], "", "[]", json.dumps({"sha256": 3, "inputs": {}})):
        record.write_text(text)
        assert checked(made)[1][0].startswith(f"{MADE}: results/provenance/lags/a.csv.json: this record is damaged")
    forget([MADE])
    assert checked(made)[1][0].startswith(f"{MADE}: nothing says what made it")


def test_results_are_checked_wherever_they_were_moved(made: Path, checked: Checked, tmp_path: Path) -> None:
    (made / "results").rename(made / "kept")
    assert checked(made.parent, str(made / "kept"))[0] == 0
    flip(made / "kept/signals/a.csv")
    _, lines = checked(made, "kept")
    assert [line.partition(": ")[0] for line in lines[:2]] == ["kept/lags/a.csv", "kept/signals/a.csv"]


def test_an_input_that_is_not_what_its_rule_made_is_refused(made: Path) -> None:
    assert set(digests_of_inputs([MADE, "mine.csv", "absent.csv"])) == {MADE, "mine.csv"}
    flip(Path(MADE))
    with pytest.raises(LaglensError, match=f"{MADE}: damaged.*snakemake --force {MADE}"):
        digests_of_inputs([MADE])
    record_path(MADE).write_text("{")
    with pytest.raises(LaglensError, match=f"{MADE}: .*record is damaged.*snakemake --force {MADE}"):
        digests_of_inputs([MADE])


def test_what_lies_elsewhere_has_no_record(made: Path) -> None:
    for name in (
        "mine.csv",
        ".snakemake/storage/s3/bucket/results/lags/a.csv",
        "/results/lags/a.csv",
        "resultsb/a.csv",
    ):
        assert record_path(name) is None
    keep(["mine.csv"], {"inputs": {}})
    assert sorted(path.name for path in made.rglob("*.json")) == ["a.csv.json", "a.csv.json"]


def test_no_results_and_a_broken_study_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "elsewhere")]) == 1
    assert (
        capsys.readouterr().err
        == f"laglens: {tmp_path}/elsewhere: holds no results; name the folder that snakemake writes to\n"
    )
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.csv").write_text("1")
    (tmp_path / "Snakefile").write_text("rule (\n")
    assert main(["verify", str(tmp_path / "results")]) == 1
    assert capsys.readouterr().err.startswith("laglens: snakemake cannot read the study: ")
