"""The worked notebook: every cell runs, and what is stored in it is what its cells give."""

import base64
import io
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from notebook import PAGE, executed  # noqa: E402

LARGEST = 400_000  # bytes; GitHub shows a small notebook at once


@pytest.fixture(scope="module")
def stored() -> nbformat.NotebookNode:
    return nbformat.read(PAGE, as_version=4)


@pytest.fixture(scope="module")
def run() -> nbformat.NotebookNode:
    return executed(nbformat.read(PAGE, as_version=4))


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """What cells show in one form."""
    return [output.data[kind] for cell in code(notebook) for output in cell.outputs if kind in output.get("data", {})]


def test_the_way_to_a_head_sheet_is_ten_lines(stored):
    """One statement a line, from the attention of a model to the figure, with public names alone."""
    [cell] = [cell for cell in code(stored) if "draw_head_sheet" in cell.source]
    lines = cell.source.splitlines()
    assert len(lines) <= 10 and all(len(line) <= 120 for line in lines)
    imported = [line for cell in code(stored) for line in cell.source.splitlines() if "import" in line]
    assert [line for line in imported if "laglens" in line] == ["import laglens"]


def test_every_cell_runs_and_shows_what_is_stored(stored, run):
    for before, now in zip(code(stored), code(run), strict=True):
        kinds = [[sorted(one.get("data", [one.output_type])) for one in cell.outputs] for cell in (before, now)]
        assert kinds[0] == kinds[1], f"run `make docs`: {now.source}"
    verdicts = [[line for line in text.splitlines() if "supported" in line] for text in shown(run, "text/plain")]
    assert any(verdicts) and not any("Error" in text for text in shown(run, "text/plain"))
    printed = [[output.text for cell in code(n) for output in cell.outputs if "text" in output] for n in (stored, run)]
    assert [text.splitlines()[-1] for text in printed[0]] == [text.splitlines()[-1] for text in printed[1]]


def test_its_head_sheet_is_the_one_that_is_stored(stored, run):
    pictures = [base64.b64decode(shown(notebook, "image/png")[-1]) for notebook in (stored, run)]
    opened = [Image.open(io.BytesIO(picture)).convert("L").resize((90, 90)) for picture in pictures]
    sheets = [np.asarray(picture, int) for picture in opened]
    assert np.ptp(sheets[1]) > 100
    assert np.abs(sheets[0] - sheets[1]).mean() < 2  # of 255: other processors round in other places


def test_it_is_small_and_its_objects_say_what_they_are(stored):
    assert PAGE.stat().st_size < LARGEST
    tree = next(page for page in shown(stored, "text/html") if "xr-wrap" in page and "effective_keys" in page)
    for label in ("attention weight", "input samples from the start of the window", "entropy of the row", "nats"):
        assert label in tree, label
    assert " at 0x" not in "".join(shown(stored, "text/plain"))  # no object without a text of its own
