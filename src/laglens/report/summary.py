"""The verdicts of a study in one table: what was asked of each model and signal, the answer, and its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from laglens.errors import LaglensError
from laglens.lags.units import in_time
from laglens.lags.verdicts import NOT_SUPPORTED, NOT_TESTABLE, SUPPORTED

FOLLOW, NEED = "heads follow the period", "the forecast needs the period"
SHOW = "series show a lag"
COLUMNS = {
    "model": "object",
    "signal": "object",
    "question": "object",
    "period": "float64",
    "period_time": "float64",
    "time_unit": "object",
    "period_of": "object",
    "verdict": "object",
    "number": "float64",
    "lower": "float64",
    "upper": "float64",
    "unit": "object",
    "head": "object",
    "p": "float64",
    "reason": "object",
}
MATTERS = {"yes": SUPPORTED, "no": NOT_SUPPORTED, NOT_TESTABLE: NOT_TESTABLE}
LOSS = {
    "error_change": "sd of the history: error added, beyond control cuts",
    "forecast_change": "sd of the history: forecast moved, beyond control cuts",
}


@dataclass(frozen=True)
class Asked:
    """The tables of one run that hold verdicts.

    Attributes
    ----------
    model, signal
        Names.
    attrs
        Attributes of the signal: ``time_step`` and ``time_unit``.
    verdicts
        From `laglens.lags.verdicts.verdict_table` with ``period_of``; None for a model that does not forecast.
    cuts
        The knock-out table; None for a model that does not forecast.
    series
        From `laglens.lags.series.series_table`; None where the signal is no panel.
    """

    model: str
    signal: str
    attrs: Mapping[str, Any]
    verdicts: pd.DataFrame | None = None
    cuts: pd.DataFrame | None = None
    series: pd.DataFrame | None = None


def summary_table(runs: Iterable[Asked]) -> pd.DataFrame:
    """Every question that the study answers, one row each.

    ``heads follow the period``: ``supported`` where at least one head is; ``number`` counts these heads. Periods of a
    grid, tried because the signal has none, are one question. ``the forecast needs the period``: ``number`` is what
    cutting all its multiples costs beyond control cuts, with its interval. ``series show a lag``, of a panel:
    ``supported`` where at least one does that noise like it does not; ``number`` counts these series, and ``period``
    is the lag that most of them show.

    Parameters
    ----------
    runs
        In the order in which the table lists them.

    Returns
    -------
    pd.DataFrame
        ``period`` [input samples], ``period_time`` [``time_unit``], ``verdict``, ``number`` with ``lower``, ``upper``
        and ``unit``, ``head`` (the strongest), its family-wise ``p``, ``reason`` where the verdict is not supported.

    Raises
    ------
    LaglensError
        There is no run.
    """
    rows = [row for run in runs for row in _rows(run)]
    if not rows:
        raise LaglensError("no run to summarise: the study has none")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _rows(run: Asked) -> Iterator[dict[str, Any]]:
    common = {"model": run.model, "signal": run.signal}
    if run.verdicts is None:
        reason = "the model does not forecast here, so its lags have no verdict"
        yield common | {"question": FOLLOW, "verdict": NOT_TESTABLE, "reason": reason}
        return
    for row in [*_follow(run.verdicts), *_need(run.cuts), *_show(run.series)]:
        times = in_time(row.get("period", np.nan), run.attrs)
        yield common | row | {"period_time": times["lag_time"], "time_unit": times["time_unit"]}


def _follow(verdicts: pd.DataFrame) -> Iterator[dict[str, Any]]:
    grid = verdicts["period_of"] == "grid"
    for period, judged in verdicts[~grid].groupby("period", sort=False):
        yield {"period": period, "period_of": judged["period_of"].iloc[0]} | _answer(judged)
    if grid.any():
        yield {"period": np.nan, "period_of": "grid"} | _answer(verdicts[grid])


def _answer(judged: pd.DataFrame) -> dict[str, Any]:
    """One answer from the verdicts of all heads."""
    heads = ["stack", "layer", "head"]
    found = judged[judged["verdict"] == SUPPORTED]
    tested = judged[judged["verdict"] != NOT_TESTABLE]
    total = len(judged[heads].drop_duplicates())
    answer = {"question": FOLLOW, "number": float(len(found[heads].drop_duplicates())), "unit": f"of {total} heads"}
    if tested.empty:
        return answer | {"number": np.nan, "verdict": NOT_TESTABLE, "reason": judged["reason"].iloc[0]}
    # Among heads that fail, the one nearest to passing says why.
    best = found.iloc[found["contrast"].argmax()] if len(found) else tested.sort_values(["p_family", "p"]).iloc[0]
    verdict = SUPPORTED if len(found) else NOT_SUPPORTED
    head = f"{best['stack']} L{best['layer']:02d} H{best['head']:02d}"
    return answer | {
        "verdict": verdict,
        "head": head,
        "p": best["p_family"],
        "reason": "" if len(found) else best["reason"],
    }


def _need(cuts: pd.DataFrame | None) -> Iterator[dict[str, Any]]:
    if cuts is None:
        return
    combs = cuts[(cuts["cut"] == "comb") | (cuts["matters"] == NOT_TESTABLE)]
    for period, rows in combs.groupby("period", sort=False):
        by_measure = {row["measure"]: row for row in rows.to_dict("records")}
        known = [name for name in LOSS if name in by_measure and np.isfinite(by_measure[name]["effect"])]
        row = by_measure[known[0]] if known else next(iter(by_measure.values()))
        answer = {"question": NEED, "period": period, "verdict": MATTERS[row["matters"]]}
        if not known:
            yield answer | {"reason": row["reason"]}
            continue
        number = row["effect"] - row["control"]
        interval = {"number": number, "lower": row["lower"], "upper": row["upper"], "unit": LOSS[known[0]]}
        reason = "" if row["matters"] == "yes" else "cutting it costs too little, or no more than other lags"
        yield answer | interval | {"head": row["head"], "reason": reason}


def _show(series: pd.DataFrame | None) -> Iterator[dict[str, Any]]:
    if series is None:
        return
    above = series[series["above"]]
    answer = {"question": SHOW, "number": float(len(above)), "unit": f"of {len(series)} series"}
    reasons = series["reason"].fillna("")
    if reasons.all():
        yield answer | {"number": np.nan, "verdict": NOT_TESTABLE, "reason": reasons.iloc[0]}
    elif above.empty:
        reason = f"noise like them shows as much: the smallest q is {series['q'].min():.2g}"
        yield answer | {"verdict": NOT_SUPPORTED, "reason": reason}
    else:
        lag = float(above["lag"].mode().iloc[0])
        yield answer | {"verdict": SUPPORTED, "period": lag, "period_of": "series"}
