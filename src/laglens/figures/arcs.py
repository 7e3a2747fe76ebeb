"""Arcs: the ways through all layers by which one moment of the forecast is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from laglens.figures.bands import by_time, draw_bands, draw_series, label_time
from laglens.figures.heatmap import Window, draw_colour_bar
from laglens.figures.lag_panel import draw_legend
from laglens.figures.reading import edges, require
from laglens.figures.rows import ROOM, fit_names
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    ACCENT,
    FAINT,
    INK,
    LABEL,
    SMALL,
    WIDTH,
    look,
    page,
    place,
    text_width,
)
from laglens.figures.times import TimeUnit, window_dates

MOST, FEWEST = 40, 4  # arcs: about so many in all, and no fewer at a step
TOP, SERIES, BAND = 0.76, 0.72, 0.16  # inches
TALLEST, THICKEST = 4.2, 0.62  # inches of all steps, and of one
THICK = 6.0  # points of an arc that carries everything
BAR_LEFT = 5.5
BEND = np.linspace(0, 1, 20)
LEAST = 0.01  # of everything: what a token keeps is not drawn below it


def draw_arcs(
    trace: xr.Dataset,
    time_tree: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Series, what of it reaches one moment, and the strongest arcs from token to token at every step between.

    Parameters
    ----------
    trace
        From `laglens.flow.trace.trace_back`, of window `settings.window`.
    time_tree
        The time tree it was made from, for the series.
    settings
        The ``figures`` section of the config; `window` is used.
    title, subtitle
        What was followed: signal and model.

    Raises
    ------
    LaglensError
        Something is missing.
    """
    settings = FigureSettings.parse(settings)
    require(trace, ("passed", "reached"), "trace")
    require(time_tree, ("series", "forecast"), "time tree")
    names = [str(name) for name in trace["step_name"].values]
    each = max(FEWEST, MOST // len(names))
    arcs = strongest_arcs(trace, each)
    reached, times = by_time(100 * trace["reached"].values[None], trace["key_time"].values)
    shown, unit = Window.of(time_tree, settings.window), TimeUnit.of(time_tree.attrs.get("signal", {}))
    norm = Normalize(0, float(reached.max()))
    dates = window_dates(time_tree, settings.window)
    at = moment(trace.attrs["time"], unit, dates)
    note = _note(trace, settings.window, at, each, arcs)
    with look():
        step = min(THICKEST, TALLEST / len(names))
        first = TOP + SERIES + BAND + 0.1
        bottom = first + step * len(names) + 0.16
        figure = page(bottom + 0.66, note, title, subtitle, room=BAR_LEFT - 0.4)
        draw_colour_bar(figure, norm, BAR_LEFT, 0.28, WIDTH - 0.22 - BAR_LEFT, "what reaches it, %", cut=False)
        labels = ["input", *names]
        left = 0.2 + min(ROOM, max(text_width(name, SMALL) for name in labels)) + 0.12
        width = WIDTH - 0.2 - left
        borders = edges(times)
        span = (float(borders[0]), float(borders[-1]))
        draw_series(place(figure, left, TOP, width, SERIES), shown.curves, shown.history, span)
        band = place(figure, left, TOP + SERIES, width, BAND, label="reached")
        draw_bands(band, reached, times, [""], norm, shown.history)
        band.xaxis.set_visible(False)
        axes = place(figure, left, first, width, step * len(names) + 0.16, label="arcs")
        axes.set_xlim(span)
        axes.set_ylim(len(names) + 0.16 / step / 2, -0.16 / step / 2)
        _draw_levels(axes, trace, arcs)
        axes.axvline(shown.history - 0.5, color=FAINT, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
        _label_levels(axes, labels, step)
        label_time(axes, unit, dates)
        _mark(axes, trace.attrs["time"], len(names), at)
        draw_legend(figure, 0.2, bottom + 0.5, KEYS)
    return figure


KEYS = [
    ({"color": ACCENT, "linewidth": 2.0}, "attention; thickness: square root of what passes"),
    ({"color": FAINT, "linewidth": 2.0}, "kept by the token itself"),
    ({"color": INK, "marker": "o", "markersize": 3, "linestyle": "none"}, "what a token holds of it"),
]


def strongest_arcs(trace: xr.Dataset, most: int) -> list[dict[str, np.ndarray]]:
    """The arcs of every step that carry most from one token to another, strongest first.

    Indices ``query`` and ``key``, what ``passed``, and its ``share`` of all that passes between different tokens.
    """
    found = []
    for passed in trace["passed"].transpose("step", "query", "key").values:
        between = passed * ~np.eye(len(passed), dtype=bool)
        order = np.argsort(-between, axis=None, kind="stable")[:most]
        order = order[between.ravel()[order] > 0]
        query, key = np.unravel_index(order, passed.shape)
        chosen = between.ravel()[order]
        share = chosen.sum() / max(float(between.sum()), 1e-300)
        found.append({"query": query, "key": key, "passed": chosen, "share": share})
    return found


def moment(time: float, unit: TimeUnit, dates: np.ndarray | None) -> str:
    """A time in units, or as a date where the series has dates."""
    if dates is None:
        return unit.format(time)
    return str(dates[min(round(time), len(dates) - 1)].astype("datetime64[m]")).replace("T", " ").removesuffix(" 00:00")


def _draw_levels(axes: Axes, trace: xr.Dataset, arcs: Sequence[Mapping[str, np.ndarray]]) -> None:
    """All arcs as one collection, the weak ones below, and a dot for each token by what it holds at each level."""
    above, below = trace["query_time"].values, trace["key_time"].values
    passed = trace["passed"].transpose("step", "query", "key").values
    segments, widths, colours = [], [], []
    bent = BEND**2 * (3 - 2 * BEND)
    for level, step in enumerate(arcs):
        for query, key, carried in zip(step["query"], step["key"], step["passed"], strict=True):
            segments.append(np.stack([below[key] + (above[query] - below[key]) * bent, level + BEND], 1))
            widths.append(carried)
            colours.append(to_rgba(ACCENT, 0.75))
        kept = np.diagonal(passed[level])
        for token in np.flatnonzero(kept > LEAST):
            segments.append(np.array([[below[token], level], [above[token], level + 1]]))
            widths.append(kept[token])
            colours.append(to_rgba(FAINT, 0.75))
    order = np.argsort(widths, kind="stable")
    lines = LineCollection(
        [segments[i] for i in order],
        linewidths=[THICK * float(np.sqrt(widths[i])) for i in order],
        colors=[colours[i] for i in order],
        capstyle="butt",
    )
    lines.set_gid("arcs")
    axes.add_collection(lines, autolim=False)
    held = np.concatenate([passed.sum(1), np.eye(len(above))[[trace.attrs["token"]]]])
    at, tokens = np.nonzero(held > LEAST)
    axes.scatter(below[tokens], at, s=34 * held[at, tokens], color=INK, linewidths=0, zorder=3, gid="held")


def _mark(axes: Axes, time: float, level: int, words: str) -> None:
    """A triangle under the chosen moment, and its name beside it, on the side where there is room."""
    low, high = axes.get_xlim()
    left = time > (low + high) / 2
    axes.plot(time, level, "^", color=INK, markersize=6, zorder=4, clip_on=False, gid="chosen")
    axes.annotate(
        words, (time, level), xytext=(-8 if left else 8, 4), textcoords="offset points", fontsize=LABEL,
        fontweight="bold", color=INK, ha="right" if left else "left", va="bottom", zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
    )  # fmt: skip


def _label_levels(axes: Axes, labels: Sequence[str], step: float) -> None:
    every = max(1, int(np.ceil(0.12 / step)))
    kept = list(range(0, len(labels), every))
    fitted, size = fit_names([labels[i] for i in kept])
    axes.yaxis.set_major_locator(FixedLocator(kept))
    axes.set_yticklabels(fitted, fontsize=size)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.hlines(np.arange(len(labels)), *axes.get_xlim(), color=FAINT, linewidth=0.4, zorder=0)


def _note(trace: xr.Dataset, window: int, at: str, each: int, arcs: Sequence[Mapping[str, Any]]) -> str:
    attrs = trace.attrs
    low, high = (f"{100 * share:.0f}" for share in (min(a["share"] for a in arcs), max(a["share"] for a in arcs)))
    share = f"{low} %" if low == high else f"{low} to {high} %"
    return (
        f"Window {window + 1}. The rollout ({attrs.get('fusion', 'mean')} over heads, residual "
        f"{attrs.get('residual', 0.5):g}) of the moment at {at} (triangle), followed upwards through all layers to the "
        f"input: the {each} strongest arcs of each step. They carry {share} of what passes from one token to another "
        "there; the rest is spread over weaker ones. Every step passes 100 % in all. The band under the series is what "
        "arrives. There is no null: an arc is a way that information can take, not one that is used."
    )
