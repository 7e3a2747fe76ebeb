"""Run docs/notebook.ipynb from top to bottom and store what its cells show: ``python docs/notebook.py``.

Only what a notebook would show by itself is kept: printed text, and the last expression of a cell. No kernel is needed,
and the same cells give the same file.
"""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

PAGE = Path(__file__).with_suffix(".ipynb")
COLOURS = 160
UNIQUE = re.compile(r"(?<=-)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # xarray names its sections anew each time


def executed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same notebook with the outputs of its cells, run in the folder of this file."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with chdir(PAGE.parent):
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for number, cell in enumerate(cells, 1):
            cell.execution_count = number
            cell.outputs = list(outputs(cell.source, names, number))
    nbformat.validate(notebook)
    return notebook


def outputs(source: str, names: dict[str, Any], number: int) -> Iterator[nbformat.NotebookNode]:
    """Run a cell in a namespace: what it prints, and what its last expression shows."""
    tree, printed, shown = ast.parse(source), StringIO(), None
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    with redirect_stdout(printed):
        exec(compile(tree, f"<cell {number}>", "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)
    if text := printed.getvalue():
        yield nbformat.v4.new_output("stream", name="stdout", text=text)
    if shown is not None:
        yield nbformat.v4.new_output("execute_result", display(shown, number), execution_count=number)


def display(shown: Any, number: int) -> dict[str, str]:
    """What an object shows of itself, by kind."""
    found = {"text/plain": repr(shown)}
    if hasattr(shown, "_repr_html_") and (page := shown._repr_html_()):
        ids: dict[str, str] = {}
        found["text/html"] = UNIQUE.sub(lambda id_: ids.setdefault(id_[0], f"{number}-{len(ids)}"), page)
    if hasattr(shown, "_repr_png_"):
        found["image/png"] = base64.b64encode(smaller(shown._repr_png_())).decode()
    return found


def smaller(picture: bytes) -> bytes:
    """The same PNG with a palette: a quarter of its size."""
    with Image.open(BytesIO(picture)) as opened:
        palette = opened.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    buffer = BytesIO()
    palette.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    nbformat.write(executed(nbformat.read(PAGE, as_version=4)), PAGE)
