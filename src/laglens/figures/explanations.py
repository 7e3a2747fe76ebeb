"""Explanations: what rollout, flow, relevance and attributions say about one forecast, as bands under its series."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from laglens.errors import LaglensError
from laglens.figures.bands import draw_bands, draw_series, label_time
from laglens.figures.heatmap import Window
from laglens.figures.reading import require
from laglens.figures.rows import ROOM, fit_names
from laglens.figures.style import LABEL, SMALL, WIDTH, explain, look, page, place, text_width, write
from laglens.figures.times import TimeUnit, window_dates

TOP, SERIES, ROW, GAP = 0.84, 0.75, 0.17, 0.72  # inches
NODE, VALUES = "explanations", "importance"
SHADES = PowerNorm(0.5, 0, 1)


def draw_explanations(
    compared: xr.DataTree, time_tree: xr.DataTree, *, window: int = 0, title: str = "", subtitle: str = ""
) -> Figure:
    """One band per explanation: of one window under its series, and the mean over all windows.

    Parameters
    ----------
    compared
        From `laglens.attribution.comparison.compare_explanations`: a node ``explanations`` with
        ``importance (explanation, sample, time)`` over the history.
    time_tree
        The windows it was made of, with ``series`` and ``forecast``.
    window
        Index of the window.
    title, subtitle
        What was explained: signal and model.

    Raises
    ------
    LaglensError
        Something is missing, or there is no such window.
    """
    if NODE not in compared.children or not compared[NODE].sizes.get("explanation", 0):
        with look():
            return explain(title, subtitle, "Not explained: the model has no explanation of its forecast.")
    node = compared[NODE].to_dataset()
    require(node, (VALUES,), "comparison of explanations")
    require(time_tree, ("series", "forecast"), "time tree")
    if window >= node.sizes["sample"]:
        count = node.sizes["sample"]
        raise LaglensError(f"figures.window is {window}, but there are {count} windows (0 to {count - 1})")
    values = node[VALUES].transpose("explanation", "sample", "time").values
    shares = np.abs(values) / np.maximum(np.abs(values).sum(-1, keepdims=True), 1e-300)
    names = [str(name).replace("_", " ") for name in node["explanation"].values]
    shown, unit = Window.of(time_tree, window), TimeUnit.of(time_tree.attrs.get("signal", {}))
    note = _note(compared, window, node.sizes["sample"], unit)
    with look():
        height = ROW * len(names)
        second = TOP + SERIES + height + GAP
        bottom = second + height + 0.5
        figure = page(bottom, note, title, subtitle)
        left = 0.2 + min(ROOM, max(text_width(name, SMALL) for name in names)) + 0.1
        width = WIDTH - 0.2 - left
        span = (-0.5, shown.series.size - 0.5)
        write(figure, 0.2, TOP - 0.06, f"a  window {window + 1}", fontsize=LABEL + 0.5, fontweight="bold")
        write(figure, 0.2, second - 0.08, "b  all windows", fontsize=LABEL + 0.5, fontweight="bold")
        draw_series(place(figure, left, TOP, width, SERIES), shown.curves, shown.history, span)
        for label, top, weights, dates in (
            ("window", TOP + SERIES, shares[:, window], window_dates(time_tree, window)),
            ("mean", second, np.nanmean(shares, 1), None),
        ):
            axes = place(figure, left, top, width, height, label=f"explanations {label}")
            _draw(axes, weights, node["time"].values, names, shown.history)
            axes.set_xlim(span)
            axes.set_facecolor("#e4e5e9")
            label_time(axes, unit, dates)
    return figure


def _draw(axes: Axes, weights: np.ndarray, times: np.ndarray, names: list[str], history: float) -> None:
    """Every band on its own scale, from 0 to its largest value."""
    scaled = weights / np.maximum(np.nanmax(weights, -1, keepdims=True), 1e-300)
    fitted, size = fit_names(names)
    draw_bands(axes, scaled, times, fitted, SHADES, history)
    axes.tick_params(axis="y", labelsize=size)


def _note(compared: xr.DataTree, window: int, windows: int, unit: TimeUnit) -> str:
    attrs = compared.attrs
    at = "the mean of the horizon"
    if attrs.get("step", "mean") != "mean":
        at = f"the forecast at {unit.format(float(attrs['target_time']))}"
    return (
        f"How much each moment of the history matters for {at}, by each explanation, without its sign. a: window "
        f"{window + 1} of {windows} under its series (forecast in orange); b: mean of all windows, where what is "
        "bright is position, not content. Each band on its own scale, the square root from 0 to its largest value: "
        "compare places, not strengths. Rollout, flow and relevance go through all layers. There is no null here: "
        "which of them the forecast bears out is in the table of methods."
    )
