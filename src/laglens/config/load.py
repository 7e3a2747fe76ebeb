"""Turn what a person wrote into a checked study, or into one readable line per problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from laglens.config.consistency import problems
from laglens.config.messages import readable
from laglens.config.study import Study
from laglens.errors import LaglensError


def load_study(written: Mapping[str, Any]) -> Study:
    """Check the content of a config file and fill in every default.

    Raises
    ------
    LaglensError
        With one line per problem, each naming the full key and, where a name is unknown, the nearest valid one.
    """
    present = {key: value for key, value in written.items() if value is not None}  # an empty section: its defaults
    try:
        study = Study.model_validate(present)
    except ValidationError as error:
        raise LaglensError("\n".join(readable(error, Study, present))) from None
    found = list(problems(study))
    if found:
        raise LaglensError("\n".join(found))
    return study


def canonical(study: Study) -> dict[str, Any]:
    """The study as nested dicts, lists and plain values, with every default filled in."""
    return study.model_dump(mode="json")
