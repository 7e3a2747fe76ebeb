"""Comparison of one model on two signals: maps, their difference, and the lags against the null of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from laglens.figures import lag_panel, truth
from laglens.figures.heatmap import (
    Curve,
    difference_norm,
    draw_border,
    draw_colour_bar,
    draw_map,
    draw_margin,
    map_norm,
    outline_strongest,
)
from laglens.figures.reading import (
    Head,
    all_heads,
    attention_map,
    choose_heads,
    headline_part,
    null_sentence,
    require,
    stacks,
    weight_label,
    with_part,
)
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    ACCENT,
    BAND,
    DIVERGING,
    FAINT,
    INK,
    LABEL,
    MUTED,
    SECOND,
    SEQUENTIAL,
    look,
    page,
    place,
    write,
)
from laglens.figures.times import TimeUnit, unit_ticks

COLOURS = (ACCENT, SECOND)
STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)))
LEFT, MAP, MARGIN, GAP, BETWEEN = 0.86, 1.72, 0.3, 0.05, 0.24  # inches
HEADER, MAP_TOP, LAG_TOP, LAG_HEIGHT = 0.72, 0.72, 0.62, 1.6
BARS = (3.55, 5.5)
ROW = MAP_TOP + MAP + 0.5 + LAG_TOP + LAG_HEIGHT + 0.5
NEEDED = ("difference", "band", "limit", "ratio", "signal_limit")


def draw_comparison(
    comparison: xr.DataTree,
    time_a: xr.DataTree,
    time_b: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Per head: maps of A, of B and their difference; lag profiles of both; their difference against its null.

    Parameters
    ----------
    comparison
        Nodes with ``difference``, ``band (..., bound)``, ``limit (..., bound)``, ``ratio (signal, ...)`` and
        ``signal_limit (signal, ...)`` over ``(part, layer, head, lag)``; attribute ``names`` of the signals.
    time_a, time_b
        Maps in time of both signals.
    settings
        The ``figures`` section of the config; ``heads: auto`` draws the head whose difference goes
        furthest beyond its limits.
    title, subtitle
        What was compared.

    Raises
    ------
    LaglensError
        A tree lacks something, or a head, part or window asked for does not exist.
    """
    settings = FigureSettings.parse(settings)
    nodes = stacks(comparison, "difference", "comparison")
    part = headline_part(nodes, settings.part)
    nodes = with_part(nodes, part, "difference")
    for node in nodes.values():
        require(node, NEEDED, "comparison")
    heads = choose_heads({name: beyond_limits(node) for name, node in nodes.items()}, settings.heads, most=1)
    pair = _Pair(comparison, (time_a, time_b), nodes, part, settings)
    maps = [[pair.map_of(head, tree) for tree in pair.times] for head in heads]
    norms = (
        map_norm([m for two in maps for m in two], settings),
        difference_norm(
            xr.concat([a.reset_coords(drop=True) - b.reset_coords(drop=True) for a, b in maps], "head"), settings
        ),
    )
    with look():
        note = pair.note(len(heads), len(all_heads(nodes)))
        figure = page(HEADER + ROW * len(heads) + 0.1, note, title, subtitle, room=BARS[0] - 0.4)
        draw_colour_bar(figure, norms[0], BARS[0], 0.28, 1.5, weight_label(time_a))
        draw_colour_bar(figure, norms[1], BARS[1], 0.28, 1.5, "A \N{MINUS SIGN} B, % points", DIVERGING)
        for row, (head, two) in enumerate(zip(heads, maps, strict=True)):
            top = HEADER + ROW * row
            pair.draw_maps(figure, top, head, two, norms)
            pair.draw_lags(figure, top + MAP_TOP + MAP + 0.5 + LAG_TOP, head, head.of(nodes[head.node]))
    return figure


def beyond_limits(node: xr.Dataset) -> xr.DataArray:
    """How far a difference lies outside its limits, ``(layer, head, lag)``; negative inside. No lag 0.

    In shares of uniform attention, not relative to the limit: a head that never looks at a lag has limits near 0 there,
    and passes them with differences that are next to nothing.
    """
    over = node["difference"] - node["limit"].sel(bound="upper", drop=True)
    under = node["limit"].sel(bound="lower", drop=True) - node["difference"]
    return np.maximum(over, under).where(node["lag"] != 0).transpose("layer", "head", "lag")


