"""Flow: where the forecast comes from after each layer, as bands under the series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from laglens.figures.bands import by_time, draw_bands, draw_series, forecasting_rows, label_time
from laglens.figures.heatmap import Window, draw_colour_bar, map_norm
from laglens.figures.reading import edges, require
from laglens.figures.rows import ROOM, fit_names, row_height
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    LABEL,
    MUTED,
    SMALL,
    WIDTH,
    explain,
    look,
    page,
    place,
    text_width,
    write,
)
from laglens.figures.times import TimeUnit, window_dates

TOP, SERIES, TALLEST = 0.88, 0.75, 2.2  # inches: first panel, height of the series, and of all bands
BAR_LEFT = 5.5
FLOWS = {"max_flow": "maximum flow", "widest_path": "widest path"}


def draw_flow(
    flow: xr.Dataset,
    time_tree: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Rollout of the queries that forecast, up to each layer: one window under its series, and the mean of all windows.

    Parameters
    ----------
    flow
        From `laglens.flow.rollout.roll_out`: ``rollout (sample, layer, query, key)``, ``rollout_mean``; where they are
        there, ``max_flow`` and ``widest_path (query, key)`` are two bands more.
    time_tree
        The time tree it was made from, for the series.
    settings
        The ``figures`` section of the config.
    title, subtitle
        What was drawn: signal and model.

    Raises
    ------
    LaglensError
        Something is missing, or the window asked for does not exist.
    """
    settings = FigureSettings.parse(settings)
    if "rollout" not in flow:
        with look():
            return explain(title, subtitle, f"No rollout: {flow.attrs.get('left_out') or 'it was not computed'}.")
    require(flow, ("rollout_mean",), "flow")
    require(time_tree, ("series", "forecast"), "time tree")
    rows = forecasting_rows(flow)
    (window, times), (mean, _) = (
        by_time(100 * maps.values[:, rows].mean(1), flow["key_time"].values)
        for maps in (flow["rollout"].isel(sample=settings.window), flow["rollout_mean"])
    )
    names, mean_names = _layer_names(flow), _layer_names(flow)
    for name, words in FLOWS.items():
        if name in flow and np.isfinite(flow[name].values[rows]).all():
            rates = flow[name].values[rows]
            total = rates.sum(-1, keepdims=True)
            share = 100 * (rates / np.where(total > 0, total, 1)).mean(0)
            mean = np.vstack([mean, by_time(share, flow["key_time"].values)[0]])
            mean_names.append(words)
    norm = map_norm([xr.DataArray(m, dims=("band", "key")) for m in (window, mean)], settings)
    shown, unit = Window.of(time_tree, settings.window), TimeUnit.of(flow.attrs.get("signal", {}))
    note = _note(flow, settings.window, int(rows.sum()))
    with look():
        row = row_height(len(mean_names), TALLEST, thickest=0.2)
        heights = [row * len(names), row * len(mean_names)]
        second = TOP + SERIES + heights[0] + 0.84
        bottom = second + heights[1] + 0.46
        figure = page(bottom + 0.1, note, title, subtitle, room=BAR_LEFT - 0.4)
        draw_colour_bar(figure, norm, BAR_LEFT, 0.28, WIDTH - 0.22 - BAR_LEFT, "share of the query, %")
        left = 0.2 + min(ROOM, max(text_width(name, SMALL) for name in mean_names)) + 0.1
        width = WIDTH - 0.2 - left
        span = tuple(edges(times)[[0, -1]])
        draw_series(place(figure, left, TOP, width, SERIES), shown.curves, shown.history, (span[0], span[1]))
        write(figure, 0.2, TOP - 0.1, f"a  window {settings.window + 1}", fontsize=LABEL + 0.5, fontweight="bold")
        write(figure, 0.2, second - 0.1, "b  all windows", fontsize=LABEL + 0.5, fontweight="bold")
        for label, top, height, weights, layers, dates in (
            ("window", TOP + SERIES, heights[0], window, names, window_dates(time_tree, settings.window)),
            ("mean", second, heights[1], mean, mean_names, None),
        ):
            axes = place(figure, left, top, width, height, label=f"bands {label}")
            fitted, size = fit_names(layers)
            draw_bands(axes, weights, times, fitted, norm, shown.history)
            axes.tick_params(axis="y", labelsize=size)
            if row < 0.11:
                _thin_labels(axes, fitted, row)
            label_time(axes, unit, dates)
    return figure


def _layer_names(flow: xr.Dataset) -> list[str]:
    return [
        f"{stack} L{int(layer):02d}"
        for stack, layer in zip(flow["stack"].values, flow["stack_layer"].values, strict=True)
    ]


def _thin_labels(axes: Any, names: list[str], row: float) -> None:
    every = int(np.ceil(0.12 / row))
    axes.set_yticks(range(0, len(names), every))
    axes.set_yticklabels(names[::every], fontsize=SMALL, color=MUTED)


def _note(flow: xr.Dataset, window: int, queries: int) -> str:
    attrs = flow.attrs
    which = "query that forecasts" if queries == 1 else f"{queries} queries that forecast"
    special = float(flow["special_mass"].mean()) if "special_mass" in flow else 0.0
    left = f" Mass on special tokens: {100 * special:.2g} %." if special else ""
    others = ", ".join(words for name, words in FLOWS.items() if name in flow)
    beside = f" Below the layers: {others}, scaled to 100 %." if others else ""
    return (
        f"Attention rollout ({attrs.get('fusion', 'mean')} over heads, residual {attrs.get('residual', 0.5):g}): "
        f"how much of each moment reaches the {which}, up to and including each layer; rows sum to 100 %. a: window "
        f"{window + 1} of {attrs.get('n_windows', 1)} under its series (forecast in orange); b: mean of all windows."
        f"{beside} One colour scale. What the residual connection keeps stays where the queries themselves are. A "
        f"rollout has no null: a bright moment says where information can come from, not that it is used.{left}"
    )
