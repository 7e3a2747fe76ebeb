"""The pages: generated parts are current, links lead somewhere, what is named exists, what is shown works."""

import re
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from pydoc import locate

import pytest
import yaml
from PIL import Image

import laglens
from laglens.config.load import load_study

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from gallery import ELSEWHERE, SHOWN  # noqa: E402
from gallery import main as write_gallery  # noqa: E402
from tables import PAGE, generated, shipped_models, updated  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}
MINIMAL = {
    "signals": {"sunspots": {"dataset": "sunspots"}},
    "models": {
        "image_small": {"architecture": "image", "weights": "shipped"},
        "numeric_small": {"architecture": "numeric", "weights": "shipped"},
        "forecaster": {"architecture": "encoder"},
    },
    "runs": [{"models": ["image_small"], "signals": ["sunspots"]}],
}


def anchors(text: str) -> set[str]:
    """Names by which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language, without the indent of a list they stand in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def test_table_of_shipped_models_is_current():
    page = PAGE.read_text("utf-8")
    assert updated(page, generated(shipped_models())) == page, "run `make docs`"


@pytest.mark.parametrize("page", [name for name, text in TEXTS.items() if "\n| library |" in text])
def test_every_name_of_the_library_that_a_page_lists_exists(page: str):
    (line,) = (line for line in TEXTS[page].splitlines() if line.startswith("| library | `"))
    package, *names = re.findall(r"`([\w.]+)`", line)
    assert package.startswith("laglens")
    for name in names:
        assert locate(name if name.startswith("laglens") else f"{package}.{name}") is not None, name


def drawn_by_the_workflow() -> set[str]:
    """Every figure that a rule names, wildcards as stars."""
    rules = "".join(path.read_text("utf-8") for path in (ROOT / "rules").glob("*.smk"))
    named = re.findall(r'\b(?:reported|figure)\(\s*"([^"]+)"', rules)
    return {re.sub(r"{\w+}", "*", name) for name in named}


def test_the_gallery_has_every_figure_that_the_workflow_draws():
    assert len(drawn_by_the_workflow()) > 20
    shown = [*SHOWN, *ELSEWHERE]
    missing = [name for name in drawn_by_the_workflow() if not any(fnmatch(one, name) for one in shown)]
    assert not missing, "add them to SHOWN or ELSEWHERE of docs/gallery.py"


def test_the_gallery_is_written_from_the_results_of_several_studies(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gallery.PAGE", tmp_path / "gallery.md")
    monkeypatch.setattr("gallery.PICTURES", tmp_path / "images")
    for name in SHOWN:
        path = tmp_path / f"default/figures/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 100), "white").save(path)
    (tmp_path / "light/figures/step_forecaster_1/co2").mkdir(parents=True)
    Image.new("RGB", (30, 10), "white").save(tmp_path / "light/figures/step_forecaster_1/co2/alignment.png")
    write_gallery([tmp_path / "default", tmp_path / "light"])
    page = (tmp_path / "gallery.md").read_text("utf-8")
    pictures = re.findall(r"\(images/gallery/(\S+)\)", page)
    assert len(pictures) == len(set(pictures)) == len(SHOWN) + 1 and "alignment.png" in pictures
    assert {path.name for path in (tmp_path / "images").iterdir()} == set(pictures)
    assert "claims/claims: in none of" in capsys.readouterr().err
    (tmp_path / f"default/figures/{next(iter(SHOWN))}.png").unlink()
    with pytest.raises(SystemExit, match=next(iter(SHOWN))):
        write_gallery([tmp_path / "default"])


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        place = (ROOT / name).parent / path if path else ROOT / name
        if not place.exists() or (anchor and anchor not in anchors(place.read_text("utf-8"))):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("name", TEXTS)
def test_files_and_targets_that_are_named_exist(name):
    text = TEXTS[name]
    files = re.findall(r"`((?:rules|scripts|studies|tests|benchmarks|envs|docs|data|profiles)/[\w./-]+\.\w+)`", text)
    targets = re.findall(r"`make (\w+)`", text) + re.findall(r"^    make (\w+)", text, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert [file for file in files if not (ROOT / file).exists()] == []
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("name", TEXTS)
def test_settings_that_are_shown_are_valid(name, tmp_path, monkeypatch):
    """Fill every fragment up to a whole study."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(TEXTS[name], "yaml"):
        shown = yaml.safe_load(block)
        if not set(shown) <= {
            *MINIMAL,
            "comparisons",
            "distributions",
            "attention",
            "time",
            "lags",
            "figures",
            "seed",
            "device",
        }:
            shown = {"signals": shown}  # a fragment of the signals section
        for signal in shown.get("signals", {}).values():
            if "file" in signal:
                header = [signal.get("time"), *([c] if isinstance(c := signal.get("column"), str) else c or ["value"])]
                Path(signal["file"]).parent.mkdir(exist_ok=True)
                Path(signal["file"]).write_text(",".join(filter(None, header)) + "\n")
        for model in shown.get("models", {}).values():
            for key in {"checkpoint", "factory"} & set(model):
                file = Path(model[key].removesuffix(":build"))
                file.parent.mkdir(exist_ok=True)
                file.write_text("")
        whole = {key: MINIMAL[key] | shown.get(key, {}) for key in ("signals", "models")}
        load_study({"runs": MINIMAL["runs"], **shown, **whole})


@pytest.mark.parametrize("name", TEXTS)
def test_python_that_is_shown_compiles_and_imports(name):
    for block in blocks(TEXTS[name], "python"):
        compile(block, name, "exec")
        for line in re.findall(r"^(?:from|import) laglens.*$", block, re.MULTILINE):
            exec(line, {})
        for public in re.findall(r"laglens\.([a-z_]+)\(", block):
            getattr(laglens, public)


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    released = re.search(r"^## \[(\d[^\]]*)\] - (\S+)", TEXTS["CHANGELOG.md"], re.MULTILINE)
    assert (citation["version"], str(citation["date-released"])) == released.groups()
    assert version == citation["version"]
