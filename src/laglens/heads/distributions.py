"""How the kind of series shapes attention: the same architecture on several series, trained from several seeds.

The seed is the unit: what differs between trainings of one model on one series is the yardstick for every difference
between series. Untrained models stand beside, as attention to a series differs between series before any training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from laglens.errors import LaglensError

READING = ("horizon->history", "readout->history")  # parts that forecast
TRAINED, UNTRAINED = "trained", "untrained"
EARLY, LATE = 8.0, 32.0  # samples since an event: up to, from
MEASURES = {
    "gini_first": "Gini coefficient, first encoder layer",
    "entropy_first": "entropy / uniform, first encoder layer",
    "gini_forecast": "Gini coefficient of the rows that forecast",
    "distance_forecast": "mean distance of the rows that forecast / uniform",
    "excess": "attention to events - matched, rows that forecast, 1 = uniform",
    "excess_early": f"the same, up to {EARLY:g} samples after an event",
    "excess_late": f"the same, from {LATE:g} samples after it",
    "skill": "1 - error / error of the better of last value and mean",
}
STATIONARY = ("heavy_tailed_ar1", "garch11", "regime_switching", "multi_seasonality", "one_over_f")
DRIFTING = ("random_walk", "jump_diffusion", "trend_breaks", "season_trend_outliers")
PREDICTABLE = ("multi_seasonality", "season_trend_outliers")
UNPREDICTABLE = ("random_walk", "jump_diffusion", "garch11", "heavy_tailed_ar1", "regime_switching", "one_over_f")
PERSISTENT = ("random_walk", "jump_diffusion", "heavy_tailed_ar1", "trend_breaks")
MEMORYLESS = ("garch11",)


@dataclass(frozen=True)
class Question:
    """A question to the models, as the difference of a measure between two groups of generators.

    Attributes
    ----------
    name, text
        Short, and in words.
    measure
        One of `MEASURES`.
    ours, theirs
        Generators; without `theirs` the measure is compared with 0.
    """

    name: str
    text: str
    measure: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...] = ()


QUESTIONS = (
    Question("spikes", "Do heads overreact to spikes in heavy tails?", "excess", ("heavy_tailed_ar1",)),
    Question("outliers", "Do heads overreact to outliers of a seasonal series?", "excess", ("season_trend_outliers",)),
    Question(
        "persistence",
        "Do models learn persistence (look nearer where the series is persistent than where it is noise)?",
        "distance_forecast",
        PERSISTENT,
        MEMORYLESS,
    ),
    Question(
        "skill", "Do models forecast persistent series better than naive, or treat them as noise?", "skill", PERSISTENT
    ),
    Question("turbulence", "Does attention concentrate in turbulent periods (GARCH)?", "excess", ("garch11",)),
    Question("regimes", "Do models look at changes of regime?", "excess_early", ("regime_switching",)),
    Question(
        "recovery", "Do models still look at a change of regime long after it?", "excess_late", ("regime_switching",)
    ),
    Question(
        "stationarity", "Is attention more concentrated on stationary series?", "gini_first", STATIONARY, DRIFTING
    ),
    Question(
        "predictability",
        "Do predictable patterns give more concentrated attention?",
        "gini_first",
        PREDICTABLE,
        UNPREDICTABLE,
    ),
)


@dataclass(frozen=True)
class Trained:
    """One model on one series: its results, as tables.

    Attributes
    ----------
    group
        `TRAINED` or `UNTRAINED`.
    seed
        Number of the training within the group.
    model, signal
        Their names.
    source
        Generator of the signal and its variant.
    heads, events
        From `laglens.heads.table.heads_table` and `laglens.heads.events.events_table`.
    card
        Model card, with ``training`` and ``held_out_errors``.
    curve
        Losses by epoch.
    """

    group: str
    seed: int
    model: str
    signal: str
    source: str
    heads: pd.DataFrame
    events: pd.DataFrame | None
    card: Mapping[str, Any]
    curve: pd.DataFrame


def distribution_values(results: Sequence[Trained]) -> pd.DataFrame:
    """One row per model and series: its measures, mean over heads, and how its training went.

    Returns
    -------
    pd.DataFrame
        ``group``, ``seed``, ``model``, ``signal``, ``generator``, ``variant``; one column for each of `MEASURES`;
        ``epochs``, ``best_epoch``, ``plateau`` (stopped before the most epochs allowed), ``validation_loss``.
    """
    return pd.DataFrame([_values(result) for result in results])


def answer_questions(values: pd.DataFrame, *, variant: str = "corrected", confidence: float = 0.95) -> pd.DataFrame:
    """One row per question and group of models: an effect and its interval over seeds.

    Per seed the effect is the mean over the series of the one kind minus that of the other, or minus 0. The interval is
    Student's over seeds, so it holds for these series and other trainings. Questions whose series are not in the study
    are left out.

    Parameters
    ----------
    values
        From `distribution_values`.
    variant
        Which form of the generators.
    confidence
        Of the interval.

    Returns
    -------
    pd.DataFrame
        ``question``, ``text``, ``measure``, ``group``, ``effect``, ``low``, ``high`` (NaN for fewer than 3 seeds),
        ``seed_sd``: standard deviation over seeds of one series, mean over series, ``in_seed_sd``: effect over it,
        ``n_seeds``, ``n_series``, ``answer``.

    Raises
    ------
    LaglensError
        No question can be answered with these series.
    """
    chosen = values[values["variant"] == variant]
    rows = [row for question in QUESTIONS for row in _answers(question, chosen, confidence)]
    if not rows:
        raise LaglensError("none of the questions is about these series; docs/heads.md lists what each one needs")
    return pd.DataFrame(rows)


def seed_spread(values: pd.DataFrame) -> pd.DataFrame:
    """Whether series differ more than trainings do: a one-way analysis of variance for every measure and group.

    Returns
    -------
    pd.DataFrame
        ``group``, ``measure``, ``f``, ``p`` (not corrected for the number of measures), ``n_series``, ``n_seeds``.
    """
    rows = []
    for group, ours in values.groupby("group", sort=False):
        for measure in MEASURES:
            samples = [column.dropna().to_numpy() for _, column in ours.groupby("signal", sort=False)[measure]]
            samples = [sample for sample in samples if len(sample) > 1]
            if len(samples) < 2 or all(np.ptp(sample) == 0 for sample in samples):
                continue
            found = stats.f_oneway(*samples)
            seeds = min(len(sample) for sample in samples)
            sizes = {"n_series": len(samples), "n_seeds": seeds}
            rows.append({"group": group, "measure": measure, "f": found.statistic, "p": found.pvalue} | sizes)
    return pd.DataFrame(rows, columns=["group", "measure", "f", "p", "n_series", "n_seeds"])


def _values(result: Trained) -> dict[str, Any]:
    generator, _, variant = result.source.partition(" ")
    training = result.card.get("training", {})
    allowed = training.get("epochs", 0)
    epochs = int(result.curve["epoch"].max())
    return {
        "group": result.group,
        "seed": result.seed,
        "model": result.model,
        "signal": result.signal,
        "generator": generator,
        "variant": variant.strip("()") or "corrected",
        **_of_heads(result.heads),
        **_of_events(result.events),
        "skill": _skill(result.card.get("held_out_errors", {})),
        "epochs": epochs,
        "best_epoch": int(training.get("best_epoch", 0)),
        "plateau": bool(0 < epochs < allowed),
        "validation_loss": float(result.curve["validation_loss"].min()),
    }


def _of_heads(heads: pd.DataFrame) -> dict[str, float]:
    first = heads[(heads["stack"] == "encoder") & (heads["part"] == "history->history") & (heads["layer"] == 0)]
    reading = _reading(heads)
    return {
        "gini_first": float(first["gini"].mean()),
        "entropy_first": float(first["relative_entropy"].mean()),
        "gini_forecast": float(reading["gini"].mean()),
        "distance_forecast": float((reading["distance"] / reading["distance_uniform"]).mean()),
    }


def _of_events(events: pd.DataFrame | None) -> dict[str, float]:
    nothing = dict.fromkeys(("excess", "excess_early", "excess_late"), np.nan)
    if events is None or not len(events):
        return nothing
    reading = _reading(events)
    chosen: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        "excess": lambda rows: rows["since_from"].isna(),
        "excess_early": lambda rows: rows["since_to"] <= EARLY,
        "excess_late": lambda rows: rows["since_from"] >= LATE,
    }
    return {name: float(reading.loc[holds(reading), "excess"].mean()) for name, holds in chosen.items()}


def _reading(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that forecast, in the last layer that does."""
    ours = table[table["part"].isin(READING)]
    return ours[ours["layer"] == ours.groupby("stack")["layer"].transform("max")]


