"""Period tracking: the period found in the lags of a head against the period of its input."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from laglens.figures.reading import Head, all_heads, require, stacks
from laglens.figures.rows import label_rows, names_width, row_height, stripe
from laglens.figures.style import (
    ACCENT,
    BAND,
    FAINT,
    INK,
    LABEL,
    MUTED,
    SECOND,
    SMALL,
    WIDTH,
    explain,
    look,
    page,
    place,
    write,
)
from laglens.figures.times import number
from laglens.lags.permutation import passes

SHOWN = 4
PANEL, COLUMN, LINE_UP, TOP = 1.28, 1.95, 2.1, 0.98  # inches: a panel, and from one to the next
NEEDED = ("detected", "slope", "slope_interval", "at_period", "at_multiple", "chance_at_multiple")
SLOPES = (-0.5, 2.0)
TALLEST = 3.75


def draw_tracking(
    tracked: xr.DataTree,
    tested: xr.DataTree,
    *,
    confidence: float = 0.95,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Detected against true periods for the heads that follow best, and the slope of every head.

    Parameters
    ----------
    tracked, tested
        From `laglens.lags.tracking.track_periods` and `laglens.lags.comb_tests.swap_test`, on the same waves.
    confidence
        Of the slopes' intervals; the error rate of the period swap is 1 minus it.
    title, subtitle
        What was probed: model, and what it was trained on.

    Raises
    ------
    LaglensError
        A tree lacks something.
    """
    if "left_out" in tracked.attrs:
        with look():
            return explain(title, subtitle, f"Not measured: {tracked.attrs['left_out']}.")
    nodes = stacks(tracked, "detected", "tracking tree")
    for name, node in nodes.items():
        require(node, NEEDED, "tracking tree")
        nodes[name] = node.assign(tested[name].to_dataset()[["statistic", "p_family"]])
    heads, true = all_heads(nodes), tracked.to_dataset()["true_period"].values
    best = follow_best(heads, nodes, confidence)[:SHOWN]
    note = _note(true, next(iter(nodes.values())), tested, len(heads), len(best), confidence)
    with look():
        row = row_height(len(heads), TALLEST)
        depth = max(LINE_UP * ((len(best) + 1) // 2) - 0.35, row * len(heads) + 0.36)
        figure = page(TOP + depth + 0.15, note, title, subtitle)
        for index, head in enumerate(best):
            left, top = 0.58 + COLUMN * (index % 2), TOP + LINE_UP * (index // 2)
            write(figure, left - 0.38, top - 0.27, f"{ascii_lowercase[index]}  {head.label}", room=COLUMN - 0.1, **BOLD)
            found = head.of(nodes[head.node])
            write(figure, left - 0.38, top - 0.12, _finding(found), room=COLUMN - 0.12, fontsize=SMALL, color=MUTED)
            axes = place(figure, left, top, PANEL, PANEL, label=f"tracking {head.label}")
            draw_detected(axes, found, true)
            axes.set_ylabel("detected (samples)" if index % 2 == 0 else "")
        _draw_slopes(figure, heads, nodes, row, confidence, ascii_lowercase[len(best)])
    return figure


BOLD: dict[str, Any] = {"fontsize": LABEL + 0.5, "fontweight": "bold"}


def follow_best(heads: Sequence[Head], nodes: dict[str, xr.Dataset], confidence: float) -> list[Head]:
    """Heads that pass the period swap first; among them those whose strongest lag is a multiple of P most often."""
    found = [head.of(nodes[head.node]) for head in heads]
    above = [head["at_multiple"].item() - head["chance_at_multiple"].item() for head in found]
    order = sorted(range(len(heads)), key=lambda i: (not passes(found[i]["p_family"].item(), confidence), -above[i]))
    return [heads[i] for i in order]


def draw_detected(axes: Axes, head: xr.Dataset, true: np.ndarray) -> None:
    """One head: a dot for every input, larger where several coincide, with the fitted line and what it would be.

    Parameters
    ----------
    head
        ``detected (sample)``, ``slope``.
    true
        True periods, ``(sample,)`` [input samples].
    """
    detected, slope = head["detected"].values, head["slope"].item()
    margin = 0.08 * np.ptp(true)
    ends = np.array([true.min() - margin, true.max() + margin])
    axes.set_xlim(ends[0], ends[1])
    axes.set_ylim(0, max(1.08 * detected.max(), 1.25 * ends[1]))
    top = axes.get_ylim()[1]
    for multiple, name, style in ((0.5, "½P", (0, (1, 2))), (1.0, "P", "-"), (2.0, "2P", (0, (1, 2)))):
        axes.plot(ends, multiple * ends, color=FAINT, linewidth=0.7, linestyle=style, zorder=1, gid=f"{name}")
        if multiple * ends[1] <= top:
            _name_line(axes, multiple * ends[1], name)
    axes.axhline(np.median(detected), color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1, gid="position")
    pairs, counts = np.unique(np.column_stack([true, detected]), axis=0, return_counts=True)
    axes.scatter(pairs[:, 0], pairs[:, 1], s=7 * counts, color=ACCENT, alpha=0.75, linewidths=0, zorder=3)
    if np.isfinite(slope):
        line = np.median(detected) + slope * (ends - np.median(true))
        axes.plot(ends, line, color=SECOND, linewidth=1.2, zorder=2, gid="fit")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("true period (samples)")


def _name_line(axes: Axes, height: float, name: str) -> None:
    where: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "annotation_clip": False,
    }
    axes.annotate(name, (1, height), xytext=(2, 0), va="center_baseline", fontsize=SMALL, color=MUTED, **where)


def _finding(head: xr.Dataset) -> str:
    lower, upper = head["slope_interval"].values
    return f"slope {_two(head['slope'].item())} [{_two(lower)}, {_two(upper)}]"


def _two(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _draw_slopes(
    figure: Figure, heads: Sequence[Head], nodes: dict[str, xr.Dataset], row: float, confidence: float, letter: str
) -> None:
    """Slope with interval of every head, and beside it how often its strongest lag is a multiple of the period."""
    left = 2 * COLUMN + 0.42
    start = left + names_width(heads) + 0.1
    width = (WIDTH - 0.2 - start - 0.2) / 2
    write(figure, left, TOP - 0.27, f"{letter}  all heads", **BOLD)
    slopes = place(figure, start, TOP, width, row * len(heads), label="slopes")
    shares = place(figure, start + width + 0.2, TOP, width, row * len(heads), label="shares")
    slopes.set(xlim=SLOPES, ylim=(len(heads) - 0.5, -0.5))
    shares.set(xlim=(-0.03, 1.03), ylim=(len(heads) - 0.5, -0.5))
    for at, name, side in ((0, "position", "right"), (1, "follows", "left")):
        slopes.axvline(at, color=MUTED, linewidth=0.7, linestyle="-" if at else (0, (4, 3)), zorder=1)
        write(figure, start + width * (at - SLOPES[0]) / np.ptp(SLOPES), TOP - 0.05, name, ha=side, **GREY)
    write(figure, start + width + 0.2 + width / 2, TOP - 0.05, "lag at kP", ha="center", **GREY)
    size = float(np.clip(row * 72 * 0.45, 1.2, 4))
    for index, head in enumerate(heads):
        found = head.of(nodes[head.node])
        follows = passes(found["p_family"].item(), confidence)
        face, colour = (ACCENT, ACCENT) if follows else ("white", MUTED)
        dot: dict[str, Any] = {
            "marker": "o",
            "markersize": size,
            "markerfacecolor": face,
            "markeredgecolor": colour,
            "zorder": 3,
        }
        lower, upper = np.clip(found["slope_interval"].values, *SLOPES)
        slopes.plot([lower, upper], [index, index], color=colour, linewidth=max(0.4, size / 4), zorder=2)
        slopes.plot(found["slope"].item(), index, markeredgewidth=0.7, gid="slope", **dot)
        chance, share = found["chance_at_multiple"].item(), found["at_multiple"].item()
        shares.plot([chance, share], [index, index], color=colour, linewidth=max(0.4, size / 4), zorder=2)
        shares.plot(chance, index, "|", color=INK, markersize=1.6 * size, markeredgewidth=0.8, zorder=4, gid="chance")
        shares.plot(share, index, markeredgewidth=0.7, gid="share", **dot)
    label_rows(slopes, heads, row, line=BAND)
    label_rows(shares, heads, row, line=BAND, named=False)
    for axes, ticks, label in ((slopes, (0, 1, 2), "slope"), (shares, (0, 0.5, 1), "share of inputs")):
        stripe(axes, len(heads))
        axes.spines["bottom"].set_visible(True)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.set_xticklabels([number(tick) for tick in ticks])
        axes.set_xlabel(label)


GREY: dict[str, Any] = {"fontsize": SMALL, "color": MUTED}


def _note(true: np.ndarray, node: xr.Dataset, tested: xr.DataTree, heads: int, shown: int, confidence: float) -> str:
    periods, part = np.unique(true), node.attrs["part"].replace("->", " to ")
    ends = f"{number(float(f'{periods[0]:.3g}'))} to {number(float(f'{periods[-1]:.3g}'))}"
    smallest = f" (smallest possible p: {tested.attrs['smallest_p']:.2g})" if "smallest_p" in tested.attrs else ""
    return (
        f"Waves of {len(periods)} periods from {ends} samples, {len(true)} inputs; {part}. Dot: period of the comb "
        "that stands out most from the head's lags on white noise; larger dots: several inputs. Blue: Theil-Sen slope "
        f"with its {100 * confidence:g} % interval. A head that follows lies on P (slope 1; an octave off: ½P or 2P); "
        "position alone, as with random weights, gives one period whatever the input (dashed, slope 0). Filled: "
        f"follows, by the period swap over all {heads} heads at {100 * (1 - confidence):.2g} %{smallest}. Right: share "
        "of inputs whose strongest lag lies within a token of a multiple of the period; stroke: chance, the same lags "
        f"against permuted periods. In detail: the {shown} heads for which it is furthest above chance, "
        "those that follow first."
    )
