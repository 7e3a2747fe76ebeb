"""Mosaic: the maps of all heads as one image, layers downwards and heads to the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, NoNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from laglens.figures.reading import (
    attention_map,
    beyond_limit,
    headline_part,
    null_sentence,
    stacks,
    strongest_lags,
    with_part,
)
from laglens.figures.settings import FigureSettings
from laglens.figures.style import (
    FAINT,
    INK,
    LABEL,
    MUTED,
    SEQUENTIAL,
    SMALL,
    WIDTH,
    caption,
    caption_height,
    fit,
    look,
    new_figure,
    place,
    text_width,
    write_title,
)
from laglens.figures.times import TimeUnit, number

MOST_PIXELS = 96
GAP = 0.04  # inches of white between heads
NUMBER = 0.16  # inches under each head for its lag
CLIP = 99.5  # percentile of one head's weights that is drawn brightest
TALLEST, LARGEST = 9.0, 1.4  # inches: all rows together, and one head
LABELS = 1.0  # inches left of the heads
WHITE = 255  # level of the space between heads
TOP = 0.86


def pool_max(maps: NDArray[Any], most: int = MOST_PIXELS) -> NDArray[Any]:
    """Shrink maps to at most `most` pixels a side, keeping the largest weight of each block.

    ``(..., query, key) -> (..., pixel, pixel)``. A maximum keeps a diagonal one token wide; skipping drops it.
    """
    for axis in (-2, -1):
        size = maps.shape[axis]
        if size <= most:
            continue
        first = np.arange(most) * size // most
        last = np.append(first[1:], size) - 1
        block = int((last - first).max()) + 1
        maps = reduce(np.maximum, (maps.take(np.minimum(first + i, last), axis) for i in range(block)))
    return maps


def shade(maps: NDArray[Any]) -> NDArray[np.uint8]:
    """Level of every weight on the head's own scale: square root, 254 at the head's 99.5 % point and above.

    ``(head, row, column) -> (head, row, column)``.
    """
    flat = maps.reshape(len(maps), -1).astype(float)
    top = np.nanpercentile(flat, CLIP, axis=1)[:, None, None]
    level = np.sqrt(np.clip(np.nan_to_num(maps) / np.where(top > 0, top, 1), 0, 1))
    return (level * (WHITE - 1)).round().astype(np.uint8)


@dataclass(frozen=True)
class Tiles:
    """All heads as one image; row 0 is the bottom, as in the maps themselves.

    Attributes
    ----------
    image
        ``(row, column)`` levels, `WHITE` between the heads.
    left, bottom
        Corner of the place of each head in pixels, ``(head,)``, in the order of the inputs.
    width
        Pixels of every place.
    heights
        Pixels of each row, ``(row,)``; stacks may have maps of different shapes.
    """

    image: NDArray[np.uint8]
    left: NDArray[np.int64]
    bottom: NDArray[np.int64]
    width: int
    heights: NDArray[np.int64]


def tile(rows: Sequence[NDArray[np.uint8]], gap: tuple[int, int]) -> Tiles:
    """Lay out rows of shaded heads, first row on top: ``[(head, row, column)] -> Tiles``.

    A map narrower than the widest stands in the middle of its place.
    """
    heights, wide = [row.shape[1] for row in rows], max(row.shape[2] for row in rows)
    most = max(len(row) for row in rows)
    image = np.full((sum(heights) + len(rows) * gap[0], most * (wide + gap[1]) - gap[1]), WHITE, np.uint8)
    left, bottom = [], []
    base = len(image)
    for row in rows:
        base -= row.shape[1]
        for h, head in enumerate(row):
            left.append(h * (wide + gap[1]))
            bottom.append(base)
            first = left[-1] + (wide - head.shape[1]) // 2
            image[base : base + head.shape[0], first : first + head.shape[1]] = head
        base -= gap[0]
    return Tiles(image, np.array(left), np.array(bottom), wide, np.array(heights))


def draw_mosaic(
    time_tree: xr.DataTree,
    lags_tree: xr.DataTree,
    settings: Mapping[str, Any] | FigureSettings | None = None,
    *,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Maps of every layer and head of a run as one image, each with the lag furthest above its limit.

    Parameters
    ----------
    time_tree, lags_tree, settings, title, subtitle
        As in `laglens.figures.head_sheet.draw_head_sheet`.

    Raises
    ------
    LaglensError
        A tree lacks something, or the window or part asked for does not exist.
    """
    settings = FigureSettings.parse(settings)
    nodes = stacks(time_tree, "attention", "time tree")
    lag_nodes = stacks(lags_tree, "ratio", "lags tree")
    part = headline_part(lag_nodes, settings.part)
    maps = {name: attention_map(node, settings.window) for name, node in nodes.items()}
    labels = [(name, int(layer)) for name, weights in maps.items() for layer in weights["layer"].values]
    grid = Grid.fit([weights.shape for weights in maps.values()], settings.dpi)
    rows = [shade(pool_max(maps[name].sel(layer=layer).values, grid.pixels)) for name, layer in labels]
    tiles = tile(rows, grid.gap)
    unit = TimeUnit.of(time_tree.attrs.get("signal", {}))
    lags = _strongest_lags(with_part(lag_nodes, part), maps)
    longest = max(max(weights.shape[2:]) for weights in maps.values())
    pooled = f"; {longest} times pooled to {grid.pixels} by their maximum" if longest > grid.pixels else ""
    note = _note(time_tree, next(iter(lag_nodes.values())).attrs, part, settings.window, pooled)
    with look():
        high, wide = (size * grid.inch for size in tiles.image.shape)
        height = TOP + high + 0.2 + caption_height(note, WIDTH - 0.4)
        figure = new_figure(grid.whole(height))
        write_title(figure, title, subtitle)
        left = 0.2 + max(text_width(_row_label(*label)) for label in labels) + 0.08
        axes = place(figure, grid.whole(left), grid.whole(TOP), wide, high, label="mosaic")
        axes.imshow(tiles.image, cmap=_colours(), norm=NoNorm(), origin="lower", aspect="auto")
        axes.set_axis_off()
        _label_rows_and_heads(axes, tiles, labels, grid)
        _number_heads(axes, tiles, lags, unit, grid)
        caption(figure, 0.2, TOP + high + 0.2, note, WIDTH - 0.4)
    return figure


