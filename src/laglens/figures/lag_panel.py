"""The lag profile of one head with everything it was measured against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from laglens.figures.style import ACCENT, BAND, FAINT, INK, MUTED, SMALL, text_width
from laglens.figures.times import TimeUnit, number, unit_ticks
from laglens.figures.truth import Rhythm, periods_of

LOWEST = 1 / 32  # of uniform attention: what lies below is next to nothing, and would flatten the rest
NEEDED = ("ratio", "band", "limit")
LIMIT = (0, (2.5, 1.5))  # dashes


def ratio_range(lags: Iterable[xr.Dataset]) -> tuple[float, float]:
    """Common ends of the ratio axis over several ``(lag,)`` datasets, lag 0 left out."""
    values = [
        np.ravel(node[name].where(node["lag"] != 0).values)
        for node in lags
        for name in ("ratio", "limit", "control_mean")
        if name in node
    ]
    finite = np.concatenate(values)
    finite = finite[np.isfinite(finite) & (finite > 0)]
    low, high = min(float(finite.min()), 0.9), max(float(finite.max()), 1.2)
    return max(low / 1.15, LOWEST), high * 1.15


def draw_profile(axes: Axes, lags: xr.Dataset, colour: str = ACCENT) -> None:
    """Profile of one head and part: line, grey band, dashed limit, and dots only above the limit.

    Parameters
    ----------
    axes
        Limits and scale are left alone.
    lags
        ``ratio (lag)``, ``band (lag, bound)``, ``limit`` with or without ``lag``.
    colour
        Colour of the line and the dots.
    """
    for one in sides(lags):
        lower, upper = (one["band"].sel(bound=bound).values for bound in ("lower", "upper"))
        axes.fill_between(one["lag"].values, lower, upper, color=BAND, linewidth=0, zorder=1)
    draw_lines(axes, lags, colour)


def draw_lines(axes: Axes, lags: xr.Dataset, colour: str, style: Any = "-", limit_colour: str = MUTED) -> None:
    """Line and dashed limit of one profile, and dots only above the limit; the two signs of lag apart, no lag 0."""
    for one in sides(lags):
        lag, ratio, limit = (one[name].values for name in ("lag", "ratio", "limit"))
        axes.plot(lag, limit, color=limit_colour, linewidth=0.8, linestyle=LIMIT, zorder=2, gid="limit")
        axes.plot(lag, ratio, color=colour, linestyle=style, zorder=3, gid="ratio")
        above = ratio > limit
        axes.plot(lag[above], ratio[above], "o", color=colour, markersize=3.6, zorder=4, gid="above the limit")


def sides(lags: xr.Dataset) -> list[xr.Dataset]:
    """Future and past lags of ``(lag, ...)``, without lag 0; a side without lags is left out."""
    signs = np.sign(lags["lag"].values)
    return [lags.isel(lag=signs == sign) for sign in (-1, 1) if (signs == sign).any()]


def lag_zero(lags: xr.Dataset) -> str:
    """What lag 0 holds, which no profile draws; empty where the part has no lag 0."""
    value = lags["ratio"].where(lags["lag"] == 0, drop=True).values
    return f"lag 0: {number(float(f'{value[0]:.2g}'))}" if value.size and np.isfinite(value[0]) else ""


def style_lag_axes(axes: Axes, lag: np.ndarray, unit: TimeUnit, known: Sequence[Rhythm]) -> None:
    """Limits, ticks and label of a lag axis in units; one-sided lags start at 0."""
    step = float(np.min(np.diff(lag))) if lag.size > 1 else 1.0
    low, high = float(lag.min()), float(lag.max())
    axes.set_xlim(0 if low >= 0 else low - step / 2, high + step / 2)
    unit_ticks(axes.xaxis, unit, periods_of(known))
    axes.set_xlabel(f"lag ({unit.name})" if low >= 0 else f"lag ({unit.name}; negative = key later than query)")


def style_ratio_axis(axes: Axes, ends: tuple[float, float]) -> None:
    """Log axis of the ratio to uniform attention, with a line at 1 and plain numbers."""
    axes.set_yscale("log")
    axes.set_ylim(ends)
    axes.yaxis.set_major_locator(FixedLocator(ratio_ticks(*ends)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.axhline(1, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_ylabel("attention / uniform attention")


def ratio_ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends of a ratio axis: powers of 2, or 1, 2, 5, or powers of 10 as it gets longer."""
    if high / low < 2**6:
        ticks = 2.0 ** np.arange(-20, 40)
    else:
        ticks = np.outer(10.0 ** np.arange(-6, 12), [1, 2, 5] if high / low < 1000 else [1]).ravel()
    return [float(tick) for tick in ticks if low <= tick <= high]


Key = tuple[dict[str, Any], str]


def profile_keys(confidence: float, colour: str = ACCENT) -> list[Key]:
    """Legend of a lag profile."""
    share = f"{100 * confidence:g} %"
    return [
        ({"color": colour, "marker": "o", "markersize": 3.6}, "this series; dot: above the limit"),
        ({"color": MUTED, "linewidth": 0.8, "linestyle": LIMIT}, f"null limit over all lags, {share}"),
        ({"color": BAND, "linewidth": 7}, f"null band at each lag, {share}"),
        ({"color": MUTED, "linewidth": 0.8, "linestyle": (0, (1, 2))}, "true period"),
    ]


def draw_legend(figure: Figure, left: float, top: float, keys: Sequence[Key]) -> None:
    """One line of keys, each a short line and its name, in inches from the upper left corner."""
    width, height = figure.get_size_inches()
    level = height - top + 0.04
    # Artists of the figure: axes for a line of words would take longer than all else in it.
    for style, label in keys:
        places = [left, left + 0.12, left + 0.24]
        line = Line2D(
            places, [level] * 3, markevery=[1], solid_capstyle="butt", transform=figure.dpi_scale_trans, **style
        )
        figure.add_artist(line)
        figure.text(
            (left + 0.3) / width,
            level / height,
            label,
            fontsize=SMALL,
            color=INK,
            va="center_baseline",
            parse_math=False,
        )
        left += 0.3 + text_width(label, SMALL) + 0.22
