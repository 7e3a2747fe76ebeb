"""The config: defaults, one readable line per mistake, checks across sections, and the reference made from it."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from models import TINY

from laglens.config.document import reference
from laglens.config.limits import fewest_controls
from laglens.config.load import canonical, load_study
from laglens.config.models import PER_SIGNAL
from laglens.config.study import Figures, Study
from laglens.errors import LaglensError
from laglens.figures.settings import FigureSettings
from laglens.lags.bands import smallest_controls
from laglens.launch import read_study
from laglens.models.registry import build_model

ROOT = Path(__file__).parents[1]


def study(**changes: Any) -> dict[str, Any]:
    """A small valid study; keys with two underscores reach into sections, None deletes."""
    written: dict[str, Any] = {
        "signals": {
            "wave": {"generator": "harmonics", "length": 700, "components": [{"period": 16}]},
            "sunspots": {"dataset": "sunspots"},
        },
        "models": {
            "image": {"architecture": "image", "train": {"steps": 5}},
            "each": {"architecture": "encoder"},
        },
        "runs": [{"models": ["image", "each"], "signals": ["wave"]}, {"models": ["image"], "signals": ["sunspots"]}],
        "comparisons": {"both": {"model": "image", "signals": ["wave", "sunspots"]}},
    }
    for key, value in changes.items():
        *above, last = key.split("__")
        section = written
        for name in above:
            section = section.setdefault(name, {})
        if value is None:
            del section[last]
        else:
            section[last] = value
    return written


def complaint(written: dict[str, Any]) -> str:
    with pytest.raises(LaglensError) as error:
        load_study(written)
    return str(error.value)


def test_defaults_are_filled_in_and_the_result_is_plain() -> None:
    plain = canonical(load_study(study()))
    assert plain["seed"] == 0
    assert plain["figures"]["robust_percentiles"] == [5.0, 99.5]
    assert plain["models"]["each"]["options"]["history"] == 100
    assert plain["models"]["each"]["train"]["patience"] == 5
    assert plain == yaml.safe_load(yaml.safe_dump(plain))


def test_an_empty_section_means_its_defaults() -> None:
    written = study()
    written["figures"] = written["comparisons"] = None
    assert canonical(load_study(written))["figures"]["gamma"] == 0.5


def test_runs_are_pairs_once_each_in_order() -> None:
    written = study()
    written["runs"].append({"models": ["image"], "signals": ["sunspots", "wave"]})
    assert load_study(written).pairs == [("image", "wave"), ("each", "wave"), ("image", "sunspots")]


MISTAKES = {
    "unknown section": ({"figure": {}}, "figure: unknown key; did you mean 'figures'?"),
    "unknown key": ({"figures__gama": 1}, "figures.gama: unknown key; did you mean 'gamma'?"),
    "far from any key": (
        {"time__zzz": 1},
        "time.zzz: unknown key; valid: normalisation",
    ),
    "unknown key of a signal": (
        {"signals__wave__lenght": 3},
        "signals.wave.lenght: unknown key; did you mean 'length'?",
    ),
    "unknown key of a list item": (
        {"signals__wave__components": [{"perid": 3}]},
        "signals.wave.components[0].perid: unknown key; did you mean 'period'?",
    ),
    "unknown key of a model": (
        {"models__each__train": {"epoch": 3}},
        "models.each.train.epoch: unknown key; did you mean 'epochs'?",
    ),
    "unknown architecture": (
        {"models__each__architecture": "encodr"},
        "models.each: unknown architecture 'encodr'; did you mean 'encoder'?",
    ),
    "no architecture": (
        {"models__each__architecture": None},
        "models.each: 'architecture' is missing; one of image, numeric, encoder",
    ),
    "unknown generator": (
        {"signals__wave__generator": "harmonic"},
        "signals.wave: unknown generator 'harmonic'; did you mean 'harmonics'?",
    ),
    "missing key": ({"models__image__train": {"batch": 3}}, "models.image.train.steps: this key is missing"),
    "number out of range": ({"figures__gamma": 0}, "figures.gamma: must be above 0, not 0"),
    "number or word": ({"lags__max_lag": "all"}, "lags.max_lag: must be a whole number or 'auto', not 'all'"),
    "number or word, out of range": ({"lags__max_lag": -2}, "lags.max_lag: must be above 0 or 'auto', not -2"),
    "not a number": ({"seed": "one"}, "seed: must be a whole number, not 'one'"),
    "choice": ({"device": "gpu"}, "device: must be 'auto', 'cpu' or 'cuda', not 'gpu'"),
    "not a section": ({"lags": 3}, "lags: must be a mapping, not 3"),
    "falling percentiles": (
        {"figures__robust_percentiles": [99, 5]},
        "figures: robust_percentiles [99, 5] are not two rising numbers between 0 and 100",
    ),
    "bad name": ({"signals__a.b": {"dataset": "nile"}}, "signals.a.b: a name is made of letters, digits"),
    "history and patch": ({"models__image__history": 250}, "models.image: history 250 is not a multiple of patch 8"),
    "unknown model in a run": (
        {"runs": [{"models": ["imag"], "signals": ["wave"]}], "comparisons": {}},
        "runs[0].models[0]: there is no model 'imag'; did you mean 'image'?",
    ),
    "unknown signal in a comparison": (
        {"comparisons__both__signals": ["wave", "sunspot"]},
        "comparisons.both.signals[1]: there is no signal 'sunspot'; did you mean 'sunspots'?",
    ),
    "comparison outside the runs": (
        {"comparisons__both__model": "each"},
        "comparisons.both.signals[1]: 'each' is not run on 'sunspots'; add the pair to runs",
    ),
    "comparison of a model that is trained anew": (
        {
            "signals__other": {"generator": "harmonics", "length": 700, "components": [{"period": 20}]},
            "runs": [{"models": ["each"], "signals": ["wave", "other"]}],
            "comparisons": {"both": {"model": "each", "signals": ["wave", "other"]}},
        },
        "comparisons.both.model: 'each' is trained on each signal anew, so a head of the one is no head of the other;",
    ),
    "too short for the history": (
        {"models__image__history": 320},
        "signals.sunspots: 309 samples are too few for image, its history needs 320;",
    ),
    "too short to train": (
        {"signals__wave__length": 500},
        "signals.wave: 500 samples are too few for each, training and validating it need 600;",
    ),
    "unknown head": (
        {"figures__heads": ["encoder L07 H00"]},
        "figures.heads[0]: no model of the runs has the head 'encoder L07 H00'; did you mean 'encoder L0",
    ),
    "no such window": ({"figures__window": 16}, "figures.window: there is no window 16; attention.windows is 16"),
    "nothing is shipped": (
        {"models__image__weights": "shipped"},
        "models.image.weights: no weights are shipped for 'image', only for image_small, image_seed1, image_seed2,",
    ),
    "missing table": (
        {"signals__mine": {"file": "nowhere.csv"}},
        "signals.mine.file: there is no file 'nowhere.csv'; paths are relative to the folder you run from",
    ),
    "missing column": (
        {"signals__mine": {"file": str(ROOT / "data" / "load.csv"), "column": "gw"}},
        "signals.mine.column: '" + str(ROOT / "data" / "load.csv") + "' has no column 'gw'; did you mean 'GW'?",
    ),
    "no such window of the explorer": (
        {"report__window": 16},
        "report.window: there is no window 16; attention.windows",
    ),
    "unknown head of the explorer": (
        {"heads__vectors": ["decoder L09 H03"]},
        "heads.vectors[0]: no model of the runs has the head 'decoder L09 H03'; did you mean 'decoder L0",
    ),
    "a head in another form": (
        {"figures__heads": ["encoder L0 H3"]},
        "figures.heads[0]: must be a head with two digits for layer and head, such as 'encoder L00 H03', not 'encoder",
    ),
    "a factory in another form": (
        {"models__mine": {"architecture": "factory", "factory": "a.py"}},
        "models.mine.factory: must be file.py:function, such as my_model.py:build, not 'a.py'",
    ),
    "a signal and itself": (
        {"comparisons__both__signals": ["wave", "wave"]},
        "comparisons.both.signals: 'wave' is compared with itself; take two signals",
    ),
    "too few controls": (
        {"lags": {"controls": 98, "confidence": 0.99}},
        "lags.confidence: 0.99 needs at least 99 controls, lags.controls is 98;",
    ),
    "less than a token": (
        {"lags__max_lag": 7},
        "lags.max_lag: 7 is less than one token of image, which has 8 samples",
    ),
    "the whole history": (
        {"attribution__window": 100},
        "attribution.window: 100 samples are the whole history of each, which sees 100",
    ),
    "no such layer": ({"flow__start": 2}, "flow.start: there is no layer 2 in each, which has 2, counted from 0"),
    "a name that is taken": (
        {"models__summary": {"architecture": "encoder"}},
        "models.summary: this name is taken by the table of all claims",
    ),
}


HEADERS = {
    b"\n \r\nt,GW\r\n1,2\n": "",  # blank lines are no header
    "t,GW\n1,2\n".encode("utf-16"): "is written in UTF-16 or is no text; save it as UTF-8",
    b'"'
    + 140_000 * b"x": "has a header that cannot be read (field larger than field limit (131072)); look for a quote",
    b"GW,GW\n1,2\n": "has two columns 'GW' in its header; rename one",
}


@pytest.mark.parametrize(("content", "complained"), HEADERS.items(), ids=["blank", "utf-16", "quote", "doubled"])
def test_the_header_of_a_table_is_read_as_pandas_reads_it(content: bytes, complained: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes(content)
    written = study(signals__mine={"file": str(tmp_path / "mine.csv"), "column": "GW"})
    if complained:
        assert complaint(written).startswith(f"signals.mine.file: '{tmp_path / 'mine.csv'}' {complained}")
    else:
        load_study(written)


@pytest.mark.parametrize(("changes", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key(changes: dict[str, Any], line: str) -> None:
    said = complaint(study(**changes))
    assert "\n" not in said
    assert said.startswith(line)


def test_every_mistake_has_its_line() -> None:
    said = complaint(study(figures__gama=1, seed=-1, models__each__layers=0)).splitlines()
    assert sorted(line.split(":")[0] for line in said) == ["figures.gama", "models.each.layers", "seed"]


def test_a_name_that_yaml_reads_as_a_number_is_explained() -> None:
    written = study()
    written["signals"][2024] = {"dataset": "nile"}
    assert complaint(written).startswith("signals.2024: a name is made of")


def test_a_key_that_is_written_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"{yaml.safe_dump(study())}lags: {{controls: 19}}\nfigures: {{dpi: 20, dpi: 30}}\nlags: {{}}\n")
    lines = file.read_text().splitlines()
    with pytest.raises(SystemExit) as end:
        read_study(yaml.safe_load(file.read_text()), [str(file)])
    assert end.value.code == 1
    last = len(lines)
    assert capsys.readouterr().err.splitlines() == [
        f"{file}: figures.dpi: this key is written twice, in line {last - 1}; join the two or take one out",
        f"{file}: lags: this key is written twice, in lines {last - 2} and {last}; join the two or take one out",
    ]
    file.write_text(yaml.safe_dump(study()))
    assert read_study(study(), [str(file)]).seed == 0


def test_shipped_weights_fix_what_shapes_the_model() -> None:
    image = {"architecture": "image", "weights": "shipped", "width": 32}
    written = study(models={"image_small": image}, comparisons={})
    written["runs"] = [{"models": ["image_small"], "signals": ["wave"]}]
    assert complaint(written).startswith("models.image_small.width: the shipped weights have 64, not 32;")


def test_shipped_weights_fix_how_the_model_was_trained() -> None:
    image: dict[str, Any] = {"architecture": "image", "weights": "shipped", "train": {"steps": 5}}
    written = study(models={"image_small": image}, comparisons={})
    written["runs"] = [{"models": ["image_small"], "signals": ["wave"]}]
    assert complaint(written).startswith(
        "models.image_small.train.steps: the shipped weights were trained with 10000, not 5; take that value"
    )
    image["train"] = {"steps": 10000}
    assert load_study(written).pairs == [("image_small", "wave")]


@pytest.mark.parametrize("confidence", [0.51, 0.8, 0.9, 0.95, 0.975, 0.99, 0.999])
def test_controls_that_a_confidence_needs_are_those_that_the_lags_ask_for(confidence: float) -> None:
    assert fewest_controls(confidence) == smallest_controls(confidence)


def test_heads_that_only_one_model_has_are_drawn_for_it_alone() -> None:
    plain = canonical(load_study(study(figures__heads=["decoder L01 H02"])))
    assert plain["models"]["image"]["drawn_heads"] == ["decoder L01 H02"]
    assert plain["models"]["each"]["drawn_heads"] == "auto"
    assert plain["comparisons"]["both"]["drawn_heads"] == ["decoder L01 H02"]


@pytest.mark.parametrize(
    "file",
    [
        "config.yaml",
        "studies/attribution.yaml",
        "studies/calibration.yaml",
        "studies/distributions.yaml",
        "studies/octaves.yaml",
        "studies/real.yaml",
    ],
)
def test_the_studies_that_come_with_laglens_are_valid(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    load_study(yaml.safe_load((ROOT / file).read_text()))


def test_config_yaml_shows_every_section_and_figure_key() -> None:
    written = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert set(written) == set(Study.model_fields)
    for name in ("attention", "time", "lags", "figures"):
        assert set(written[name]) == set(Study.model_fields[name].annotation.model_fields)  # type: ignore[union-attr]


def test_figure_keys_and_defaults_are_those_of_the_figures_stage() -> None:
    ours = FigureSettings.parse(Figures().model_dump(mode="json"))
    assert ours == FigureSettings()
    assert set(Figures.model_fields) == {field.name for field in fields(FigureSettings)}


@pytest.mark.parametrize("architecture", TINY)
def test_options_of_the_config_build_the_model_it_describes(architecture: str) -> None:
    written = study(models={"image": {"architecture": architecture}}, comparisons={})
    if architecture not in PER_SIGNAL:
        written["models"]["image"]["train"] = {"steps": 1}
    written["runs"] = [{"models": ["image"], "signals": ["wave"]}]
    loaded = load_study(written)
    options = canonical(loaded)["models"]["image"]["options"]
    model = build_model(architecture, options)
    labels = [
        f"{stack.name} L{layer:02} H{head:02}"
        for stack in model.stacks
        for layer in range(len(stack.layers))
        for head in range(options["heads"])
    ]
    assert labels == loaded.models["image"].head_labels


def test_every_key_is_described() -> None:
    tables = [line for line in reference().splitlines() if line.startswith("| `")]
    assert [
        line for line in tables if line.split(" | ")[-1] in ("|", " |", "which one |") and "`generator`" not in line
    ] == []


def test_the_reference_is_current() -> None:
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == reference(), "run: python -m laglens.config.document > docs/config.md"


def test_reading_a_config_needs_no_heavy_package() -> None:
    heavy = "numpy pandas xarray torch matplotlib scipy zarr"
    code = f"import laglens.launch, sys; print(*(set({heavy.split()}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
