"""A person's own table as a signal: one series, or a panel of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.config.messages import one_line
from laglens.config.signals import OwnTable
from laglens.errors import LaglensError
from laglens.signals.clock import TOLERANCE, Clock, read_clock
from laglens.signals.columns import plain, value_columns
from laglens.signals.labelled import labelled, more

FILLED = 0.5  # of the values; a series of which more would be interpolated is not the one that was measured


@dataclass(frozen=True)
class _Series:
    """One series of a table: its name, its values on the even grid of its clock, and how many are interpolated."""

    name: str
    values: NDArray[np.float64]
    clock: Clock
    gaps: int


def from_table(spec: OwnTable, table: pd.DataFrame, name: str = "signal") -> xr.Dataset:
    """Label the series of a table, each one a sample, or several if they are cut into windows.

    Parameters
    ----------
    spec
        What to take; see ``docs/signals.md``.
    table
        As `laglens.store.read_table` returns it. Each value column is a series, or, with ``series``, the rows of each
        name in that column, in the order in which they stand.

    Returns
    -------
    xr.Dataset
        ``value (sample, time)`` with the coordinate ``series_name (sample)``; ``date (time)`` where the time column has
        dates, or ``start (sample)`` and ``start_date (sample)`` where series are cut into windows or begin on
        different dates.

    Raises
    ------
    LaglensError
        A column is missing or not numeric, a value or a row is missing, the times are uneven, or the series differ in
        length or in their time step; rows are counted from 1 below the header, or within the series.
    """
    try:
        table, index = plain(spec, table, name)
        columns, left_out = value_columns(spec, table, index, name)
        series = (
            [*_of_names(spec, table, columns[0], name)] if spec.series else [*_of_columns(spec, table, columns, name)]
        )
        _same_step(series, name)
        length = spec.window or _same_length(series, spec, name)
        cut, starts = _cut(series, length, spec, name)
    except LaglensError as error:  # names and cells are quoted, and may hold line breaks or a page of text
        raise LaglensError(one_line(str(error))) from error
    signal = labelled(
        cut,
        source=f"file {spec.file}",
        parameters=spec.model_dump(mode="json"),
        name=name,
        periods=spec.periods,
        time_step=series[0].clock.step,
        time_unit=series[0].clock.unit,
        unit=spec.unit,
    )
    signal.attrs["interpolated"] = sum(one.gaps for one in series)
    if left_out:
        signal.attrs["left_out"] = left_out
    names = np.array([one.name for one, of_one in zip(series, starts, strict=True) for _ in of_one], dtype=object)
    return _timed(signal.assign_coords(series_name=("sample", names)), series, starts, windowed=bool(spec.window))


def _of_columns(spec: OwnTable, table: pd.DataFrame, columns: Sequence[str], name: str) -> Iterator[_Series]:
    """Each column is a series; all of them share the clock."""
    clock = _clock(spec, table, f"signal '{name}'")
    for column in columns:
        values, gaps = _filled(table[column], clock, spec.interpolate, f"signal '{name}', column '{column}'")
        yield _Series(column, values, clock, gaps)


def _of_names(spec: OwnTable, table: pd.DataFrame, column: str, name: str) -> Iterator[_Series]:
    """The rows of each name are a series with a clock of its own."""
    nameless = np.flatnonzero(table[spec.series].isna())
    if len(nameless):
        raise LaglensError(
            f"signal '{name}', column '{spec.series}', row {nameless[0] + 1}: the name of the series is "
            f"missing{more(nameless)}"
        )
    for key, rows in table.groupby(table[spec.series].astype(str), sort=False):
        where = f"signal '{name}', series '{key}'"
        clock = _clock(spec, rows, where)
        values, gaps = _filled(rows[column], clock, spec.interpolate, f"{where}, column '{column}'")
        yield _Series(str(key), values, clock, gaps)


def _same_step(series: Sequence[_Series], name: str) -> None:
    first = series[0]
    for one in series[1:]:
        (own, unit), (step, shared) = _spacing(one.clock), _spacing(first.clock)
        if unit != shared or not np.isclose(own, step, rtol=TOLERANCE, atol=0):
            raise LaglensError(
                f"signal '{name}': series '{one.name}' has one value every {own:g} {unit}, "
                f"'{first.name}' one every {step:g} {shared}; one signal has one time step, so "
                "make two signals of them, or resample"
            )


def _spacing(clock: Clock) -> tuple[float, str]:
    """Distance of two times, and its unit; of numbers as the column has them."""
    return (clock.step, clock.unit) if clock.spacing is None else (clock.spacing, clock.unit)


def _same_length(series: Sequence[_Series], spec: OwnTable, name: str) -> int:
    """The length of all series, which are windows of themselves."""
    shortest, longest = (pick(series, key=lambda one: len(one.values)) for pick in (min, max))
    if len(shortest.values) != len(longest.values):
        raise LaglensError(
            f"signal '{name}': the series of '{spec.file}' differ in length, from {len(shortest.values)} samples "
            f"('{shortest.name}') to {len(longest.values)} ('{longest.name}'); 'window: {len(shortest.values)}' cuts "
            "each into as many pieces of that length as it has"
        )
    return len(longest.values)


def _cut(
    series: Sequence[_Series], length: int, spec: OwnTable, name: str
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Pieces of all series, ``(sample, time)``, and where those of each series start."""
    pieces, starts = [], []
    for one in series:
        if len(one.values) < length:
            which = f" of series '{one.name}'" if spec.series else ""
            raise LaglensError(
                f"signal '{name}': window {length} is longer than the {len(one.values)} rows{which} of '{spec.file}'"
            )
        starts.append(np.arange(0, len(one.values) - length + 1, spec.stride or length))
        pieces.append(np.lib.stride_tricks.sliding_window_view(one.values, length)[starts[-1]])
    return np.concatenate(pieces), starts


