"""Verdicts: whether a head follows a period of its input, against three kinds of control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.lags.alike import stack_dataset
from laglens.lags.contrasts import comb_contrasts
from laglens.lags.layout import MIN_PAIRS
from laglens.lags.measure import n_samples
from laglens.lags.permutation import passes
from laglens.lags.reach import forecasting_stacks
from laglens.lags.testability import testability
from laglens.lags.tracking import followed

Array = NDArray[np.float64]
SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE = "supported", "not supported", "not testable"
COLUMNS = {
    "stack": "object",
    "layer": "int64",
    "head": "int64",
    "part": "object",
    "period": "float64",
    "tokens": "float64",
    "testable": "object",
    "verdict": "object",
    "reason": "object",
    "contrast": "float64",
    "control_mean": "float64",
    "z": "float64",
    "p": "float64",
    "p_family": "float64",
    "q": "float64",
    "p_swap": "float64",
    "untrained": "float64",
    "n_windows": "int64",
    "n_controls": "int64",
    "n_untrained": "int64",
    "smallest_p": "float64",
    "smallest_p_swap": "float64",
    "selected": "bool",
    "p_selected": "float64",
    "apparent": "float64",
    "strongest_lag": "float64",
    "multiple": "int64",
    "at_period": "bool",
    "chance_at_period": "float64",
    "chance_at_multiple": "float64",
    "contrast_lower": "float64",
    "contrast_upper": "float64",
    "contrast_half": "float64",
    "contrast_double": "float64",
    "contrast_golden": "float64",
    "detected": "float64",
    "detected_lower": "float64",
    "detected_upper": "float64",
    "stretched_period": "float64",
    "stretched_lower": "float64",
    "stretched_upper": "float64",
    "stretched_error": "float64",
    "acf_correlation": "float64",
    "special_mass": "float64",
}
OF_HEAD = ("strongest_lag", "detected", "acf_correlation", "special_mass")
TESTED = ("contrast", "control_mean", "z", "p", "p_family", "q")


def untrained_contrasts(
    untrained_tree: xr.DataTree, periods: Sequence[float], *, min_pairs: int = MIN_PAIRS
) -> xr.DataArray:
    """Largest comb contrast of any head of each untrained model: -> (draw, period).

    Heads of random weights have no names, so a trained head is compared with the best of them.

    Parameters
    ----------
    untrained_tree
        Time maps of the signal through the same architecture with random weights; ``sample`` is the draw of weights,
        its maps averaged over windows.
    periods
        [input samples], all testable.
    """
    if not len(periods):  # as of a model in which nothing can be tested
        return xr.DataArray(np.empty((n_samples(untrained_tree), 0)), dims=("draw", "period"), name="contrast")
    largest = []
    for name, (part, layout) in forecasting_stacks(untrained_tree, min_pairs=min_pairs).items():
        node = stack_dataset(untrained_tree, name)
        found = comb_contrasts(node, layout, part, periods)
        largest.append(found.max(["layer", "head"]).values)
    coords = {"period": np.asarray(periods, float)}
    return xr.DataArray(np.max(largest, axis=0), dims=("draw", "period"), coords=coords, name="contrast")


def verdict_table(
    comb_tree: xr.DataTree,
    swap_tree: xr.DataTree,
    untrained: xr.DataArray,
    tracking: xr.DataTree | None = None,
    stretched: xr.DataTree | None = None,
    *,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One verdict for every head and period.

    ``supported``: the comb of the period stands out from noise with the signal's memory (`comb_test`, over all heads
    and periods), the head follows periods whatever they are (`swap_test`, over all heads), and no head of the same
    architecture with random weights has as much contrast. ``not supported``: one of these fails, and ``reason`` says
    which. ``not testable``: tokens or lags cannot show the period, or the model's forecast reads no row of attention.

    Parameters
    ----------
    comb_tree, swap_tree, untrained
        From `comb_test`, `swap_test` and `untrained_contrasts` of the same model.
    tracking
        From `track_periods` of the same model, for the chance levels.
    stretched
        From `laglens.lags.stretch.stretched_periods` of the same model and signal, for periods finer than a token.
    confidence
        1 minus the family-wise error rate of each of the two tests.

    Returns
    -------
    pd.DataFrame
        Supported heads first, by contrast; columns as in docs/lags.md.
    """
    rows = [
        of_head | of_period
        for name in comb_tree.children
        for of_head, i, j in _heads(name, comb_tree, swap_tree, tracking, stretched)
        for of_period in _periods(stack_dataset(comb_tree, name), i, j, of_head["p_swap"], untrained, confidence)
    ]
    empty = {column: 0 if kind == "int64" else False for column, kind in COLUMNS.items() if kind in ("int64", "bool")}
    table = pd.DataFrame([empty | row for row in rows], columns=list(COLUMNS)).astype(COLUMNS)
    order = {SUPPORTED: 0, NOT_SUPPORTED: 1, NOT_TESTABLE: 2}
    ranked = table.assign(rank=table["verdict"].map(order)).sort_values(
        ["rank", "contrast"], ascending=[True, False], kind="stable"
    )
    return ranked.drop(columns="rank").reset_index(drop=True)


