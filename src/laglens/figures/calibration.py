"""Pictures of a calibration: how often the tests are wrong and right, and what knock-outs cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from laglens.errors import LaglensError
from laglens.figures.style import (
    BAND,
    CATEGORIES,
    FAINT,
    INK,
    MUTED,
    SMALL,
    WIDTH,
    caption,
    caption_height,
    fit,
    look,
    new_figure,
    place,
    text_width,
    write,
    write_title,
)

LEVEL = 0.05
ROW = 0.115  # inches between the intervals of two models
GROUP = 0.16  # inches between kinds of series
NOTE_RATES = (
    "Dots: share of series, with its exact 95 % interval (Clopper-Pearson). Full: trained, over the heads that follow "
    "periods; hollow: the same architecture with random weights, over all heads. Grey line: nominal 5 %; grey ticks: "
    "the same lags scored against the periods of other series. Every series is tested against AR(1) noise of its own "
    "memory."
)
NOTE_KNOCK_OUTS = (
    "Growth of the error, in standard deviations of the history, when the attention at all multiples of the period is "
    "cut, with its 95 % bootstrap interval over {n} series. Full dots: waves with overtones; grey diamonds: cuts "
    "between the multiples; squares: AR(1) noise; hollow: random weights on the waves. Right: share of series whose "
    "forecast loses more at the multiples than between them, and whose causal lag curve is highest at a multiple "
    "(tick: chance)."
)


def draw_rates(summary: pd.DataFrame) -> Figure:
    """False alarms on series without a period, beside detections on series with one.

    Parameters
    ----------
    summary
        From `laglens.calibration.summary.summarise_calibration`.

    Raises
    ------
    LaglensError
        The table holds no false alarms or no detections.
    """
    alarms, found = _tested(summary, "false alarms"), _tested(summary, "detected in kP")
    models = list(dict.fromkeys(summary["model"]))
    height = max(_height(table, models) for table in (alarms, found))
    with look():
        figure = new_figure(0.86 + height + 0.5 + caption_height(NOTE_RATES, WIDTH - 0.4) + _legend_height(models))
        write_title(figure, "How often the period test is wrong, and right", _counts(alarms, found))
        half = (WIDTH - 0.4) / 2
        panels = {"False alarms": (alarms, 0.2), "Significant, strongest lag at a multiple of P": (found, 0.3 + half)}
        for title, (table, left) in panels.items():
            names = list(dict.fromkeys(table["kind"]))
            indent = max(text_width(_plain(name), SMALL) for name in names) + 0.12
            write(figure, left, 0.72, title, fontsize=SMALL, color=INK, room=half)
            axes = place(figure, left + indent, 0.82, half - indent - 0.1, _height(table, models))
            _draw_rows(axes, table, models)
            axes.set_xlabel("share of series")
        last = table["upper"].max()
        axes.set_xlim(-0.02, max(1.02, last))
        figure.axes[0].set_xlim(-0.012, max(0.2, alarms["upper"].max() * 1.05))
        figure.axes[0].axvline(LEVEL, color=FAINT, linewidth=0.8, zorder=0)
        bottom = _legend(figure, models, 0.82 + height + 0.5)
        caption(figure, 0.2, bottom, NOTE_RATES, WIDTH - 0.4)
    return figure


def draw_knock_outs(summary: pd.DataFrame) -> Figure:
    """What the multiples of the period are worth to the forecast, per model, against what lies between them.

    Parameters
    ----------
    summary
        From `laglens.calibration.summary.summarise_calibration`.

    Raises
    ------
    LaglensError
        The table holds no knock-outs.
    """
    effects = summary[summary["quantity"].isin(["comb effect", "comb controls", "comb win", "causal curve in kP"])]
    if effects.empty:
        raise LaglensError("the calibration holds no knock-outs; run the rule calibrate_knock_out")
    models = list(dict.fromkeys(effects["model"]))
    note, height = NOTE_KNOCK_OUTS.format(n=int(effects["n"].max())), 0.3 * len(models) + 0.1
    with look():
        figure = new_figure(0.86 + height + 0.5 + caption_height(note, WIDTH - 0.4))
        write_title(figure, "What a forecast loses without the attention at its period", "one row per training")
        indent = 0.2 + max(text_width(fit(name, 1.4, SMALL)[0], SMALL) for name in models) + 0.12
        left = place(figure, indent, 0.82, WIDTH - indent - 2.6, height)
        right = place(figure, WIDTH - 2.3, 0.82, 2.1, height)
        _draw_effects(left, effects, models)
        _draw_shares(right, effects, models)
        for axes in (left, right):
            axes.set_ylim(len(models) - 0.5, -0.5)
            axes.yaxis.set_major_locator(FixedLocator(range(len(models))))
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.hlines(np.arange(len(models) - 1) + 0.5, *axes.get_xlim(), color=BAND, linewidth=0.5, zorder=0)
        left.set_yticklabels([fit(name, 1.4, SMALL)[0] for name in models], fontsize=SMALL)
        right.set_yticklabels([])
        caption(figure, 0.2, 0.82 + height + 0.5, note, WIDTH - 0.4)
    return figure


def _tested(summary: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Rows of a rate: of trained models over the heads that follow periods, of random weights over all heads."""
    heads = summary["weights"].map({"trained": "following", "random": "all"})
    found = summary[(summary["quantity"] == quantity) & (summary["heads"] == heads)]
    if found.empty:
        raise LaglensError(f"the calibration holds no '{quantity}'; run the rules calibrate_noise and calibrate_waves")
    return found


