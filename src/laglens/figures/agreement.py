"""Attention against attribution: whether heads look where the forecast comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from laglens.figures.reading import Head, all_heads, stacks
from laglens.figures.rows import label_rows, names_width, row_height, stripe
from laglens.figures.style import (
    ACCENT,
    BAND,
    FAINT,
    INK,
    LABEL,
    MUTED,
    WIDTH,
    explain,
    look,
    page,
    place,
    write,
)
from laglens.figures.times import number

TOP, TALLEST = 0.92, 5.0  # inches


def draw_agreement(agreement: xr.DataTree, *, title: str = "", subtitle: str = "") -> Figure:
    """Rank correlation of every head's attention with each attribution, beside that of windows that do not belong.

    Parameters
    ----------
    agreement
        From `laglens.attribution.agreement.agree_with_attention`.
    title, subtitle
        What was compared: signal and model.

    Raises
    ------
    LaglensError
        The tree has stacks, but none with agreement.
    """
    if "no_agreement" in agreement.attrs or not agreement.children:
        reason = agreement.attrs.get("no_agreement", "the model has no stack that forecasts")
        with look():
            return explain(title, subtitle, f"Not compared: {reason}.")
    nodes = stacks(agreement, "spearman", "agreement tree")
    heads = all_heads(nodes)
    methods = [str(name) for name in next(iter(nodes.values()))["attribution_method"].values]
    note = _note(next(iter(nodes.values())), agreement.attrs)
    with look():
        row = row_height(len(heads), TALLEST)
        bottom = TOP + row * len(heads) + 0.42
        figure = page(bottom + 0.1, note, title, subtitle)
        start = 0.2 + names_width(heads) + 0.1
        width = (WIDTH - 0.3 - start - 0.22 * (len(methods) - 1)) / len(methods)
        for index, method in enumerate(methods):
            left = start + index * (width + 0.22)
            words = method.replace("_", " ")
            write(figure, left, TOP - 0.12, words, room=width, fontsize=LABEL + 0.5, fontweight="bold")
            axes = place(figure, left, TOP, width, row * len(heads), label=f"agreement {method}")
            axes.set(xlim=(-1, 1), ylim=(len(heads) - 0.5, -0.5))
            _draw_heads(axes, heads, nodes, method, row)
            label_rows(axes, heads, row, line=BAND, named=index == 0)
            stripe(axes, len(heads))
            axes.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
            axes.spines["bottom"].set_visible(True)
            axes.xaxis.set_major_locator(FixedLocator([-1, 0, 1] if width < 1.6 else [-1, -0.5, 0, 0.5, 1]))
            axes.set_xticklabels([number(tick) for tick in axes.get_xticks()])
            axes.set_xlabel("rank correlation")
    return figure


def _draw_heads(axes: Axes, heads: Sequence[Head], nodes: dict[str, xr.Dataset], method: str, row: float) -> None:
    """Mean and middle half of the windows of each head; filled where all of the middle half lies beyond the stroke."""
    size = float(np.clip(row * 72 * 0.45, 1.2, 4))
    found = [head.of(nodes[head.node]).sel(attribution_method=method) for head in heads]
    null = np.array([one["mismatched"].item() for one in found])
    values = [one["spearman"].values[np.isfinite(one["spearman"].values)] for one in found]
    measured = np.array([len(one) > 0 for one in values])
    low, high = (np.array([np.percentile(v, q) if len(v) else np.nan for v in values]) for q in (25, 75))
    mean = np.array([v.mean() if len(v) else np.nan for v in values])
    at = np.arange(len(heads))
    axes.plot(null[measured], at[measured], "|", color=INK, markersize=1.7 * size, zorder=3, gid="mismatched")
    # A group at a time: an artist for each head would take most of the time of the figure.
    for chosen, colour, face in (((low > null), ACCENT, ACCENT), (~(low > null), MUTED, "white")):
        rows = chosen & measured
        axes.hlines(at[rows], low[rows], high[rows], color=colour, linewidth=max(0.5, size / 3), zorder=2)
        dots: dict[str, Any] = {"markersize": size, "markerfacecolor": face, "markeredgecolor": colour, "zorder": 4}
        gid = "beyond" if face == ACCENT else "within"
        axes.plot(mean[rows], at[rows], "o", markeredgewidth=0.7, gid=gid, **dots)


def _note(node: xr.Dataset, attrs: dict[Any, Any]) -> str:
    step = "the mean of the horizon" if attrs.get("step", "mean") == "mean" else f"forecast sample {attrs['step']}"
    part = node.attrs["part"].replace("->", " to ")
    return (
        f"Spearman correlation over the history tokens between a head's attention ({part}) and the absolute "
        f"attribution of {step}: dot: mean, bar: middle half of {node.sizes['sample']} windows. Stroke: the null, the "
        "mean correlation of attention with the attribution of other windows: what agreement there is without regard "
        "to the input, such as both being recent. Filled: the whole bar lies above it. Neither attention nor "
        "attribution is the truth about a model; where they agree, the head may be read."
    )
