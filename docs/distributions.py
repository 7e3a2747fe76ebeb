"""Write docs/distributions.md and its figures from results: ``python docs/distributions.py corrected [OTHER ...]``.

The first comparison has the page, the others a table and a figure of their effects.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laglens.heads.distributions import MEASURES, TRAINED, UNTRAINED, converged
from laglens.heads.questions import QUESTIONS, Question

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs/distributions.md", ROOT / "docs/images"
RESULTS = Path("results/distributions")
OF_EVENTS = ("excess", "excess_early", "excess_late")
# What an effect above 0, below 0, and neither says.
READINGS = {
    "spikes": (
        "Heads that forecast look at a spike more than at the same token of a window without one",
        "Heads that forecast look away from spikes",
        "No reaction to spikes was found",
    ),
    "outliers": (
        "Heads that forecast look at an outlier more than at the same token of a window without one",
        "Heads that forecast look away from outliers",
        "No reaction to outliers was found",
    ),
    "persistence": (
        "On persistent series heads look farther back than on returns without memory",
        "On persistent series heads look nearer than on returns without memory, as persistence asks for",
        "Persistent series and returns without memory were not found to be read from different distances",
    ),
    "skill": (
        "Persistent series are forecast better than by their last value or mean",
        "Persistent series are forecast worse than by the better of last value and mean",
        "Persistent series were not found to be forecast better than by the better of last value and mean",
    ),
    "turbulence": (
        "Attention concentrates on turbulent periods",
        "Attention avoids turbulent periods",
        "No concentration on turbulent periods was found",
    ),
    "regimes": (
        "Heads look at a change of regime while it is new",
        "Heads look away from a change of regime while it is new",
        "No attention to a new change of regime was found",
    ),
    "recovery": (
        "Long after a change of regime heads still look at it",
        "Long after a change of regime heads avoid it",
        "Long after a change of regime no attention to it was found: the models have recovered, or never reacted",
    ),
    "stationarity": (
        "Attention is more concentrated on stationary series",
        "Attention is less concentrated on stationary series",
        "No difference in concentration was found between stationary and drifting series",
    ),
    "predictability": (
        "Attention is more concentrated on series with a pattern",
        "Attention is less concentrated on series with a pattern",
        "No difference in concentration was found between series with a pattern and without",
    ),
}
INTRODUCTION = """\
Made by `docs/distributions.py` from `results/distributions/{name}*.csv`; [heads](heads.md#kinds-of-series) says what
the measures are. {n_seeds} trainings of one model on each of {n_series} series, and the same model with random weights.
**The seed is the yardstick**: an effect is given with Student's interval over seeds, and in standard deviations between
trainings of one series. It holds for these series and other trainings; other series of the same kind may differ.

    .venv/bin/snakemake --cores 4 --configfile studies/distributions.yaml
    .venv/bin/python docs/distributions.py corrected step_by_step published"""
SPREAD = """\
Do series differ more than trainings of one series? One-way analysis of variance; p is not corrected for the {n} lines.
Where F is near 1, the measure says nothing about the kind of series."""
CONVERGENCE = """\
All trainings stop by one rule: no better validation error for as many epochs as `patience` says. {plateau} of {total}
did; {left_out}. They are compared at their best epoch. Series differ in when it comes and in what there is to gain, and
this is theirs; the tables above have both beside each effect."""
OTHERS = {
    "step_by_step": "The same with a decoder that forecasts one sample after the other",
    "published": "The same on the series as they were published",
}
TOO_FEW = "Too few trainings reached their plateau to say"
UNDECIDED = "Not decided: larger than what lies between two trainings, but so few trainings cannot tell it from 0"
EFFECT = ["effect", "interval", "in seed sd", "seeds"]
COLOURS = {TRAINED: "#1f6f8b", UNTRAINED: "#9a9a9a"}


def page(
    name: str,
    values: pd.DataFrame,
    answers: pd.DataFrame,
    spread: pd.DataFrame,
    others: Mapping[str, pd.DataFrame] | None = None,
) -> str:
    """The page, in Markdown; `others`: answers of further comparisons."""
    trained = values[values["group"] == TRAINED]
    sizes = {"n_seeds": trained["seed"].nunique(), "n_series": values["signal"].nunique()}
    parts = [
        ["# Kinds of series", INTRODUCTION.format(name=name, **sizes)],
        [_in_short(answers), f"![Every effect with its interval](images/distributions_{name}.png)"],
        *(_section(name, question, answers, set(values["generator"])) for question in _asked(answers)),
        *(_other(*other) for other in (others or {}).items()),
        [
            "## Series against seeds",
            SPREAD.format(n=len(spread)),
            _table(["measure", "group", "F", "p"], _spread(spread)),
        ],
        ["## Convergence", _of_convergence(trained)],
        [_table(["series", "best epoch", "validation loss", "gain over random weights", "skill"], _by_series(trained))],
    ]
    return "\n\n".join(block for part in parts for block in part) + "\n"


def _asked(answers: pd.DataFrame) -> list[Question]:
    return [question for question in QUESTIONS if question.name in set(answers["question"])]


def _section(name: str, question: Question, answers: pd.DataFrame, known: set[str]) -> list[str]:
    ours = answers[answers["question"] == question.name]
    header = ["", *EFFECT, "best epoch", "gain"]
    rows = [
        [
            row["group"],
            *_effect(row),
            _both(row["best_epoch"], row["other_best_epoch"], ".0f"),
            _both(100 * row["gain"], 100 * row["other_gain"], ".0f", " %"),
        ]
        for row in ours.to_dict("records")
    ]
    against = f" minus {_listed(question.theirs, known)}" if question.theirs else ""
    measured = f"Measured: {MEASURES[question.measure]}; {_listed(question.ours, known)}{against}."
    picture = f"![{question.text}](images/distributions_{name}_{question.name}.png)"
    return [f"## {question.text}", _in_words(question, ours), _table(header, rows), measured, picture]


def _effect(row: Mapping[Any, Any]) -> list[str]:
    """What `EFFECT` names."""
    return [
        f"{row['effect']:.3f}",
        "-" if np.isnan(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}",
        "-" if np.isnan(row["in_seed_sd"]) else f"{row['in_seed_sd']:.1f}",
        f"{row['n_seeds']}" + (f" ({row['n_left_out']} left out)" if row["n_left_out"] else ""),
    ]


def _other(name: str, answers: pd.DataFrame) -> list[str]:
    """Title, figure and answers of another comparison."""
    words = f"Trained models; from `results/distributions/{name}*.csv`."
    picture = f"![Every effect of {name} with its interval](images/distributions_{name}.png)"
    return [f"## {OTHERS.get(name, name)}", words, picture, _in_short(answers)]


def _in_short(answers: pd.DataFrame) -> str:
    """One line for every question that trained models answer."""
    trained = answers[answers["group"] == TRAINED]
    rows = [
        [question.text, _reading(question, row), *_effect(row)]
        for question in _asked(trained)
        for row in trained[trained["question"] == question.name].to_dict("records")
    ]
    return _table(["question", "answer", *EFFECT], rows)


def _reading(question: Question, row: Mapping[Any, Any]) -> str:
    """An effect in words. One that is large beside the seeds and not told from 0 is no answer."""
    more, less, none = READINGS[question.name]
    if not np.isfinite(row["low"]):
        return TOO_FEW
    if row["low"] > 0 or row["high"] < 0:
        return more if row["low"] > 0 else less
    return UNDECIDED if abs(row["in_seed_sd"]) >= 1 else none


def _in_words(question: Question, answers: pd.DataFrame) -> str:
    rows = {str(row["group"]): row for row in answers.to_dict("records")}
    if TRAINED not in rows or not np.isfinite(rows[TRAINED]["low"]):
        return f"**{TOO_FEW}.**"
    row = rows[TRAINED]
    said = _reading(question, row)
    text = f"**{said}**: {row['effect']:.3f} ({row['low']:.3f} to {row['high']:.3f})."
    if UNTRAINED in rows and question.measure != "skill":
        other = rows[UNTRAINED]["effect"]
        text += f" With random weights it is {other:.3f}"
        if not row["low"] <= other <= row["high"]:
            text += ", outside that interval: training changed it."
        else:
            text += (
                "." if row["low"] <= 0 <= row["high"] else ", inside that interval: it was there before any training."
            )
    return text


def _listed(generators: tuple[str, ...], known: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in generators if name in known)


def _both(ours: float, theirs: float, form: str, unit: str = "") -> str:
    values = [f"{value:{form}}{unit}" for value in (ours, theirs) if np.isfinite(value)]
    return " / ".join(values) or "-"


def _spread(spread: pd.DataFrame) -> list[list[str]]:
    return [
        [MEASURES[row["measure"]], row["group"], f"{row['f']:.1f}", f"{row['p']:.2g}"]
        for row in spread.to_dict("records")
    ]


def _of_convergence(trained: pd.DataFrame) -> str:
    late = trained[~trained["plateau"]]
    names = ", ".join(f"`{row.model}` on `{row.signal}`" for row in late.itertuples())
    left_out = f"left out of every answer: {names}" if len(late) else "none is left out"
    return CONVERGENCE.format(plateau=int(trained["plateau"].sum()), total=len(trained), left_out=left_out)


def _by_series(trained: pd.DataFrame) -> list[list[str]]:
    keys = ("best_epoch", "validation_loss", "gain", "skill")
    return [
        [f"`{signal}`", *(", ".join(f"{value:.3g}" for value in ours[key]) for key in keys)]
        for signal, ours in trained.groupby("signal", sort=False)
    ]


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def draw_effects(answers: pd.DataFrame) -> Figure:
    """Every effect with its interval, in standard deviations between trained seeds."""
    figure = Figure(figsize=(7, 0.27 * len(answers) + 0.8), layout="constrained")
    axes = figure.subplots()
    trained = answers[answers["group"] == TRAINED].set_index("question")["seed_sd"]  # the yardstick of both groups
    scale = answers["question"].map(trained).replace(0.0, np.nan).to_numpy()
    scaled = answers[["low", "effect", "high"]].to_numpy() / scale[:, None]
    ours = scaled[answers["group"].to_numpy() == TRAINED]
    edges = min(0.0, np.nanmin(ours, initial=-1)) - 0.5, max(0.0, np.nanmax(ours, initial=1)) + 0.5
    for i, (group, (low, effect, high)) in enumerate(zip(answers["group"], scaled, strict=True)):
        if edges[0] <= effect <= edges[1]:
            axes.plot(effect, i, "o", color=COLOURS[group], markersize=5)
            axes.plot([low, high], [i, i], color=COLOURS[group], linewidth=1.5)
        elif np.isfinite(effect):  # far outside: the scale is that of trained models
            at, marker, side = (edges[0], "<", "left") if effect < 0 else (edges[1], ">", "right")
            axes.plot(at, i, marker, color=COLOURS[group], markersize=6, clip_on=False)
            axes.text(at, i, f"   {effect:.0f}   ", ha=side, va="center", fontsize="small", color=COLOURS[group])
    axes.set_xlim(*edges)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(answers)), [f"{row['question']} ({row['group']})" for row in answers.to_dict("records")])
    axes.set_ylim(len(answers) - 0.5, -0.5)
    axes.set_xlabel("effect and its interval over seeds / sd between trainings of one series")
    return figure


def draw_question(question: Question, values: pd.DataFrame, events: pd.DataFrame) -> Figure:
    """Every training as a dot, for the series of a question; where it is about events, the attention since them."""
    shown = converged(values[values["generator"].isin((*question.ours, *question.theirs))])
    shown = shown.dropna(subset=question.measure)
    names = [str(name) for name in dict.fromkeys(shown["signal"])]
    since = events[events["signal"].isin(names) & events["since_from"].notna()]
    curves = question.measure in OF_EVENTS and len(since)
    height = 0.3 * len(names) + 1.0
    figure = Figure(figsize=(9 if curves else 6.5, max(height, 2.6) if curves else height), layout="constrained")
    panels = figure.subplots(1, 2 if curves else 1, squeeze=False)[0]
    _draw_values(panels[0], question, shown, names)
    if curves:
        _draw_since(panels[1], since)
    return figure


def _draw_values(axes: Axes, question: Question, shown: pd.DataFrame, names: list[str]) -> None:
    for group, ours in shown.groupby("group", sort=False):
        places = np.array([names.index(name) + (0.15 if group == UNTRAINED else -0.15) for name in ours["signal"]])
        one = ours["generator"].isin(question.ours).to_numpy()
        for side, filled, label in ((one, COLOURS[str(group)], str(group)), (~one, "none", None)):
            (dots,) = axes.plot(ours[question.measure].to_numpy()[side], places[side], "o", label=label, markersize=5)
            dots.set(markerfacecolor=filled, markeredgecolor=COLOURS[str(group)])
    if not question.theirs:
        axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(
        f"{MEASURES[question.measure]}\none dot: one training" + ("; hollow: the other kind" * bool(question.theirs))
    )
    axes.legend(frameon=False, fontsize="small")


def _draw_since(axes: Axes, since: pd.DataFrame) -> None:
    """Attention to events against the time since them: mean over seeds, and its interval."""
    for (group, _, _), ours in since.groupby(["group", "signal", "event"], sort=False):
        middle = (ours["since_from"] + ours["since_to"] - 1) / 2
        axes.plot(middle, ours["excess"], ".-", color=COLOURS[str(group)], label=str(group))
        axes.fill_between(middle, ours["low"], ours["high"], color=COLOURS[str(group)], alpha=0.2, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel("samples since the event")
    axes.set_xlim(left=-0.3)
    axes.set_ylabel("attention - matched\n(1 = uniform; band: seeds)", fontsize="small")


def figures(
    name: str, values: pd.DataFrame, answers: pd.DataFrame, events: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    """Names and figures of the page."""
    yield f"distributions_{name}.png", draw_effects(answers)
    for question in _asked(answers):
        yield f"distributions_{name}_{question.name}.png", draw_question(question, values, events)


def main(name: str, *others: str) -> None:
    """Write the page and its figures."""
    matplotlib.use("Agg")
    suffixes = ("", ".answers", ".spread", ".events")
    values, answers, spread, events = (pd.read_csv(RESULTS / f"{name}{suffix}.csv") for suffix in suffixes)
    further = {other: pd.read_csv(RESULTS / f"{other}.answers.csv") for other in others}
    PICTURES.mkdir(exist_ok=True)
    drawn = dict(figures(name, values, answers, events))
    drawn |= {f"distributions_{other}.png": draw_effects(its) for other, its in further.items()}
    for file, figure in drawn.items():
        figure.savefig(PICTURES / file, dpi=110, metadata={"Software": None})
    PAGE.write_text(page(name, values, answers, spread, further))


if __name__ == "__main__":
    main(*sys.argv[1:])
