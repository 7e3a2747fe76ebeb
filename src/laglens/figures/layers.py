"""Layers: how concentrated and how local the heads of a model are, layer by layer, on every signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from laglens.errors import LaglensError
from laglens.figures.reading import HEADLINE, STACKS, require
from laglens.figures.style import (
    BAND,
    CATEGORIES,
    FAINT,
    INK,
    LABEL,
    MUTED,
    SMALL,
    WIDTH,
    fit,
    look,
    page,
    place,
    text_width,
    write,
)
from laglens.figures.times import number

# Column, what it is, and what a head without any preference has: a number, or the column that holds it.
MEASURES: tuple[tuple[str, str, float | str], ...] = (
    ("relative_entropy", "entropy / uniform", 1.0),
    ("gini", "Gini coefficient", 0.0),
    ("locality", "mass on local keys", "locality_uniform"),
)
MARKERS = "osD^vP*X"
COLOURS = (*CATEGORIES[1:4], *CATEGORIES[5:])  # yellow hardly shows on white
TOP, PANEL, GAP, LEFT = 0.86, 1.25, 0.34, 0.62  # inches
SPREAD = 0.72  # of the width of a layer that the signals share
NEEDED = ("stack", "layer", "head", "part", "n_windows", *(name for name, *_ in MEASURES))


def draw_layers(
    tables: Mapping[str, pd.DataFrame],
    *,
    untrained: Mapping[str, pd.DataFrame] | None = None,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Entropy, Gini coefficient and locality of every head by layer, a colour and a marker for each signal.

    Parameters
    ----------
    tables
        By signal, from `laglens.heads.table.heads_table`, all of one model, or of several trainings of one
        architecture, put together.
    untrained
        The same of random weights: their median is drawn in grey behind that of each signal.
    title, subtitle
        What was measured: the model.

    Raises
    ------
    LaglensError
        No table, or one that lacks a column.
    """
    if not tables:
        raise LaglensError("there is no table of heads to draw; give that of at least one signal")
    untrained = untrained or {}
    for signal, table in (*tables.items(), *untrained.items()):
        require(table, NEEDED, f"table of heads of {signal}")
    found = {str(part) for table in tables.values() for part in table["part"]}
    part = next(name for name in (*HEADLINE, *sorted(found)) if name in found)
    chosen, random = (
        {signal: table[table["part"] == part] for signal, table in group.items()} for group in (tables, untrained)
    )
    layers = _layers(chosen)
    note = _note(chosen, part, beside=bool(random))
    with look():
        keys = _legend_rows(list(chosen))
        first = TOP + 0.16 * len(keys)
        bottom = first + len(MEASURES) * (PANEL + GAP) - GAP + 0.42
        figure = page(bottom + 0.1, note, title, subtitle)
        _draw_legend(figure, keys, list(chosen))
        for index, (column, words, uniform) in enumerate(MEASURES):
            top = first + index * (PANEL + GAP)
            axes = place(figure, LEFT, top, WIDTH - LEFT - 0.2, PANEL, label=f"layers {column}")
            write(figure, LEFT, top - 0.07, words, fontsize=LABEL + 0.5, fontweight="bold")
            draw_measure(axes, chosen, layers, column, uniform, random)
            _label_layers(axes, layers, last=index == len(MEASURES) - 1)
    return figure


def draw_measure(
    axes: Axes,
    tables: Mapping[str, pd.DataFrame],
    layers: Sequence[tuple[str, int]],
    column: str,
    uniform: float | str,
    untrained: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """One measure: a mark for each head, a line through the medians of each signal, dashed what is uniform."""
    step = SPREAD / max(len(tables), 1)
    values_of_all = []
    for index, (signal, table) in enumerate(tables.items()):
        style = signal_style(index)
        shift = (index - (len(tables) - 1) / 2) * step
        medians: dict[str, list[tuple[float, float]]] = {}
        for place_of, (stack, layer) in enumerate(layers):
            values = _of_layer(table, stack, layer)[column].dropna().to_numpy(float)
            at = place_of + shift
            if untrained and signal in untrained:
                of_random = _of_layer(untrained[signal], stack, layer)[column].dropna().to_numpy(float)
                values_of_all.append(of_random)
                axes.plot([at - step / 2, at + step / 2], [np.median(of_random)] * 2, **RANDOM)
            values_of_all.append(values)
            marks = np.full(len(values), at)
            axes.plot(
                marks, values, linestyle="none", markersize=2.4, alpha=0.7, markeredgewidth=0, **style, gid=signal
            )
            if len(values):
                half = min(step, 0.2) * 0.5
                median = float(np.median(values))
                axes.plot([at - half, at + half], [median] * 2, color=style["color"], linewidth=1.6, gid="median")
                medians.setdefault(stack, []).append((at, median))
        for points in medians.values():  # how it goes on from layer to layer
            axes.plot(*zip(*points, strict=True), color=style["color"], linewidth=0.6, alpha=0.6, gid="progression")
    if isinstance(uniform, str):
        first = next(iter(tables.values()))
        for place_of, (stack, layer) in enumerate(layers):
            rows = _of_layer(first, stack, layer)
            if uniform in rows and len(rows):
                height = float(rows[uniform].iloc[0])
                axes.plot([place_of - 0.45, place_of + 0.45], [height] * 2, **UNIFORM)
                values_of_all.append(np.array([height]))
    else:
        axes.axhline(uniform, **UNIFORM)
    every = np.concatenate([*values_of_all, [0.0, 1.0 if column != "locality" else 0.05]])
    top = float(np.nanmax(every))
    axes.set_ylim(-0.04 * top, 1.06 * top)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(f"{value:.6g}"))))


