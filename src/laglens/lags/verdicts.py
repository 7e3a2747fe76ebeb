"""Verdicts: whether a head follows a period of its input, against three kinds of control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.lags.alike import stack_dataset
from laglens.lags.comb_tests import comb_contrasts, forecasting_stacks
from laglens.lags.layout import MIN_PAIRS
from laglens.lags.testability import testability

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
}


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
    largest = []
    for name, (part, layout) in forecasting_stacks(untrained_tree, min_pairs=min_pairs).items():
        node = stack_dataset(untrained_tree, name)
        found = comb_contrasts(node, layout, part, periods)
        largest.append(found.max(["layer", "head"]).values)
    coords = {"period": np.asarray(periods, float)}
    return xr.DataArray(np.max(largest, axis=0), dims=("draw", "period"), coords=coords, name="contrast")


def verdict_table(
    comb_tree: xr.DataTree, swap_tree: xr.DataTree, untrained: xr.DataArray, *, confidence: float = 0.95
) -> pd.DataFrame:
    """One verdict for every head and period.

    ``supported``: the comb of the period stands out from noise with the signal's memory (`comb_test`, over all heads
    and periods), the head follows periods whatever they are (`swap_test`, over all heads), and no head of the same
    architecture with random weights has as much contrast. ``not supported``: one of these fails, and ``reason`` says
    which. ``not testable``: tokens or lags cannot show the period.

    Parameters
    ----------
    comb_tree, swap_tree, untrained
        From `comb_test`, `swap_test` and `untrained_contrasts` of the same model.
    confidence
        1 minus the family-wise error rate of each of the two tests.

    Returns
    -------
    pd.DataFrame
        Supported heads first, by contrast; columns as in docs/lags.md.
    """
    rows = [row for name in comb_tree.children for row in _rows(name, comb_tree, swap_tree, untrained, 1 - confidence)]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    order = {SUPPORTED: 0, NOT_SUPPORTED: 1, NOT_TESTABLE: 2}
    ranked = table.assign(rank=table["verdict"].map(order)).sort_values(
        ["rank", "contrast"], ascending=[True, False], kind="stable"
    )
    return ranked.drop(columns="rank").reset_index(drop=True)


def _rows(
    name: str, comb_tree: xr.DataTree, swap_tree: xr.DataTree, untrained: xr.DataArray, alpha: float
) -> Iterator[dict[str, Any]]:
    node = stack_dataset(comb_tree, name)
    # Of a model whose tokens are too coarse for two periods no head was tested.
    swap = stack_dataset(swap_tree, name) if name in swap_tree.children else None
    attrs, step = node.attrs, float(node.attrs["samples_per_token"])
    common = {"stack": name, "part": attrs["part"], "n_windows": attrs["n_windows"], "n_controls": attrs["n_controls"]}
    common |= {"n_untrained": untrained.sizes["draw"]}
    for i, j in np.ndindex(node.sizes["layer"], node.sizes["head"]):
        head = common | {"layer": int(node["layer"][i]), "head": int(node["head"][j])}
        p_swap = np.nan if swap is None else float(swap["p_family"].values[i, j])
        for period, reason in attrs["not_testable"].items():
            judged = testability(float(period), step)
            of_period = {"period": judged.period, "tokens": judged.tokens, "testable": judged.testable}
            yield head | of_period | {"verdict": NOT_TESTABLE, "reason": reason, "p_swap": p_swap}
        for k, period in enumerate(node["period"].values):
            numbers = {
                key: float(node[key].values[i, j, k]) for key in ("contrast", "control_mean", "z", "p", "p_family", "q")
            }
            best_untrained = float(untrained.sel(period=period).max())
            judged = testability(float(period), step)
            failed = _failed(numbers, p_swap, best_untrained, alpha)
            yield (
                head
                | numbers
                | {
                    "period": judged.period,
                    "tokens": judged.tokens,
                    "testable": judged.testable,
                    "verdict": NOT_SUPPORTED if failed else SUPPORTED,
                    "reason": "; ".join(failed),
                    "p_swap": p_swap,
                    "untrained": best_untrained,
                }
            )


def _failed(numbers: dict[str, float], p_swap: float, untrained: float, alpha: float) -> list[str]:
    """Which of the three conditions a head misses, in words."""
    conditions = [
        (numbers["p_family"] <= alpha, "noise with the same memory shows as much"),
        (not p_swap > alpha, "does not follow other periods"),
        (np.isfinite(p_swap), "tokens are too coarse to see whether it follows other periods"),
        (numbers["contrast"] > untrained, "random weights show as much"),
    ]
    return [words for holds, words in conditions if not holds]
