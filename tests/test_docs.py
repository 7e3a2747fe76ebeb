"""The pages: generated parts are current, links lead somewhere, what is named exists, what is shown works."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import laglens
from laglens.config.load import load_study

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

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
