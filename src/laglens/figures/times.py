"""Time axes in real units: samples, hours, years, or dates where the series has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, MultipleLocator


@dataclass(frozen=True)
class TimeUnit:
    """What one input sample stands for.

    Attributes
    ----------
    step
        Length of one sample in `name`.
    name
        ``samples``, ``hours``, ``years``, ...
    """

    step: float = 1.0
    name: str = "samples"

    @classmethod
    def of(cls, signal: Mapping[str, Any]) -> TimeUnit:
        """Read ``time_step`` and ``time_unit`` of a signal's attributes; one sample when they are absent."""
        return cls(float(signal.get("time_step") or 1.0), str(signal.get("time_unit") or "samples"))

    def number(self, samples: float) -> str:
        """A time in units, without the unit: at most four figures."""
        return number(samples * self.step)

    def format(self, samples: float) -> str:
        """A time with its unit, such as ``64 samples``."""
        return f"{self.number(samples)} {self.name}"


def number(value: float) -> str:
    """Four significant figures at most, with a true minus sign."""
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def unit_ticks(axis: Axis, unit: TimeUnit, periods: Sequence[float] = (), *, most: int = 6) -> None:
    """Ticks of an axis that counts samples, labelled in units.

    Parameters
    ----------
    axis
        The axis, its limits set; its data are samples.
    unit
        What a sample stands for.
    periods
        Known periods in samples. Ticks lie at multiples of the longest that is a whole number of units and fits
        three times; else at round numbers.
    most
        The largest number of steps between ticks.
    """
    low, high = (float(end) * unit.step for end in sorted(axis.get_view_interval()))
    length = high - low
    whole = [
        period * unit.step for period in periods if _is_whole(period * unit.step) and 3 * period <= length / unit.step
    ]
    locator: MaxNLocator | MultipleLocator = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])
    if whole:
        every = round(max(whole))
        locator = MultipleLocator(every * int(np.ceil(length / every / most)))
    ticks = np.asarray(locator.tick_values(low, high))
    inside = ticks[(ticks >= low - 1e-9 * length) & (ticks <= high + 1e-9 * length)]
    axis.set_major_locator(FixedLocator(list(inside / unit.step)))
    axis.set_major_formatter(FuncFormatter(lambda samples, _: unit.number(samples)))


def _is_whole(value: float) -> bool:
    return value >= 2 and abs(value - round(value)) < 1e-6


def window_dates(tree: xr.DataTree, window: int) -> np.ndarray | None:
    """Dates of the samples of one window, ``(time,)``, or None where the series has none.

    Samples after the end of the series get the date they would have at the median step.
    """
    if "date" not in tree.coords and "date" not in tree:
        return None
    date = tree["date"].isel(sample=window).values.astype("datetime64[ns]")
    known = ~np.isnat(date)
    if known.sum() < 2:
        return None
    at, days = np.flatnonzero(known), date[known].astype("int64")
    step = np.median(np.diff(days) / np.diff(at))
    filled = days[0] + (np.arange(date.size) - at[0]) * step
    filled[known] = days
    return filled.astype("int64").astype("datetime64[ns]")


def date_ticks(axis: Axis, dates: np.ndarray, *, most: int = 5) -> str:
    """Ticks at round dates on an axis that counts samples; returns what the ticks leave unsaid (a year, a day)."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num, num2date

    days = date2num(dates)
    low, high = np.interp(sorted(axis.get_view_interval()), np.arange(days.size), days)
    locator = AutoDateLocator(minticks=2, maxticks=most)
    values = [value for value in locator.tick_values(num2date(low), num2date(high)) if low <= value <= high]
    # Every fourth day ends a month with the 29th right before the 1st: one of the two would hide the other.
    steps = np.diff([*values, np.inf])
    values = [value for value, step in zip(values, steps, strict=True) if step > 0.6 * np.median(steps)]
    formatter = ConciseDateFormatter(locator)
    labels = formatter.format_ticks(values)
    axis.set_major_locator(FixedLocator(np.interp(values, days, np.arange(days.size))))
    axis.set_ticklabels(labels)
    return formatter.get_offset()
