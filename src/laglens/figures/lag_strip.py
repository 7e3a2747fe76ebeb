"""Lag strip: every head against every lag, as the distance to its limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from laglens.figures import truth
from laglens.figures.heatmap import draw_colours
from laglens.figures.lag_panel import style_lag_axes
from laglens.figures.reading import all_heads, edges, excess, headline_part, null_sentence, stacks, with_part
from laglens.figures.rows import label_rows, names_width, row_height
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    SEQUENTIAL,
    WIDTH,
    look,
    page,
    place,
)
from laglens.figures.times import TimeUnit, number

TALLEST = 5.5  # inches of all rows
DOUBLINGS = (1.0, 3.0)  # the colour scale reaches at least 2 x and at most 8 x the limit
LIT = 0.25  # where in the colour map lit cells begin, so that a narrow pass is seen too


def draw_lag_strip(
    lags_tree: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Heads by lag: log2 of the ratio to the limit; dark up to the limit, lit above it.

    Parameters
    ----------
    lags_tree
        Nodes with ``ratio`` and ``limit`` over ``(part, layer, head, lag)``.
    settings
        The ``figures`` section of the config; `part` is used.
    title, subtitle
        What was drawn: signal and model.

    Raises
    ------
    LaglensError
        The tree lacks something, or the part asked for does not exist.
    """
    settings = FigureSettings.parse(settings)
    nodes = stacks(lags_tree, "ratio", "lags tree")
    part = headline_part(nodes, settings.part)
    nodes = with_part(nodes, part)
    heads, image = all_heads(nodes), strip(nodes)
    attrs, signal = next(iter(nodes.values())).attrs, lags_tree.attrs.get("signal", {})
    unit, known = TimeUnit.of(signal), truth.rhythms(attrs.get("periods", ()), [signal.get("truth", {})], part)
    note = _note(attrs, part, known, unit)
    with look():
        row = row_height(len(heads), TALLEST)
        top = 0.66 + truth.TIER * min(len(known), truth.ROWS) + 0.06
        figure = page(top + row * len(heads) + 0.56, note, title, subtitle, room=4.9)
        left = 0.2 + names_width(heads) + 0.1
        axes = place(figure, left, top, WIDTH - left - 0.2, row * len(heads), label="lag strip")
        _draw(axes, image)
        style_lag_axes(axes, image["lag"].values, unit, known)
        axes.set_xlim(*edges(image["lag"].values)[[0, -1]])
        truth.mark_rhythms(axes, known, colour="white")
        label_rows(axes, heads, row)
        top_of_scale = scale_top(image)
        ticks = {tick / top_of_scale: _bar_label(tick) for tick in range(int(top_of_scale) + 1)}
        draw_colours(figure, WIDTH - 1.75, 0.28, 1.5, "ratio to the limit, log2", _lit_colours(), ticks)
    return figure


def strip(nodes: Mapping[str, xr.Dataset]) -> xr.DataArray:
    """log2 of the ratio to the limit, ``(row, lag)``: rows by node, layer, head; NaN where a node has no such lag."""
    blocks = [
        excess(node).reset_coords(drop=True).stack(row=("layer", "head"), create_index=False) for node in nodes.values()
    ]
    values = xr.concat([block.drop_vars(("layer", "head")) for block in blocks], "row", join="outer")
    lowest = values.clip(min=2.0**-20)  # half-precision weights can be 0, which is measured and has no logarithm
    return xr.apply_ufunc(np.log2, lowest.transpose("row", "lag"))


def scale_top(image: xr.DataArray) -> float:
    """Upper end of the colour scale: the strongest cell, rounded up to half doublings, within `DOUBLINGS`."""
    return float(np.clip(np.ceil(2 * np.nanmax(image.values, initial=0)) / 2, *DOUBLINGS))


def _draw(axes: Axes, image: xr.DataArray) -> ScalarMappable:
    lag, row = edges(image["lag"].values), np.arange(image.sizes["row"] + 1) - 0.5
    axes.set_facecolor("#e4e5e9")  # lags that a stack or part does not have
    axes.set_ylim(row[-1], row[0])
    norm = Normalize(0, scale_top(image))
    axes.set_xlim(lag[0], lag[-1])
    even = np.allclose(np.diff(lag), np.diff(lag)[0])
    if even:
        extent = (lag[0], lag[-1], row[-1], row[0])
        return axes.imshow(image.values, norm=norm, cmap=_lit_colours(), extent=extent, aspect="auto", origin="upper")
    return axes.pcolormesh(lag, row, image.values, norm=norm, cmap=_lit_colours(), rasterized=True)


def _lit_colours() -> ListedColormap:
    colours = matplotlib.colormaps[SEQUENTIAL](np.linspace(LIT, 1, 256))
    return ListedColormap(colours, name="lit", under="black")


def _bar_label(tick: float) -> str:
    return "limit" if tick == 0 else f"{'≥' if tick == DOUBLINGS[1] else ''}{number(2.0**tick)} ×"


def _note(attrs: Mapping[str, Any], part: str, known: Sequence[truth.Rhythm], unit: TimeUnit) -> str:
    return (
        f"Queries and keys: {part.replace('->', ' to ')}. Black: at or under the simultaneous limit of the head "
        f"({100 * attrs['confidence']:g} % over all lags; {null_sentence(attrs)}); lit: above it. "
        f"Profiles: mean of {attrs['n_windows']} windows. {truth.describe(known, unit, attrs['samples_per_token'])}"
    )
