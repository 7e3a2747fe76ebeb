"""Whatever a person writes works, or gets one clear line for each mistake: never a traceback, never after long."""

import copy
import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workflow_copy import REPOSITORY, WorkflowCopy

from laglens.config.load import canonical, load_study
from laglens.config.signals import OwnTable
from laglens.errors import LaglensError
from laglens.launch import checkpoint_files, own_code
from laglens.provenance import select
from laglens.signals.tables import from_table
from laglens.store import read_table

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
STUDIES = [
    yaml.safe_load((REPOSITORY / name).read_text("utf-8"))
    for name in ("tests/study.yaml", "config.yaml", "studies/real.yaml")
]
STUDIES[0]["signals"]["table"] = STUDIES[1]["signals"]["load"]
for signal in (signal for study in STUDIES for signal in study["signals"].values() if "file" in signal):
    signal["file"] = str(REPOSITORY / "data" / "load.csv")
WORDS = [
    "auto",
    "wave",
    "once",
    "image",
    "encoder",
    "harmonics",
    "cuda",
    "",
    " ",
    "a b",
    "é",
    "../x",
    "a/b",
    "~",
    "\n",
    "x" * 300,
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1, 10**9, 10**30, -(10**400)])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(WORDS)
    | st.dates()
)
KEYS = st.sampled_from(WORDS) | st.text(max_size=4) | st.integers(-1, 3) | st.none() | st.booleans()
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3), max_leaves=6
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of everything in a config."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inside for place in places(below, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid config in which a few things were replaced, removed, renamed or swapped."""
    study = copy.deepcopy(draw(st.sampled_from(STUDIES)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(study)))
        if not path:
            continue
        *above, last = path
        section = study
        for key in above:
            section = section[key]
        match draw(st.sampled_from(["replace", "remove", "rename", "add", "move"])):
            case "replace":
                section[last] = draw(VALUES)
            case "remove":
                del section[last]
            case "rename" if isinstance(section, dict):
                section[draw(KEYS)] = section.pop(last)
            case "add" if isinstance(section, dict):
                section[draw(KEYS)] = draw(VALUES)
            case _:
                other = study
                for key in draw(st.sampled_from(places(study))):
                    other = other[key]
                section[last] = copy.deepcopy(other)
    return study


def safe(name: str) -> bool:
    return name.isascii() and name.replace("_", "").replace("-", "").isalnum() and name[0] not in "_-"


def clear(message: str, lines: int = 200) -> None:
    said = message.splitlines()
    assert 0 < len(said) <= lines, message
    assert all(line.strip() and len(line) < 600 for line in said), message


def checked(written: Any) -> None:
    """What the Snakefile does with a config before it asks Snakemake for anything."""
    try:
        study = load_study(written)
        for model in study.models.values():
            checkpoint_files(model)
            own_code(model)
    except LaglensError as error:
        clear(str(error))
        return
    plain = canonical(study)
    for name in (*study.signals, *study.models, *study.comparisons):
        assert safe(name), "this name would lead out of the results"
    for model, signal in study.pairs:
        chosen = select(
            plain, {"model": "models.{model}", "signal": "signals.{signal}"}, {"model": model, "signal": signal}
        )
        assert set(chosen) == {"model", "signal"}


@settings(QUICK, max_examples=1500)
@given(mutated())
def test_a_mutated_config_works_or_is_refused_in_clear_lines(study: Any) -> None:
    if isinstance(study, dict):
        checked(study)


@settings(QUICK, max_examples=300)
@given(st.text(max_size=12), st.sampled_from(["signals", "models", "comparisons"]))
def test_a_name_is_safe_in_a_path_or_refused(name: str, section: str) -> None:
    study = copy.deepcopy(STUDIES[0])
    study[section][name] = copy.deepcopy(next(iter(study[section].values())))
    if name in STUDIES[0][section]:
        return
    if name and safe(name):
        assert name in getattr(load_study(study), section)
    else:
        with pytest.raises(LaglensError, match="a name is made of letters, digits"):
            load_study(study)


def table(kind: str) -> bytes:
    content = io.BytesIO()
    frame = pd.DataFrame(
        {"time": pd.date_range("2020", periods=40, freq="h"), "value": [math.sin(t) for t in range(40)]}
    )
    frame.to_csv(content, index=False) if kind == "csv" else frame.to_parquet(content)
    return content.getvalue()


TABLES = {kind: table(kind) for kind in ("csv", "parquet")}


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file that is cut, overwritten in places, or nothing of the kind at all."""
    kind = draw(st.sampled_from(sorted(TABLES)))
    content = bytearray(TABLES[kind])
    match draw(st.sampled_from(["cut", "overwrite", "insert", "other"])):
        case "cut":
            del content[draw(st.integers(0, len(content))) :]
        case "overwrite":
            for _ in range(draw(st.integers(1, 8))):
                content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        case "insert":
            place = draw(st.integers(0, len(content)))
            content[place:place] = draw(
                st.sampled_from([b"\n", b",", b'"', b"\x00", b"\xff\xfe", b"NaN", b"1e999", b";"])
            )
        case _:
            content = bytearray(draw(st.binary(max_size=200)))
    return kind, bytes(content)


@settings(QUICK, max_examples=400)
@given(damaged(), st.sampled_from([None, "time"]), st.sampled_from([None, "value", "time"]), st.booleans())
def test_a_damaged_table_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, bytes], time: str | None, column: str | None, gaps: bool
) -> None:
    kind, content = file
    path = tmp_path_factory.getbasetemp() / f"fuzzed.{kind}"
    path.write_bytes(content)
    spec = OwnTable(file=path.name, time=time, column=None if column == time else column, interpolate=gaps)
    try:
        made = from_table(spec, read_table(path))
    except LaglensError as error:
        clear(str(error), lines=1)
        return
    assert made["value"].notnull().all()


COMMANDS = {
    "no YAML": ("signals: [a: {", None),
    "a list": ("- a\n- b\n", None),
    "a text": ("hello\n", None),
    "nothing": ("", None),
    "a number as a name": (None, {"signals": {7: {"dataset": "co2"}}}),
    "a name with a space": (None, {"signals": {"my wave": {"dataset": "co2"}}}),
    "a name that leads elsewhere": (None, {"signals": {"../../x": {"dataset": "co2"}}}),
    "a name in other letters": (None, {"models": {"größe": {"architecture": "encoder"}}}),
}


@pytest.mark.parametrize(("text", "study"), COMMANDS.values(), ids=COMMANDS)
def test_the_command_says_it_in_one_line(tmp_path: Path, text: str | None, study: dict | None) -> None:
    workflow = WorkflowCopy.create(tmp_path / "workflow")
    (workflow.root / "config.yaml").write_text(text if study is None else yaml.safe_dump(STUDIES[0] | study))
    run = workflow.snakemake("-n")
    assert run.returncode == 1, run.stdout
    assert "Traceback" not in run.stdout, run.stdout
    # What is no mapping is refused by Snakemake, before laglens sees it.
    assert ("Config file" if study is None else "config.yaml: ") in run.stdout, run.stdout
