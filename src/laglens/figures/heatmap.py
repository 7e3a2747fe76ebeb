"""Time-time maps: the colour norm, the map with the series on both margins, and the colour bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, FuncNorm, LogNorm, Normalize, PowerNorm, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from laglens.errors import LaglensError
from laglens.figures.reading import token_edges
from laglens.figures.settings import FigureSettings
from laglens.figures.style import ACCENT, FAINT, INK, MUTED, OVERLAY, SEQUENTIAL, SMALL, limits, place, write
from laglens.figures.times import number

Curve = tuple[np.ndarray, np.ndarray, str]


@dataclass(frozen=True)
class Window:
    """The series of the window a map shows.

    Attributes
    ----------
    series
        Truth of history and horizon, ``(time,)``; NaN where unknown.
    forecast
        The model's forecast, ``(step,)``.
    step
        Time of each forecast sample, ``(step,)``.
    history
        Number of history samples: where the horizon begins.
    """

    series: np.ndarray
    forecast: np.ndarray
    step: np.ndarray
    history: float

    @classmethod
    def of(cls, tree: xr.DataTree, window: int) -> Window:
        """Window number `window` of a time tree."""
        root = tree.to_dataset().isel(sample=window)
        return cls(root["series"].values, root["forecast"].values, root["step"].values, float(tree.attrs["history"]))

    @property
    def curves(self) -> list[Curve]:
        """History in ink, truth of the horizon faint, forecast in the accent colour."""
        time, border = np.arange(self.series.size), int(self.history)
        last = self.series[border - 1]
        return [
            (time[:border], self.series[:border], INK),
            (time[border - 1 :], self.series[border - 1 :], FAINT),
            (np.r_[border - 1, self.step], np.r_[last, self.forecast], ACCENT),
        ]


def map_norm(maps: Sequence[xr.DataArray], settings: FigureSettings) -> Normalize:
    """The one colour norm of all maps of a figure, by the settings.

    Power of the weight (default), its logarithm (`show_log`), or the weight itself; the ends are robust
    percentiles over all maps together. The log norm starts no lower than a tenth of uniform attention.
    """
    values = np.concatenate([np.asarray(m.values, dtype=float).ravel() for m in maps])
    low, high = limits(values, settings.robust_percentiles)
    if settings.show_log:
        if high <= 0:
            raise LaglensError("figures.show_log needs positive weights, but this map has none")
        floor = 1 / (10 * max(m.sizes["key"] for m in maps))
        return LogNorm(min(max(low, floor), high / 10), high, clip=True)
    return PowerNorm(settings.gamma, low, high, clip=True) if settings.powermap else Normalize(low, high, clip=True)


def difference_norm(difference: xr.DataArray, settings: FigureSettings) -> Normalize:
    """Symmetric norm of a difference of maps: signed power, signed logarithm or linear, as `map_norm`."""
    high = limits(np.abs(difference.values), (0, settings.robust_percentiles[1]))[1]
    if settings.show_log:
        return SymLogNorm(high / 100, vmin=-high, vmax=high, clip=True)
    gamma = settings.gamma if settings.powermap else 1.0

    def power(values: np.ndarray, exponent: float) -> np.ndarray:
        return np.sign(values) * np.abs(values) ** exponent

    return FuncNorm((lambda x: power(x, gamma), lambda x: power(x, 1 / gamma)), vmin=-high, vmax=high, clip=True)


def draw_map(axes: Axes, weights: xr.DataArray, norm: Normalize, cmap: str = SEQUENTIAL) -> ScalarMappable:
    """One map, ``(query, key)``, with key time to the right and query time upwards, both in samples."""
    weights = weights.transpose("query", "key")
    key, query = token_edges(weights, "key"), token_edges(weights, "query")
    axes.set_xlim(key[0], key[-1])
    axes.set_ylim(query[0], query[-1])
    if _even(key) and _even(query):
        extent = (key[0], key[-1], query[0], query[-1])
        return axes.imshow(weights.values, norm=norm, cmap=cmap, extent=extent, aspect="auto", origin="lower")
    # Unevenly spaced tokens have no image; unrasterised, a mesh makes an SVG of many megabytes.
    return axes.pcolormesh(key, query, weights.values, norm=norm, cmap=cmap, rasterized=True)


def _even(borders: np.ndarray) -> bool:
    steps = np.diff(borders)
    return bool(np.allclose(steps, steps[0], rtol=1e-3))


def draw_border(axes: Axes, history: float, colour: str = "white") -> None:
    """Thin dashed lines where the horizon begins, on both axes of a map."""
    for line, (low, high) in ((axes.axvline, axes.get_xlim()), (axes.axhline, axes.get_ylim())):
        if low < history - 0.5 < high:
            line(history - 0.5, color=colour, linewidth=0.7, linestyle=(0, (4, 3)), alpha=0.85)


def outline_strongest(axes: Axes, weights: xr.DataArray, percent: float) -> None:
    """Outline the strongest `percent` % of the cells of a map; nothing at 0."""
    if percent == 0:
        return
    values = weights.transpose("query", "key").values.astype(float)
    count = max(1, round(values.size * percent / 100))
    inside = np.pad(values >= np.sort(values, axis=None)[-count], 1)
    key, query = token_edges(weights, "key"), token_edges(weights, "query")
    rows, columns = np.nonzero(inside[1:-1, 1:] != inside[1:-1, :-1])
    upright = [((key[c], query[r]), (key[c], query[r + 1])) for r, c in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(inside[1:, 1:-1] != inside[:-1, 1:-1])
    level = [((key[c], query[r]), (key[c + 1], query[r])) for r, c in zip(rows, columns, strict=True)]
    lines = LineCollection(upright + level, colors=OVERLAY, linewidths=0.6, rasterized=True)
    lines.set_gid("strongest cells")
    axes.add_collection(lines, autolim=False)


def draw_margin(
    axes: Axes, curves: Sequence[Curve], border: float, span: tuple[float, float], *, upright: bool = False
) -> None:
    """Series along one margin of a map, with a dashed line where the horizon begins.

    Parameters
    ----------
    axes
        A frameless axes beside the map.
    curves
        Times, values and colour of each line.
    border
        First time of the horizon.
    span
        The time limits of the map's axis, in samples.
    upright
        Draw time upwards (the left margin) instead of to the right (the top margin).
    """
    for times, values, colour in curves:
        axes.plot(*((values, times) if upright else (times, values)), color=colour, linewidth=0.8)
    (axes.axhline if upright else axes.axvline)(border - 0.5, color=MUTED, linewidth=0.6, linestyle=(0, (4, 3)))
    axes.set_axis_off()
    axes.margins(0.04)
    if upright:
        axes.set_ylim(span)
        axes.invert_xaxis()
    else:
        axes.set_xlim(span)


def draw_colour_bar(
    figure: Figure,
    norm: Normalize,
    left: float,
    top: float,
    width: float,
    label: str,
    cmap: str = SEQUENTIAL,
    *,
    cut: bool = True,
) -> Axes:
    """Small horizontal colour bar at a place in inches; its ends say whether the scale is cut there."""
    low, middle, high = (float(x) for x in norm.inverse(np.array([0, 0.5, 1])))
    start = f"{'≤' if cut else ''}{number(_two(low))}" if abs(low) > 1e-3 * high else "0"
    words = [start, number(_two(middle)), f"{'≥' if cut else ''}{number(_two(high))}"]
    return draw_colours(figure, left, top, width, label, cmap, dict(zip((0, 0.5, 1), words, strict=True)))


def draw_colours(
    figure: Figure, left: float, top: float, width: float, label: str, cmap: str | Colormap, ticks: Mapping[float, str]
) -> Axes:
    """All colours of a map from left to right, with its name above and ticks, from 0 to 1, below.

    Colours lie evenly, as in a norm. A colour bar of matplotlib does the same in many times the time.
    """
    axes = place(figure, left, top, width, 0.08, label=f"colour bar, {label}")
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=cmap, extent=(0, 1, 0, 1), aspect="auto", interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.yaxis.set_major_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.set_xticklabels(list(ticks.values()), fontsize=SMALL)
    write(figure, left + width, top - 0.04, label, ha="right", fontsize=SMALL, color=MUTED)
    return axes


def _two(value: float) -> float:
    return float(f"{value:.2g}")
