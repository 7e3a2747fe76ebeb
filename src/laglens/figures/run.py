"""All figures of one run: one model on one signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from laglens.errors import LaglensError
from laglens.figures.arcs import draw_arcs
from laglens.figures.flow import draw_flow
from laglens.figures.head_sheet import draw_head_sheet
from laglens.figures.lag_strip import draw_lag_strip
from laglens.figures.mosaic import draw_mosaic
from laglens.figures.settings import FigureSettings
from laglens.figures.similarity import draw_similarity
from laglens.figures.style import explain, look
from laglens.flow.layers import Mixing
from laglens.flow.trace import trace_back


def draw_run(
    time_tree: xr.DataTree,
    lags_tree: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    flow: xr.Dataset | None = None,
    similarity: xr.DataTree | None = None,
    curves: xr.Dataset | None = None,
    title: str = "",
    subtitle: str = "",
) -> dict[str, Figure]:
    """Draw all heads by lag, the maps of all heads, the strongest heads in detail, and the flow through all layers.

    Parameters
    ----------
    time_tree, lags_tree
        Maps in time and lag profiles of the run.
    settings
        The ``figures`` section of the config.
    flow
        From `laglens.flow.rollout.roll_out`; without it that figure and the arcs are left out.
    similarity
        From `laglens.heads.similarity.compare_heads`; likewise.
    curves
        From `laglens.lags.inputs.input_curves`, for the head sheet.
    title, subtitle
        What was drawn: signal and model.

    Returns
    -------
    dict
        ``lag_strip``, ``mosaic``, ``head_sheet``, ``flow``, ``arcs``, ``similarity``; see
        `laglens.figures.style.render` for their bytes.

    Raises
    ------
    LaglensError
        A tree lacks something, or a head, part or window asked for does not exist.
    """
    settings = FigureSettings.parse(settings)
    figures = {
        "lag_strip": draw_lag_strip(lags_tree, settings, title=title, subtitle=subtitle),
        "mosaic": draw_mosaic(time_tree, lags_tree, settings, title=title, subtitle=subtitle),
        "head_sheet": draw_head_sheet(time_tree, lags_tree, settings, curves=curves, title=title, subtitle=subtitle),
    }
    if flow is not None:
        figures["flow"] = draw_flow(flow, time_tree, settings, title=title, subtitle=subtitle)
        figures["arcs"] = _arcs(flow, time_tree, settings, title, subtitle)
    if similarity is not None:
        figures["similarity"] = draw_similarity(similarity, part=settings.part, title=title, subtitle=subtitle)
    return figures


def _arcs(flow: xr.Dataset, time_tree: xr.DataTree, settings: FigureSettings, title: str, subtitle: str) -> Figure:
    """Arcs from the chosen time, by the settings of the flow; words where there is none or no token has the time."""
    mixing = {name: flow.attrs[name] for name in Mixing().settings if name in flow.attrs}
    time = None if settings.traced_time == "auto" else float(settings.traced_time)
    try:
        trace = trace_back(time_tree, sample=settings.window, time=time, **mixing)
    except LaglensError as reason:
        with look():
            return explain(title, subtitle, f"Not followed: {reason}.")
    return draw_arcs(trace, time_tree, settings, title=title, subtitle=subtitle)