def _skill(errors: Mapping[str, float]) -> float:
    naive = [errors[name] for name in ("last_value", "mean") if name in errors]
    return 1 - errors["model"] / min(naive) if naive and "model" in errors else np.nan


def _answers(question: Question, values: pd.DataFrame, confidence: float) -> list[dict[str, Any]]:
    rows = []
    for group, ours in values.groupby("group", sort=False):
        one = ours[ours["generator"].isin(question.ours)].dropna(subset=question.measure)
        other = ours[ours["generator"].isin(question.theirs)].dropna(subset=question.measure)
        if one.empty or (question.theirs and other.empty):
            continue
        effects = one.groupby("seed")[question.measure].mean()
        if question.theirs:
            effects = effects - other.groupby("seed")[question.measure].mean()
        effects = effects.dropna()
        used = pd.concat([one, other])
        spread = float(used.groupby("signal")[question.measure].std(ddof=1).mean())
        low, high = _interval(effects.to_numpy(), confidence)
        effect = float(effects.mean())
        rows.append(
            {
                "question": question.name,
                "text": question.text,
                "measure": question.measure,
                "group": group,
                "effect": effect,
                "low": low,
                "high": high,
                "seed_sd": spread,
                "in_seed_sd": effect / spread if spread > 0 else np.nan,
                "n_seeds": len(effects),
                "n_series": used["signal"].nunique(),
                "answer": _in_words(low, high),
            }
        )
    return rows


def _interval(effects: np.ndarray, confidence: float) -> tuple[float, float]:
    """Student's interval of the mean; NaN for fewer than 3."""
    if len(effects) < 3:
        return np.nan, np.nan
    half = stats.t.ppf((1 + confidence) / 2, len(effects) - 1) * effects.std(ddof=1) / np.sqrt(len(effects))
    return float(effects.mean() - half), float(effects.mean() + half)


def _in_words(low: float, high: float) -> str:
    if not np.isfinite(low):
        return "too few seeds"
    if low > 0:
        return "more"
    return "less" if high < 0 else "no difference found"
