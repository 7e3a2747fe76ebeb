"""Turn what a person wrote into a checked study, or into one readable line per problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from laglens.config.consistency import problems
from laglens.config.messages import one_line, readable
from laglens.config.study import Study
from laglens.errors import LaglensError
from laglens.provenance import canonical_form

# Every other key of a model shapes it.
ABOUT_MODEL = ("architecture", "weights", "train", "checkpoint", "factory", "folder", "seed")


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
        raise LaglensError("\n".join(map(one_line, readable(error, Study, present)))) from None
    found = list(problems(study))
    if found:
        raise LaglensError("\n".join(map(one_line, found)))
    return study


def canonical(study: Study) -> dict[str, Any]:
    """The study as nested dicts, lists and plain values, sorted and with every default filled in.

    Of each model, what shapes it lies apart in ``options``, so that a step may depend on it but not on the training;
    ``source`` is the checkpoint or factory it is loaded from, ``seed`` that of its draws; ``drawn_heads`` are those of
    the heads asked for that it has, for models and comparisons.
    """
    plain = study.model_dump(mode="json")
    for name, model in plain["models"].items():
        known = study.models[name].head_labels
        named = () if study.figures.heads == "auto" else study.figures.heads
        wanted = [head for head in named if known is None or head in known]
        model["options"] = {key: model.pop(key) for key in sorted(model) if key not in ABOUT_MODEL}
        model["drawn_heads"] = wanted or "auto"
        model["source"] = model.get("factory") or model.get("checkpoint")
        model.setdefault("seed", 0)  # every loaded model has one; where nothing is drawn, it changes nothing
        if "factory" in model:
            model["options"]["checkpoint"] = model["checkpoint"]
    for comparison in plain["comparisons"].values():
        comparison["drawn_heads"] = plain["models"][comparison["model"]]["drawn_heads"]
    return canonical_form(plain)
