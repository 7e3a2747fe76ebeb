"""Every architecture that laglens loads, from a line of config through the scripts of all stages to figures.

The scripts are those of the workflow, run in this process one after the other: a job of its own for each would spend
most of the time importing.
"""

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import vitime_checkpoint
import yaml
from workflow_copy import REPOSITORY

from laglens.config.load import canonical, load_study
from laglens.provenance import select
from laglens.store import read_card, read_tree, read_weights

MODELS: dict[str, dict] = yaml.safe_load((Path(__file__).parent / "adapters.yaml").read_text())
RULES = "\n".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
SIGNALS = {
    "wave": {"generator": "harmonics", "length": 420, "components": [{"period": 24}, {"period": 57}], "noise": 0.2},
    "pair": {"generator": "harmonics", "length": 420, "components": [{"period": 24}], "noise": 0.2, "samples": 2},
}
FACTORY = """
import laglens
from torch import nn

class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(2, 16), nn.Linear(16, 12)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)

    def forward(self, history):
        return self.head(self.encoder(self.embed(history.unflatten(1, (-1, 2)).float()))[:, -1])

def build():
    tokens = laglens.TokenMap.patches(64, 0, 2, readout="last")
    stack = laglens.Stack("encoder", ("encoder.layers.0.self_attn",), tokens, tokens)
    return laglens.adapt(Patches(), history=64, horizon=12, stacks=[stack])
"""


MEASURED = {"lags": "lags.zip", "table": "lags.csv", "curves": "input.zip"}


class Study:
    """A study of one model and one signal in a folder, whose scripts can be run."""

    def __init__(self, model: str, written: dict[str, Any]) -> None:
        self.model = model
        self.signal = "pair" if written.get("config", {}).get("num_input_channels") == 2 else "wave"
        checked = load_study(
            {
                "device": "cpu",
                "signals": {self.signal: SIGNALS[self.signal]},
                "models": {model: written},
                "runs": [{"models": [model], "signals": [self.signal]}],
                "attention": {"windows": 3},
                "lags": {"controls": 19, "swap_periods": 3, "swap_inputs": 4, "permutations": 99, "noises": 20},
                "figures": {"formats": ["png"], "dpi": 50},
            }
        )
        self.settings = canonical(checked)

    def run(self, rule: str, inputs: dict[str, str], outputs: dict[str, Any], **wildcards: str) -> None:
        """Run the script of a rule with the settings that the rule would hand it."""
        names = {"model": self.model, "signal": self.signal} | wildcards
        fixed = {"versions": {}} if (wanted := settings_of_rule(rule)).pop("versions", False) else {}
        spec = select(self.settings, wanted, names) | fixed
        job = SimpleNamespace(
            rule=rule,
            input=Files(inputs),
            output=Files(outputs),
            wildcards=Files(names),
            params=Params(spec=spec),
            log="job.log",
            threads=1,
        )
        sys.modules["__main__"].snakemake = job  # type: ignore[attr-defined]
        try:
            runpy.run_path(str(REPOSITORY / "scripts" / f"{rule}.py"))
        finally:
            del sys.modules["__main__"].snakemake  # type: ignore[attr-defined]


class Params(SimpleNamespace):
    """Named params, by attribute and as pairs."""

    def items(self) -> Any:
        return vars(self).items()


class Files(SimpleNamespace):
    """Named inputs or outputs, by attribute, by key, and one after the other."""

    def __init__(self, paths: dict[str, Any]) -> None:
        super().__init__(**paths)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        for paths in vars(self).values():
            yield from [paths] if isinstance(paths, str) else paths


def settings_of_rule(rule: str) -> dict[str, Any]:
    """Settings that a rule asks for, read from the rule."""
    body = re.split(rf"^rule {rule}:", RULES, flags=re.MULTILINE)[1]
    found = re.search(r"spec=spec\((.*?)\),\n\s+code=", body, re.DOTALL)
    assert found, f"rule {rule} hands no settings on"
    return eval(f"dict({found.group(1)})", {})  # the text of a rule of this repository


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    vitime_checkpoint.write(tmp_path / "ViTime_Model.pth", h=32, size=[128, 0, 192])
    (tmp_path / "my_model.py").write_text(FACTORY)
    return tmp_path


ALL = MODELS | {
    "vitime": {"architecture": "vitime", "checkpoint": "ViTime_Model.pth", "history": 90, "horizon": 100},
    "factory": {"architecture": "factory", "factory": "my_model.py:build"},
}


