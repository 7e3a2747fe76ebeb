"""What figures with one row per head share: names where there is room, layers where there is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from laglens.figures.reading import Head
from laglens.figures.style import FAINT, SMALL, fit, text_width

NAMED = 0.11  # inches: rows thinner than this have no names of their own
APART = 0.12  # inches between two names
ROOM = 1.3  # inches of a name; longer ones are cut


def row_height(count: int, tallest: float, thickest: float = 0.17, thinnest: float = 0.02) -> float:
    """Inches of one of `count` rows that together have `tallest` inches where that is possible."""
    return float(np.clip(tallest / count, thinnest, thickest))


def names_width(heads: Sequence[Head]) -> float:
    """Inches of the longest name of a head."""
    return min(ROOM, max(text_width(head.label, SMALL) for head in heads))


def fit_names(names: Sequence[str]) -> tuple[list[str], float]:
    """Names cut to `ROOM`, and the one size at which all of them fit."""
    fitted = [fit(name, ROOM, SMALL) for name in names]
    return [name for name, _ in fitted], min(size for _, size in fitted)


def label_rows(axes: Axes, heads: Sequence[Head], row: float, *, line: str = "white", named: bool = True) -> None:
    """Name every head where there is room, else every layer, with a line between layers.

    Parameters
    ----------
    axes
        Its rows lie at 0, 1, ... downwards.
    heads
        In the order of the rows; heads of a layer together.
    row
        Inches of one row.
    line
        Colour of the lines between layers.
    named
        False draws the lines alone, beside axes whose rows have names.
    """
    first = layer_starts(heads)
    for start in first[1:]:
        axes.axhline(start - 0.5, color=line, linewidth=0.8 if row > 0.06 else 0.4, zorder=0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    if not named:
        axes.yaxis.set_major_locator(NullLocator())
        return
    if row >= NAMED:
        at, names = [float(i) for i in range(len(heads))], [head.label for head in heads]
    else:
        ends = [*first[1:], len(heads)]
        every = max(1, int(np.ceil(APART / (row * np.mean(np.diff([*first, len(heads)]))))))
        pairs = list(zip(first, ends, strict=True))[::every]
        at, names = [(a + b - 1) / 2 for a, b in pairs], [heads[a].label.rsplit(" ", 1)[0] for a, _ in pairs]
    axes.yaxis.set_major_locator(FixedLocator(at))
    names, size = fit_names(names)
    axes.set_yticklabels(names, fontsize=size)


def layer_starts(heads: Sequence[Head]) -> list[int]:
    """Rows at which a layer begins."""
    layers = [(head.node, head.layer) for head in heads]
    return [i for i, layer in enumerate(layers) if i == 0 or layer != layers[i - 1]]


def stripe(axes: Axes, count: int) -> None:
    """Faint lines along the rows, for dots that are far from their names."""
    axes.hlines(np.arange(count), *axes.get_xlim(), color=FAINT, linewidth=0.3, alpha=0.6, zorder=0)
