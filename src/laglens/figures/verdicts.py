"""Verdict table: every head at every period, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from laglens.errors import LaglensError
from laglens.figures.reading import require
from laglens.figures.rows import ROOM, fit_names
from laglens.figures.style import (
    ACCENT,
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
from laglens.figures.times import TimeUnit, number
from laglens.lags.permutation import passes

NEEDED = ("stack", "layer", "head", "period", "testable", "verdict", "z", "p_family", "p_swap", "contrast", "untrained")
MOST = 24  # rows; of more heads the best are shown, and the others counted
ROW, HEADER, TOP = 0.19, 0.36, 0.62  # inches
WIDEST = 2.6  # inches of a column
FOLLOWS = 0.62  # inches of the column that belongs to no period
LOOKS = {  # verdict: background, colour of the words, weight
    "supported": (ACCENT, "white", "bold"),
    "not supported": ("#eeeff2", INK, "normal"),
    "not testable": ("white", MUTED, "normal"),
}
Mark = tuple[float, float, bool, str]  # place across and down, filled, colour
SHORT = {"supported": "yes", "not supported": "no", "not testable": "?"}


def draw_verdicts(
    verdicts: pd.DataFrame,
    signal: Mapping[str, Any] | None = None,
    *,
    confidence: float = 0.95,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Heads downwards, periods to the right; each cell the verdict, how strong the comb is, and which tests it passed.

    Parameters
    ----------
    verdicts
        From `laglens.lags.verdicts.verdict_table`; a column ``period_of`` says where the periods come from.
    signal
        Attributes of the signal, for its time unit.
    confidence
        1 minus the error rate of the verdicts' tests.
    title, subtitle
        What was judged: signal and model.

    Raises
    ------
    LaglensError
        The table is empty or lacks a column.
    """
    require(verdicts, NEEDED, "table of verdicts")
    if verdicts.empty:
        raise LaglensError("the verdicts hold no head; compute the lags stage again before drawing")
    table = verdicts.assign(label=[_label(*row) for row in zip(*(verdicts[c] for c in NEEDED[:3]), strict=True)])
    unit = TimeUnit.of(signal or {})
    heads, periods = shown_heads(table), np.sort(table["period"].unique())[::-1]
    note = _note(table, heads, unit, confidence)
    with look():
        bottom = TOP + HEADER + ROW * len(heads)
        figure = page(bottom + 0.2, note, title, subtitle)
        left = 0.2 + min(ROOM, max(text_width(head, SMALL) for head in heads)) + 0.1
        axes = place(figure, left, TOP + HEADER, WIDTH - 0.2 - left, ROW * len(heads), label="verdicts")
        axes.set_axis_off()
        width = WIDTH - 0.2 - left
        axes.set(xlim=(0, width), ylim=(len(heads), 0))
        _draw_head_column(figure, axes, table, heads, left, confidence)
        marks: list[Mark] = []
        column = min(WIDEST, (width - FOLLOWS) / len(periods))
        for index, period in enumerate(periods):
            one = table[table["period"] == period]
            cells = dict(zip(one["label"], one.to_dict("records"), strict=True))
            start = FOLLOWS + index * column
            _write_header(figure, left + start, column, one, unit, len(table["label"].unique()))
            for row, head in enumerate(heads):
                if head in cells:
                    marks += _draw_cell(axes, start, row, column, cells[head], confidence)
        _draw_marks(axes, marks)
    return figure


def shown_heads(table: pd.DataFrame) -> list[str]:
    """Labels of the heads to show: all in the order of the model, or the best `MOST` of them in the same order."""
    place_of = table.drop_duplicates("label").set_index("label")[list(NEEDED[:3])]
    ordered = place_of.sort_values(["stack", "layer", "head"], key=_stack_order).index
    if len(ordered) <= MOST:
        return list(ordered)
    rank = table.assign(
        supported=table["verdict"] == "supported", evidence=-table["p_family"].fillna(np.inf), size=table["z"]
    )
    best = rank.groupby("label")[["supported", "evidence", "size"]].max()
    chosen = set(best.sort_values(["supported", "evidence", "size"], ascending=False, kind="stable").index[:MOST])
    return [label for label in ordered if label in chosen]


def conditions_met(row: Mapping[Any, Any], confidence: float) -> tuple[bool, bool, bool]:
    """Whether a head's comb beats noise, whether it follows other periods, and whether it beats random weights."""
    beats, follows = (bool(passes(row[name], confidence)) for name in ("p_family", "p_swap"))
    return beats, follows, bool(row["contrast"] > row["untrained"])


def _stack_order(column: pd.Series) -> pd.Series:
    order = {"encoder": 0, "decoder": 1, "cross": 2}
    return column.map(lambda name: order.get(name, 3)) if column.name == "stack" else column


def _label(stack: str, layer: int, head: int) -> str:
    return f"{stack} L{layer:02d} H{head:02d}"


def _draw_head_column(
    figure: Figure, axes: Axes, table: pd.DataFrame, heads: Sequence[str], left: float, confidence: float
) -> None:
    """Names of the heads, and whether each follows periods whatever they are."""
    p_swap = dict(zip(table["label"], table["p_swap"], strict=True))
    middle = left + FOLLOWS / 2
    write(figure, middle, TOP + HEADER - 0.2, "follows", ha="center", fontsize=SMALL, color=MUTED)
    write(figure, middle, TOP + HEADER - 0.08, "periods", ha="center", fontsize=SMALL, color=MUTED)
    names, size = fit_names(heads)
    for row, (head, name) in enumerate(zip(heads, names, strict=True)):
        p = float(p_swap[head])
        follows = passes(p, confidence)
        axes.text(-0.1, row + 0.5, name, ha="right", va="center_baseline", fontsize=size, color=INK)
        style: dict[str, Any] = {"fontweight": "bold"} if follows else {"color": MUTED}
        axes.text(FOLLOWS / 2, row + 0.5, _p(p), ha="center", va="center_baseline", fontsize=SMALL, **style)