@dataclass(frozen=True)
class Grid:
    """Pixels per head, whole-number zoom and gaps, so that heads fill the page and every pixel has the same size.

    Attributes
    ----------
    pixels
        Longest side of a head; where the tokens are more, they are pooled to at most `MOST_PIXELS`.
    zoom
        Figure pixels per pooled pixel.
    gap
        Pooled pixels between rows and between columns.
    dpi
        Figure pixels per inch.
    """

    pixels: int
    zoom: int
    gap: tuple[int, int]
    dpi: int

    @classmethod
    def fit(cls, shapes: Sequence[tuple[int, ...]], dpi: int) -> Self:
        """Layout for stacks of maps of these shapes, ``(layer, head, query, key)`` each."""
        dpi = max(dpi, 100)
        across = (WIDTH - LABELS - 0.2) / max(shape[1] for shape in shapes) - GAP
        down = TALLEST / sum(shape[0] for shape in shapes) - NUMBER
        room = max(12, int(min(across, down, LARGEST) * dpi))
        longest = max(side for shape in shapes for side in shape[2:])
        most = longest if longest <= room else min(MOST_PIXELS, room)
        zoom = max(1, room // most)
        return cls(most, zoom, (-(-round(NUMBER * dpi) // zoom), max(1, round(GAP * dpi / zoom))), dpi)

    @property
    def inch(self) -> float:
        """Size of a pooled pixel in inches."""
        return self.zoom / self.dpi

    def whole(self, inches: float) -> float:
        """A length rounded to whole figure pixels."""
        return round(inches * self.dpi) / self.dpi


def _colours() -> ListedColormap:
    colours = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 1, WHITE))
    return ListedColormap(np.vstack([colours, [1, 1, 1, 1]]), name="mosaic")


def _row_label(node: str, layer: int) -> str:
    return f"{node} L{layer:02d}"


def _label_rows_and_heads(axes: Axes, tiles: Tiles, labels: Sequence[tuple[str, int]], grid: Grid) -> None:
    inch = 1 / grid.inch
    bottoms = sorted(set(tiles.bottom), reverse=True)
    for label, bottom, height in zip(labels, bottoms, tiles.heights, strict=True):
        middle = bottom + height / 2
        axes.text(-0.08 * inch, middle, _row_label(*label), ha="right", va="center", fontsize=LABEL, color=MUTED)
    size = fit("H00", tiles.width * grid.inch, LABEL)[1]
    for head, left in enumerate(sorted(set(tiles.left))):
        middle, top = left + tiles.width / 2, tiles.image.shape[0] + 0.05 * inch
        axes.text(middle, top, f"H{head:02d}", ha="center", va="bottom", fontsize=size, color=MUTED)


def _number_heads(axes: Axes, tiles: Tiles, lags: Sequence[float | None], unit: TimeUnit, grid: Grid) -> None:
    labels = ["–" if lag is None else number(float(f"{lag * unit.step:.3g}")) for lag in lags]
    size = min(fit(label, (tiles.width + grid.gap[1]) * grid.inch, SMALL)[1] for label in labels)
    for label, left, bottom in zip(labels, tiles.left, tiles.bottom, strict=True):
        place_at = left + tiles.width / 2, bottom - 0.03 / grid.inch
        colour, weight = (FAINT, "normal") if label == "–" else (INK, "bold")
        axes.text(*place_at, label, ha="center", va="top", fontsize=size, color=colour, fontweight=weight)


def _strongest_lags(lags: Mapping[str, xr.Dataset], maps: Mapping[str, xr.DataArray]) -> list[float | None]:
    """The lag furthest above its limit of each head, in the order of the tiles."""
    found: list[float | None] = []
    for name, weights in maps.items():
        if name in lags:
            found.extend(strongest_lags(beyond_limit(lags[name])).ravel())
        else:
            found.extend([None] * (weights.sizes["layer"] * weights.sizes["head"]))
    return found


def _note(tree: xr.DataTree, attrs: Mapping[str, Any], part: str, window: int, pooled: str) -> str:
    unit = TimeUnit.of(tree.attrs.get("signal", {}))
    return (
        f"Key time to the right, query time upwards; window {window + 1} of {tree.sizes['sample']}. Each head on its "
        f"own scale: square root of the weight, cut at its {CLIP:g} % point{pooled}. Number: the lag "
        f"({unit.name}) from {part.replace('->', ' to ')} furthest above its "
        f"simultaneous limit ({null_sentence(attrs)}); "
        "– where no lag passes."
    )
