"""The page's modules as one script: a page opened from disk may not load others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from laglens.errors import LaglensError

ENTRY = "main"
IMPORT = re.compile(r"^import (\{[^}]*\}) from \"\./(\w+)\.js\";$", re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:function|const|class) +(\w+))", re.MULTILINE)
OTHER = re.compile(r"^(?:import|export)\b.*$", re.MULTILINE)


def page_sources() -> dict[str, str]:
    """The files of the page by name: modules without their suffix, ``style.css`` and ``page.html``."""
    folder = files("laglens.report") / "page"
    found = {file.name: file.read_text("utf-8") for file in folder.iterdir()}
    return {name.removesuffix(".js"): found[name] for name in sorted(found)}


def bundle(modules: Mapping[str, str], entry: str = ENTRY) -> str:
    """One script from modules that import from each other by name, what is imported first.

    Every module becomes a function that returns what it exports, so names inside stay its own. Imports have the form
    ``import { a, b } from "./module.js";``, and ``export`` stands before a function, constant or class.

    Parameters
    ----------
    modules
        Source by name.
    entry
        The module that nothing imports.

    Raises
    ------
    LaglensError
        A module is missing, imports itself through others, or imports or exports in another form.
    """
    order: list[str] = []
    _visit(entry, modules, order, ())
    return '"use strict";\n(() => {\n' + "\n".join(_function(name, modules[name]) for name in order) + "})();\n"


def _function(name: str, source: str) -> str:
    exported = ", ".join(found for _, found in EXPORT.findall(source))
    body = EXPORT.sub(r"\1", IMPORT.sub(r"const \1 = \2Module;", source)).strip()
    if other := OTHER.search(body):
        raise LaglensError(f"page module {name}: the bundle cannot read {other[0]!r}")
    return f"const {name}Module = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();\n"


def _visit(name: str, modules: Mapping[str, str], order: list[str], path: tuple[str, ...]) -> None:
    if name in order:
        return
    if name not in modules:
        raise LaglensError(f"the page has no module {name!r}, which {path[-1] if path else 'the bundle'} needs")
    if name in path:
        raise LaglensError(f"page modules import each other in a circle: {' -> '.join([*path, name])}")
    for _, needed in IMPORT.findall(modules[name]):
        _visit(needed, modules, order, (*path, name))
    order.append(name)
