"""Event-locked attention: what the tokens of events get, beside the same tokens of windows without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from laglens.figures.lag_panel import draw_legend
from laglens.figures.reading import Head, headline_of, require, stack_order
from laglens.figures.rows import label_rows, names_width, row_height, stripe
from laglens.figures.settings import FigureSettings
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
    write,
)
from laglens.figures.times import TimeUnit, number

NEEDED = ("stack", "layer", "head", "part", "event", "since_from", "since_to", "received", "matched", "excess")
NEEDED_TOO = ("low", "high", "n_events")
MOST_KINDS, MOST_COURSES = 3, 3
TOP, TALLEST, COURSE, GAP, LEFT = 1.02, 3.6, 1.25, 0.3, 0.62  # inches


def draw_events(
    table: pd.DataFrame,
    events: xr.DataTree,
    settings: FigureSettings | dict[str, Any] | None = None,
    *,
    confidence: float = 0.95,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Excess attention of every head to each kind of event, and its course with the time since the event.

    Parameters
    ----------
    table, events
        From `laglens.heads.events.events_table` and `lock_to_events`; of the tree only the attributes are used.
    settings
        The ``figures`` section of the config; `part` is used.
    confidence
        Of the table's intervals.
    title, subtitle
        What was measured: signal and model.

    Raises
    ------
    LaglensError
        The table lacks a column, or the part asked for.
    """
    if table.empty:
        with look():
            return explain(title, subtitle, f"Not locked: {events.attrs.get('left_out', 'no window holds an event')}.")
    require(table, (*NEEDED, *NEEDED_TOO), "table of events")
    part = headline_of(table["part"], FigureSettings.parse(settings).part)
    chosen = table[table["part"] == part]
    overall, courses = chosen[chosen["since_from"].isna()], chosen[chosen["since_from"].notna()]
    kinds = list(dict.fromkeys(overall["event"]))[:MOST_KINDS]
    heads = _heads(overall)
    best = _strongest(overall[overall["event"].isin(kinds)])
    unit = TimeUnit.of(events.attrs.get("signal", {}))
    note = _note(overall, part, kinds, confidence)
    with look():
        row = row_height(len(heads), TALLEST)
        second = TOP + row * len(heads) + 0.9
        bottom = second + COURSE + 0.5
        figure = page(bottom + 0.3, note, title, subtitle)
        write(figure, 0.2, TOP - 0.28, "a  all times since an event", **BOLD)
        _draw_overall(figure, overall, kinds, heads, row)
        write(figure, 0.2, second - 0.26, "b  with the time since the event", **BOLD)
        width = (WIDTH - LEFT - 0.2 - GAP * (MOST_COURSES - 1)) / MOST_COURSES
        for index, (head, kind) in enumerate(best):
            left = LEFT + index * (width + GAP)
            axes = place(figure, left, second, width, COURSE, label=f"course {head.label}")
            named = f"{head.label}, {_plain(kind)}"
            write(figure, left, second - 0.08, named, room=width, fontsize=SMALL, color=MUTED)
            draw_course(axes, _of(courses, head, kind), unit)
            if index == 0:
                axes.set_ylabel("attention / uniform")
        draw_legend(figure, 0.2, bottom + 0.08, KEYS)
    return figure


BOLD: dict[str, Any] = {"fontsize": LABEL + 0.5, "fontweight": "bold"}
MATCHED: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (2.5, 1.5))}
KEYS = [
    ({"color": ACCENT, "marker": "o", "markersize": 3.6}, "tokens with an event; dot: beyond the band"),
    (MATCHED, "the same tokens without one"),
    ({"color": BAND, "linewidth": 7}, "interval of the difference, around them"),
]


def draw_course(axes: Axes, course: pd.DataFrame, unit: TimeUnit) -> None:
    """What event tokens get and what matched tokens get, by the time since the event.

    The band lies around the matched line, as wide as the interval of the difference: the line of the events leaves it
    where that interval leaves 0 out.

    Parameters
    ----------
    course
        Rows of one head and kind of event, one per bin of time.
    unit
        Of the time since the event.
    """
    course = course.sort_values("since_from")
    at = np.arange(len(course))
    received, matched, excess, low, high = (
        course[name].to_numpy(float) for name in ("received", "matched", "excess", "low", "high")
    )
    axes.fill_between(at, matched - (excess - low), matched + (high - excess), color=BAND, linewidth=0, zorder=1)
    axes.plot(at, matched, zorder=2, gid="matched", **MATCHED)
    axes.plot(at, received, color=ACCENT, zorder=3, gid="received")
    beyond = (low > 0) | (high < 0)
    axes.plot(at[beyond], received[beyond], "o", color=ACCENT, markersize=3.6, zorder=4, gid="beyond")
    axes.axhline(1, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_xlim(-0.5, max(len(course) - 0.5, 0.5))
    axes.set_ylim(0, 1.1 * float(np.nanmax([*received, *matched, *(matched + np.nan_to_num(high - excess)), 1])))
    edges = [*course["since_from"], course["since_to"].iloc[-1]]
    axes.xaxis.set_major_locator(FixedLocator(list(np.arange(len(edges)) - 0.5)))
    axes.set_xticklabels([unit.number(edge) for edge in edges], fontsize=SMALL if len(edges) < 8 else SMALL - 1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(f"{value:.6g}"))))
    axes.set_xlabel(f"time since the event ({unit.name})")


