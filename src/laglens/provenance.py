"""What a step depends on: the settings it reads, the code it reaches, the packages that change its numbers.

Snakemake compares these values with the recorded ones and reruns a step when they differ. Only the standard
library is used, because every dry run imports this module.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from laglens.errors import LaglensError

PACKAGE = "laglens"
LONGEST_NAME = 200  # of a module; a longer text is none, and too long for a file system to be asked


def select(config: Mapping[str, Any], paths: Mapping[str, str], wildcards: Mapping[str, str]) -> dict[str, Any]:
    """Pick the settings one job reads.

    Parameters
    ----------
    config
        The study as nested dicts, in `canonical_form`.
    paths
        Name of each setting in the result, and where it lies: keys joined by dots, wildcards in braces, such as
        ``{"model": "models.{model}"}``.
    wildcards
        Values of the wildcards.

    Returns
    -------
    dict
        The settings by name, sorted. Names stay with their values, so that two swapped values differ from the original.
    """
    chosen = {}
    for name in sorted(paths):
        value: Any = config
        for key in paths[name].split("."):
            value = value[key.format_map(wildcards) if "{" in key else key]
        chosen[name] = value
    return chosen


def canonical_form(value: Any) -> Any:
    """Plain copy with keys sorted at every depth, without tuples: Snakemake compares settings as text."""
    return json.loads(json.dumps(value, sort_keys=True))


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed version of each package, without importing it; ``absent`` where there is none."""
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def code_hashes(script: Path, source: Path) -> dict[str, str]:
    """Digest of a script and of every module of this package that it imports, directly or through others.

    Comments, docstrings, layout, descriptions of config keys and imports for type checkers do not count.
    Data files and modules whose name is put together while running are not seen; name those as inputs of the rule.

    Parameters
    ----------
    script
        The script.
    source
        Folder that holds the package.

    Returns
    -------
    dict
        Digest by file, relative to `source` or, for the script, its name.

    Raises
    ------
    LaglensError
        A name is imported through the package's lazy exports, which cannot be followed to its module.
    """
    return _digests([script.resolve()], source.resolve())


def module_hashes(module: str, source: Path) -> dict[str, str]:
    """Digest of a module named while running, of the packages around it, and of all that they import.

    See `code_hashes`, which cannot see such a name.
    """
    return _digests([*_files(module, source.resolve())], source.resolve())


def file_hashes(file: Path) -> dict[str, str]:
    """Digest of a person's own file and of the files in its folder that it imports, directly or through others.

    As in `code_hashes`, comments, docstrings and layout do not count; data files are not seen.

    Raises
    ------
    LaglensError
        One of the files is no valid Python.
    """
    folder = file.resolve().parent
    try:
        found = _digests([file.resolve()], folder, package="")
    except SyntaxError as error:
        raise LaglensError(f"{Path(error.filename or file).name}, line {error.lineno}: {error.msg}") from error
    return {f"{file.parent.as_posix()}/{name}": digest for name, digest in found.items()}


def _digests(waiting: list[Path], source: Path, package: str = PACKAGE) -> dict[str, str]:
    digests: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        label = path.relative_to(source).as_posix() if path.is_relative_to(source) else path.name
        if label in digests:
            continue
        digests[label], imports = _scan(path, source, package)
        waiting += [file for name in imports for file in _files(name, source)]
    return dict(sorted(digests.items()))


@cache
def _scan(path: Path, source: Path, package: str) -> tuple[str, frozenset[str]]:
    """Digest of one file and the dotted names of the package's modules it may import; "" is every package."""
    met: list[ast.AST] = []
    text = _plain(ast.parse(path.read_text("utf-8"), str(path)), met)
    names = {name for node in met for name in _names(node, path, source)}
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    beginning = package and f"{package}."
    return digest, frozenset(name for name in names if f"{name}.".startswith(beginning))


def _plain(node: Any, met: list[ast.AST]) -> str:
    """Syntax tree as text, without what has no effect; `met` collects the nodes that may name a module.

    Empty fields are left out, because Python versions differ in which ones they have.
    """
    if isinstance(node, list):
        return f"[{','.join([_plain(item, met) for item in node if not _without_effect(item)])}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Constant):
        met.append(node)
    parts = [type(node).__name__]
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "keywords" and isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Field":
            value = [keyword for keyword in node.keywords if keyword.arg != "description"]
        if value is not None and value != []:
            parts.append(f"{name}={_plain(value, met)}")
    return f"({' '.join(parts)})"


def _without_effect(node: Any) -> bool:
    """A docstring, another bare string, or ``if TYPE_CHECKING:``."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.If) and not node.orelse:
        return ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING"
    return False


def _names(node: ast.AST, path: Path, source: Path) -> Iterator[str]:
    """Dotted names that an import, or a string such as ``"laglens.lags"``, may refer to."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = path.relative_to(source).parts[: -node.level] if node.level else ()
        base = ".".join([*package, *filter(None, [node.module])])
        yield base
        for alias in node.names:
            _refuse_lazy_export(base, alias.name, path, source)
            yield f"{base}.{alias.name}"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value  # importlib.import_module("laglens.lags"): harmless when it is not a module


def _refuse_lazy_export(base: str, name: str, path: Path, source: Path) -> None:
    stub = source.joinpath(*base.split("."), "__init__.pyi")
    if stub.is_file() and not any(_module(f"{base}.{name}", source)):
        raise LaglensError(
            f"{path.name}: import '{name}' from the module that defines it; through {base} the code it runs is not seen"
        )


def _files(name: str, source: Path) -> Iterator[Path]:
    """Files that run when `name` is imported: the module and the ``__init__`` of every package above it."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        yield from _module(".".join(parts[:depth]), source)


def _module(name: str, source: Path) -> Iterator[Path]:
    if len(name) < LONGEST_NAME and all(part.isidentifier() for part in name.split(".")):
        stem = source.joinpath(*name.split("."))
        yield from (file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file())
