"""Alignment: which moment of the history each step of the forecast reads, through cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laglens.figures.heatmap import Window, draw_colour_bar, draw_map, draw_margin, map_norm
from laglens.figures.lag_panel import draw_legend
from laglens.figures.reading import attention_map, require, stacks, weight_label
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    ACCENT,
    INK,
    LABEL,
    MUTED,
    OVERLAY,
    SECOND,
    WIDTH,
    look,
    page,
    place,
    write,
)
from laglens.figures.times import TimeUnit, date_ticks, unit_ticks, window_dates

CROSS = "cross"
MOST = 4  # layers: of more the last ones, nearest to the forecast
LEFT, TOP, MARGIN, GAP = 1.12, 0.74, 0.42, 0.05  # inches
SHORTEST, LONGEST = 0.8, 2.4  # inches of the height of a map
BAR_LEFT = 5.5


def draw_alignment(
    time_tree: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Rectangular map of each layer of cross-attention, mean over heads, with the moment that each step reads most.

    Parameters
    ----------
    time_tree
        Time maps with a node ``cross``.
    settings
        The ``figures`` section of the config; `window` and the settings of colour are used.
    title, subtitle
        What was drawn: signal and model.

    Raises
    ------
    LaglensError
        The tree has no cross-attention, or fewer windows.
    """
    settings = FigureSettings.parse(settings)
    require(time_tree, ("series", "forecast"), "time tree")
    require(time_tree.children, (CROSS,), "time tree")
    node = stacks(time_tree, "attention", "time tree")[CROSS]
    maps = attention_map(node, settings.window).mean("head") * 100
    shown = [maps.isel(layer=index) for index in range(maps.sizes["layer"])][-MOST:]
    window, dates = Window.of(time_tree, settings.window), window_dates(time_tree, settings.window)
    unit, norm = TimeUnit.of(time_tree.attrs.get("signal", {})), map_norm(shown, settings)
    note = _note(time_tree, maps, len(shown), settings)
    width = WIDTH - LEFT - 0.6
    # Aspect by time: an hour is as long upwards as it is to the right, as far as there is room.
    spans = [np.ptp(maps[f"{axis}_time"].values) + 1 for axis in ("query", "key")]
    height = float(np.clip(width * spans[0] / spans[1], SHORTEST, LONGEST))
    with look():
        row = height + 0.34
        bottom = TOP + MARGIN + GAP + row * len(shown) + 0.32
        figure = page(bottom + 0.28, note, title, subtitle, room=BAR_LEFT - 0.4)
        draw_colour_bar(figure, norm, BAR_LEFT, 0.28, WIDTH - 0.22 - BAR_LEFT, weight_label(time_tree))
        for index, weights in enumerate(shown):
            top = TOP + MARGIN + GAP + row * index + 0.2
            name = f"{ascii_lowercase[index]}  {CROSS} L{int(weights['layer']):02d}"
            write(figure, LEFT, top - 0.06, name, fontsize=LABEL + 0.5, fontweight="bold")
            axes = place(figure, LEFT, top, width, height, label=f"map {CROSS} {index}")
            draw_map(axes, weights, norm)
            draw_ridge(axes, weights)
            side = place(figure, LEFT - GAP - MARGIN, top, MARGIN, height)
            draw_margin(side, window.curves, window.history, axes.get_ylim(), upright=True)
            if index == 0:
                upper = place(figure, LEFT, TOP - 0.06, width, MARGIN)
                draw_margin(upper, window.curves, window.history, axes.get_xlim())
            _label(axes, unit, dates, last=index == len(shown) - 1)
        draw_legend(figure, 0.2, bottom + 0.06, KEYS)
    return figure


KEYS = [
    ({"color": INK, "linewidth": 0.8}, "series"),
    ({"color": ACCENT, "linewidth": 0.8}, "forecast"),
    ({"color": OVERLAY, "marker": "o", "markersize": 3, "linestyle": "none"}, "read most"),
    ({"color": SECOND, "linewidth": 1.4}, "mean moment that is read"),
]


def ridge(weights: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Key time with the largest weight, and the mean key time, of every query: ``(query, key) -> (query,)`` twice."""
    values, times = weights.transpose("query", "key").values.astype(float), weights["key_time"].values
    total = values.sum(1)
    mean = np.divide(values @ times, total, out=np.full(len(values), np.nan), where=total > 0)
    return times[values.argmax(1)], mean


def draw_ridge(axes: Axes, weights: xr.DataArray) -> None:
    """What every step reads most, as dots, and its mean moment, as a line."""
    strongest, mean = ridge(weights)
    query = weights["query_time"].values
    axes.plot(strongest, query, "o", color=OVERLAY, markersize=2.8, markeredgecolor=INK, gid="read most")
    axes.plot(mean, query, color="white", linewidth=2.4)
    axes.plot(mean, query, color=SECOND, linewidth=1.4, gid="mean moment")


def _label(axes: Axes, unit: TimeUnit, dates: np.ndarray | None, *, last: bool) -> None:
    axes.yaxis.tick_right()
    axes.spines[:].set_visible(False)
    name = unit.name
    if dates is None:
        unit_ticks(axes.xaxis, unit, most=8)
        unit_ticks(axes.yaxis, unit, most=4)
    else:
        name = date_ticks(axes.xaxis, dates, most=8) or "date"
        date_ticks(axes.yaxis, dates, most=4)
    axes.tick_params(axis="x", labelbottom=last)
    axes.set_xlabel(f"time that is read ({name})" if last else "")
    axes.set_ylabel("forecast", color=MUTED)
    axes.yaxis.set_label_coords(-(MARGIN + 3 * GAP) / (axes.get_position().width * WIDTH), 0.5)


def _note(tree: xr.DataTree, maps: xr.DataArray, shown: int, settings: FigureSettings) -> str:
    layers, heads = maps.sizes["layer"], tree[CROSS].sizes["head"]
    last = "" if shown == layers else f"; the last {shown} of {layers} layers"
    return (
        f"Cross-attention, mean over {heads} heads{last}; window {settings.window + 1} of {tree.sizes['sample']}, one "
        "colour scale. Each row is one moment of the forecast (upwards), each column one of the history. A ridge that "
        "rises with the forecast keeps a lag; one that stands upright is one moment that all steps read. One window "
        "has no null: the lag strip says which lags are more than noise."
    )
