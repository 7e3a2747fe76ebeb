"""Say in one line what is wrong with a key of the config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from laglens.config.section import FACTORY_PATTERN, HEAD_PATTERN

FORMS = {  # what a text must be, by the pattern it has to match
    HEAD_PATTERN: "a head with two digits for layer and head, such as 'encoder L00 H03'",
    FACTORY_PATTERN: "file.py:function, such as my_model.py:build",
}
NAME_RULE = "a name is made of letters, digits, '_' and '-' and starts with a letter or digit (put a number in quotes)"
DISCRIMINATORS = ("architecture", "generator", "dataset")  # keys that say which section a mapping is
WANTED = {  # what a value must be, by pydantic's name of the error or its first word; limits come from its context
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "finite_number": "finite",
}


def readable(error: ValidationError, model: type[BaseModel], written: Mapping[str, Any]) -> list[str]:
    """One line per wrong key.

    Parameters
    ----------
    error
        What pydantic found.
    model
        The model that refused.
    written
        What a person wrote.
    """
    sentences: dict[str, str] = {}
    wanted: dict[str, list[str]] = {}  # the branches of a union (a number or `auto`) report the same key twice
    given: dict[str, str] = {}
    for item in error.errors(include_url=False):
        key = _key(item, written)
        sentence = _sentence(item, model)
        if sentence:
            sentences[key] = sentence
        else:
            context = item.get("ctx", {})
            form = FORMS.get(context.get("pattern", "")) or _wanted(item["type"]).format_map(_short_numbers(context))
            wanted.setdefault(key, []).append(form)
            given[key] = _short(item["input"])
    values = {key: f"must be {' or '.join(wanted[key])}, not {given[key]}" for key in wanted}
    # A list that may also be a word is wrong as a whole, too, once one of its items is.
    values = {key: text for key, text in values.items() if not any(k.startswith(f"{key}[") for k in values)}
    return [f"{key}: {text}" for key, text in (values | sentences).items()]


def nearest(name: str, valid: Iterable[str]) -> str:
    """Point from a wrong name to the one that was probably meant, else list them all."""
    valid = list(valid)
    folded = {one.casefold(): one for one in reversed(valid)}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return f"did you mean '{folded[close[0]]}'?" if close else f"valid: {', '.join(valid) or 'none'}"


def one_line(text: str, limit: int = 500) -> str:
    """A text without line breaks and of bounded length, whatever a person wrote into it."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _key(item: Mapping[str, Any], written: Any) -> str:
    """Path of the key as a person writes it: pydantic's location without the names of union branches."""
    path = ""
    for depth, part in enumerate(item["loc"]):
        missing = item["type"] == "missing" and depth + 1 == len(item["loc"])
        if isinstance(written, list) and isinstance(part, int):
            path += f"[{part}]"
            written = written[part] if part < len(written) else None
        elif isinstance(written, Mapping) and (part in written or missing):
            path += f".{part}"
            written = written.get(part)
    return path.lstrip(".") or "config"


def _sentence(item: Mapping[str, Any], model: type[BaseModel]) -> str | None:
    """What is wrong, unless it is the value of the key."""
    kind, context, location = item["type"], item.get("ctx", {}), item["loc"]
    if location and location[-1] == "[key]":
        return NAME_RULE
    if kind == "extra_forbidden":
        return f"unknown key; {nearest(str(location[-1]), _valid_keys(model, location[:-1]))}"
    if kind == "missing":
        return "this key is missing"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        field, tags = context["discriminator"].strip("'"), _tags(model, location)
        if kind == "union_tag_not_found":
            return f"'{field}' is missing; one of {', '.join(tags)}"
        return f"unknown {field} {_short(context['tag'])}; {nearest(context['tag'], tags)}"
    if kind == "value_error":
        return " ".join(str(context["error"]).split())
    return None if _wanted(kind) else " ".join(item["msg"].split())


def _wanted(kind: str) -> str:
    return WANTED.get(kind) or WANTED.get(kind.split("_", maxsplit=1)[0], "")


def _short_numbers(context: Mapping[str, Any]) -> dict[str, Any]:
    return {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}


def _short(value: Any, limit: int = 60) -> str:
    return one_line(repr(value), limit)


def _valid_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    section = _annotation_at(model, location)
    return list(section.model_fields) if _is_section(section) else []


def _tags(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    return [tag for branch in _branches(_annotation_at(model, location)) for tag in _own_tags(branch)]


def _annotation_at(model: type[BaseModel], location: tuple[Any, ...]) -> Any:
    """Type of the value at a pydantic location; the branches of a union are steps of their own."""
    annotation: Any = model
    for part in location:
        branches = _branches(annotation)
        if branches:
            annotation = next((branch for branch in branches if part in _own_tags(branch)), None)
        elif _is_section(annotation):
            field = annotation.model_fields.get(str(part))
            annotation = field and field.annotation
        else:
            annotation = next(reversed(get_args(annotation)), None)  # the values of a mapping or list
        annotation = _plain(annotation)
    return annotation


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _branches(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()


def _own_tags(branch: Any) -> list[str]:
    """Values of the discriminator that select this branch of a union."""
    tags = [str(item.tag) for item in getattr(branch, "__metadata__", ()) if isinstance(item, Tag)]
    section = _plain(branch)
    if tags or not _is_section(section):
        return tags
    literals = (section.model_fields[key].annotation for key in DISCRIMINATORS if key in section.model_fields)
    return [str(value) for literal in literals if get_origin(literal) is Literal for value in get_args(literal)]
