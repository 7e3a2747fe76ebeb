"""The pins: complete, without surplus, the same in every form, and enough for what is imported."""

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "envs"))

from make_conda import conda, pins  # noqa: E402
from make_lock import lock  # noqa: E402
from make_sbom import bill  # noqa: E402

PLACES = ("tests", "scripts", "benchmarks", "envs", "docs")
DISTRIBUTIONS = packages_distributions()
LOCK = (ROOT / "envs/lock.txt").read_text("utf-8")
PINS = {canonicalize_name(name): number for name, number in (pin.split("==") for pin in pins(LOCK))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WRITTEN = [Requirement(line) for line in pins((ROOT / "envs/requirements.in").read_text("utf-8"))]


def declared() -> list[Requirement]:
    """What pyproject.toml asks for: to run, to test, to build."""
    project = PROJECT["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    texts = [*project["dependencies"], *extras, *PROJECT["build-system"]["requires"]]
    return [requirement for requirement in map(Requirement, texts) if requirement.name != "laglens"]


def reachable(wanted: list[Requirement]) -> dict[str, list[Requirement]]:
    """Every package that `wanted` pulls in, by the metadata of what is installed, with all demands on it."""
    demands: dict[str, list[Requirement]] = {}
    waiting, seen = list(wanted), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        demands.setdefault(name, []).append(requirement)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                below = map(Requirement, requires(name) or [])
                waiting += [r for r in below if r.marker is None or r.marker.evaluate({"extra": extra})]
    return demands


def third_party(folder: str) -> set[str]:
    """Distributions that the Python files of a folder import."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    own = {path.stem for place in PLACES for path in (ROOT / place).glob("*.py")} | {"laglens", *PLACES}
    outside = names - own - sys.stdlib_module_names
    missing = outside - DISTRIBUTIONS.keys()
    assert not missing, f"{folder} imports {missing}, which nothing installed provides"
    return {canonicalize_name(DISTRIBUTIONS[name][0]) for name in outside}


def test_lock_is_what_its_requirements_reach_and_nothing_else():
    demands = reachable(WRITTEN)
    assert set(PINS) == set(demands)
    unmet = [f"{r} != {PINS[name]}" for name, rs in demands.items() for r in rs if PINS[name] not in r.specifier]
    assert not unmet


def test_environment_holds_the_locked_versions():
    assert {name: version(name).partition("+")[0] for name in PINS} == PINS


def test_requirements_and_project_metadata_ask_for_the_same():
    assert {str(requirement) for requirement in WRITTEN} == {str(requirement) for requirement in declared()}


@pytest.mark.parametrize("folder", ["src", "scripts", "benchmarks", "docs", "envs", "tests"])
def test_imports_are_declared(folder):
    project = PROJECT["project"]
    shipped = folder in ("src", "scripts")
    extras = project["optional-dependencies"]
    extras = extras["adapters"] if shipped else [text for extra in extras.values() for text in extra]
    allowed = {canonicalize_name(Requirement(text).name) for text in project["dependencies"] + extras}
    assert third_party(folder) <= allowed


def test_lock_text_is_canonical():
    versions = dict(pin.split("==") for pin in pins(LOCK))
    assert lock(versions).partition("\n")[2] == LOCK.partition("\n")[2]


def test_conda_environment_is_made_from_the_lock():
    text = (ROOT / "envs/laglens.yaml").read_text("utf-8")
    assert text == conda(LOCK), "run `make lock`"
    assert yaml.safe_load(text)["dependencies"][-1]["pip"] == pins(LOCK)


def test_bill_of_materials_is_made_from_the_lock():
    text = (ROOT / "envs/sbom.json").read_text("utf-8")
    written = json.loads(text)
    made = bill(LOCK, PROJECT, (ROOT / "envs/requirements.in").read_text("utf-8"))
    assert written == made, "run `make sbom`"
    assert {part["name"]: part["version"] for part in written["components"]} == PINS
    refs = {part["bom-ref"] for part in written["components"]}
    below = {entry["ref"]: set(entry["dependsOn"]) for entry in written["dependencies"]}
    assert set(below) == refs | {"laglens"} and set().union(*below.values()) <= refs
    reached, waiting = set(), ["laglens"]
    while waiting:
        if (ref := waiting.pop()) not in reached:
            reached.add(ref)
            waiting += below[ref]
    assert reached >= {f"pkg:pypi/{name}@{PINS[name]}" for name in ("torch", "pandas", "snakemake", "zarr")}
    licensed = [part for part in written["components"] if part["licenses"]]
    assert len(licensed) > 0.9 * len(refs)


def test_every_rule_names_an_environment_that_exists():
    rules = {}
    for path in (ROOT / "rules").glob("*.smk"):
        for block in re.split(r"^(?=rule )", path.read_text("utf-8"), flags=re.MULTILINE):
            if block.startswith("rule "):
                named = re.search(r'^    conda:\s+"([^"]+)"', block, re.MULTILINE)
                rules[block.split(":")[0]] = bool(named) and (path.parent / named[1]).is_file()
    assert rules and all(rules.values()), [rule for rule, good in rules.items() if not good]


@pytest.mark.parametrize(
    "path",
    [
        "envs/lock.txt",
        "envs/requirements.in",
        "envs/laglens.yaml",
        "envs/sbom.json",
        "envs/storage.txt",
        "pyproject.toml",
        "Makefile",
        ".ci/run",
    ],
)
def test_no_package_address_is_baked_in(path):
    """People behind a mirror set their own; a baked-in address would override it."""
    found = re.findall(r"\S*(?:://|index-url|find-links|pypi\.)\S*", (ROOT / path).read_text("utf-8"))
    assert not found