def _write_header(figure: Figure, left: float, width: float, column: pd.DataFrame, unit: TimeUnit, heads: int) -> None:
    """The period, and how many heads are supported, above a column."""
    middle, room = left + width / 2, width - 0.04
    period = float(column["period"].iloc[0])
    name = unit.format(period) if text_width(unit.format(period), LABEL) <= room else unit.number(period)
    write(figure, middle, TOP + HEADER - 0.2, name, room=room, ha="center", fontsize=LABEL, fontweight="bold")
    if column["testable"].iloc[0] == "no":
        return
    count = int((column["verdict"] == "supported").sum())
    said = f"{count} of {heads} heads"
    said = said if text_width(said, SMALL) <= room else f"{count}/{heads}"
    write(figure, middle, TOP + HEADER - 0.08, said, room=room, ha="center", fontsize=SMALL, color=MUTED)


def _draw_cell(
    axes: Axes, left: float, row: int, width: float, cell: Mapping[Any, Any], confidence: float
) -> list[Mark]:
    """One head at one period: verdict and z; returns a mark for each test, filled where it was passed."""
    background, colour, weight = LOOKS[cell["verdict"]]
    axes.add_patch(Rectangle((left + 0.02, row + 0.06), width - 0.04, 0.88, facecolor=background, linewidth=0))
    middle, at = left + width / 2, row + 0.5
    word: dict[str, Any] = {"va": "center_baseline", "color": colour, "fontweight": weight}
    if cell["verdict"] == "not testable":
        said, size = fit(_fitting([cell["verdict"], SHORT[cell["verdict"]]], width - 0.08, "normal"), width, SMALL)
        axes.text(middle, at, said, ha="center", fontsize=size, **word)
        return []
    narrow = width < MARKS + text_width("no", SMALL, weight) + 0.1
    first = middle - 0.09 if narrow else left + width - 0.28
    marks = [(first + 0.09 * i, at, met, colour) for i, met in enumerate(conditions_met(cell, confidence))]
    if narrow:
        return marks
    room = width - MARKS
    z = "z " + number(float(f"{cell['z']:.2g}"))
    options = [f"{cell['verdict']}   {z}", f"{SHORT[cell['verdict']]}  {z}", SHORT[cell["verdict"]]]
    axes.text(left + 0.08, at, _fitting(options, room - 0.1, weight), ha="left", fontsize=SMALL, **word)
    return marks


MARKS = 0.36  # inches of the three marks


def _draw_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    """Marks of all cells at once: place across and down, whether filled, colour."""
    for filled, colour in sorted({mark[2:] for mark in marks}):
        chosen = [mark for mark in marks if mark[2:] == (filled, colour)]
        at, rows = [mark[0] for mark in chosen], [mark[1] for mark in chosen]
        style: dict[str, Any] = {
            "markersize": 3.4,
            "markerfacecolor": colour if filled else "none",
            "markeredgecolor": colour,
        }
        axes.plot(at, rows, "o", markeredgewidth=0.7, gid="passed" if filled else "failed", **style)


def _fitting(options: Sequence[str], room: float, weight: str) -> str:
    return next((option for option in options if text_width(option, SMALL, weight) <= room), options[-1])


def _p(value: float) -> str:
    return "–" if np.isnan(value) else f"p {value:.2g}".replace("0.", ".")


def _note(table: pd.DataFrame, heads: Sequence[str], unit: TimeUnit, confidence: float) -> str:
    first = table.iloc[0]
    counts = {name: int(first[name]) for name in ("n_windows", "n_controls", "n_untrained") if name in table}
    tested = SOURCES.get(str(first.get("period_of", "truth")), "a grid, as the series has no known period")
    return (
        f"{_rest(table, heads)}Columns: {tested} ({unit.name}). Supported (orange): all three marks are filled. They "
        f"are, in this order: the comb of the period stands out from {counts.get('n_controls', 0)} AR(1) series "
        f"through the same model (over all heads and periods together, {100 * (1 - confidence):.2g} %); the head "
        "follows other periods too (left column: p of the period swap over all heads); none of "
        f"{counts.get('n_untrained', 0)} models of random weights has a head with as much contrast. z: contrast in "
        f"standard deviations of that null; {counts.get('n_windows', 0)} windows.{_refused(table, unit)}"
    )


SOURCES = {"truth": "the true periods of the series", "input": "the strongest period of the input"}


def _rest(table: pd.DataFrame, heads: Sequence[str]) -> str:
    total = table["label"].nunique()
    if len(heads) == total:
        return ""
    others = table[~table["label"].isin(heads)]
    count = int((others["verdict"] == "supported").groupby(others["label"]).any().sum())
    return f"Shown: the best {len(heads)} of {total} heads; of the others {count} have a supported period. "


def _refused(table: pd.DataFrame, unit: TimeUnit) -> str:
    """Which periods the tokens cannot show, or hardly."""
    periods = table.drop_duplicates("period")
    refused = periods[periods["verdict"] == "not testable"]
    said = "".join(f" Not testable: {reason}." for reason in refused["reason"].dropna())
    coarse = periods[(periods["testable"] == "coarse") & (periods["verdict"] != "not testable")]
    names = ", ".join(unit.format(period) for period in coarse["period"])
    return f"{said} Under 4 tokens long, read with care: {names}." if names else said
