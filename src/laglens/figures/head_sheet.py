"""Head sheet: where a head looks in one window, and which lags that adds up to over all windows."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from laglens.figures import input_panel, lag_panel, truth
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
    Head,
    attention_map,
    beyond_limit,
    choose_heads,
    headline_part,
    null_sentence,
    require,
    stacks,
    strongest_lags,
    weight_label,
    with_part,
)
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    ACCENT,
    FAINT,
    INK,
    LABEL,
    MUTED,
    OVERLAY,
    SMALL,
    WIDTH,
    look,
    page,
    place,
    write,
)
from laglens.figures.times import TimeUnit, date_ticks, number, unit_ticks, window_dates

LEFT, MAP, MARGIN, GAP = 0.86, 2.3, 0.38, 0.05  # inches
LAG_LEFT, LAG_WIDTH = 4.25, 2.8
HEADER, ROW_HEADER, ROW_FOOTER = 0.66, 0.66, 0.5
BAR_LEFT = 5.5
BEYOND = 0.6  # room for a horizon that is in no map
ROW = ROW_HEADER + MAP + ROW_FOOTER


def draw_head_sheet(
    time_tree: xr.DataTree,
    lags_tree: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    curves: xr.Dataset | None = None,
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
    curves
        From `laglens.lags.inputs.input_curves`: what the input repeats by itself is drawn under each profile.
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
    for node in lag_nodes.values():
        require(node, lag_panel.NEEDED, "lags tree")
    heads = choose_heads({name: beyond_limit(node) for name, node in lag_nodes.items()}, settings.heads)
    maps = [head.of(attention_map(nodes[head.node], settings.window)) * 100 for head in heads]
    profiles = [head.of(lag_nodes[head.node]) for head in heads]
    sheet = _Sheet(time_tree, lag_nodes, part, settings, curves)
    with look():
        note = sheet.note(len(heads), sum(node.sizes["layer"] * node.sizes["head"] for node in lag_nodes.values()))
        bottom = HEADER + ROW * len(heads)
        figure = page(bottom + 0.52, note, title, subtitle, room=BAR_LEFT - 0.4)
        norm, ends = map_norm(maps, settings), lag_panel.ratio_range(profiles)
        draw_colour_bar(figure, norm, BAR_LEFT, 0.28, WIDTH - 0.22 - BAR_LEFT, weight_label(time_tree))
        for row, (head, weights, profile) in enumerate(zip(heads, maps, profiles, strict=True)):
            top = HEADER + ROW * row
            sheet.draw_map(figure, top, ascii_lowercase[row % 26], head, weights, norm)
            sheet.draw_lags(figure, top, head, profile, ends)
        lag_panel.draw_legend(figure, 0.2, bottom + 0.12, sheet.map_keys())
        lag_panel.draw_legend(figure, 0.2, bottom + 0.3, lag_panel.profile_keys(sheet.confidence))
    return figure


class _Sheet:
    """What all rows of one sheet share."""

    def __init__(
        self,
        tree: xr.DataTree,
        lags: dict[str, xr.Dataset],
        part: str,
        settings: FigureSettings,
        curves: xr.Dataset | None,
    ) -> None:
        first = next(iter(lags.values()))
        self.tree, self.part, self.settings, self.attrs = tree, part, settings, first.attrs
        self.signal = tree.attrs.get("signal", {})
        self.unit = TimeUnit.of(self.signal)
        self.curves = curves
        self.samples_per_token = float(first.attrs.get("samples_per_token", 1))
        self.known = truth.rhythms(first.attrs.get("periods", ()), [self.signal.get("truth", {})], part)
        self.window = Window.of(tree, settings.window)
        self.dates = window_dates(tree, settings.window)
        self.confidence = float(first.attrs.get("confidence", 0.95))

    def draw_map(
        self, figure: Figure, top: float, letter: str, head: Head, weights: xr.DataArray, norm: Normalize
    ) -> None:
        write(figure, LEFT, top + 0.12, f"{letter}  {head.label}", fontweight="bold", fontsize=LABEL + 1)
        axes = place(figure, LEFT, top + ROW_HEADER, MAP, MAP, label=f"map {head.label}")
        draw_map(axes, weights, norm)
        outline_strongest(axes, weights, self.settings.top_overlay_percent)
        draw_border(axes, self.window.history)
        ends, length = self._margin(axes.get_xlim())
        upper = place(figure, LEFT, top + ROW_HEADER - GAP - MARGIN, length, MARGIN)
        draw_margin(upper, self.window.curves, self.window.history, ends)
        ends, length = self._margin(axes.get_ylim())
        side = place(figure, LEFT - GAP - MARGIN, top + ROW_HEADER + MAP - length, MARGIN, length)
        draw_margin(side, self.window.curves, self.window.history, ends, upright=True)
        self._label_map(figure, axes, top)

    def _margin(self, span: tuple[float, float]) -> tuple[tuple[float, float], float]:
        """Ends in samples and length in inches of a margin: that of the map, and of a horizon beyond its keys."""
        low, high = span
        per_inch = (high - low) / MAP
        beyond = min(BEYOND, max(0.0, (self.window.series.size - 0.5 - high) / per_inch))
        return (low, high + beyond * per_inch), MAP + beyond

    def _label_map(self, figure: Figure, axes: Axes, top: float) -> None:
        axes.yaxis.tick_right()
        axes.spines[:].set_visible(False)
        name = self.unit.name
        if self.dates is None:
            for axis in (axes.xaxis, axes.yaxis):
                unit_ticks(axis, self.unit, truth.periods_of(self.known))
        else:
            name = date_ticks(axes.xaxis, self.dates) or "date"
            date_ticks(axes.yaxis, self.dates)
        axes.set_xlabel(f"key time ({name})")
        axes.set_ylabel(f"query time ({name})")
        axes.yaxis.set_label_coords(-(MARGIN + 2 * GAP) / MAP, 0.5)

    def draw_lags(self, figure: Figure, top: float, head: Head, profile: xr.Dataset, ends: tuple[float, float]) -> None:
        tiers = truth.TIER * min(len(self.known), truth.ROWS)
        shift = 0.3
        beneath = input_panel.HEIGHT if input_panel.is_known(self.curves) else 0.0
        place_at = (LAG_LEFT, top + ROW_HEADER - shift + tiers, LAG_WIDTH, MAP + shift - tiers - beneath)
        axes = place(figure, *place_at, label=f"lags {head.label}")
        lag_panel.style_ratio_axis(axes, ends)
        lag_panel.style_lag_axes(axes, profile["lag"].values, self.unit, self.known)
        lag_panel.draw_profile(axes, profile)
        truth.mark_rhythms(axes, self.known)
        if beneath and self.curves is not None:
            axes.tick_params(axis="x", labelbottom=False)
            axes.set_xlabel("")
            correlation = float(profile["acf_correlation"]) if "acf_correlation" in profile else None
            at = (LAG_LEFT, top + ROW_HEADER + MAP - beneath + input_panel.GAP, LAG_WIDTH)
            input_panel.draw_input(figure, *at, self.curves, profile["lag"].values, self.unit, self.known, correlation)
        arrow = self.part.replace("->", " → ")
        write(figure, LAG_LEFT, top + 0.12, arrow, fontweight="bold", fontsize=LABEL + 1)
        write(figure, LAG_LEFT, top + 0.27, self._finding(profile), room=LAG_WIDTH, fontsize=SMALL, color=MUTED)

    def _finding(self, profile: xr.Dataset) -> str:
        lag = strongest_lags(beyond_limit(profile)).item()
        zero = lag_panel.lag_zero(profile)
        if lag is None:
            finding = "no lag above the limit"
        else:
            ratio, limit = _at(profile, "ratio", lag), _at(profile, "limit", lag)
            finding = f"furthest above its limit: {self.unit.format(lag)} ({ratio}, limit {limit})"
        return f"{finding}; {zero}" if zero else finding

    def map_keys(self) -> list[lag_panel.Key]:
        keys: list[lag_panel.Key] = [
            ({"color": INK, "linewidth": 0.8}, "series"),
            ({"color": FAINT, "linewidth": 0.8}, "truth of the horizon"),
            ({"color": ACCENT, "linewidth": 0.8}, "forecast"),
            ({"color": MUTED, "linewidth": 0.7, "linestyle": (0, (4, 3))}, "horizon begins"),
        ]
        if percent := self.settings.top_overlay_percent:
            keys.append(({"color": OVERLAY, "linewidth": 1.5}, f"strongest {percent:g} % of the cells"))
        return keys

    def note(self, drawn: int, total: int) -> str:
        windows, index = self.tree.sizes["sample"], self.settings.window
        which = (
            f"the {drawn} of {total} heads that go furthest above their limit"
            if self.settings.heads == "auto"
            else (f"{drawn} of {total} heads, as asked")
        )
        return (
            f"Shown: {which}. Maps: window {index + 1} of {windows}, one colour scale for all rows, cut at the "
            f"{self.settings.robust_percentiles[0]:g} and {self.settings.robust_percentiles[1]:g} % points. "
            f"Lag profiles: mean of {self.attrs['n_windows']} windows; null: {null_sentence(self.attrs)}. "
            f"{truth.describe(self.known, self.unit, self.samples_per_token)}"
            f"{input_panel.describe(self.curves, self.unit)}"
        )


def _at(profile: xr.Dataset, name: str, lag: float) -> str:
    return number(float(f"{float(profile[name].sel(lag=lag)):.2g}"))
