"""All figures of what the attention of one run amounts to: its verdicts, and what the forecast loses without it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from laglens.figures.knock_out import draw_knock_out
from laglens.figures.verdicts import draw_verdicts


def draw_evidence(
    verdicts: pd.DataFrame,
    effects: xr.DataTree,
    effects_table: pd.DataFrame,
    *,
    confidence: float = 0.95,
    title: str = "",
    subtitle: str = "",
) -> dict[str, Figure]:
    """Draw the verdict table and the knock-outs of one model on one signal.

    Parameters
    ----------
    verdicts
        From `laglens.lags.verdicts.verdict_table`.
    effects, effects_table
        From `laglens.attribution.causal.measure_knock_outs` and `knock_out_table`.
    confidence
        Of tests and intervals.
    title, subtitle
        What was drawn: signal and model.

    Returns
    -------
    dict
        ``verdicts``, ``knock_out``; see `laglens.figures.style.render` for their bytes.

    Raises
    ------
    LaglensError
        A table or tree lacks something.
    """
    words: dict[str, Any] = {"confidence": confidence, "title": title, "subtitle": subtitle}
    return {
        "verdicts": draw_verdicts(verdicts, effects.attrs.get("signal", {}), **words),
        "knock_out": draw_knock_out(effects, effects_table, **words),
    }
