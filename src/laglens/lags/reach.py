"""What can be asked of a model: which stacks read the history for the forecast, and which periods their lags reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.combs import FEWEST, TOO_FEW, comb_weights
from laglens.lags.layout import MIN_PAIRS, Layout
from laglens.lags.measure import layouts
from laglens.lags.testability import testability

Array = NDArray[np.float64]
HEADLINES = ("horizon->history", "readout->history")
NOT_READING = "no row of its attention in time is read for the forecast"


def headline(layout: Layout) -> str | None:
    """The part of a stack in which the forecast reads the history; None where it does not."""
    return next((part for part in HEADLINES if part in layout.windows), None)


def forecasting_stacks(time_tree: xr.DataTree, **options: Any) -> dict[str, tuple[str, Layout]]:
    """Headline part and layout of every stack that reads the history for the forecast.

    Raises
    ------
    LaglensError
        No stack does.
    """
    found, left_out = sort_stacks(time_tree, **options)
    if not found:
        raise LaglensError(said_of_none(left_out))
    return found


def sort_stacks(time_tree: xr.DataTree, **options: Any) -> tuple[dict[str, tuple[str, Layout]], dict[str, str]]:
    """As `forecasting_stacks`, which may be none here, and why each of the others is left out."""
    try:
        laid_out, left_out = layouts(time_tree, **options)
    except LaglensError as error:
        return {}, dict.fromkeys(time_tree.children, str(error))
    parts = {name: (headline(layout), layout) for name, layout in laid_out.items()}
    found = {name: (part, layout) for name, (part, layout) in parts.items() if part is not None}
    return found, left_out | {name: NOT_READING for name in laid_out if name not in found}


def said_of_none(left_out: dict[str, str]) -> str:
    """Why no head of a model can follow its period, in one line."""
    reasons = "; ".join(f"stack '{name}': {reason}" for name, reason in left_out.items()) or "it has no stack"
    return f"no attention stack reads the history for the forecast, so no head can follow its period ({reasons})"


def periods_in_reach(periods: Sequence[float], layout: Layout, part: str) -> dict[float, str]:
    """Why each period cannot be tested on the lags of a part; empty text where it can."""
    lag = layout.lag_samples[layout.measured(part)]
    lag = lag[lag > 0]
    reasons = {}
    for period in periods:
        judged = testability(period, layout.table.step)
        reasons[float(period)] = str(judged) if judged.testable == "no" else ""
        if len(lag) < FEWEST:
            reasons[float(period)] = TOO_FEW.format(len(lag))
        if not reasons[float(period)]:
            try:
                comb_weights(lag, period)
            except LaglensError as error:
                reasons[float(period)] = str(error)
    return reasons


def within_reach(probe_tree: xr.DataTree, *, min_pairs: int = MIN_PAIRS) -> xr.DataTree:
    """The inputs of a probe whose period the lags of every stack can show.

    Where these are fewer than two periods, or no stack reads the history for the forecast, a tree without stacks; its
    attribute ``left_out`` says why.

    Raises
    ------
    LaglensError
        The probe has no true periods.
    """
    if "left_out" in probe_tree.attrs:
        return probe_tree
    root = probe_tree.to_dataset()
    if "true_period" not in root.coords:
        raise LaglensError("the probe has no 'true_period (sample)'; make it with laglens.make_swap_probe")
    true = root["true_period"].values
    periods = np.unique(true).tolist()
    stacks, left_out = sort_stacks(probe_tree, min_pairs=min_pairs)
    if not stacks:
        return _nothing(probe_tree, said_of_none(left_out))
    refused: dict[float, str] = {}
    for part, layout in stacks.values():
        refused |= {period: why for period, why in periods_in_reach(periods, layout, part).items() if why}
    if len(periods) - len(refused) < 2:
        return _nothing(probe_tree, "; ".join(refused.values()))
    return probe_tree.isel(sample=np.flatnonzero(~np.isin(true, list(refused))))


def _nothing(probe_tree: xr.DataTree, reason: str) -> xr.DataTree:
    return xr.DataTree(xr.Dataset(attrs=probe_tree.attrs | {"left_out": reason}))
