"""Picture of the published claims: peaks with and without a wave, and periods taken away that can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from laglens.errors import LaglensError
from laglens.figures.style import (
    ACCENT,
    BAND,
    FAINT,
    INK,
    MUTED,
    SECOND,
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

ROW, TOP = 0.17, 0.86  # inches
CONDITIONS = {"both": "both", "a removed": "a removed", "b removed": "b removed", "sham": "half of both"}
NOTE = (
    "Left: the largest z of any head at multiples of the longest period of {published} (full), and of {ablated}, which "
    "lacks that wave but still repeats after the same time (hollow); beside it, how many heads pass their limit. "
    "Right: two sines of unrelated periods a and b; share of pairs in which the head shows a, with its exact 95 % "
    "interval. The head was chosen on other series. Half of both takes away as much energy as one wave."
)


def draw_claims(table: pd.DataFrame, *, signals: Sequence[str]) -> Figure:
    """Peaks of the published experiment and of its ablation, beside an ablation that can show something.

    Parameters
    ----------
    table
        From `laglens.calibration.claims.claims_table`, of one or several models.
    signals
        The published signal, and the same without a wave.

    Raises
    ------
    LaglensError
        The table holds no answer about peaks or pairs.
    """
    peaks = table[(table["question"] == "peak") & table["signal"].isin(list(signals)[:2])]
    pairs = table[(table["question"] == "pairs") & (table["at"] == "a")]
    if peaks.empty or pairs.empty:
        raise LaglensError("the claims hold no answer about peaks or pairs; run the rule ask_claims")
    pairs = pairs[pairs["head"].str.startswith("at_period")]
    models = list(dict.fromkeys(table["model"]))
    note = NOTE.format(published=signals[0], ablated=signals[min(1, len(signals) - 1)])
    height = len(models) * 4.6 * ROW
    with look():
        figure = new_figure(TOP + height + 0.5 + caption_height(note, WIDTH - 0.4))
        write_title(
            figure,
            "What the published experiment shows, and what it cannot",
            f"{len(models)} trained model{'s' * (len(models) > 1)}",
        )
        indent = max(text_width(fit(f"{name}", 1.2, SMALL)[0], SMALL) for name in models) + 0.62
        half = (WIDTH - 0.4) / 2
        write(figure, 0.2, TOP - 0.1, "Peaks at multiples of the longest period", fontsize=SMALL, color=INK, room=half)
        left = place(figure, 0.2 + indent, TOP, half - indent - 0.1, height)
        _draw_peaks(left, peaks, models, signals)
        write(figure, 0.35 + half, TOP - 0.1, "A period that can be taken away", fontsize=SMALL, color=INK, room=half)
        right = place(figure, 1.1 + half, TOP, half - 1.0, height)
        _draw_pairs(right, pairs, models)
        for axes in (left, right):
            axes.set_ylim(len(models) * 4.6, 0)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            for i in range(1, len(models)):
                axes.axhline(4.6 * i, color=BAND, linewidth=0.5, zorder=0)
        caption(figure, 0.2, TOP + height + 0.5, note, WIDTH - 0.4)
    return figure


def _draw_peaks(axes: Axes, peaks: pd.DataFrame, models: Sequence[str], signals: Sequence[str]) -> None:
    ticks, labels = [], []
    largest = float(peaks["value"].max())
    for i, model in enumerate(models):
        of_model = peaks[peaks["model"] == model]
        for k, at in enumerate(dict.fromkeys(of_model["at"])):
            row = 4.6 * i + 0.8 + 1.3 * k
            ticks.append(row)
            labels.append(f"{model if k == 0 else ''}  {at.split(' x ')[0]} x")
            for signal, offset in zip(signals[:2], (-0.22, 0.22), strict=False):
                for found in of_model[(of_model["at"] == at) & (of_model["signal"] == signal)].to_dict("records"):
                    if not np.isfinite(found["value"]):
                        continue
                    face = ACCENT if signal == signals[0] else "white"
                    axes.plot(found["value"], row + offset, "o", color=ACCENT, markerfacecolor=face, markersize=4)
                    count = f"{int(found['heads'])}"
                    axes.text(
                        found["value"] + 0.03 * largest, row + offset, count, fontsize=6, color=MUTED, va="center"
                    )
    axes.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_xlim(min(0.0, float(peaks["value"].min())) - 0.5, 1.12 * largest)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.set_yticklabels(labels, fontsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("largest z of any head (sd of the controls)")


def _draw_pairs(axes: Axes, pairs: pd.DataFrame, models: Sequence[str]) -> None:
    ticks, labels = [], []
    for i, model in enumerate(models):
        for k, condition in enumerate(CONDITIONS):
            row = 4.6 * i + 0.7 + 1.05 * k
            ticks.append(row)
            labels.append(CONDITIONS[condition])
            for found in pairs[(pairs["model"] == model) & (pairs["signal"] == condition)].to_dict("records"):
                axes.hlines(row, found["lower"], found["upper"], color=SECOND, linewidth=0.9)
                axes.plot(found["value"], row, "o", color=SECOND, markersize=3.6)
    axes.set_xlim(-0.02, 1.02)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.set_yticklabels(labels, fontsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("share of pairs in which the head shows a")