class _Pair:
    """What all rows of one comparison share."""

    def __init__(
        self,
        comparison: xr.DataTree,
        times: tuple[xr.DataTree, xr.DataTree],
        nodes: Mapping[str, xr.Dataset],
        part: str,
        settings: FigureSettings,
    ) -> None:
        self.names: list[str] = list(comparison.attrs["names"])
        self.times, self.part, self.settings = times, part, settings
        for name, tree in zip(self.names, times, strict=True):
            require(tree, ("series",), f"time tree of {name}")
        self.attrs = next(iter(nodes.values())).attrs
        signals = [tree.attrs.get("signal", {}) for tree in times]
        self.unit = TimeUnit.of(signals[0])
        self.known = truth.rhythms(self.attrs.get("periods", ()), [s.get("truth", {}) for s in signals], part)
        self.history = float(times[0].attrs["history"])

    def map_of(self, head: Head, tree: xr.DataTree) -> xr.DataArray:
        node = stacks(tree, "attention", "time tree")[head.node]
        return head.of(attention_map(node, self.settings.window)) * 100

    def curve(self, which: int) -> Curve:
        series = self.times[which]["series"].isel(sample=self.settings.window).to_numpy()
        return np.arange(series.size), series, COLOURS[which]

    def draw_maps(
        self, figure: Figure, top: float, head: Head, maps: Sequence[xr.DataArray], norms: tuple[Normalize, Normalize]
    ) -> None:
        write(figure, 0.2, top + 0.1, f"{head.label}, maps of window {self.settings.window + 1}", **BOLD)
        columns = [
            (f"A  {self.names[0]}", maps[0], norms[0], SEQUENTIAL, [self.curve(0)]),
            (f"B  {self.names[1]}", maps[1], norms[0], SEQUENTIAL, [self.curve(1)]),
            ("A \N{MINUS SIGN} B", maps[0] - maps[1].values, norms[1], DIVERGING, [self.curve(0), self.curve(1)]),
        ]
        for column, (name, weights, norm, cmap, curves) in enumerate(columns):
            left = LEFT + column * (MAP + BETWEEN)
            write(figure, left, top + 0.32, name, room=MAP, fontsize=LABEL)
            axes = place(figure, left, top + MAP_TOP, MAP, MAP, label=f"map {'ABD'[column]} {head.label}")
            draw_map(axes, weights, norm, cmap)
            if column < 2:
                outline_strongest(axes, weights, self.settings.top_overlay_percent)
            draw_border(axes, self.history, "white" if column < 2 else MUTED)
            upper = place(figure, left, top + MAP_TOP - GAP - MARGIN, MAP, MARGIN)
            draw_margin(upper, curves, self.history, axes.get_xlim())
            self._label_map(axes, column)
            if column == 0:
                side = place(figure, left - GAP - MARGIN, top + MAP_TOP, MARGIN, MAP)
                draw_margin(side, curves, self.history, axes.get_ylim(), upright=True)

    def _label_map(self, axes: Axes, column: int) -> None:
        for axis in (axes.xaxis, axes.yaxis):
            unit_ticks(axis, self.unit, truth.periods_of(self.known), most=4)
        axes.spines[:].set_visible(False)
        axes.yaxis.tick_right()
        axes.set_xlabel(f"key time ({self.unit.name})")
        if column == 0:
            axes.set_ylabel(f"query time ({self.unit.name})")
            axes.yaxis.set_label_coords(-(MARGIN + 2 * GAP) / MAP, 0.5)
        if column < 2:
            axes.tick_params(axis="y", length=0, labelright=False)

    def draw_lags(self, figure: Figure, top: float, head: Head, lags: xr.Dataset) -> None:
        arrow = self.part.replace("->", " → ")
        tiers = truth.TIER * min(len(self.known), truth.ROWS)
        left, width, right = 0.7, 2.7, 4.3
        write(figure, left, top - tiers - 0.1, f"both, {arrow}", **BOLD)
        write(figure, right, top - tiers - 0.1, f"A \N{MINUS SIGN} B, {arrow}", **BOLD)
        both = place(figure, left, top, width, LAG_HEIGHT, label=f"both {head.label}")
        self._draw_both(both, lags)
        change = place(figure, right, top, width, LAG_HEIGHT, label=f"difference {head.label}")
        draw_change(change, lags)
        for axes in (both, change):
            lag_panel.style_lag_axes(axes, lags["lag"].values, self.unit, self.known)
            truth.mark_rhythms(axes, self.known)

    def _draw_both(self, axes: Axes, lags: xr.Dataset) -> None:
        alone = [
            xr.Dataset({"ratio": lags["ratio"].isel(signal=i), "limit": lags["signal_limit"].isel(signal=i)})
            for i in (0, 1)
        ]
        lag_panel.style_ratio_axis(axes, lag_panel.ratio_range(alone))
        for i, one in enumerate(alone):
            lag_panel.draw_lines(axes, one, COLOURS[i], STYLES[i], COLOURS[i])

    def note(self, drawn: int, total: int) -> str:
        which = f"{drawn} of {total} heads, as asked"
        if self.settings.heads == "auto":
            which = f"of {total} heads the one whose difference goes furthest beyond its limit"
        signals = " and ".join(f"{letter} = {name}" for letter, name in zip("AB", self.names, strict=True))
        return (
            f"{signals}; A solid, B long dashes. Shown: {which}. Maps: A and B on one colour scale. Lags: mean of "
            f"{self.attrs['n_windows']} windows; short dashes: limit over all lags "
            f"({100 * self.attrs['confidence']:g} %); grey: band at each lag; dot: beyond the limit. Null of the "
            f"difference: {null_sentence(self.attrs)}. "
            f"{truth.describe(self.known, self.unit, self.attrs['samples_per_token'])}"
        )


BOLD: dict[str, Any] = {"fontsize": LABEL + 0.5, "fontweight": "bold"}


def draw_change(axes: Axes, lags: xr.Dataset) -> None:
    """Difference of two profiles: line, grey band, two dashed limits, dots only beyond them.

    Parameters
    ----------
    axes
        Where to draw.
    lags
        ``difference (lag)``, ``band (lag, bound)``, ``limit (lag, bound)``.
    """
    axes.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    for one in lag_panel.sides(lags):
        lag, change = one["lag"].values, one["difference"].values
        (low, high), (under, over) = (
            [one[name].sel(bound=bound).values for bound in ("lower", "upper")] for name in ("band", "limit")
        )
        axes.fill_between(lag, low, high, color=BAND, linewidth=0, zorder=1)
        for limit in (under, over):
            axes.plot(lag, limit, color=MUTED, linewidth=0.8, linestyle=lag_panel.LIMIT, zorder=2, gid="limit")
        axes.plot(lag, change, color=INK, zorder=3, gid="difference")
        beyond = (change > over) | (change < under)
        axes.plot(lag[beyond], change[beyond], "o", color=INK, markersize=3.6, zorder=4, gid="beyond the limit")
    axes.set_ylabel("difference of the ratios")
