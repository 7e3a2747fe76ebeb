"""The code digests change with the code that runs, and with nothing else."""

from pathlib import Path

import pytest

from laglens.errors import LaglensError
from laglens.provenance import _scan, canonical_form, code_hashes, package_versions, select

FILES = {
    "script.py": '"""Draw."""\nfrom laglens.figures.sheet import draw\n\ndraw(gamma=0.5)\n',
    "laglens/__init__.py": "",
    "laglens/__init__.pyi": "from .figures.sheet import draw\n",
    "laglens/errors.py": "class LaglensError(RuntimeError):\n    pass\n",
    "laglens/figures/__init__.py": "",
    "laglens/figures/sheet.py": "from .style import paper\nimport numpy\n\ndef draw(gamma):\n"
    "    return paper() * gamma\n",
    "laglens/figures/style.py": 'KEY = Field("one")\n\ndef paper():\n    from laglens import errors\n    return 1\n',
    "laglens/lags.py": "import laglens.figures.sheet\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def hashes(package: Path) -> dict[str, str]:
    _scan.cache_clear()
    return code_hashes(package / "script.py", package)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_every_reached_module_is_listed_and_no_other(package: Path) -> None:
    assert list(hashes(package)) == [
        "laglens/__init__.py",
        "laglens/errors.py",
        "laglens/figures/__init__.py",
        "laglens/figures/sheet.py",
        "laglens/figures/style.py",
        "script.py",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("script.py", '"""Draw."""', '"""Draw it."""  # a comment'),
        ("script.py", '"""Draw."""\n', ""),
        ("laglens/figures/sheet.py", "    return", '    """Doc."""\n\n    return'),
        ("laglens/figures/sheet.py", "return paper() * gamma", "return (\n        paper()\n        * gamma\n    )"),
        ("laglens/figures/sheet.py", "import numpy\n", "import numpy\nif TYPE_CHECKING:\n    import laglens.lags\n"),
        ("laglens/figures/style.py", 'Field("one")', 'Field("one", description="the first")'),
        ("laglens/lags.py", "sheet", "style"),
        ("laglens/__init__.pyi", "draw", "draw, paper"),
    ],
    ids=["docstring", "no docstring", "new docstring", "layout", "type imports", "description", "not imported", "stub"],
)
def test_these_edits_change_nothing(package: Path, file: str, old: str, new: str) -> None:
    before = hashes(package)
    edit(package / file, old, new)
    assert hashes(package) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("script.py", "gamma=0.5", "gamma=0.6"),
        ("laglens/figures/sheet.py", "paper() * gamma", "paper() + gamma"),
        ("laglens/figures/style.py", "return 1", "return None"),
        ("laglens/errors.py", "RuntimeError", "ValueError"),
        ("laglens/figures/__init__.py", "", "import os"),
        ("laglens/figures/style.py", "return 1", "return True"),
        ("laglens/figures/style.py", "return 1", 'return "1"'),
    ],
)
def test_these_edits_change_the_digest_of_their_file_alone(package: Path, file: str, old: str, new: str) -> None:
    before = hashes(package)
    edit(package / file, old, new) if old else (package / file).write_text(new)
    after = hashes(package)
    assert [name for name in after if after[name] != before[name]] == [file]


@pytest.mark.parametrize(
    "line",
    ["import laglens.lags as l", "from laglens import lags", "from laglens.lags import x", 'load("laglens.lags")'],
)
def test_every_form_of_import_is_followed(package: Path, line: str) -> None:
    (package / "script.py").write_text(f"def later():\n    {line}\n")
    assert {"laglens/lags.py", "laglens/figures/style.py"} <= set(hashes(package))


def test_a_lazy_export_is_refused(package: Path) -> None:
    (package / "script.py").write_text("from laglens import draw\n")
    with pytest.raises(LaglensError, match="script.py: import 'draw' from the module that defines it"):
        hashes(package)


def test_settings_keep_their_names_and_lose_their_order() -> None:
    config = {"models": {"a": {"x": 1, "y": 2}, "b": {}}, "lags": {"max_lag": "auto"}, "seed": 0}
    paths = {"model": "models.{model}", "max_lag": "lags.max_lag"}
    chosen = select(canonical_form(config), paths, {"model": "a"})
    assert chosen == {"model": {"x": 1, "y": 2}, "max_lag": "auto"}
    reordered = {"lags": {"max_lag": "auto"}, "models": {"a": {"y": 2, "x": 1}}}
    assert repr(select(canonical_form(reordered), paths, {"model": "a"})) == repr(chosen)
    swapped = {"lags": {"max_lag": "auto"}, "models": {"a": {"y": 1, "x": 2}}}
    assert repr(select(canonical_form(swapped), paths, {"model": "a"})) != repr(chosen)


def test_versions_are_read_without_importing() -> None:
    assert package_versions(["no-such-package"]) == {"no-such-package": "absent"}
    assert package_versions(["torch", "numpy"])["numpy"][0].isdigit()