def _draw_overall(
    figure: Figure, overall: pd.DataFrame, kinds: Sequence[str], heads: Sequence[Head], row: float
) -> None:
    """Excess of every head with its interval, one column for each kind of event, on one scale."""
    start = 0.2 + names_width(heads) + 0.1
    width = (WIDTH - 0.3 - start - 0.22 * (len(kinds) - 1)) / len(kinds)
    ends = overall[["low", "high", "excess"]].to_numpy(float)
    reach = 1.08 * max(float(np.nanmax(np.abs(ends))), 1e-6)
    low_end = min(1.15 * float(np.nanmin(ends)), -0.05 * reach)
    for index, kind in enumerate(kinds):
        left = start + index * (width + 0.22)
        write(figure, left, TOP - 0.08, _plain(kind), room=width, color=INK)
        axes = place(figure, left, TOP, width, row * len(heads), label=f"excess {kind}")
        axes.set(xlim=(low_end, reach), ylim=(len(heads) - 0.5, -0.5))
        _draw_heads(axes, overall[overall["event"] == kind], heads, row)
        label_rows(axes, heads, row, line=BAND, named=index == 0)
        stripe(axes, len(heads))
        axes.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
        axes.spines["bottom"].set_visible(True)
        axes.xaxis.set_major_locator(MaxNLocator(3 if width < 2.5 else 6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(f"{value:.6g}"))))
        axes.set_xlabel("event − matched (1 = uniform)")


def _draw_heads(axes: Axes, rows: pd.DataFrame, heads: Sequence[Head], row: float) -> None:
    at = {head: place_of for place_of, head in enumerate(heads)}
    where = np.array([at[head] for head in _heads_of(rows)], dtype=float)
    excess, low, high = (rows[name].to_numpy(float) for name in ("excess", "low", "high"))
    size = float(np.clip(row * 72 * 0.45, 1.2, 4))
    beyond = (low > 0) | (high < 0)
    for chosen, colour, face, gid in ((beyond, ACCENT, ACCENT, "beyond"), (~beyond, MUTED, "white", "within")):
        axes.hlines(where[chosen], low[chosen], high[chosen], color=colour, linewidth=max(0.5, size / 3), zorder=2)
        dots: dict[str, Any] = {"markersize": size, "markerfacecolor": face, "markeredgecolor": colour, "zorder": 4}
        axes.plot(excess[chosen], where[chosen], "o", markeredgewidth=0.7, gid=gid, **dots)


def _strongest(overall: pd.DataFrame) -> list[tuple[Head, str]]:
    """Heads and kinds whose interval lies furthest from 0, else those with the largest excess."""
    excess, low, high = (overall[name].to_numpy(float) for name in ("excess", "low", "high"))
    clear = np.nan_to_num(np.maximum(np.maximum(low, -high), 0))
    order = np.lexsort((-np.abs(np.nan_to_num(excess)), -clear))
    names, heads = overall["event"].tolist(), _heads_of(overall)
    return [(heads[i], str(names[i])) for i in order[:MOST_COURSES]]


def _heads_of(rows: pd.DataFrame) -> list[Head]:
    return [
        Head(str(stack), int(layer), int(head))
        for stack, layer, head in zip(rows["stack"], rows["layer"], rows["head"], strict=True)
    ]


def _heads(rows: pd.DataFrame) -> list[Head]:
    return sorted(set(_heads_of(rows)), key=lambda head: (stack_order(head.node), head.layer, head.head))


def _of(rows: pd.DataFrame, head: Head, kind: str) -> pd.DataFrame:
    same = (rows["stack"] == head.node) & (rows["layer"] == head.layer) & (rows["head"] == head.head)
    return rows[same & (rows["event"] == kind)]


def _plain(kind: str) -> str:
    return kind.replace("_", " ")


def _note(overall: pd.DataFrame, part: str, kinds: Sequence[str], confidence: float) -> str:
    counts = overall.groupby("event")["n_events"].max()
    said = ", ".join(f"{int(counts[kind])} {_plain(kind)}" for kind in kinds)
    left = len(counts) - len(kinds)
    more = f" {left} more {'kinds' if left > 1 else 'kind'} of event in the table." if left else ""
    shown = "the heads and events whose interval lies furthest from 0"
    return (
        f"{part.replace('->', ' to ')}. Events: {said}. A pair of a query and a token that holds an event is compared "
        "with the same two tokens, so the same positions and the same lag, in the windows that have no event near: its "
        f"null. a: the difference, bar: {100 * confidence:g} % interval from resampled events (none for fewer "
        f"than 5), filled where it leaves 0 out; heads are not corrected for their number. b: {shown}; 1 = uniform "
        f"attention within the part.{more}"
    )