def _clock(spec: OwnTable, table: pd.DataFrame, where: str) -> Clock:
    if spec.time is None:
        return Clock(np.arange(len(table)), 1.0, spec.time_unit or "samples")
    clock = read_clock(table[spec.time], f"{where}, column '{spec.time}'", spec.time_unit)
    missing = np.flatnonzero(np.diff(clock.position) > 1)
    length = int(clock.position[-1]) + 1
    if length - len(table) > FILLED * length:
        raise LaglensError(
            f"{where}, column '{spec.time}': at one time every {clock.step:g} {clock.unit}, {length - len(table)} of "
            f"{length} are missing, too many to fill; see whether the dates are read as they are meant (ISO 8601, "
            "2024-01-31, is safe), or bring the table to even steps (pandas: resample)"
        )
    if len(missing) and not spec.interpolate:
        row = int(missing[0])
        gap = int(clock.position[row + 1] - clock.position[row]) - 1
        raise LaglensError(
            f"{where}, column '{spec.time}': {gap} steps are missing after row {row + 1} "
            f"('{table[spec.time].iloc[row]}'); give 'interpolate: true' to fill gaps on a straight line, or leave "
            "out 'time' to number the rows"
        )
    return clock


def _filled(column: pd.Series, clock: Clock, interpolate: bool, where: str) -> tuple[NDArray[np.float64], int]:
    """Values on the even grid, and how many of them were interpolated."""
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    words = np.flatnonzero(numbers.isna() & column.notna())
    if len(words):
        row = int(words[0])
        raise LaglensError(f"{where}, row {row + 1}: '{column.iloc[row]}' is not a number; write numbers like 12.5")
    gaps = np.flatnonzero(~np.isfinite(numbers))
    if len(gaps) > FILLED * len(numbers):
        raise LaglensError(
            f"{where}: {len(gaps)} of {len(numbers)} values are missing, too many to fill; cut the table"
        )
    if len(gaps) and not interpolate:
        raise LaglensError(
            f"{where}, row {gaps[0] + 1}: the value is missing{more(gaps)}; fill it, or give "
            "'interpolate: true' to fill gaps on a straight line"
        )
    if len(gaps) and {0, len(numbers) - 1} & set(gaps.tolist()):
        raise LaglensError(
            f"{where}: the first or the last value is missing and cannot be interpolated; cut the table there"
        )
    known = np.isfinite(numbers.to_numpy())
    grid = np.arange(clock.position[-1] + 1)
    values = np.interp(grid, clock.position[known], numbers.to_numpy()[known])
    return values, len(grid) - int(known.sum())


def _timed(
    signal: xr.Dataset, series: Sequence[_Series], starts: Sequence[NDArray[np.int64]], *, windowed: bool
) -> xr.Dataset:
    """Add dates; where samples have dates of their own, only where each starts can be told."""
    dates = [one.clock.dates for one in series if one.clock.dates is not None]
    if windowed:
        signal = signal.assign_coords(start=("sample", np.concatenate(starts)))
    if not dates:
        return signal
    if not windowed and all(one is dates[0] or np.array_equal(one, dates[0]) for one in dates):
        return signal.assign_coords(date=("time", dates[0]))
    begin = [one[of_one] for one, of_one in zip(dates, starts, strict=True)]
    return signal.assign_coords(start_date=("sample", np.concatenate(begin)))
