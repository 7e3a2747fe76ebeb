"""Forecasts: the windows with the largest and the smallest errors, and where the model looked in each."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from laglens.figures.bands import by_time, draw_bands, draw_series, forecasting_rows, label_time
from laglens.figures.heatmap import Window
from laglens.figures.lag_panel import draw_legend
from laglens.figures.reading import require, stacks
from laglens.figures.style import (
    ACCENT,
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
    write,
)
from laglens.figures.times import TimeUnit, number, window_dates

MOST = 3  # windows of either kind
ENOUGH = 0.5  # of the steps that the best known window knows
TOP, SERIES, BAND, GAP = 0.62, 0.72, 0.13, 0.56  # inches
LEFT, BETWEEN = 0.72, 0.3
READING = ("decoder", "cross", "encoder")  # the last of these that forecasts is nearest to the forecast
USED = ("occlusion", "input_x_gradient", "gradient")


def draw_forecasts(
    time_tree: xr.DataTree,
    attribution: xr.DataTree | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Windows with the largest errors left, the smallest right: series, truth, forecast, what was looked at and used.

    Parameters
    ----------
    time_tree
        Windows with ``series``, ``forecast`` and the maps of every stack.
    attribution
        From `laglens.attribution.agreement.agree_with_attention`; without it the second band is left out.
    title, subtitle
        What was drawn: signal and model.

    Raises
    ------
    LaglensError
        The tree lacks something.
    """
    require(time_tree, ("series", "forecast"), "time tree")
    errors, share = window_errors(time_tree)
    # An error over the first few steps is no error over the horizon.
    known = np.flatnonzero(np.isfinite(errors) & (share >= ENOUGH * share.max()))
    if len(known) < 2:
        with look():
            return explain(title, subtitle, "Fewer than two windows have a known truth to compare the forecast with.")
    order = known[np.argsort(errors[known], kind="stable")]
    count = min(MOST, len(order) // 2)
    columns = {"largest errors": order[::-1][:count], "smallest errors": order[:count]}
    bands, names, method = _bands(time_tree, attribution)
    note = _note(errors[known], len(errors), count, method)
    unit, history = TimeUnit.of(time_tree.attrs.get("signal", {})), float(time_tree.attrs["history"])
    with look():
        depth = SERIES + BAND * len(names)
        bottom = TOP + (0.3 + depth) * count + GAP
        figure = page(bottom + 0.34, note, title, subtitle)
        width = (WIDTH - LEFT - BETWEEN - 0.2) / 2
        for column, (words, windows) in enumerate(columns.items()):
            left = LEFT + column * (width + BETWEEN)
            write(figure, left, TOP + 0.1, words, fontsize=LABEL + 0.5, fontweight="bold")
            for row, window in enumerate(windows):
                top = TOP + 0.3 + (0.3 + depth) * row
                shown = Window.of(time_tree, int(window))
                dates = window_dates(time_tree, int(window))
                said = f"window {window + 1}: error {number(float(f'{errors[window]:.2g}'))} sd"
                write(figure, left + width, top - 0.03, said, ha="right", fontsize=SMALL, color=MUTED)
                span = (-0.5, shown.series.size - 0.5)
                axes = place(figure, left, top, width, SERIES, label=f"forecast {words} {row}")
                draw_series(axes, shown.curves, history, span)
                below = place(figure, left, top + SERIES, width, BAND * len(names), label=f"looked {words} {row}")
                weights, times = bands[int(window)]
                scaled = weights / np.maximum(weights.max(-1, keepdims=True), 1e-12)
                draw_bands(below, scaled, times, names if column == 0 else [""] * len(names), NORM, history)
                below.set_xlim(span)
                below.set_facecolor("#e4e5e9")
                label_time(below, unit, dates)
                if row < count - 1:
                    below.tick_params(axis="x", labelbottom=False)
                    below.set_xlabel("")
        draw_legend(figure, 0.2, bottom + 0.1, KEYS)
    return figure


NORM = Normalize(0, 1)
KEYS = [
    ({"color": INK, "linewidth": 0.8}, "series"),
    ({"color": FAINT, "linewidth": 0.8}, "truth of the horizon"),
    ({"color": ACCENT, "linewidth": 0.8}, "forecast"),
    ({"color": MUTED, "linewidth": 0.7, "linestyle": (0, (4, 3))}, "horizon begins"),
]


def window_errors(time_tree: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute error over the known steps in sd of the history, and their share of all: ``(sample,)`` each."""
    root = time_tree.to_dataset(inherit=False)
    history = int(time_tree.attrs["history"])
    series = root["series"].transpose("sample", "time").values
    forecast = root["forecast"].transpose("sample", "step").values
    steps = root["step"].values.astype(int)
    inside = steps < series.shape[1]
    wrong = np.abs(forecast[:, inside] - series[:, steps[inside]])
    known = np.isfinite(wrong)
    mean = np.where(known, wrong, 0).sum(1) / np.maximum(known.sum(1), 1)
    sd = series[:, :history].std(1, ddof=1)
    return np.where(known.any(1) & (sd > 0), mean / np.where(sd > 0, sd, 1), np.nan), known.mean(1)


def _bands(
    time_tree: xr.DataTree, attribution: xr.DataTree | None
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[str], str]:
    """What every window looked at and used, ``(band, time)`` with the times; names of the bands; the method."""
    nodes = stacks(time_tree, "attention", "time tree")
    name = next((name for name in READING if name in nodes), next(iter(nodes)))
    node = nodes[name]
    rows, keys = forecasting_rows(node), _history_keys(node)
    maps = node["attention"].transpose("sample", "layer", "head", "query", "key").values
    looked, times = by_time(maps[..., rows, :][..., keys].mean((1, 2, 3)), node["key_time"].values[keys])
    used, method = _used(attribution, node, keys)
    names = ["looked at"] if used is None else ["looked at", "used"]
    both = looked[:, None] if used is None else np.stack([looked, used], 1)
    return [(one, times) for one in both], names, f"{name}|{method}"


def _history_keys(node: xr.Dataset) -> np.ndarray:
    keys = node["key_part"].values == 0
    return keys if keys.any() else np.ones(node.sizes["key"], bool)


def _used(attribution: xr.DataTree | None, node: xr.Dataset, keys: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Absolute attribution, the mean over the samples of each key column, ``(sample, time)``."""
    if attribution is None or "attribution" not in attribution:
        return None, ""
    methods = [str(name) for name in attribution["attribution_method"].values]
    if not methods:
        return None, ""
    method = next((name for name in USED if name in methods), methods[0])
    values = attribution.to_dataset()["attribution"].sel(attribution_method=method).transpose("sample", "time").values
    size = np.abs(values)
    starts = np.floor(node["key_start"].values[keys]).astype(int)
    ends = np.ceil(node["key_end"].values[keys]).astype(int)
    covered = ((max(a, 0), min(max(b, a + 1), size.shape[1])) for a, b in zip(starts, ends, strict=True))
    # A token past the history that was attributed, as the last of an encoder-decoder, has none of it.
    pooled = np.stack([size[:, a:b].mean(1) if a < b else np.zeros(len(size)) for a, b in covered], 1)
    return by_time(pooled, node["key_time"].values[keys])[0], method


def _note(known: np.ndarray, windows: int, count: int, which: str) -> str:
    stack, method = which.split("|")
    used = f"; used: |{method.replace('_', ' ')}| of the forecast, by the same tokens" if method else ""
    median = number(float(f"{np.median(known):.2g}"))
    return (
        f"The {count} windows with the largest and the {count} with the smallest mean absolute error of {len(known)} "
        f"windows with enough known truth ({windows} in all); errors in standard deviations of the window's history, "
        f"median {median}. Looked at: mean attention of the queries that forecast over all layers and heads of the "
        f"{stack}{used}. Each band on its own scale, 0 to its largest value: compare places, not strengths. What is "
        "looked at is not always used."
    )
