"""Write the config reference, `docs/config.md`, from the models: ``python -m laglens.config.document``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from laglens.config.study import Study

HEADER = """# Config reference

Every key of `config.yaml`, made from the schema by `python -m laglens.config.document > docs/config.md`.
An unknown key or a value out of range is one line of error before any job runs. `config.yaml` itself shows the
keys in use.
"""
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}
KINDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
TAGS = ("generator", "dataset", "file", "architecture")
Schema = Mapping[str, Any]


def reference() -> str:
    """The whole page, in Markdown."""
    schema = Study.model_json_schema()
    fields = schema["properties"]
    sections = {key: field for key, field in fields.items() if any(_references(field))}
    plain = {key: field for key, field in fields.items() if key not in sections}
    blocks = [HEADER, "## Study\n", _table(plain, schema)]
    for key, field in sections.items():
        blocks.append(f"## `{key}`\n")
        names = list(dict.fromkeys(_references(field)))
        if len(names) == 1:
            definition = schema["$defs"][names[0]]
            blocks += [_sentence(definition["description"]), _table(definition["properties"], schema, definition)]
        else:
            blocks += [_sentence(_meaning(field)), *_definitions(names, schema, set())]
    return "\n".join(blocks)


def _definitions(names: Iterable[str], schema: Schema, done: set[str]) -> Iterator[str]:
    """Tables of the sections with these names, and of those that they refer to."""
    found = {name: schema["$defs"][name] for name in names if name not in done}
    done.update(found)
    for tag in dict.fromkeys(_tag(definition) for definition in found.values()):
        group = {name: definition for name, definition in found.items() if _tag(definition) == tag}
        common = _common(group)
        if common:
            yield f"Keys of everything with `{tag}`, unless its own table says otherwise:\n"
            yield _table(common, schema)
        for name, definition in group.items():
            own = {key: value for key, value in definition["properties"].items() if common.get(key) != value}
            yield f"### {_title(name, definition)}\n"
            yield _sentence(definition.get("description", ""))
            yield _table({key: value for key, value in own.items() if "const" not in value}, schema, definition)
    for definition in found.values():
        yield from _definitions(dict.fromkeys(_references(definition["properties"])), schema, done)


def _common(group: Mapping[str, Schema]) -> dict[str, Schema]:
    """Keys that most of a group of sections have alike."""
    if len(group) < 3:
        return {}
    counted: dict[str, list[Schema]] = {}
    for definition in group.values():
        for key, field in definition["properties"].items():
            counted.setdefault(key, []).append(field)
    common = {key: max(fields, key=fields.count) for key, fields in counted.items()}
    return {key: field for key, field in common.items() if counted[key].count(field) > len(group) / 2}


def _tag(definition: Schema) -> str:
    """The key that tells this section from others in its place; empty where there is no other."""
    return next((key for key in TAGS if key in definition["properties"]), "")


def _title(name: str, definition: Schema) -> str:
    tag = _tag(definition)
    field = definition["properties"].get(tag, {})
    values = [field["const"]] if "const" in field else field.get("enum", []) if tag == "architecture" else []
    if values:
        return ", ".join(f"`{tag}: {value}`" for value in values)
    if definition["properties"].get("variant", {}).get("const"):
        return "`variant: published`"
    return f"`{tag}`" if tag else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()


def _table(properties: Mapping[str, Schema], schema: Schema, definition: Schema | None = None) -> str:
    required = (definition or {}).get("required", ())
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, field in properties.items():
        default = "required" if key in required or "default" not in field else f"`{_default(field['default'])}`"
        rows.append(
            f"| `{key}` | {_value(field, schema)} | {default} | {_meaning(field) or 'which one'} |".replace("  ", " ")
        )
    return "\n".join(rows) + "\n"


def _value(field: Schema, schema: Schema) -> str:
    """What may be written, in words."""
    if "$ref" in field:
        definition = schema["$defs"][_name(field)]
        return "mapping, see below" if "properties" in definition else _value(definition, schema)
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " or ".join(dict.fromkeys(_value(branch, schema) for branch in field[union]))
    if "const" in field or "enum" in field:
        return " or ".join(f"`{_default(value)}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "integer" and "exclusiveMinimum" in field:
        field = {**field, "minimum": field["exclusiveMinimum"] + 1}
        del field["exclusiveMinimum"]
    bounds = ", ".join(text.format(_limit(field[key])) for key, text in BOUNDS.items() if key in field)
    kind = KINDS.get(field.get("type", ""), "")
    if field.get("type") == "array":
        items = field.get("items") or field["prefixItems"][0]
        kind = f"list of {_value(items, schema)}"
    elif field.get("type") == "object":
        kind = f"mapping of name to {_value(_values(field), schema) or 'value'}"
    return f"{kind}, {bounds}" if bounds else kind


def _values(field: Schema) -> Schema:
    """Schema of the values of a mapping; empty where anything may stand."""
    values = field.get("additionalProperties")
    return values if isinstance(values, Mapping) else {}


def _limit(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _default(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _meaning(field: Schema) -> str:
    return " ".join(str(field.get("description", "")).split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return f"{text}{'' if text.endswith('.') else '.'}\n" if text else ""


def _references(schema: Any) -> Iterator[str]:
    """Names of the definitions with keys of their own that a schema mentions."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield _name(schema)
        for key, value in schema.items():
            if key not in ("discriminator", "default"):
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _name(reference: Schema) -> str:
    return reference["$ref"].rsplit("/", 1)[-1]


if __name__ == "__main__":
    print(reference(), end="")
