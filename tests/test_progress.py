"""Progress of long work: few lines, one to a job, with and without a terminal."""

import logging
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from laglens import progress
from laglens.progress import track


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    monkeypatch.setattr(progress, "_said", [])
    return clock


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setattr(
        sys.modules["__main__"], "snakemake", SimpleNamespace(rule="knock_out", wildcards=["m", "s"]), raising=False
    )


@pytest.mark.usefixtures("job")
def test_a_job_writes_a_line_in_ten_seconds_with_its_name_and_the_time_left(clock, capsys):
    for _ in track(range(20), "cutting lags", total=20):
        clock.work(4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "knock_out m/s: cutting lags, 3 of 20, about 68 s left"
    assert [line.split(",")[1] for line in lines] == [f" {n} of 20" for n in (3, 6, 9, 12, 15, 18)]


@pytest.mark.usefixtures("job")
def test_a_short_job_is_silent_and_a_long_one_writes_less_and_less(clock, capsys):
    for _ in track(range(9), "reading"):
        clock.work(1)
    assert capsys.readouterr().err == ""
    for _ in track(range(3600), "training"):
        clock.work(1)
    lines = capsys.readouterr().err.splitlines()
    at = [int(line.split(", ")[1].split(" of ")[0]) for line in lines]
    gaps = [b - a for a, b in pairwise(at)]
    assert gaps[0] == 10 and gaps[-1] == 60 and gaps == sorted(gaps) and len(lines) < 80
    assert lines[-1].endswith("left") and "minutes left" in lines[2]


@pytest.mark.usefixtures("job")
def test_work_inside_other_work_shares_its_line(clock, capsys):
    for _ in track(range(3), "windows"):
        for _ in track(range(4), "passes"):
            clock.work(5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "knock_out m/s: windows, 0 of 3 (passes, 2 of 4)"
    assert "knock_out m/s: windows, 1 of 3 (passes, 2 of 4), about 60 s left" in lines
    assert len(lines) == 6


@pytest.mark.usefixtures("job")
def test_work_that_was_given_up_is_not_told_of_any_more(clock, capsys):
    abandoned = iter(track(range(9), "first"))
    next(abandoned)
    abandoned.close()
    for _ in track(range(3), "second"):
        clock.work(11)
    assert all(line.startswith("knock_out m/s: second, ") for line in capsys.readouterr().err.splitlines())


def test_outside_a_job_the_log_alone_has_the_lines(clock, capsys, caplog):
    with caplog.at_level(logging.INFO, logger="laglens"):
        for _ in track(range(3), "windows"):
            clock.work(10)
    assert capsys.readouterr().err == ""
    assert [record.getMessage() for record in caplog.records][:1] == ["windows, 1 of 3, about 20 s left"]
    assert caplog.records[-1].getMessage() == "windows: 3 done in 30 s"


def test_a_script_without_a_terminal_writes_to_stderr_while_it_works():
    code = (
        "from types import SimpleNamespace\nsnakemake = SimpleNamespace(rule='train_model', wildcards=['image'])\n"
        "import time\nfrom laglens.progress import track\n"
        "for _ in track(range(3), 'training', every=0.05): time.sleep(0.06)\n"
    )
    source = Path(__file__).parents[1] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(source)}
    )
    assert done.stdout == "" and done.stderr.startswith("train_model image: training, 1 of 3, about 0 s left\n")
