"""Checks across sections: names that must exist, lengths that must fit, files that must be there."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from laglens.config.messages import nearest
from laglens.config.study import Study


def problems(study: Study) -> Iterator[str]:
    """One line per contradiction in a study whose sections are valid on their own."""
    named = [*_unknown_names(study)]
    yield from named
    yield from _missing_tables(study)
    yield from _unknown_heads(study)
    if not named:
        yield from _foreign_comparisons(study)
        yield from _short_signals(study)


def _unknown_names(study: Study) -> Iterator[str]:
    uses = [(f"runs[{i}].{kind}[{j}]", kind, name)
            for i, run in enumerate(study.runs)
            for kind in ("models", "signals")
            for j, name in enumerate(getattr(run, kind))]
    for title, comparison in study.comparisons.items():
        uses.append((f"comparisons.{title}.model", "models", comparison.model))
        uses += [(f"comparisons.{title}.signals[{j}]", "signals", name) for j, name in enumerate(comparison.signals)]
    for key, kind, name in uses:
        known = getattr(study, kind)
        if name not in known:
            yield f"{key}: there is no {kind[:-1]} '{name}'; {nearest(name, known)}"


def _foreign_comparisons(study: Study) -> Iterator[str]:
    for title, comparison in study.comparisons.items():
        for j, name in enumerate(comparison.signals):
            if (comparison.model, name) not in study.pairs:
                yield (f"comparisons.{title}.signals[{j}]: '{comparison.model}' is not run on '{name}'; "
                       "add the pair to runs")


def _short_signals(study: Study) -> Iterator[str]:
    for model, signal in study.pairs:
        length, history = study.signals[signal].known_length, study.models[model].history
        if length is not None and length < history:
            yield (f"signals.{signal}: {length} samples are fewer than the history of {model} ({history}); "
                   "make it longer, shorten the model's history or take the pair out of runs")


def _unknown_heads(study: Study) -> Iterator[str]:
    """A head that none of the models has; a model that lacks it draws its others."""
    known = {label for model, _ in study.pairs if model in study.models for label in study.models[model].head_labels}
    for j, label in enumerate(study.figures.heads if study.figures.heads != "auto" else ()):
        if label not in known:
            yield f"figures.heads[{j}]: no model of the runs has the head '{label}'; {nearest(label, sorted(known))}"


def _missing_tables(study: Study) -> Iterator[str]:
    for name, signal in study.signals.items():
        file = getattr(signal, "file", None)
        if file is None:
            continue
        if not Path(file).is_file():
            yield f"signals.{name}.file: there is no file '{file}'; paths are relative to the folder you run from"
        elif Path(file).suffix.lower() == ".csv":
            with open(file, newline="", encoding="utf-8-sig", errors="replace") as table:
                header = next(csv.reader(table), [])
            yield from (f"signals.{name}.{key}: '{file}' has no column '{column}'; {nearest(column, header)}"
                        for key, column in signal.columns if column not in header)
