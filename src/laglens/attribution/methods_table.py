"""All explanations of a forecast beside each other, as tables for people; and over many runs, their ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import t as student

from laglens.attribution.agreement import spearman_pairs
from laglens.attribution.explanations import blocks
from laglens.attribution.lags import mean_and_sd
from laglens.lags.alike import stack_dataset

Array = NDArray[np.float64]
SCORES = ("truth_auc", "comprehensiveness", "sufficiency")
REPLACED = ["kind", "head", "forecast_change", "lower", "upper", "n_windows", "error_change"]
BETTER = {"truth_auc": 1, "comprehensiveness": 1, "sufficiency": -1}  # sign of what is better


def interval(values: Array, confidence: float) -> tuple[float, float, float, int]:
    """Mean over the finite values, its Student t interval, and their number; NaN where there are too few."""
    known = values[np.isfinite(values)]
    n = len(known)
    if n < 2:
        return float(known.mean()) if n else np.nan, np.nan, np.nan, n
    half = float(student.ppf((1 + confidence) / 2, n - 1) * known.std(ddof=1) / np.sqrt(n))
    return float(known.mean()), float(known.mean() - half), float(known.mean() + half), n


def agreement_of(explained: xr.Dataset, *, confidence: float = 0.95) -> pd.DataFrame:
    """Spearman correlation over blocks of history between every two explanations.

    Parameters
    ----------
    explained
        From `laglens.attribution.explanations.explanations`.
    confidence
        Of the Student t interval over windows, which depend on each other: it describes this series.

    Returns
    -------
    pd.DataFrame
        ``first``, ``second``; ``spearman`` with ``lower`` and ``upper`` over ``n_windows`` in which both vary, and
        ``mismatched``, the mean over pairs of different windows: agreement without regard to the input.
    """
    width = int(explained.attrs["occlusion_window"])
    values = blocks(explained["importance"].transpose("explanation", "sample", "time").values, width)
    names = [str(name) for name in explained["explanation"].values]
    every = spearman_pairs(values, values)  # (first, second, sample, sample)
    rows = []
    for i, first in enumerate(names):
        for j, second in enumerate(names[i + 1 :], start=i + 1):
            pairs = every[i, j]
            mean, lower, upper, n = interval(np.diagonal(pairs), confidence)
            different = np.where(np.eye(len(pairs), dtype=bool), np.nan, pairs).ravel()
            row: dict[str, Any] = {"first": first, "second": second, "spearman": mean, "lower": lower, "upper": upper}
            rows.append(row | {"mismatched": float(mean_and_sd(different[None])[0][0]), "n_windows": n})
    return pd.DataFrame(rows)


def methods_table(compared: xr.DataTree, *, confidence: float = 0.95) -> pd.DataFrame:
    """One row per explanation: how faithful it is, and how well it finds the known lags.

    Parameters
    ----------
    compared
        ``truth`` (see `laglens.attribution.truth.score_truth`) and, where it could be had, ``faithfulness`` (see
        `laglens.attribution.faithfulness.faithfulness`), such as from
        `laglens.attribution.comparison.compare_explanations`.

    Returns
    -------
    pd.DataFrame
        ``explanation``, ``step``; ``truth_auc``, ``comprehensiveness`` and ``sufficiency`` (areas over shares), each
        with ``_lower`` and ``_upper``, a Student t interval over at most ``n_windows``. ``random`` has the AUC of
        chance.
    """
    truth = stack_dataset(compared, "truth")
    faithful = stack_dataset(compared, "faithfulness") if "faithfulness" in compared.children else truth
    rows = []
    for name in faithful["explanation"].values:
        found = {
            "truth_auc": _of(truth, "truth_auc", name),
            "comprehensiveness": _of(faithful, "comprehensiveness_area", name),
            "sufficiency": _of(faithful, "sufficiency_area", name),
        }
        row: dict[str, Any] = {"explanation": name, "step": truth.attrs["step"], "n_windows": 0}
        for score, values in found.items():
            mean, lower, upper, n = interval(values, confidence)
            row |= {score: mean, f"{score}_lower": lower, f"{score}_upper": upper}
            row["n_windows"] = max(row["n_windows"], n)
        rows.append(row)
    table = pd.DataFrame(rows)
    chance = table["explanation"] == "random"
    if truth["truth_auc"].notnull().any():
        table.loc[chance, "truth_auc"] = 0.5
    return table


def rank_explanations(tables: Sequence[pd.DataFrame], *, confidence: float = 0.95) -> pd.DataFrame:
    """One table over many runs: which explanation finds the known lags, and which is faithful.

    Parameters
    ----------
    tables
        From `methods_table`, with the columns ``model`` and ``signal``.

    Returns
    -------
    pd.DataFrame
        One row per ``explanation``, best first: ``truth_auc``, ``comprehensiveness`` and ``sufficiency``, means over
        runs with Student t intervals, the ``_runs`` in which each is known, and its ``_rank``. Ordered by the rank of
        ``truth_auc``, then of ``comprehensiveness``.
    """
    table = pd.concat(tables, ignore_index=True)
    rows = []
    for name, runs in table.groupby("explanation", sort=True):
        row: dict[str, Any] = {"explanation": name}
        for score in SCORES:
            mean, lower, upper, n = interval(runs[score].to_numpy(float), confidence)
            row |= {score: mean, f"{score}_lower": lower, f"{score}_upper": upper, f"{score}_runs": n}
        rows.append(row)
    ranking = pd.DataFrame(rows)
    for score in SCORES:
        ranking[f"{score}_rank"] = (-BETTER[score] * ranking[score]).rank(method="min")
    return ranking.sort_values(["truth_auc_rank", "comprehensiveness_rank", "explanation"], ignore_index=True)


def replacement_table(compared: xr.DataTree, *, confidence: float = 0.95) -> pd.DataFrame:
    """What the forecast loses when attention is replaced: one row per kind, and per head alone.

    Parameters
    ----------
    compared
        With ``replaced`` (see `laglens.attribution.replacement.replace_attention`); without it no rows.

    Returns
    -------
    pd.DataFrame
        ``kind``, ``head`` (``all``, or the module and the number of one), ``forecast_change`` with ``lower`` and
        ``upper`` over ``n_windows``, ``error_change``; [standard deviations of the history].
    """
    if "replaced" not in compared.children:
        return pd.DataFrame(columns=REPLACED)
    replaced, rows = stack_dataset(compared, "replaced"), []
    for kind in replaced["kind"].values:
        change, error = (replaced[name].sel(kind=kind).values for name in ("forecast_change", "error_change"))
        rows.append([kind, "all", *interval(change, confidence), interval(error, confidence)[0]])
    for label in replaced["label"].values if "label" in replaced.coords else ():
        change = replaced["head_change"].sel(label=label).values
        rows.append([replaced.attrs["by_head"], label, *interval(change, confidence), np.nan])
    return pd.DataFrame(rows, columns=REPLACED)


def _of(found: xr.Dataset, name: str, explanation: str) -> Array:
    if name not in found or explanation not in found["explanation"].values:
        return np.full(1, np.nan)
    return found[name].sel(explanation=explanation).values
