"""Which periods of a signal are tested: the true ones, else that of the input, else a grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from laglens.errors import LaglensError
from laglens.lags.inputs import estimate_period

SHORTEST, CYCLES = 4.5, 2.5  # tokens of the shortest period of the grid; cycles of the longest one in the history
GRID = 12
CERTAIN = 0.01  # p-value of Fisher's test below which the input has a period


def periods_to_test(
    signal: Mapping[str, Any], series: xr.DataArray, step: float, history: float
) -> tuple[list[float], str]:
    """Periods to test, longest first, and where they come from.

    ``truth``: the signal's known periods and planted lags. ``input``: the strongest period of the input, where Fisher's
    test finds one. ``grid``: 12 periods between 4.5 tokens and two fifths of the history, for a signal without any: the
    test covers them all at once.

    Parameters
    ----------
    signal
        Attributes of the signal.
    series
        What the model saw, ``(sample, time)``.
    step, history
        Input samples per token, and of the history.
    """
    truth = signal.get("truth", {})
    known = sorted({float(p) for p in (*truth.get("periods", ()), *truth.get("lags", ()))}, reverse=True)
    if known:
        return known, "truth"
    try:
        found = estimate_period(series)
    except LaglensError:  # a straight line has no period
        found = None
    if found is not None and found.fisher_p < CERTAIN and SHORTEST * step <= found.period <= history / CYCLES:
        return [found.period], "input"
    first, last = SHORTEST * step, history / CYCLES
    return (np.geomspace(last, first, GRID).tolist() if last > first else [last]), "grid"