def said_of_verdicts(table: pd.DataFrame) -> str:
    """How many verdicts of each kind there are, and the smallest p-values that the controls allow."""
    counts = table["verdict"].value_counts()
    words = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in (SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE))
    smallest = [table[column].min() for column in ("smallest_p", "smallest_p_swap")]
    return (
        f"{words}; the smallest p-value of the {int(table['n_controls'].max())} controls is {smallest[0]:.3g}, of the "
        f"period swap {smallest[1]:.3g}, and {int(table['n_untrained'].max())} draws of random weights were compared"
    )


def _heads(
    name: str,
    comb_tree: xr.DataTree,
    swap_tree: xr.DataTree,
    tracking: xr.DataTree | None,
    stretched: xr.DataTree | None,
) -> Iterator[tuple[dict[str, Any], int, int]]:
    """What is said of every head of a stack whatever the period, and its place."""
    node = stack_dataset(comb_tree, name)
    common = {key: node.attrs[key] for key in ("part", "n_windows", "n_controls", "smallest_p")}
    common |= {"stack": name, "smallest_p_swap": swap_tree.attrs.get("smallest_p", np.nan)}
    for i, j in np.ndindex(node.sizes["layer"], node.sizes["head"]):
        head = common | {"layer": int(node["layer"][i]), "head": int(node["head"][j])}
        head |= {key: float(node[key].values[i, j]) for key in OF_HEAD if key in node}
        if "detected_interval" in node:
            head |= _bounds("detected", node["detected_interval"].values[i, j])
        head |= followed(swap_tree, head)
        if tracking is not None and name in tracking.children:
            found = stack_dataset(tracking, name)
            head |= {key: float(found[key].values[i, j]) for key in ("chance_at_period", "chance_at_multiple")}
        if stretched is not None and name in stretched.children:
            found = stack_dataset(stretched, name)
            head |= {f"stretched_{key}": float(found[key].values[i, j]) for key in ("period", "error")}
            head |= _bounds("stretched", found["period_interval"].values[i, j])
        yield head, i, j


def _periods(
    node: xr.Dataset, i: int, j: int, p_swap: float, untrained: xr.DataArray, confidence: float
) -> Iterator[dict[str, Any]]:
    """The verdict on one head at every period."""
    step, draws = float(node.attrs["samples_per_token"]), {"n_untrained": untrained.sizes["draw"]}
    for period, reason in node.attrs["not_testable"].items():
        yield draws | _judged(float(period), step) | {"verdict": NOT_TESTABLE, "reason": reason}
    for k, period in enumerate(node["period"].values):
        numbers = {key: float(node[key].values[i, j, k]) for key in TESTED}
        best_untrained = float(untrained.sel(period=period).max())
        failed = _failed(numbers, p_swap, best_untrained, confidence)
        yield (
            draws
            | _judged(float(period), step)
            | numbers
            | _bounds("contrast", node["contrast_interval"].values[i, j, k])
            | dict(
                zip(("contrast_half", "contrast_double", "contrast_golden"), node["guard"].values[i, j, k], strict=True)
            )
            | {"multiple": int(node["multiple"].values[i, j, k]), "at_period": bool(node["at_period"].values[i, j, k])}
            | {"verdict": NOT_SUPPORTED if failed else SUPPORTED, "reason": "; ".join(failed)}
            | {"untrained": best_untrained}
        )


def _judged(period: float, step: float) -> dict[str, Any]:
    judged = testability(period, step)
    # Only what is aliased appears elsewhere.
    apparent = judged.apparent if judged.testable == "no" else judged.period
    return {"period": judged.period, "tokens": judged.tokens, "testable": judged.testable, "apparent": apparent}


def _bounds(name: str, interval: Array) -> dict[str, float]:
    return {f"{name}_lower": float(interval[0]), f"{name}_upper": float(interval[1])}


def _failed(numbers: dict[str, float], p_swap: float, untrained: float, confidence: float) -> list[str]:
    """Which of the three conditions a head misses, in words."""
    conditions = [
        (bool(passes(numbers["p_family"], confidence)), "noise with the same memory shows as much"),
        (np.isnan(p_swap) or bool(passes(p_swap, confidence)), "does not follow other periods"),
        (np.isfinite(p_swap), "tokens are too coarse to see whether it follows other periods"),
        (numbers["contrast"] > untrained, "random weights show as much"),
    ]
    return [words for holds, words in conditions if not holds]