UNIFORM: dict[str, Any] = {"color": FAINT, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 0.5}


RANDOM: dict[str, Any] = {"color": BAND, "linewidth": 5.0, "solid_capstyle": "butt", "zorder": 0.8, "gid": "untrained"}


def _of_layer(table: pd.DataFrame, stack: str, layer: int) -> pd.DataFrame:
    return table[(table["stack"] == stack) & (table["layer"] == layer)]


def signal_style(index: int) -> dict[str, Any]:
    """Colour and marker of a signal: no two of the first 24 are the same."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _layers(tables: Mapping[str, pd.DataFrame]) -> list[tuple[str, int]]:
    every = {(str(s), int(i)) for table in tables.values() for s, i in zip(table["stack"], table["layer"], strict=True)}
    return sorted(every, key=lambda one: (STACKS.index(one[0]) if one[0] in STACKS else len(STACKS), *one))


def _label_layers(axes: Axes, layers: Sequence[tuple[str, int]], *, last: bool) -> None:
    axes.set_xlim(-0.5, len(layers) - 0.5)
    for edge in range(1, len(layers)):
        other = layers[edge][0] != layers[edge - 1][0]
        axes.axvline(edge - 0.5, color=MUTED if other else FAINT, linewidth=0.6 if other else 0.3, zorder=0)
    room = (WIDTH - LEFT - 0.2) / len(layers) - 0.06
    names = [f"L{layer:02d}" for _, layer in layers]
    every = max(1, int(np.ceil(text_width("L00", SMALL) / max(room, 0.02))))
    axes.xaxis.set_major_locator(FixedLocator(list(range(0, len(layers), every))))
    axes.set_xticklabels(names[::every] if last else [""] * len(names[::every]), fontsize=SMALL)
    axes.tick_params(axis="x", length=0)
    if last:
        _name_stacks(axes, layers)


def _name_stacks(axes: Axes, layers: Sequence[tuple[str, int]]) -> None:
    """Name of each stack under its layers."""
    per_layer = (WIDTH - LEFT - 0.2) / len(layers)
    for stack in dict.fromkeys(stack for stack, _ in layers):
        at = [index for index, (name, _) in enumerate(layers) if name == stack]
        name, size = fit(stack, per_layer * len(at) - 0.05, LABEL)
        axes.annotate(
            name, (float(np.mean(at)), 0), xycoords=("data", "axes fraction"), xytext=(0, -20),
            textcoords="offset points", ha="center", va="center", fontsize=size, color=INK, annotation_clip=False,
        )  # fmt: skip


def _legend_rows(signals: Sequence[str]) -> list[list[tuple[int, float]]]:
    """Signals and where their keys begin, in inches, line by line."""
    rows: list[list[tuple[int, float]]] = [[]]
    at = 0.0
    for index, signal in enumerate(signals):
        width = 0.14 + text_width(fit(signal, KEY_ROOM, SMALL)[0], SMALL) + 0.2
        if rows[-1] and at + width > WIDTH - LEFT - 0.2:
            rows.append([])
            at = 0.0
        rows[-1].append((index, at))
        at += width
    return rows


KEY_ROOM = 2.4  # inches of the name of a signal


def _draw_legend(figure: Figure, rows: Sequence[Sequence[tuple[int, float]]], signals: Sequence[str]) -> None:
    width = WIDTH - LEFT - 0.2
    for line, keys in enumerate(rows):
        top = 0.58 + 0.16 * line
        axes = place(figure, LEFT, top, width, 0.14, xlim=(0, width), ylim=(0, 1))
        axes.set_axis_off()
        for index, at in keys:
            axes.plot(at + 0.05, 0.5, markersize=4, markeredgewidth=0, linestyle="none", **signal_style(index))
            name, size = fit(signals[index], KEY_ROOM, SMALL)
            axes.text(at + 0.14, 0.5, name, fontsize=size, color=INK, va="center_baseline")


def _note(tables: Mapping[str, pd.DataFrame], part: str, *, beside: bool) -> str:
    windows = sorted({int(n) for table in tables.values() for n in table["n_windows"]})
    counted = str(windows[0]) if windows[0] == windows[-1] else f"{windows[0]} to {windows[-1]}"
    return (
        f"{part.replace('->', ' to ')}; one mark for each head, mean of {counted} windows; bar: median of the "
        f"layer{'; grey: that of the same heads with random weights' if beside else ''}. "
        "Dashed: a head without any preference. Entropy is divided by that of a uniform row over the keys that the "
        "query can see; local keys lie within the window of the heads stage (one token unless set). A stack without "
        "this query part is left out. Whether a difference between signals or layers is one of the input is not tested."
    )