@pytest.mark.parametrize("name", ALL)
def test_a_line_of_config_goes_through_every_stage(name: str, folder: Path) -> None:
    study = Study(name, ALL[name])
    study.run("make_signal", {"table": ""}, {"signal": "signal.zip"})
    study.run("make_control", {"signal": "signal.zip"}, {"control": "ar1.zip"})
    study.run("load_model", {}, {"weights": "model.safetensors", "card": "model.json"})
    model = {"weights": "model.safetensors", "card": "model.json"}
    study.run("capture_attention", {"signal": "signal.zip"} | model, {"attention": "attention.zip"})
    study.run("reduce_to_time", {"attention": "attention.zip"}, {"time": "time.zip"})
    study.run("capture_controls", {"control": "ar1.zip"} | model, {"time": "control.zip"})
    study.run("measure_lags", {"time": "time.zip", "control": "control.zip"}, MEASURED)
    study.run("measure_heads", {"time": "time.zip"}, {"heads": "heads.zip", "table": "heads.csv"})
    alike = {"similarity": "similarity.zip", "table": "similarity.csv", "layers": "layers.csv"}
    study.run("compare_heads", {"time": "time.zip", "heads": "heads.zip"}, alike)
    study.run("lock_events", {"time": "time.zip"}, {"events": "events.zip", "table": "events.csv"})
    study.run("align_heads", {"time": "time.zip"}, {"alignment": "alignment.zip", "table": "alignment.csv"})
    study.run("read_class_token", {"time": "time.zip"} | model, {"seen": "cls.zip", "table": "cls.csv"})
    study.run("roll_out", {"time": "time.zip"}, {"flow": "flow.zip", "table": "flow.csv"})
    figures = {name: [f"{name}.png"] for name in ("head_sheet", "mosaic", "lag_strip", "flow", "arcs", "similarity")}
    drawn = {"time": "time.zip", "lags": "lags.zip", "flow": "flow.zip", "similarity": "similarity.zip"}
    study.run("draw_run", drawn | {"curves": "input.zip"}, figures)
    # Of models and signals without any, these say so in words.
    study.run("draw_class_token", {"seen": "cls.zip"}, {"figure": ["cls.png"]})
    study.run("draw_events", {"events": "events.zip", "table": "events.csv"}, {"figure": ["events.png"]})

    card, tree = read_card("model.json"), read_tree("time.zip")
    assert tree.attrs["certificate"]["found"] == tree.attrs["certificate"]["captured"] > 0
    assert tree.attrs["certificate"]["worst"] < 1e-4
    for node in tree.children.values():
        rows = node["attention"].sum("key") + node["special_mass"]
        assert float(abs(rows.where(rows > 0, 1) - 1).max()) < 2e-3
    assert len(read_weights("model.safetensors")) > 3
    assert len(pd.read_csv("heads.csv"))
    looks = set(pd.read_csv("cls.csv")["of"]) == {"patch", "time"}
    assert looks == (name in ("vitime", "picture", "fold")) != bool(read_tree("cls.zip").attrs.get("left_out"))
    assert all(Path(path).stat().st_size > 1000 for paths in figures.values() for path in paths)
    if card["horizon"]:
        forecasting_stages(study, model)


def forecasting_stages(study: Study, model: dict[str, str]) -> None:
    """What is asked of models with a forecast alone."""
    explained = {name: f"{name}.csv" for name in ("table", "methods", "pairs", "replaced")}
    explained |= {"attribution": "a.zip", "compared": "compared.zip"}
    study.run("attribute_forecast", {"time": "time.zip", "flow": "flow.zip"} | model, explained)
    assert len(pd.read_csv("methods.csv"))
    study.run("capture_untrained", {"signal": "signal.zip"} | model, {"time": "untrained.zip"})
    study.run("capture_probes", model, {"swap": "swap.zip", "white": "white.zip"}, fit=study.model)
    followed = {"swap": "followed.zip", "tracking": "tracking.zip", "table": "tracking.csv"}
    study.run("follow_periods", {"swap": "swap.zip", "white": "white.zip"}, followed, fit=study.model)
    judged = {"time": "time.zip", "control": "control.zip", "untrained": "untrained.zip", "swap": "followed.zip"}
    judged |= {"tracking": "tracking.zip", "stretched": ""}
    if study.model.startswith("patchtst"):  # tokens that can be stretched, no row in time, several channels
        study.run("stretch_probe", model, {"probe": "probe.zip"}, fit=study.model)
        stretched = {"signal": "signal.zip", "probe": "probe.zip"} | model
        study.run("stretch_signal", stretched, {"periods": "stretched.zip"})
        judged["stretched"] = "stretched.zip"
    study.run("test_lags", judged, {"comb": "comb.zip", "table": "verdicts.csv"})
    cut = {"effects": "effects.zip", "table": "effects.csv", "heads": "ranking.csv"}
    study.run("knock_out", {"time": "time.zip"} | model, cut)
    study.run("classify_heads", {"heads": "heads.zip", "verdicts": "verdicts.csv"}, {"table": "classes.csv"})
    important = {"importance": "importance.zip", "table": "importance.csv"}
    study.run("measure_importance", {"time": "time.zip"} | model, important)
    assert len(pd.read_csv("classes.csv")) and len(pd.read_csv("importance.csv"))
    draw_evidence(study)
    verdicts = pd.read_csv("verdicts.csv")
    assert len(verdicts)
    assert set(verdicts["verdict"]) <= {"supported", "not supported", "not testable"}
    assert len(pd.read_csv("table.csv"))
    assert "matters" in pd.read_csv("effects.csv")
    if study.model == "patchtst_cls":  # its forecast reads no row of attention in time
        assert set(verdicts["verdict"]) == {"not testable"}
        assert verdicts["reason"].str.contains("no row of its attention in time is read for the forecast").all()


def draw_evidence(study: Study) -> None:
    """Figures of what was tested; of what could not be tested they say why."""
    shown = {"verdicts": "verdicts.csv", "knock_out": "effects.zip", "knock_out_table": "effects.csv"}
    names = ("verdicts", "knock_out", "agreement", "density", "forecasts", "explanations")
    drawn = {name: [f"{name}.png"] for name in names}
    shown |= {"attribution": "a.zip", "compared": "compared.zip", "time": "time.zip"}
    study.run("draw_evidence", shown, drawn)
    study.run("draw_tracking", {"tracking": "tracking.zip", "swap": "followed.zip"}, {"figure": ["t.png"]}, fit="m")
    assert all(Path(f"{name}.png").stat().st_size > 1000 for name in (*names, "t"))
