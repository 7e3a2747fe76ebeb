"""All figures of what the attention of one run amounts to: verdicts, knock-outs, attribution, forecasts."""

from __future__ import annotations

from typing import Any

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from laglens.figures.agreement import draw_agreement
from laglens.figures.density import draw_density
from laglens.figures.explanations import draw_explanations
from laglens.figures.forecasts import draw_forecasts
from laglens.figures.knock_out import draw_knock_out
from laglens.figures.verdicts import draw_verdicts


def draw_evidence(
    verdicts: pd.DataFrame,
    effects: xr.DataTree,
    effects_table: pd.DataFrame,
    agreement: xr.DataTree,
    time_tree: xr.DataTree,
    *,
    compared: xr.DataTree | None = None,
    window: int = 0,
    confidence: float = 0.95,
    title: str = "",
    subtitle: str = "",
) -> dict[str, Figure]:
    """Draw verdicts, knock-outs, attention against attribution, and the worst and best forecasts of one run.

    Parameters
    ----------
    verdicts
        From `laglens.lags.verdicts.verdict_table`.
    effects, effects_table
        From `laglens.attribution.causal.measure_knock_outs` and `knock_out_table`.
    agreement
        From `laglens.attribution.agreement.agree_with_attention`.
    time_tree
        Maps in time, with series and forecasts.
    compared
        From `laglens.attribution.comparison.compare_explanations`; without it that figure is left out.
    window
        Which window the explanations are drawn of.
    confidence
        Of tests and intervals.
    title, subtitle
        What was drawn: signal and model.

    Returns
    -------
    dict
        ``verdicts``, ``knock_out``, ``agreement``, ``density``, ``forecasts``, ``explanations``; see
        `laglens.figures.style.render` for their bytes.

    Raises
    ------
    LaglensError
        A table or tree lacks something.
    """
    words: dict[str, Any] = {"title": title, "subtitle": subtitle}
    figures = {
        "verdicts": draw_verdicts(verdicts, effects.attrs.get("signal", {}), confidence=confidence, **words),
        "knock_out": draw_knock_out(effects, effects_table, confidence=confidence, **words),
        "agreement": draw_agreement(agreement, **words),
        "density": draw_density(agreement, time_tree, **words),
        "forecasts": draw_forecasts(time_tree, agreement, **words),
    }
    if compared is not None:
        figures["explanations"] = draw_explanations(compared, time_tree, window=window, **words)
    return figures
