"""The time column of a table: whether it is evenly spaced, and what one step is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from laglens.errors import LaglensError

SECONDS = {"weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
MONTHS = {"years": 12, "quarters": 3, "months": 1}

DAY_OR_MONTH = r"^\s*(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?!\d)"
TOLERANCE = 1e-3  # of the step, within which times are even and two steps the same


@dataclass(frozen=True)
class Clock:
    """The even grid of times behind a time column.

    Attributes
    ----------
    position
        ``(row,)``: place of each row on the grid, rising; a number is left out where rows are missing.
    step, unit
        The grid has one time every `step` `unit`.
    dates
        ``(grid,)``, or None if the column holds numbers.
    spacing
        Of numbers, the distance of two times of the grid as the column has them.
    """

    position: NDArray[np.int64]
    step: float
    unit: str
    dates: NDArray[np.datetime64] | None = None
    spacing: float | None = None


def read_clock(column: pd.Series, where: str, unit: str | None = None) -> Clock:
    """Find the grid of a time column of dates or of numbers.

    Parameters
    ----------
    column
        ``(row,)``, from a table as it was read.
    where
        Start of every message, such as ``signal 'load', column 'timestamp'``.
    unit
        Unit of time wanted; by default the largest that divides the step of the dates. Numbers are in this unit,
        and without one they only tell whether the rows are evenly spaced.

    Raises
    ------
    LaglensError
        A time is missing, unreadable or out of order, or the steps are uneven.
    """
    if pd.api.types.is_numeric_dtype(column):
        position, step = _places(column.to_numpy(dtype=np.float64), column, where, str)
        return Clock(position, step if unit else 1.0, unit or "samples", spacing=step)
    dates = _dates(column, where)
    calendar = _calendar(dates)
    if calendar is not None:
        position, months = _places(calendar, column, where, _months)
        unit = unit or next(u for u in MONTHS if months % MONTHS[u] == 0)
        _convertible(unit, MONTHS, where, "whole months")
        offsets = pd.DateOffset(months=int(months))
        grid = pd.date_range(dates[0], periods=position[-1] + 1, freq=offsets)
        if calendar_ends(dates):
            grid = grid + pd.offsets.MonthEnd(0)
        return Clock(position, months / MONTHS[unit], unit, _nanoseconds(grid, where))
    elapsed = (dates - dates[0]).total_seconds().to_numpy()
    position, seconds = _places(elapsed, column, where, _duration)
    unit = unit or next((u for u in SECONDS if seconds % SECONDS[u] == 0), "seconds")
    _convertible(unit, SECONDS, where, "days or shorter")
    grid = dates[0] + pd.to_timedelta(np.arange(position[-1] + 1) * seconds, unit="s")
    return Clock(position, seconds / SECONDS[unit], unit, _nanoseconds(grid, where))


def calendar_ends(dates: pd.DatetimeIndex) -> bool:
    """Whether every date is the last day of its month."""
    return bool(dates.is_month_end.all())


def _dates(column: pd.Series, where: str) -> pd.DatetimeIndex:
    """Dates without a time zone; those with one are taken to UTC."""
    dates = _read(column)
    if dates.isna().any():
        row = int(np.flatnonzero(dates.isna())[0])
        raise LaglensError(
            f"{where}, row {row + 1}: '{column.iloc[row]}' is not a date; write dates like 2024-01-31 23:00"
        )
    _not_ambiguous(column, dates, where)
    return dates


def _not_ambiguous(column: pd.Series, dates: pd.DatetimeIndex, where: str) -> None:
    """Raise where day and month could be exchanged in all dates, and they would still rise, but be others."""
    texts = column.astype(str)
    if not texts.str.match(DAY_OR_MONTH).all():
        return
    exchanged = _read(texts.str.replace(DAY_OR_MONTH, r"\3\2\1\2\4", regex=True))
    if not exchanged.isna().any() and exchanged.is_monotonic_increasing and (exchanged != dates).any():
        row = int(np.flatnonzero(exchanged != dates)[0])
        raise LaglensError(
            f"{where}, row {row + 1}: '{column.iloc[row]}' can be {dates[row].day} {dates[row]:%B} and "
            f"{exchanged[row].day} {exchanged[row]:%B}, and no row tells which; write dates in the order of "
            "ISO 8601, 2024-01-31"
        )


def _read(column: pd.Series) -> pd.DatetimeIndex:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be read is told with its row
        dates = pd.to_datetime(column, errors="coerce", utc=True)
        if dates.isna().any():  # 2024-01-01 beside 2024-01-01 01:00
            dates = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    return pd.DatetimeIndex(dates).tz_localize(None)


def _calendar(dates: pd.DatetimeIndex) -> NDArray[np.float64] | None:
    """Months since year 0, if the dates are whole months apart but not whole days."""
    days = dates.normalize()
    same_day = (dates.day == dates.day[0]).all() or calendar_ends(dates)
    if not same_day or ((dates - days) != (dates - days)[0]).any():
        return None
    months = (12 * dates.year + dates.month).to_numpy(dtype=np.float64)
    return months if (np.diff(months) != 0).all() else None


def _places(
    times: NDArray[np.float64], column: pd.Series, where: str, spoken: Callable[[float], str]
) -> tuple[NDArray[np.int64], float]:
    """Place of every time on a grid of the usual step, and that step."""
    if len(times) < 2:
        raise LaglensError(f"{where}: one row has no time step; at least 2 are needed")
    if not np.isfinite(times).all():
        raise LaglensError(f"{where}, row {int(np.flatnonzero(~np.isfinite(times))[0]) + 1}: the time is missing")
    steps = np.diff(times)
    backwards = np.flatnonzero(steps <= 0)
    if len(backwards):
        row = int(backwards[0]) + 1
        raise LaglensError(
            f"{where}, row {row + 1}: '{column.iloc[row]}' is not later than '{column.iloc[row - 1]}' before it; "
            "sort the rows by time and remove repeated times"
        )
    step = float(np.sort(steps)[len(steps) // 2])
    multiples = steps / step
    uneven = np.flatnonzero(np.abs(multiples - np.round(multiples)) > TOLERANCE)
    if len(uneven):
        row = int(uneven[0]) + 1
        raise LaglensError(
            f"{where}, row {row + 1}: '{column.iloc[row]}' comes {spoken(steps[row - 1])} after the row before, most "
            f"come {spoken(step)} after; bring the table to even steps (pandas: resample), or leave out 'time'"
        )
    return np.r_[0, np.cumsum(np.round(multiples))].astype(np.int64), step


def _convertible(unit: str, known: dict[str, int], where: str, kind: str) -> None:
    if unit not in known:
        raise LaglensError(f"{where}: the steps are {kind}, which '{unit}' cannot count; use {', '.join(known)}")


def _nanoseconds(grid: pd.DatetimeIndex, where: str) -> NDArray[np.datetime64]:
    try:
        return grid.as_unit("ns").to_numpy()
    except pd.errors.OutOfBoundsDatetime as error:
        raise LaglensError(f"{where}: dates must lie between the years 1678 and 2261") from error


def _months(step: float) -> str:
    return f"{step:g} months"


def _duration(seconds: float) -> str:
    unit = next(u for u in SECONDS if seconds >= SECONDS[u] or u == "seconds")
    return f"{seconds / SECONDS[unit]:g} {unit}"
