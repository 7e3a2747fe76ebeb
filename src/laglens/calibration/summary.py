"""Error rates and effects of a calibration, each with its interval. Numpy, pandas and scipy only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

Array = NDArray[np.float64]
LEVEL = 0.05
ROUNDING = 1e-9  # p-values are multiples of 1 / (n + 1)
RESAMPLES = 2000
PERIOD_BINS = (24.0, 32.0, 45.0, 60.0, 100.0)  # samples; bounds of the bins in which octaves are counted
COLUMNS = ("model", "weights", "quantity", "kind", "heads", "value", "lower", "upper", "n", "chance")
Row = dict[str, Any]


def rate(hits: Sequence[bool] | NDArray[np.bool_], confidence: float = 0.95) -> tuple[float, float, float]:
    """Share of hits with its Clopper-Pearson interval."""
    hits = np.asarray(hits, bool)
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(confidence)
    return float(hits.mean()), float(interval.low), float(interval.high)


def resampled(
    statistic: Callable[[Array], Array], values: Array, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic over rows with its percentile bootstrap interval.

    Parameters
    ----------
    statistic
        ``(..., row, column) -> (...)``.
    values
        ``(row, column)``; rows are drawn again together.
    """
    rng = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have no spread, or nothing to divide by
        found = statistic(values)
        drawn = statistic(values[rng.integers(0, len(values), (RESAMPLES, len(values)))])
        lower, upper = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(found), float(lower), float(upper)


def summarise_calibration(
    tables: Mapping[str, Mapping[str, pd.DataFrame]], *, confidence: float = 0.95
) -> pd.DataFrame:
    """One row per model, weights, quantity, kind of series and set of heads: value, interval, number of series.

    Parameters
    ----------
    tables
        By model the tables of the parts ``noise``, ``waves``, ``knock_out``, one row per series.
    confidence
        Of the intervals: Clopper-Pearson for rates, percentile bootstrap over series for everything else.

    Returns
    -------
    pd.DataFrame
        ``chance``: the same lags scored against the periods of other series.
    """
    parts = {"noise": _noise_rows, "waves": _wave_rows, "knock_out": _knock_out_rows}
    rows = [
        {"model": model, "weights": weights} | row
        for model, of_model in tables.items()
        for part, table in of_model.items()
        for weights, group in table.groupby("weights", sort=False)
        for row in parts[part](group, confidence)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(
    quantity: str, kind: Hashable, heads: Hashable, found: tuple[float, float, float], n: int, chance: float = np.nan
) -> Row:
    value, lower, upper = found
    names = {"quantity": quantity, "kind": kind, "heads": heads}
    return names | {"value": value, "lower": lower, "upper": upper, "n": n, "chance": chance}


def _noise_rows(table: pd.DataFrame, confidence: float) -> Iterator[Row]:
    for heads, of_heads in table.groupby("heads", sort=False):
        groups = [*of_heads.groupby("kind", sort=False), ("every noise", of_heads)]
        for kind, group in groups:
            alarms = (group["p"] <= LEVEL + ROUNDING).to_numpy()
            yield _row("false alarms", str(kind), str(heads), rate(alarms, confidence), len(group))


def _wave_rows(table: pd.DataFrame, confidence: float) -> Iterator[Row]:
    for (kind, heads), group in table.groupby(["kind", "heads"], sort=False):
        n, significant = len(group), (group["p"] <= LEVEL + ROUNDING).to_numpy()
        yield _row("detected", kind, heads, rate(significant, confidence), n)
        for place, words in {"multiple": "in kP", "period": "at P"}.items():
            at, chance = group[f"lag_at_{place}"].astype(bool).to_numpy(), float(group[f"chance_at_{place}"].mean())
            yield _row(f"detected {words}", kind, heads, rate(significant & at, confidence), n, chance)
            yield _row(f"top lag {words}", kind, heads, rate(at, confidence), n, chance)
        binned = pd.cut(group["period"], PERIOD_BINS, right=False)
        for between, part in group.groupby(binned, observed=True):
            at = part["lag_at_period"].astype(bool).to_numpy()
            chance = float(part["chance_at_period"].mean())
            name = f"top lag at P, {between.left:g}-{between.right:g}"
            yield _row(name, kind, heads, rate(at, confidence), len(part), chance)
        yield from _period_rows(group, str(kind), str(heads), confidence)


def _period_rows(group: pd.DataFrame, kind: str, heads: str, confidence: float) -> Iterator[Row]:
    """Errors of the detected period: as it is, and after dividing by the multiple that it found."""
    known = group.dropna(subset=["detected"])
    if not len(known):
        return
    detected, period = known["detected"].to_numpy(), known["period"].to_numpy()
    multiple = np.maximum(1, np.round(detected / period))
    for name, error in {
        "period error": np.abs(detected - period),
        "period error, folded": np.abs(detected / multiple - period),
    }.items():
        found = resampled(lambda x: np.median(x[..., 0], axis=-1), error[:, None], confidence=confidence)
        yield _row(name, kind, heads, found, len(known))
    yield _row("period at a multiple", kind, heads, rate(multiple > 1, confidence), len(known))


def _knock_out_rows(table: pd.DataFrame, confidence: float) -> Iterator[Row]:
    statistics: dict[str, Callable[[Array], Array]] = {
        "effect": lambda x: x[..., 0].mean(-1),
        "controls": lambda x: x[..., 1].mean(-1),
        "effect - controls": lambda x: (x[..., 0] - x[..., 1]).mean(-1),
        "effect / controls": lambda x: x[..., 0].mean(-1) / x[..., 1].mean(-1),
        "share of the error": lambda x: x[..., 0].mean(-1) / x[..., 2].mean(-1),
        "size": lambda x: (x[..., 0] - x[..., 1]).mean(-1) / (x[..., 0] - x[..., 1]).std(-1),
    }
    for kind, group in table.groupby("kind", sort=False):
        n = len(group)
        for cut in ("comb", "band"):
            values = group[[cut, f"{cut}_control", "error"]].to_numpy(float)
            for name, statistic in statistics.items():
                yield _row(f"{cut} {name}", str(kind), "all", resampled(statistic, values, confidence=confidence), n)
            yield _row(f"{cut} win", str(kind), "all", rate(values[:, 0] > values[:, 1], confidence), n)
        if group["curve_lag"].notna().any() if "curve_lag" in group else False:
            chance = float(group["curve_chance"].mean())
            for place, words in {"multiple": "in kP", "period": "at P"}.items():
                at = group[f"curve_at_{place}"].astype(bool).to_numpy()
                chance_at = chance if place == "multiple" else np.nan
                yield _row(f"causal curve {words}", str(kind), "all", rate(at, confidence), n, chance_at)