def _counts(*tables: pd.DataFrame) -> str:
    n = sorted({int(n) for table in tables for n in table.loc[table["kind"] != "every noise", "n"]}, reverse=True)
    return f"{' and '.join(map(str, n))} series of each kind, every one tested on its own"


def _height(table: pd.DataFrame, models: Sequence[str]) -> float:
    kinds = table["kind"].nunique()
    return kinds * (2 * ROW * len(models) + GROUP)


def _draw_rows(axes: Axes, table: pd.DataFrame, models: Sequence[str]) -> None:
    """Intervals, kinds of series from above, in each the models, in each trained before random weights."""
    kinds = list(dict.fromkeys(table["kind"]))
    block = 2 * ROW * len(models) + GROUP
    for i, kind in enumerate(kinds):
        for j, model in enumerate(models):
            for k, weights in enumerate(("trained", "random")):
                chosen = (table["kind"] == kind) & (table["model"] == model) & (table["weights"] == weights)
                at = i * block + GROUP / 2 + (2 * j + k + 0.5) * ROW
                for row in table[chosen].to_dict("records"):
                    _interval(axes, row, at, CATEGORIES[j % len(CATEGORIES)], hollow=weights == "random")
                    if np.isfinite(row["chance"]):
                        axes.plot(row["chance"], at, "|", color=MUTED, markersize=4, zorder=1)
        if i:
            axes.axhline(i * block, color=BAND, linewidth=0.5, zorder=0)
    axes.set_ylim(len(kinds) * block, 0)
    axes.yaxis.set_major_locator(FixedLocator([(i + 0.5) * block for i in range(len(kinds))]))
    axes.set_yticklabels([_plain(kind) for kind in kinds], fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _interval(
    axes: Axes, row: Mapping[Any, Any], at: float, colour: Any, *, hollow: bool = False, marker: str = "o"
) -> None:
    axes.hlines(at, row["lower"], row["upper"], color=colour, linewidth=0.9)
    face = "white" if hollow else colour
    axes.plot(row["value"], at, marker, color=colour, markerfacecolor=face, markersize=3.4, markeredgewidth=0.9)


def _draw_effects(axes: Axes, effects: pd.DataFrame, models: Sequence[str]) -> None:
    for i, model in enumerate(models):
        colour = CATEGORIES[i % len(CATEGORIES)]
        rows = [
            ("comb effect", "harmonic", "trained", -0.24, colour, "o"),
            ("comb controls", "harmonic", "trained", -0.08, FAINT, "D"),
            ("comb effect", "ar1_0.9", "trained", 0.08, colour, "s"),
            ("comb effect", "harmonic", "random", 0.24, colour, "o"),
        ]
        for quantity, kind, weights, offset, ink, marker in rows:
            for row in _only(effects, model, quantity, kind, weights).to_dict("records"):
                _interval(axes, row, i + offset, ink, hollow=weights == "random", marker=marker)
    axes.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("growth of the error (sd)")


def _draw_shares(axes: Axes, effects: pd.DataFrame, models: Sequence[str]) -> None:
    for i, model in enumerate(models):
        colour = CATEGORIES[i % len(CATEGORIES)]
        for quantity, offset, marker in (("comb win", -0.15, "o"), ("causal curve in kP", 0.15, "^")):
            for row in _only(effects, model, quantity, "harmonic", "trained").to_dict("records"):
                _interval(axes, row, i + offset, colour, marker=marker)
                if np.isfinite(row["chance"]):
                    axes.plot(row["chance"], i + offset, "|", color=MUTED, markersize=5)
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("share of series: win (●), curve (▲)")


def _only(table: pd.DataFrame, model: str, quantity: str, kind: str, weights: str) -> pd.DataFrame:
    chosen = (table["quantity"] == quantity) & (table["kind"] == kind)
    return table[chosen & (table["model"] == model) & (table["weights"] == weights)]


def _legend_height(models: Sequence[str]) -> float:
    return 0.16 * (-(-len(models) // 3)) + 0.1


def _legend(figure: Figure, models: Sequence[str], top: float) -> float:
    """Names of the models beside their colours, three in a row; returns the depth below."""
    for j, model in enumerate(models):
        left, down = 0.2 + (j % 3) * 2.3, top + 0.16 * (j // 3)
        write(figure, left, down, "●", color=CATEGORIES[j % len(CATEGORIES)], fontsize=SMALL)
        write(figure, left + 0.14, down, model, fontsize=SMALL, room=2.0)
    return top + _legend_height(models)


def _plain(name: object) -> str:
    return str(name).replace("ar1_", "AR(1) ").replace("_", " ")
