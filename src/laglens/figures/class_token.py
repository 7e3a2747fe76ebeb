"""Class token: which patches of the picture, and which times of the series, an image model's class token looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from laglens.errors import LaglensError
from laglens.figures.bands import by_time, draw_bands, label_time
from laglens.figures.heatmap import draw_colour_bar
from laglens.figures.lag_panel import draw_legend
from laglens.figures.reading import Head, all_heads, edges, require, stacks
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    FAINT,
    INK,
    LABEL,
    MUTED,
    OVERLAY,
    SECOND,
    SEQUENTIAL,
    SMALL,
    WIDTH,
    explain,
    look,
    page,
    place,
    write,
)
from laglens.figures.times import TimeUnit, number, window_dates

HEADS, PEAKS = 3, 3  # heads beside the mean of the last layer; patches and times that are marked
TOP, PICTURE, SHORTEST, TALLEST, BETWEEN = 0.8, 2.55, 0.9, 1.5, 0.42  # inches
BAND, LEFT, SERIES_LEFT = 0.14, 0.2, 3.3
BAR_LEFT = 5.5


@dataclass(frozen=True)
class Look:
    """One row of the figure.

    Attributes
    ----------
    name
        Of the head, or of what is averaged.
    picture
        Weights over the patches, ``(row, column)``, as shares of all that lies on patches.
    in_time
        The same by the time of the patches, ``(time,)``, and these times.
    elsewhere
        Share of the row that lies on no patch.
    node
        With the places of the patches.
    """

    name: str
    picture: np.ndarray
    in_time: np.ndarray
    times: np.ndarray
    elsewhere: float
    node: xr.Dataset


def draw_class_token(
    class_tree: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Attention of the class token over the picture that the model sees and over the series, with its peaks.

    Parameters
    ----------
    class_tree
        From `laglens.heads.class_token.read_class_attention`.
    settings
        The ``figures`` section of the config; `window` and `heads` are used.
    title, subtitle
        What was looked at: signal and model.

    Raises
    ------
    LaglensError
        The tree lacks the picture, or the window asked for.
    """
    settings = FigureSettings.parse(settings)
    if not class_tree.children:
        with look():
            return explain(title, subtitle, f"Not read: {class_tree.attrs.get('left_out', 'there is no class token')}.")
    require(class_tree, ("picture", "series"), "class token tree")
    root = class_tree.to_dataset(inherit=False)
    if settings.window >= root.sizes["sample"]:
        count = root.sizes["sample"]
        raise LaglensError(f"figures.window is {settings.window}, but there are {count} windows (0 to {count - 1})")
    shown = root.isel(sample=settings.window)
    nodes = {
        name: n.isel(sample=settings.window) for name, n in stacks(class_tree, "in_time", "class token tree").items()
    }
    looks = _looks(nodes, settings.heads)
    norm = Normalize(0, max(float(one.picture.max()) for one in looks))
    pixels = shown["picture"].sizes
    height = float(np.clip(PICTURE * pixels["pixel_y"] / pixels["pixel_x"], SHORTEST, TALLEST))
    history = int(class_tree.attrs["history"])
    unit = TimeUnit.of(class_tree.attrs.get("signal", {}))
    note = _note(looks, settings.window, root.sizes["sample"], len(all_heads(nodes)))
    with look():
        bottom = TOP + (height + BETWEEN) * len(looks) + 0.2
        figure = page(bottom + 0.3, note, title, subtitle, room=BAR_LEFT - 0.4)
        draw_colour_bar(figure, norm, BAR_LEFT, 0.28, WIDTH - 0.22 - BAR_LEFT, "share of the picture, %", cut=False)
        for row, one in enumerate(looks):
            top = TOP + (height + BETWEEN) * row
            words = f"{ascii_lowercase[row]}  {one.name}"
            write(figure, LEFT, top - 0.07, words, fontsize=LABEL + 0.5, fontweight="bold")
            on_tokens = f"on no patch: {number(float(f'{100 * one.elsewhere:.2g}'))} %"
            write(figure, WIDTH - 0.2, top - 0.07, on_tokens, ha="right", fontsize=SMALL, color=MUTED)
            axes = place(figure, LEFT, top, PICTURE, height, label=f"picture {row}")
            draw_picture(axes, shown["picture"], one, norm)
            width = WIDTH - 0.2 - SERIES_LEFT
            upper = place(figure, SERIES_LEFT, top, width, height - BAND, label=f"series {row}")
            span = (-0.5, max(history - 0.5, float(edges(one.times)[-1])))
            _draw_series(upper, shown["series"].values[:history], one, span)
            below = place(figure, SERIES_LEFT, top + height - BAND, width, BAND, label=f"in time {row}")
            draw_bands(below, one.in_time[None], one.times, [""], Normalize(0, one.in_time.max()), history)
            below.set_xlim(span)
            label_time(below, unit, window_dates(class_tree, settings.window))
            if row < len(looks) - 1:
                below.tick_params(axis="x", labelbottom=False)
                below.set_xlabel("")
        draw_legend(figure, 0.2, bottom + 0.08, KEYS)
    return figure


PATCH: dict[str, Any] = {"color": OVERLAY, "marker": "o", "markersize": 6, "fillstyle": "none", "markeredgewidth": 1.3}
TIME: dict[str, Any] = {"color": SECOND, "marker": "v", "markersize": 5}
KEYS = [
    ({"color": INK, "linewidth": 0.8}, "series"),
    ({**PATCH, "linestyle": "none"}, "strongest patches"),
    ({**TIME, "linestyle": "none"}, "strongest times"),
]


