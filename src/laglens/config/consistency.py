"""Checks across sections: names that must exist, lengths that must fit, files that must be there."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

from laglens.config.limits import beyond_models, unreachable
from laglens.config.messages import nearest
from laglens.config.models import PER_SIGNAL, SHIPPED, SignalModel
from laglens.config.signals import OwnTable
from laglens.config.study import Study
from laglens.errors import LaglensError
from laglens.provenance import file_hashes

SHIPPED_WEIGHTS = Path(__file__).parents[1] / "weights"


def problems(study: Study) -> Iterator[str]:
    """One line per contradiction in a study whose sections are valid on their own."""
    named = [*_unknown_names(study)]
    yield from named
    yield from _missing_tables(study)
    yield from _missing_models(study)
    yield from _altered_shipped_models(study)
    yield from _unknown_heads(study)
    yield from _taken_names(study)
    yield from unreachable(study)
    if not named:
        yield from _foreign_comparisons(study)
        yield from _unfit_distributions(study)
        yield from _short_signals(study)
        yield from beyond_models(study)
        yield from _without_calibration(study)


def _unknown_names(study: Study) -> Iterator[str]:
    uses = [
        (f"runs[{i}].{kind}[{j}]", kind, name)
        for i, run in enumerate(study.runs)
        for kind in ("models", "signals")
        for j, name in enumerate(getattr(run, kind))
    ]
    for title, comparison in study.comparisons.items():
        uses.append((f"comparisons.{title}.model", "models", comparison.model))
        uses += [(f"comparisons.{title}.signals[{j}]", "signals", name) for j, name in enumerate(comparison.signals)]
    uses += [(f"calibration.models[{i}]", "models", name) for i, name in enumerate(study.calibration.models)]
    uses += [(f"claims.models[{i}]", "models", name) for i, name in enumerate(study.claims.models)]
    uses += [(f"claims.signals[{i}]", "signals", name) for i, name in enumerate(study.claims.signals)]
    for title, study_of in study.distributions.items():
        for kind, key in (("models", "trained"), ("models", "untrained"), ("signals", "signals")):
            names = getattr(study_of, key)
            uses += [(f"distributions.{title}.{key}[{j}]", kind, name) for j, name in enumerate(names)]
    for key, kind, name in uses:
        known = getattr(study, kind)
        if name not in known:
            yield f"{key}: there is no {kind[:-1]} '{name}'; {nearest(name, known)}"


def _taken_names(study: Study) -> Iterator[str]:
    """The claims of a model are a table of its name, beside that of all models."""
    if "summary" in study.models:
        yield "models.summary: this name is taken by the table of all claims, results/claims/summary.csv; take another"


def _foreign_comparisons(study: Study) -> Iterator[str]:
    for title, comparison in study.comparisons.items():
        if len(set(comparison.signals)) < len(comparison.signals):
            yield f"comparisons.{title}.signals: '{comparison.signals[0]}' is compared with itself; take two signals"
            continue
        foreign = [j for j, name in enumerate(comparison.signals) if (comparison.model, name) not in study.pairs]
        for j in foreign:
            yield (
                f"comparisons.{title}.signals[{j}]: '{comparison.model}' is not run on '{comparison.signals[j]}'; "
                "add the pair to runs"
            )
        if not foreign and isinstance(study.models[comparison.model], SignalModel):
            yield (
                f"comparisons.{title}.model: '{comparison.model}' is trained on each signal anew, so a head of the one "
                "is no head of the other; take a model that is trained once"
            )


def _unfit_distributions(study: Study) -> Iterator[str]:
    for title, ours in study.distributions.items():
        for key in ("trained", "untrained"):
            for j, name in enumerate(getattr(ours, key)):
                model = study.models[name]
                if not isinstance(model, SignalModel):
                    yield (
                        f"distributions.{title}.{key}[{j}]: '{name}' is not trained on each signal; take models of "
                        "architecture encoder or encoder_decoder"
                    )
                elif (key == "trained") != bool(model.train.epochs):
                    yield (
                        f"distributions.{title}.{key}[{j}]: '{name}' has train.epochs {model.train.epochs}; untrained "
                        "models have 0, the others do not"
                    )
            yield from _unequal_trainings(study, f"distributions.{title}", key, getattr(ours, key), ours.trained[0])
        for j, name in enumerate(ours.signals):
            if not hasattr(study.signals[name], "generator"):
                yield f"distributions.{title}.signals[{j}]: '{name}' is not generated, so its kind is not known"
            if name in ours.signals[:j]:
                yield f"distributions.{title}.signals[{j}]: '{name}' is named twice; take one of them out"


def _unequal_trainings(study: Study, section: str, key: str, names: list[str], first: str) -> Iterator[str]:
    """Models that are not the first one from another seed: an interval over seeds would be of something else.

    Untrained models differ from the trained ones in how these were trained, and in nothing else.
    """
    models = {name: study.models[name].model_dump(mode="json") for name in (*names, first)}
    seeds: dict[int | None, str] = {}
    for j, name in enumerate(names):
        if name in names[:j]:
            yield f"{section}.{key}[{j}]: '{name}' is named twice; take one of them out"
            continue
        pairs = [(models[name], models[first], "")]
        if all("train" in models[other] for other in (name, names[0])):
            seed = models[name]["train"].get("seed")
            if seed in seeds:
                yield (
                    f"{section}.{key}[{j}]: '{name}' and '{seeds[seed]}' are the same training, both have train.seed "
                    f"{seed}; give one another"
                )
            seeds.setdefault(seed, name)
            pairs.append((models[name]["train"], models[names[0]]["train"], "train."))
        for one, other, above in pairs:
            for option in sorted((one.keys() | other.keys()) - {"train", "seed"}):
                if one.get(option) != other.get(option):
                    yield (
                        f"{section}.{key}[{j}]: '{name}' has {above}{option} {one.get(option)!r}, "
                        f"'{names[0] if above else first}' {other.get(option)!r}; models of a distribution differ in "
                        "train.seed alone"
                    )


def _short_signals(study: Study) -> Iterator[str]:
    for model_name, signal in study.pairs:
        model, length = study.models[model_name], study.signals[signal].known_length
        needs = {"its history needs": model.history or 1}
        if isinstance(model, SignalModel):
            window = model.history + model.horizon
            held_out = model.train.validation
            needs["training and validating it need"] = math.ceil(window / min(held_out, 1 - held_out))
        for what, least in needs.items():
            if length is not None and length < least:
                yield (
                    f"signals.{signal}: {length} samples are too few for {model_name}, {what} {least}; make the signal "
                    "longer, shorten the model's history, or take the pair out of runs"
                )
                break


def _without_calibration(study: Study) -> Iterator[str]:
    named = [("calibration", i, name) for i, name in enumerate(study.calibration.models)]
    named += [("claims", i, name) for i, name in enumerate(study.claims.models)]
    for section, i, name in named:
        model = study.models[name]
        why = ""
        if model.architecture in PER_SIGNAL:
            why = "is trained on each signal anew"
        elif model.architecture == "recording":
            why = "is a recording, and cannot be shown other series"
        elif model.horizon == 0:
            why = "does not forecast"
        if why:
            yield f"{section}.models[{i}]: '{name}' {why}; take a model that is trained once and forecasts"
    if study.claims.models and not study.claims.signals:
        yield "claims.signals: none; name the signals on which the claims are asked"


def _altered_shipped_models(study: Study) -> Iterator[str]:
    for name, model in study.models.items():
        if getattr(model, "weights", None) != "shipped":
            continue
        card = SHIPPED_WEIGHTS / f"{name}.json"
        if name not in SHIPPED:
            yield (
                f"models.{name}.weights: no weights are shipped for '{name}', only for {', '.join(SHIPPED)}; "
                "leave 'weights' out to train it"
            )
        elif card.is_file():
            shipped = json.loads(card.read_text("utf-8"))
            for key, value in {"architecture": shipped["architecture"], **shipped["options"]}.items():
                if getattr(model, key, None) != value:
                    yield (
                        f"models.{name}.{key}: the shipped weights have {value!r}, not {getattr(model, key, None)!r}; "
                        "take that value, or leave 'weights' out to train it"
                    )
            if "train" not in model.model_fields_set:
                continue
            for key, value in shipped["training"].items():
                written = getattr(model.train, key)
                if written != value:
                    yield (
                        f"models.{name}.train.{key}: the shipped weights were trained with {value!r}, not {written!r}; "
                        "take that value, or leave 'weights' out to train it"
                    )


def _unknown_heads(study: Study) -> Iterator[str]:
    """A head that none of the models has; a model that lacks it draws its others."""
    labels = [study.models[model].head_labels for model, _ in study.pairs if model in study.models]
    if None in labels:
        return  # the heads of a checkpoint are known once it is read
    known = {label for of_model in labels for label in of_model or ()}
    for key, asked in (("figures.heads", study.figures.heads), ("heads.vectors", study.heads.vectors)):
        for j, label in enumerate(asked if asked != "auto" else ()):
            if label not in known:
                yield f"{key}[{j}]: no model of the runs has the head '{label}'; {nearest(label, sorted(known))}"


def _missing_models(study: Study) -> Iterator[str]:
    """Files that models are read from."""
    for name, model in study.models.items():
        checkpoint = getattr(model, "checkpoint", None)
        if checkpoint is not None and not Path(checkpoint).exists():
            yield (
                f"models.{name}.checkpoint: there is no file or folder '{checkpoint}'; paths are relative to the "
                "folder you run from"
            )
        factory = getattr(model, "factory", "").rpartition(":")[0]
        if factory:
            yield from (f"models.{name}.factory: {problem}" for problem in _unreadable_code(Path(factory)))


def _unreadable_code(file: Path) -> Iterator[str]:
    if not file.is_file():
        yield f"there is no file '{file}'; paths are relative to the folder you run from"
        return
    try:
        file_hashes(file)
    except LaglensError as error:
        yield str(error)


def _missing_tables(study: Study) -> Iterator[str]:
    for name, signal in study.signals.items():
        if not isinstance(signal, OwnTable):
            continue
        file = signal.file
        if not Path(file).is_file():
            yield f"signals.{name}.file: there is no file '{file}'; paths are relative to the folder you run from"
        elif Path(file).suffix.lower() == ".csv":
            try:
                header = _header(Path(file))
            except LaglensError as error:
                yield f"signals.{name}.file: '{file}' {error}"
                continue
            yield from (
                f"signals.{name}.{key}: '{file}' has no column '{column}'; {nearest(column, header)}"
                for key, column in signal.columns
                if column not in header
            )


def _header(file: Path) -> list[str]:
    """Names of the columns of a CSV file, as pandas names them; raise where it could not read them, or doubles one."""
    with file.open("rb") as table:
        if b"\0" in table.read(1024):
            raise LaglensError("is written in UTF-16 or is no text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)")
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="replace") as table:
            row = next((row for row in csv.reader(table) if len(row) > 1 or "".join(row).strip()), [])
    except csv.Error as error:
        raise LaglensError(
            f"has a header that cannot be read ({error}); look for a quote that is not closed"
        ) from error
    doubled = [column for column in row if column and row.count(column) > 1]
    if doubled:
        raise LaglensError(f"has two columns '{doubled[0]}' in its header; rename one")
    return [column or f"Unnamed: {i}" for i, column in enumerate(row)]
