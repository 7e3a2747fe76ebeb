"""Head sheet: where a head looks in one window, and which lags that adds up to over all windows."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from laglens.figures import lag_panel, truth
from laglens.figures.heatmap import (
    Window,
    draw_border,
    draw_colour_bar,
    draw_map,
    draw_margin,
    map_norm,
    outline_strongest,
)
from laglens.figures.reading import (
    attention_map,
    choose_heads,
    excess,
    headline_part,
    null_sentence,
    require,
    stacks,
    strongest_lag,
    weight_label,
    with_part,
)
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    ACCENT,
    INK,
    LABEL,
    MUTED,
    SMALL,
    WIDTH,
    caption,
    caption_height,
    look,
    new_figure,
    place,
    write,
    write_title,
)
from laglens.figures.times import TimeUnit, date_ticks, period_step, unit_ticks, window_dates

LEFT, MAP, MARGIN, GAP = 0.86, 2.3, 0.38, 0.05  # inches
LAG_LEFT, LAG_WIDTH = 4.25, 2.8
HEADER, ROW_HEADER, ROW_FOOTER = 0.66, 0.66, 0.5
BAR_LEFT = 5.5
ROW = ROW_HEADER + MAP + ROW_FOOTER


def draw_head_sheet(
    time_tree: xr.DataTree,
    lags_tree: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """One row per head: time-time map with the series on both margins, and its lag profile against the null.

    Parameters
    ----------
    time_tree
        Maps in time: nodes with ``attention (sample, layer, head, query, key)``.
    lags_tree
        Profiles: nodes with ``ratio``, ``band``, ``limit`` over ``(part, layer, head, lag)``.
    settings
        The ``figures`` section of the config.
    title, subtitle
        What was drawn: signal and model.

    Raises
    ------
    LaglensError
        A tree lacks something, or a head, part or window asked for does not exist.
    """
    settings = FigureSettings.parse(settings)
    require(time_tree, ("series", "forecast"), "time tree")
    nodes = stacks(time_tree, "attention", "time tree")
    part = headline_part(lag_nodes := stacks(lags_tree, "ratio", "lags tree"), settings.part)
    lag_nodes = with_part(lag_nodes, part)
    heads = choose_heads({name: excess(node) for name, node in lag_nodes.items()}, settings.heads)
    maps = [head.of(attention_map(nodes[head.node], settings.window)) * 100 for head in heads]
    profiles = [head.of(lag_nodes[head.node]) for head in heads]
    sheet = _Sheet(time_tree, lag_nodes, part, settings)
    with look():
        note = sheet.note(len(heads), sum(node.sizes["layer"] * node.sizes["head"] for node in lag_nodes.values()))
        figure = new_figure(HEADER + ROW * len(heads) + 0.36 + caption_height(note, WIDTH - 0.4))
        write_title(figure, title, subtitle, BAR_LEFT - 0.4)
        norm, ends = map_norm(maps, settings), lag_panel.ratio_range(profiles)
        draw_colour_bar(figure, norm, BAR_LEFT, 0.28, WIDTH - 0.22 - BAR_LEFT, weight_label(time_tree))
        for row, (head, weights, profile) in enumerate(zip(heads, maps, profiles, strict=True)):
            top = HEADER + ROW * row
            sheet.draw_map(figure, top, f"{ascii_lowercase[row % 26]}  {head.label}", weights, norm)
            sheet.draw_lags(figure, top, profile, ends)
        bottom = HEADER + ROW * len(heads)
        lag_panel.draw_legend(figure, 0.2, bottom + 0.12, confidence=sheet.confidence)
        caption(figure, 0.2, bottom + 0.34, note, WIDTH - 0.4)
    return figure


class _Sheet:
    """What all rows of one sheet share."""

    def __init__(self, tree: xr.DataTree, lags: dict[str, xr.Dataset], part: str, settings: FigureSettings) -> None:
        first = next(iter(lags.values()))
        self.tree, self.part, self.settings, self.attrs = tree, part, settings, first.attrs
        self.signal = tree.attrs.get("signal", {})
        self.unit = TimeUnit.of(self.signal)
        self.samples_per_token = float(first.attrs.get("samples_per_token", 1))
        self.known = truth.rhythms(first.attrs.get("periods", ()), [self.signal.get("truth", {})], part)
        self.window = Window.of(tree, settings.window)
        self.dates = window_dates(tree, settings.window)
        self.confidence = float(first.attrs.get("confidence", 0.95))

    def draw_map(self, figure: Figure, top: float, name: str, weights: xr.DataArray, norm: Normalize) -> None:
        write(figure, LEFT, top + 0.12, name, fontweight="bold", fontsize=LABEL + 1)
        axes = place(figure, LEFT, top + ROW_HEADER, MAP, MAP)
        draw_map(axes, weights, norm)
        outline_strongest(axes, weights, self.settings.top_overlay_percent)
        draw_border(axes, self.window.history)
        upper = place(figure, LEFT, top + ROW_HEADER - GAP - MARGIN, MAP, MARGIN)
        draw_margin(upper, self.window.curves, self.window.history, axes.get_xlim())
        side = place(figure, LEFT - GAP - MARGIN, top + ROW_HEADER, MARGIN, MAP)
        draw_margin(side, self.window.curves, self.window.history, axes.get_ylim(), upright=True)
        self._label_map(figure, axes, top)

    def _label_map(self, figure: Figure, axes: Axes, top: float) -> None:
        axes.yaxis.tick_right()
        axes.spines[:].set_visible(False)
        name = self.unit.name
        if self.dates is None:
            every = period_step([r.samples for r in self.known if r.repeats], self.unit)
            for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                unit_ticks(axis, self.unit, high - low, every=every)
        else:
            name = date_ticks(axes.xaxis, self.dates) or "date"
            date_ticks(axes.yaxis, self.dates)
        axes.set_xlabel(f"key time ({name})")
        axes.set_ylabel(f"query time ({name})")
        axes.yaxis.set_label_coords(-(MARGIN + 2 * GAP) / MAP, 0.5)
        right = LEFT + MAP + 0.06
        write(figure, right, top + ROW_HEADER - 0.36, "series", fontsize=SMALL, color=INK)
        write(figure, right, top + ROW_HEADER - 0.25, "truth", fontsize=SMALL, color=MUTED)
        write(figure, right, top + ROW_HEADER - 0.14, "forecast", fontsize=SMALL, color=ACCENT)

    def draw_lags(self, figure: Figure, top: float, profile: xr.Dataset, ends: tuple[float, float]) -> None:
        tiers = truth.TIER * min(len(self.known), truth.ROWS)
        shift = 0.3
        axes = place(figure, LAG_LEFT, top + ROW_HEADER - shift + tiers, LAG_WIDTH, MAP + shift - tiers)
        lag_panel.style_ratio_axis(axes, ends)
        lag_panel.style_lag_axes(axes, profile["lag"].values, self.unit, self.known)
        lag_panel.draw_profile(axes, profile)
        truth.mark_rhythms(axes, self.known)
        arrow = self.part.replace("->", " → ")
        write(figure, LAG_LEFT, top + 0.12, arrow, fontweight="bold", fontsize=LABEL + 1)
        write(figure, LAG_LEFT, top + 0.27, self._finding(profile), room=LAG_WIDTH, fontsize=SMALL, color=MUTED)

    def _finding(self, profile: xr.Dataset) -> str:
        ratio = (profile["ratio"] / profile["limit"]).where(profile["lag"] != 0)
        lag = strongest_lag(ratio)
        zero = lag_panel.lag_zero(profile)
        if lag is None:
            finding = "no lag above the limit"
        else:
            finding = f"strongest at {self.unit.format(lag)}: {float(ratio.max()):.2g} × the limit"
        return f"{finding}; {zero}" if zero else finding

    def note(self, drawn: int, total: int) -> str:
        windows, index = self.tree.sizes["sample"], self.settings.window
        which = (
            f"the {drawn} of {total} heads strongest against their limit"
            if self.settings.heads == "auto"
            else (f"{drawn} of {total} heads, as asked")
        )
        return (
            f"Shown: {which}. Maps: window {index + 1} of {windows}, one colour scale for all rows, cut at the "
            f"{self.settings.robust_percentiles[0]:g} and {self.settings.robust_percentiles[1]:g} % points. "
            f"Lag profiles: mean of {self.attrs['n_windows']} windows; null: {null_sentence(self.attrs)}. "
            f"{truth.describe(self.known, self.unit, self.samples_per_token)}"
        )