def draw_picture(axes: Axes, picture: xr.DataArray, seen: Look, norm: Normalize) -> None:
    """What the model sees, in grey, under the weights of its patches; the brighter the more, circles at the peaks.

    Parameters
    ----------
    picture
        ``(pixel_y, pixel_x)`` with ``origin`` in its attributes.
    seen
        Weights over the patches, and where these lie.
    norm
        Of the weights.
    """
    values = picture.transpose("pixel_y", "pixel_x").values
    rows, columns = values.shape
    origin = picture.attrs.get("origin", "upper")
    axes.imshow(values, cmap="gray", origin=origin, extent=(0, columns, rows, 0) if origin == "upper" else
                (0, columns, 0, rows), aspect="auto")  # fmt: skip
    y, x = (_borders(seen.node[f"{axis}_pixel"].values) for axis in ("row", "column"))
    extent = (x[0], x[-1], y[-1], y[0]) if origin == "upper" else (x[0], x[-1], y[0], y[-1])
    # Patches that get no more than uniform attention stay as they are.
    even = float(seen.picture.mean())
    alpha = 0.9 * np.sqrt(np.clip((seen.picture - even) / max(float(norm.vmax or 1) - even, 1e-12), 0, 1))
    axes.imshow(seen.picture, norm=norm, cmap=SEQUENTIAL, alpha=alpha, origin=origin, extent=extent, aspect="auto")
    axes.set(xlim=(0, columns), ylim=(rows, 0) if origin == "upper" else (0, rows))
    row, column = np.unravel_index(np.argsort(-seen.picture, axis=None, kind="stable")[:PEAKS], seen.picture.shape)
    centres = [seen.node[f"{axis}_pixel"].values + 0.5 for axis in ("row", "column")]
    axes.plot(centres[1][column], centres[0][row], linestyle="none", gid="strongest patches", **PATCH)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(NullLocator())
    axes.spines[:].set_visible(False)


def _borders(centres: np.ndarray) -> np.ndarray:
    """Edges of evenly spaced patches in pixels, from their centres counted from 0."""
    step = float(centres[1] - centres[0]) if len(centres) > 1 else 2 * float(centres[0]) + 1
    return np.append(centres, centres[-1] + step) + 0.5 - step / 2


def _draw_series(axes: Axes, series: np.ndarray, seen: Look, span: tuple[float, float]) -> None:
    axes.plot(np.arange(len(series)), series, color=INK, linewidth=0.9)
    axes.set_xlim(span)
    axes.margins(y=0.18)
    strongest = seen.times[np.argsort(-seen.in_time, kind="stable")[:PEAKS]]
    for time in strongest:
        axes.axvline(time, color=FAINT, linewidth=0.6, zorder=0)
    at = np.full(len(strongest), 0.93)
    axes.plot(strongest, at, linestyle="none", transform=axes.get_xaxis_transform(), gid="strongest times", **TIME)
    axes.set_axis_off()


def _looks(nodes: dict[str, xr.Dataset], wanted: str | Sequence[str]) -> list[Look]:
    """The mean over heads of the last layer, then the heads asked for, else those with the sharpest peaks."""
    last, node = list(nodes.items())[-1]
    layer = int(node["layer"][-1])
    looks = [_of(f"{last} L{layer:02d}, mean of its heads", node.isel(layer=-1).mean("head"))]
    heads = all_heads(nodes)
    asked = [head for head in heads if wanted != "auto" and head.label in wanted]
    return looks + [_of(head.label, head.of(nodes[head.node])) for head in asked or _sharpest(nodes, heads)]


def _sharpest(nodes: dict[str, xr.Dataset], heads: Sequence[Head]) -> list[Head]:
    peaks = []
    for head in heads:
        weights = head.of(nodes[head.node])["attention"].values
        peaks.append(float(weights.max() / max(float(weights.mean()), 1e-30)))
    return [heads[i] for i in np.argsort(-np.array(peaks), kind="stable")[:HEADS]]


def _of(name: str, one: xr.Dataset) -> Look:
    picture = one["attention"].transpose("row", "column").values.astype(float)
    total = max(float(picture.sum()), 1e-30)
    known = np.isfinite(one["span_time"].values)
    in_time, times = by_time(one["in_time"].values[known].astype(float)[None], one["span_time"].values[known])
    return Look(name, 100 * picture / total, in_time[0] / total, times, float(one["elsewhere"]), one)


def _note(looks: Sequence[Look], window: int, windows: int, heads: int) -> str:
    most = max(float(one.picture.max() * one.picture.size) for one in looks) / 100
    times = number(float(f"{most:.2g}"))
    return (
        f"Window {window + 1} of {windows}. Left: the picture of the history that the model sees, in grey, and over it "
        "the attention of the class token where it is more than uniform, one colour scale. Right: the same added up by "
        "the time of the patches, each band on its own scale, under the series. a: mean of the last layer; below: "
        f"{len(looks) - 1} of {heads} heads with the sharpest peaks, or those asked for. The brightest patch gets "
        f"{times} times what uniform attention would give. There is no null: a class token may look at the same place "
        "whatever the series."
    )
