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

from laglens.heads.seeds import over_seeds

READING = ("horizon->history", "readout->history")  # parts that forecast
TRAINED, UNTRAINED = "trained", "untrained"
EARLY, LATE = 8.0, 32.0  # samples since an event: up to, from
MEASURES = {
    "gini_first": "Gini coefficient, first encoder layer",
    "entropy_first": "entropy / uniform, first encoder layer",
    "gini_forecast": "Gini coefficient of the rows that forecast",
    "distance_forecast": "mean distance of the rows that forecast / uniform",
    "top_lag_first": "strongest lag, first encoder layer",
    "top_lag_forecast": "strongest lag of the rows that forecast",
    "excess": "attention to events - matched, rows that forecast, 1 = uniform",
    "excess_early": f"the same, up to {EARLY:g} samples after an event",
    "excess_late": f"the same, from {LATE:g} samples after it",
    "skill": "1 - error / error of the better of last value and mean",
}


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
        ``epochs``, ``best_epoch``, ``plateau`` (stopped before the most epochs allowed), ``validation_loss``, and
        ``gain``, how much lower that is than with random weights, as a share (NaN without untrained models).
    """
    values = pd.DataFrame([_values(result) for result in results])
    random = values[values["group"] == UNTRAINED].groupby("signal")["validation_loss"].mean()
    gain = 1 - values["validation_loss"] / values["signal"].map(random)
    return values.assign(gain=gain.where(values["group"] == TRAINED))


def converged(values: pd.DataFrame) -> pd.DataFrame:
    """The rows that may be compared: untrained models, and trainings that reached their plateau.

    All trainings stop by one rule, at their lowest validation loss after as many epochs without a lower one as the
    config says, and are read at that epoch. Series differ in how low it lies and in how soon it comes, which is theirs;
    a training that was cut off by its most epochs differs for another reason.
    """
    return values[(values["group"] != TRAINED) | values["plateau"]]


def event_responses(results: Sequence[Trained], *, confidence: float = 0.95) -> pd.DataFrame:
    """Attention to events as a function of the time since them, over seeds: mean over heads of the rows that forecast.

    Returns
    -------
    pd.DataFrame
        One row per group, series, kind of event and time since it (``since_from`` up to ``since_to``, NaN: all
        together): ``excess``, mean over seeds, with its Student t interval over seeds ``low`` to ``high`` (NaN for
        fewer than 3); ``events_low`` and ``events_high``, the ends of the bootstrap intervals over events, means over
        heads and seeds; ``n_seeds``, ``n_events``. Trainings without plateau are left out (see `converged`).
    """
    used = converged(distribution_values(results)).index
    keys = ["group", "signal", "event", "since_from", "since_to"]
    rows = []
    for number in used:
        one = results[number]
        if one.events is None or not len(one.events):
            continue
        means = _reading(one.events).groupby(keys[2:], dropna=False)[["excess", "low", "high", "n_events"]].mean()
        rows.append(means.reset_index().assign(group=one.group, signal=one.signal, seed=one.seed))
    columns = [*keys, "excess", "low", "high", "events_low", "events_high", "n_seeds", "n_events"]
    if not rows:
        return pd.DataFrame(columns=columns)
    found = []
    for key, ours in pd.concat(rows).groupby(keys, dropna=False, sort=False):
        low, high = over_seeds(ours["excess"].dropna().to_numpy(), confidence)
        within = {"events_low": ours["low"].mean(), "events_high": ours["high"].mean()}
        sizes = {"n_seeds": int(ours["excess"].count()), "n_events": round(ours["n_events"].mean())}
        found.append(
            dict(zip(keys, key, strict=True))
            | {"excess": ours["excess"].mean(), "low": low, "high": high}
            | within
            | sizes
        )
    order = ["group", "signal", "event", "since_from"]
    return pd.DataFrame(found, columns=columns).sort_values(order, kind="stable", ignore_index=True)


def seed_spread(values: pd.DataFrame) -> pd.DataFrame:
    """Whether series differ more than trainings do: a one-way analysis of variance for every measure and group.

    Trainings without plateau are left out (see `converged`).

    Returns
    -------
    pd.DataFrame
        ``group``, ``measure``, ``f``, ``p`` (not corrected for the number of measures), ``n_series``, ``n_seeds``.
    """
    rows = []
    for group, ours in converged(values).groupby("group", sort=False):
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
        "top_lag_first": float(first["top_lag"].mean()),
        "top_lag_forecast": float(reading["top_lag"].mean()),
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
