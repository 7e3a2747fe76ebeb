"""Keys that are written twice in one section of a YAML file, of which a reader of YAML silently keeps the last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

# A tenth of the time, where PyYAML was built with it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def keys_written_twice(file: Path) -> list[str]:
    """One line for every key that `file` has twice in one section, with the numbers of both its lines.

    Empty for what is no readable file or no YAML; whoever reads it for its content says so.
    """
    try:
        root = yaml.compose(file.read_text("utf-8"), Loader=LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    return [*_below(root, "", set())]


def _below(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias of what was looked through already
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _below(item, f"{path}[{number}]", seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = f"{path}.{key.value}".lstrip("."), key.start_mark.line + 1
            if (key.tag, key.value) in first:
                before = first[key.tag, key.value]
                where = f"line {line}" if before == line else f"lines {before} and {line}"
                yield f"{name}: this key is written twice, in {where}; join the two or take one out"
            first.setdefault((key.tag, key.value), line)
            yield from _below(value, name, seen)
