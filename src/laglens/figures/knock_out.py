"""Knock-out: what the forecast loses when the attention at a lag, at a period, or of one head at it is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from laglens.figures import truth
from laglens.figures.lag_panel import style_lag_axes
from laglens.figures.reading import Head, all_heads, require
from laglens.figures.rows import fit_names, names_width
from laglens.figures.style import (
    ACCENT,
    BAND,
    FAINT,
    INK,
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
from laglens.figures.times import TimeUnit, number

NEEDED = ("period", "cut", "measure", "effect", "control", "lower", "upper", "win", "n", "matters")
MEASURES = {  # of the two the first that is known
    "error_change": ("error grows by (sd)", "error of the forecast"),
    "forecast_change": ("forecast moves by (sd)", "the forecast itself, as the truth is not known"),
}
PERIODS, HEADS = 6, 10  # most that are shown
LEFT, CURVE, LOWER = 0.72, 1.5, 0.17  # inches: left of the curve, its height, a row below it
BOLD: dict[str, Any] = {"fontsize": LABEL + 0.5, "fontweight": "bold"}


def draw_knock_out(
    effects: xr.DataTree,
    table: pd.DataFrame,
    *,
    confidence: float = 0.95,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Causal lag curve; below it each period's cuts beside their controls, and the heads that matter at one period.

    Parameters
    ----------
    effects, table
        From `laglens.attribution.causal.measure_knock_outs` and `knock_out_table`.
    confidence
        Of the table's intervals.
    title, subtitle
        What was cut: signal and model.

    Raises
    ------
    LaglensError
        The tree or the table lacks something.
    """
    if "left_out" in effects.attrs:
        with look():
            return explain(title, subtitle, f"Not cut: {effects.attrs['left_out']}.")
    require(effects.children, ("curve",), "knock-out tree")
    curve = effects.children["curve"].to_dataset(inherit=False)
    require(curve, ("forecast_change",), "causal lag curve")
    require(table, NEEDED, "table of knock-outs")
    if not curve.sizes["lag"]:
        with look():
            return explain(title, subtitle, "Not cut: the model has no lag of 2 tokens or more.")
    signal = effects.attrs.get("signal", {})
    unit, step = TimeUnit.of(signal), float(effects.attrs["samples_per_token"])
    known = _rhythms(table, signal.get("truth", {}), step)
    measure, rows = _measured(table)
    ranked = _ranked_heads(effects, rows, measure)
    note = _note(curve, known, unit, step, measure, rows, confidence, signal, _why_none(table))
    with look():
        top = 0.84 + truth.TIER * min(len(known), truth.ROWS)
        lower_top = top + CURVE + 0.86
        lines = max(_n_lines(rows), len(ranked))
        depth = lower_top + LOWER * lines + 0.42 if lines else top + CURVE + 0.42
        figure = page(depth + 0.12, note, title, subtitle)
        write(figure, 0.2, 0.74, "a  one lag cut at a time: how far the forecast moves", **BOLD)
        axes = place(figure, LEFT, top, WIDTH - LEFT - 0.2, CURVE, label="causal lag curve")
        draw_causal_curve(axes, curve, known, unit)
        if len(rows):
            write(figure, 0.2, lower_top - 0.2, "b  a period cut, beside matched controls", **BOLD)
            _draw_cuts(figure, lower_top, rows, measure, unit, known)
        if ranked:
            _draw_heads(figure, lower_top, ranked, measure, unit.format(float(rows["period"].iloc[0])))
    return figure


