"""kill -9 at any moment of a job of every rule: nothing wrong is left, nothing right lost, a second run mends it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_recording import FACTORY, HISTORY, HORIZON, NETWORK, record_elsewhere
from workflow_copy import REPOSITORY, WorkflowCopy

SEED = 0
KILLS = 120
TINY = {"history": 16, "horizon": 4, "width": 8, "heads": 2, "layers": 1, "feedforward": 8}
TINY_PATCHES = {"horizon": 8, "width": 8, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}
# Beside the tiny study: what brings in the rules that it does without.
MORE = {
    "signals.eventful": {"generator": "season_trend_outliers", "length": 120},
    "models.bare": TINY | {"architecture": "encoder", "train": {"epochs": 0}},
    "models.pairs": TINY | {"architecture": "encoder_decoder", "train": {"epochs": 1}},
    "models.numeric_small": {"architecture": "numeric", "weights": "shipped"},
    "models.short": TINY_PATCHES | {"architecture": "numeric", "history": 64, "train": {"steps": 1, "batch": 4}},
    "models.here": {"architecture": "factory", "factory": "my_model.py:build"},
    "models.foreign": {"architecture": "recording", "folder": "recordings", "history": HISTORY, "horizon": HORIZON},
    "runs": [
        {"models": ["once"], "signals": ["wave", "table"]},
        {"models": ["each", "bare"], "signals": ["wave", "eventful"]},
        {"models": ["pairs", "here", "foreign"], "signals": ["wave"]},
    ],
    "distributions": {"kinds": {"trained": ["each"], "untrained": ["bare"], "signals": ["wave", "eventful"]}},
    "calibration.models": ["short"],
    "calibration.noises": ["white"],
    "calibration.waves": ["sine"],
    "calibration.series": 10,
    "calibration.untrained": 10,
    "calibration.controls": 19,
    "claims": {"models": ["once"], "signals": ["wave"], "period": 16, "pairs": 20},
}
TARGETS = [
    "results/distributions/kinds.answers.csv",
    "results/figures/distributions/kinds.png",
    "results/figures/each/eventful/events.png",
    "results/figures/once/wave/class_token.png",
    "results/figures/pairs/wave/alignment.png",
    "results/heads/once/wave.cls.csv",
    "results/heads/pairs/wave.alignment.csv",
    "results/lags/once/table.series.csv",
    "results/lags/once/wave.stretched.zarr.zip",
    "results/models/here.safetensors",
    "results/models/numeric_small.safetensors",
    "results/time/foreign/wave.ar1.zarr.zip",
]


@pytest.fixture
def every_rule(workflow: WorkflowCopy) -> WorkflowCopy:
    """The tiny study and more, with a job of every rule that there is."""
    (workflow.root / "my_network.py").write_text(NETWORK)
    (workflow.root / "my_model.py").write_text(FACTORY)
    weights = Path("src/laglens/weights")
    (workflow.root / weights).mkdir()
    for file in (REPOSITORY / weights).glob("numeric_small.*"):
        shutil.copy(file, workflow.root / weights)
    workflow.configure(MORE)
    for targets in (["windows"], [*TARGETS, "claims", "calibration"]):
        run = workflow.in_forks(*targets)
        assert run.returncode == 0, run.stdout
        if targets == ["windows"]:
            recorded = record_elsewhere(workflow.root, "wave")
            assert recorded.returncode == 0, recorded.stderr
    return workflow


def test_no_moment_is_a_bad_one_to_be_killed(every_rule: WorkflowCopy) -> None:
    kept = {path.stem for path in every_rule.jobs.glob("*.py")}
    assert kept == {path.stem for path in (REPOSITORY / "scripts").glob("*.py")}
    before = every_rule.results()
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_jobs.py")), str(every_rule.jobs), str(SEED)],
        cwd=every_rule.root,
        env=every_rule.environment(every_rule.root / "src"),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    print(f"{report['kills']} kills of {report['rules']} rules: {report['places']}")
    assert report["rules"] == len(kept) and report["kills"] >= KILLS
    assert {"open", "os.rename", "fsync"} <= set(report["places"])
    assert report["wrong"] == report["lost"] == report["unfinished"] == report["left"] == []
    assert every_rule.results() == before
