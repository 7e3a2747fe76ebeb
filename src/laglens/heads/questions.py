"""The questions that are asked of the attention of forecasters to kinds of series, and their answers over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from laglens.errors import LaglensError
from laglens.heads.distributions import converged
from laglens.heads.seeds import FEWEST_SEEDS, over_seeds

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


def answer_questions(values: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """One row per question, variant of the series and group of models: an effect and its interval over seeds.

    Trainings that did not reach their plateau are left out (see `laglens.heads.distributions.converged`). Per seed the
    effect is the mean over the series of the one kind minus that of the other, or minus 0. The interval is Student's
    over seeds, so it holds for these series and other trainings. Questions whose series are not in the study are left
    out.

    Parameters
    ----------
    values
        From `laglens.heads.distributions.distribution_values`.
    confidence
        Of the interval.

    Returns
    -------
    pd.DataFrame
        ``question``, ``text``, ``measure``, ``variant`` of the generators, ``group``, ``effect``, ``low``, ``high``
        (NaN for fewer than 3 seeds, or seeds that do not differ), ``seed_sd``: standard deviation over seeds of one
        series, mean over series, ``in_seed_sd``: effect over it, ``n_seeds``, ``n_series``, ``n_left_out`` (trainings
        of these series without plateau); ``best_epoch`` and ``gain`` (see
        `laglens.heads.distributions.distribution_values`), means over the series of the one kind, and of the other,
        ``other_best_epoch`` and ``other_gain``; ``answer``.

    Raises
    ------
    LaglensError
        No question can be answered with these series.
    """
    variants = values.groupby("variant", sort=False)
    rows = [row for question in QUESTIONS for _, ours in variants for row in _answers(question, ours, confidence)]
    if not rows:
        raise LaglensError("none of the questions is about these series; docs/heads.md lists what each one needs")
    return pd.DataFrame(rows)


def _answers(question: Question, values: pd.DataFrame, confidence: float) -> list[dict[str, Any]]:
    rows = []
    asked = values[values["generator"].isin((*question.ours, *question.theirs))]
    for group, every in asked.groupby("group", sort=False):
        ours = converged(every)
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
        low, high = over_seeds(effects.to_numpy(), confidence)
        effect = float(effects.mean())
        rows.append(
            {
                "question": question.name,
                "text": question.text,
                "measure": question.measure,
                "variant": every["variant"].iloc[0],
                "group": group,
                "effect": effect,
                "low": low,
                "high": high,
                "seed_sd": spread,
                "in_seed_sd": effect / spread if spread > 0 else np.nan,
                "n_seeds": len(effects),
                "n_series": used["signal"].nunique(),
                "n_left_out": len(every) - len(ours),
                "best_epoch": float(one["best_epoch"].mean()),
                "other_best_epoch": float(other["best_epoch"].mean()),
                "gain": float(one["gain"].mean()),
                "other_gain": float(other["gain"].mean()),
                "answer": _in_words(low, high, len(effects)),
            }
        )
    return rows


def _in_words(low: float, high: float, seeds: int) -> str:
    if not np.isfinite(low):
        return "too few seeds" if seeds < FEWEST_SEEDS else "seeds do not differ"
    if low > 0:
        return "more"
    return "less" if high < 0 else "no difference found"