def draw_causal_curve(axes: Axes, curve: xr.Dataset, known: Sequence[truth.Rhythm], unit: TimeUnit) -> None:
    """Mean over windows of the change of the forecast by the lag that was cut, and the middle half of the windows.

    Parameters
    ----------
    curve
        ``forecast_change (lag, sample)`` [standard deviations of the history].
    known
        True periods, marked with their multiples.
    """
    change = curve["forecast_change"].transpose("lag", "sample").values
    lag, mean = curve["lag"].values, np.nanmean(change, 1)
    low, high = np.nanpercentile(change, [25, 75], axis=1)
    axes.fill_between(lag, low, high, color=BAND, linewidth=0, zorder=1)
    axes.plot(lag, mean, color=ACCENT, zorder=3, gid="mean")
    best = int(mean.argmax())
    axes.plot(lag[best], mean[best], "o", color=ACCENT, markersize=4, zorder=4, gid="top lag")
    style_lag_axes(axes, lag, unit, known)
    axes.set_ylim(0, max(high.max(), mean.max()) * 1.18 or 1)
    beside = lag[best] < 0.7 * lag[-1]
    axes.annotate(
        unit.format(float(f"{lag[best]:.4g}")),
        (lag[best], mean[best]),
        xytext=(5 if beside else -5, 3),
        textcoords="offset points",
        ha="left" if beside else "right",
        fontsize=SMALL,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        zorder=5,
    )
    truth.mark_rhythms(axes, known)
    axes.set_ylabel("forecast moves by (sd)")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _rhythms(table: pd.DataFrame, known: Mapping[str, Any], step: float) -> list[truth.Rhythm]:
    """The periods of the table as lines of the curve; those of a series without known periods repeat."""
    single = {float(lag) for lag in known.get("lags", ())} - {float(period) for period in known.get("periods", ())}
    periods = sorted({float(period) for period in table["period"]}, reverse=True)[:PERIODS]
    tokens = {period: period / step for period in periods}
    entries = [
        {"period": p, "testable": "no" if tokens[p] < 2 else "coarse" if tokens[p] < 4 else "yes"} for p in periods
    ]
    return truth.rhythms(entries, [{"periods": [p for p in periods if p not in single]}], "")


