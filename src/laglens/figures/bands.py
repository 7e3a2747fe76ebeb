"""Bands under a series: weights over time as strips of colour on the time axis of the series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FixedLocator

from laglens.figures.heatmap import Curve
from laglens.figures.reading import edges
from laglens.figures.style import MUTED, SEQUENTIAL, SMALL
from laglens.figures.times import TimeUnit, date_ticks, unit_ticks

HORIZON = 1  # code of ``query_part``
BORDER = (0, (4, 3))


def forecasting_rows(node: xr.Dataset) -> np.ndarray:
    """Queries whose rows make the forecast, ``(query,)``: those in the horizon, else those read for it, else all."""
    for name, value in (("query_part", HORIZON), ("query_readout", True)):
        if name in node.coords:
            rows = node[name].values == value
            if rows.any():
                return np.asarray(rows)
    return np.ones(node.sizes["query"], bool)


def by_time(weights: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add up the columns of the same time, and sort them: (..., key), (key,) -> (..., time), (time,)."""
    found, place = np.unique(times, return_inverse=True)
    added = np.zeros((*weights.shape[:-1], found.size))
    np.add.at(np.moveaxis(added, -1, 0), place, np.moveaxis(weights, -1, 0))
    return added, found


def draw_series(axes: Axes, curves: Sequence[Curve], history: float, span: tuple[float, float]) -> None:
    """Series above its bands; `span` in samples is that of the bands, so that both stand over each other."""
    for times, values, colour in curves:
        axes.plot(times, values, color=colour, linewidth=0.9)
    axes.axvline(history - 0.5, color=MUTED, linewidth=0.6, linestyle=BORDER)
    axes.set_xlim(span)
    axes.margins(y=0.08)
    axes.set_axis_off()


def draw_bands(
    axes: Axes, weights: np.ndarray, times: np.ndarray, names: Sequence[str], norm: Normalize, history: float
) -> ScalarMappable:
    """Strips of colour one below the other, first on top: ``(band, time)``, centres `times` in samples."""
    borders = edges(times)
    rows = np.arange(len(names) + 1) - 0.5
    steps = np.diff(borders)
    if np.allclose(steps, steps[0], rtol=1e-3):
        extent = (borders[0], borders[-1], rows[-1], rows[0])
        shown: ScalarMappable = axes.imshow(
            weights, norm=norm, cmap=SEQUENTIAL, extent=extent, aspect="auto", origin="upper"
        )
    else:
        shown = axes.pcolormesh(borders, rows, weights, norm=norm, cmap=SEQUENTIAL, rasterized=True)
    axes.set(xlim=(borders[0], borders[-1]), ylim=(rows[-1], rows[0]))
    for row in rows[1:-1]:
        axes.axhline(row, color="white", linewidth=0.8)
    if borders[0] < history - 0.5 < borders[-1]:
        axes.axvline(history - 0.5, color="white", linewidth=0.7, linestyle=BORDER)
    axes.yaxis.set_major_locator(FixedLocator(list(range(len(names)))))
    axes.set_yticklabels(names, fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    return shown


def label_time(axes: Axes, unit: TimeUnit, dates: np.ndarray | None, periods: Sequence[float] = ()) -> None:
    """Ticks and label of a time axis: dates where the series has them, else units."""
    if dates is None:
        unit_ticks(axes.xaxis, unit, periods, most=8)
        axes.set_xlabel(f"time ({unit.name})")
    else:
        axes.set_xlabel(f"time ({date_ticks(axes.xaxis, dates, most=8) or 'date'})")
