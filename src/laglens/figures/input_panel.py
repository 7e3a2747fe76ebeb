"""What the input repeats by itself, under a lag profile: a head that shows no more than this has found nothing new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from laglens.figures import truth
from laglens.figures.lag_panel import style_lag_axes
from laglens.figures.style import FAINT, INK, MUTED, SMALL, place
from laglens.figures.times import TimeUnit, number

ACF, POWER, GAP = 0.36, 0.22, 0.05  # inches
HEIGHT = ACF + POWER + 2 * GAP
NEEDED = ("autocorrelation", "token_autocorrelation", "power", "token_power")
AS_IS, AVERAGED = FAINT, INK


def is_known(curves: xr.Dataset | None) -> bool:
    """Whether there is anything to draw: an input may have no autocorrelation."""
    return curves is not None and all(name in curves for name in NEEDED)


def draw_input(
    figure: Figure,
    left: float,
    top: float,
    width: float,
    curves: xr.Dataset,
    lag: np.ndarray,
    unit: TimeUnit,
    known: Sequence[truth.Rhythm],
    correlation: float | None = None,
) -> None:
    """Autocorrelation and power of the input on the lag axis of the profile above them.

    Parameters
    ----------
    left, top, width
        Inches of the upper strip.
    curves
        From `laglens.lags.inputs.input_curves`.
    lag
        Lags of the profile [input samples].
    unit, known
        As in `laglens.figures.lag_panel.style_lag_axes`.
    correlation
        Rank correlation of the profile with the token-averaged autocorrelation.
    """
    acf = place(figure, left, top, width, ACF, label="input autocorrelation")
    style_lag_axes(acf, lag, unit, known)
    acf.tick_params(axis="x", labelbottom=False)
    acf.set_xlabel("")
    acf.set_ylim(-1.05, 1.05)
    acf.axhline(0, color=FAINT, linewidth=0.5, zorder=0)
    for name, of, colour, wide in (
        ("autocorrelation", "lag", AS_IS, 1.4),
        ("token_autocorrelation", "token_lag", AVERAGED, 0.8),
    ):
        times, values = curves[of].values, curves[name].values
        for sign in (1, -1) if acf.get_xlim()[0] < 0 else (1,):
            acf.plot(sign * times, values, color=colour, linewidth=wide, zorder=2, gid=name)
    if correlation is not None and np.isfinite(correlation):
        acf.text(
            0.995, 0.97, f"r = {number(round(correlation, 2))}", transform=acf.transAxes, ha="right", va="top",
            fontsize=SMALL, color=INK, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
        )  # fmt: skip
    _name(acf, "ACF")
    power = place(figure, left, top + ACF + GAP, width, POWER, label="input power")
    style_lag_axes(power, lag, unit, known)
    largest = max(float(curves[name].max()) for name in ("power", "token_power"))
    for name, of, colour, wide in (
        ("power", "frequency", AS_IS, 1.8),
        ("token_power", "token_frequency", AVERAGED, 0.8),
    ):
        stems = power.vlines(1 / curves[of].values, 0, curves[name].values / largest, color=colour, linewidth=wide)
        stems.set_gid(name)
    power.set_ylim(0, 1.05)
    _name(power, "power")
    for axes in (acf, power):
        axes.set_zorder(-1)
        truth.mark_rhythms(axes, known, named=False)


def _name(axes: Axes, words: str) -> None:
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    axes.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=SMALL, color=MUTED, labelpad=3)


def describe(curves: xr.Dataset | None, unit: TimeUnit) -> str:
    """What the strips under a profile are, or why there are none."""
    if curves is None:
        return ""
    if not is_known(curves):
        return f" The input repeats nothing that could be drawn: {curves.attrs.get('left_out', 'it was not measured')}."
    token = unit.format(float(curves.attrs["samples_per_token"]))
    return (
        f" Under each profile the input itself: its autocorrelation (-1 to 1) and its power at each period (share, the "
        f"largest at full height), grey as it is, black averaged in tokens of {token}; r: rank correlation of the "
        "profile with the black line."
    ).replace("-1", "\N{MINUS SIGN}1")