def _measured(table: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The measure to show and its rows, longest period first."""
    for measure in MEASURES:
        rows = table[table["measure"] == measure]
        if len(rows):
            break
    periods = np.sort(rows["period"].unique())[::-1][:PERIODS]
    return measure, rows[rows["period"].isin(periods)].sort_values("period", ascending=False, kind="stable")


def _n_lines(rows: pd.DataFrame) -> int:
    return len(rows) + (rows["period"].nunique() - 1 if len(rows) else 0)


def _draw_cuts(
    figure: Figure, top: float, rows: pd.DataFrame, measure: str, unit: TimeUnit, known: Sequence[truth.Rhythm]
) -> None:
    """One row per period and cut: effect, mean of the controls, and the interval of their difference."""
    names = {rhythm.samples: rhythm.name for rhythm in known}
    labels = [
        f"{names[float(period)]}, {'all multiples' if cut == 'comb' else 'the band alone'}"
        for period, cut in zip(rows["period"], rows["cut"], strict=True)
    ]
    at = np.arange(len(rows)) + (rows["period"] != rows["period"].shift()).cumsum().to_numpy() - 1
    left = 0.2 + max(text_width(label, SMALL) for label in labels) + 0.1
    words = [f"wins {100 * win:.0f} %" for win in rows["win"]]
    width = 3.8 - left - max(text_width(word, SMALL) for word in words) - 0.1
    axes = place(figure, left, top, width, LOWER * _n_lines(rows), label="cuts")
    axes.set_ylim(_n_lines(rows) - 0.5, -0.5)
    axes.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    for y, row, word in zip(at, rows.to_dict("records"), words, strict=True):
        matters = row["matters"] == "yes"
        colour = ACCENT if matters else MUTED
        ends = [row["control"] + row["lower"], row["control"] + row["upper"]]
        axes.plot(ends, [y, y], color=colour, linewidth=1.4, solid_capstyle="butt", zorder=2, gid="interval")
        axes.plot(row["control"], y, "|", color=INK, markersize=7, markeredgewidth=1, zorder=3, gid="control")
        face = colour if matters else "white"
        axes.plot(row["effect"], y, "o", color=colour, markerfacecolor=face, markersize=4.2, zorder=4, gid="effect")
        axes.annotate(
            word, (1, y), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
            va="center_baseline", fontsize=SMALL, color=INK if matters else MUTED, annotation_clip=False,
        )  # fmt: skip
    _name_rows(axes, at, labels)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.02 * high), high)
    axes.set_xlabel(MEASURES[measure][0])


def _name_rows(axes: Axes, at: Sequence[float] | np.ndarray, labels: Sequence[str]) -> None:
    axes.yaxis.set_major_locator(FixedLocator(list(at)))
    labels, size = fit_names(labels)
    axes.set_yticklabels(labels, fontsize=size)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(f"{value:.6g}"))))


def _ranked_heads(effects: xr.DataTree, rows: pd.DataFrame, measure: str) -> list[tuple[Head, np.ndarray]]:
    """Effects over windows of cutting the longest period's comb in one head, largest mean first; at most `HEADS`."""
    if not len(rows):
        return []
    period = float(rows["period"].iloc[0])
    nodes = [node for name, node in effects.children.items() if name.startswith("period_")]
    node = next((n for n in nodes if np.isclose(n.attrs["period"], period)), None)
    if node is None:
        return []
    stacks = {name: child.to_dataset(inherit=False)[measure] for name, child in node.children.items()}
    worth = [(head, head.of(stacks[head.node]).values) for head in all_heads(stacks)]
    return sorted(worth, key=lambda pair: -np.nan_to_num(np.nanmean(pair[1]), nan=-np.inf))[:HEADS]


def _draw_heads(
    figure: Figure, top: float, ranked: Sequence[tuple[Head, np.ndarray]], measure: str, period: str
) -> None:
    """One row per head: mean effect, and the middle half of the windows."""
    left = 4.1
    write(figure, left, top - 0.2, f"c  {period} cut in one head", room=WIDTH - 0.2 - left, **BOLD)
    start = left + names_width([head for head, _ in ranked]) + 0.1
    axes = place(figure, start, top, WIDTH - 0.2 - start, LOWER * len(ranked), label="heads")
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    for index, (_, effect) in enumerate(ranked):
        low, high = np.nanpercentile(effect, [25, 75])
        colour = ACCENT if index == 0 else MUTED
        axes.plot([low, high], [index, index], color=colour, linewidth=1.4, solid_capstyle="butt", zorder=2)
        axes.plot(np.nanmean(effect), index, "o", color=colour, markersize=4.2, zorder=3, gid="head")
    _name_rows(axes, range(len(ranked)), [head.label for head, _ in ranked])
    axes.set_xlabel(MEASURES[measure][0])


def _why_none(table: pd.DataFrame) -> str:
    """Why no period of the table was cut."""
    reasons = table["reason"].dropna().unique().tolist() if "reason" in table else []
    return f": {'; '.join(map(str, reasons))}" if any(reasons) else ""


def _note(
    curve: xr.Dataset,
    known: Sequence[truth.Rhythm],
    unit: TimeUnit,
    step: float,
    measure: str,
    rows: pd.DataFrame,
    confidence: float,
    signal: Mapping[str, Any],
    reason: str,
) -> str:
    lag, testable = curve["lag"].values, [rhythm for rhythm in known if rhythm.testable != "no" and rhythm.repeats]
    near = [np.abs(lag - np.maximum(1, np.round(lag / r.samples)) * r.samples) <= step for r in testable]
    chance = f"; {100 * np.any(near, 0).mean():.0f} % of all lags lie within a token of a line" if near else ""
    has_truth = bool(signal.get("truth", {}).get("periods") or signal.get("truth", {}).get("lags"))
    source = truth.describe(known, unit, step)
    source = source if has_truth or not known else source.replace("True periods", "Periods of the input")
    lower = (
        f"b: dot: effect on {MEASURES[measure][1]}; stroke: mean of the matched controls (the same number of lags "
        f"between the multiples; bands elsewhere); bar: {100 * confidence:g} % interval of the difference, from the "
        "stroke; filled: it matters (interval above 0, effect at least 0.05); wins: windows in which the cut costs "
        f"more than its controls. c: mean and middle half of the windows, at most {HEADS} heads."
        if len(rows)
        else f"There is no period to cut{reason}."
    )
    return (
        f"{curve.sizes['sample']} windows; effects in standard deviations of the history. a: mean, the lag that moves "
        f"most as a dot, and grey, the middle half of the windows{chance}. {lower} {source}"
    )
