"""A person's own table as a signal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.config.messages import nearest, one_line
from laglens.config.signals import OwnTable
from laglens.errors import LaglensError
from laglens.signals.clock import Clock, read_clock
from laglens.signals.labelled import labelled, more


def from_table(spec: OwnTable, table: pd.DataFrame, name: str = "signal") -> xr.Dataset:
    """Label columns of a table, each one a sample, or several if they are cut into windows.

    Parameters
    ----------
    spec
        What to take; see ``docs/signals.md``.
    table
        As `laglens.store.read_table` returns it.

    Returns
    -------
    xr.Dataset
        ``value (sample, time)`` with the coordinate ``column (sample)``; ``date (time)`` where the time column has
        dates, or ``start (sample)`` and ``start_date (sample)`` where columns are cut into windows.

    Raises
    ------
    LaglensError
        A column is missing or not numeric, a value or a row is missing, or the times are uneven; rows are counted
        from 1 below the header.
    """
    try:
        columns = _columns(spec, table, name)
        clock = _clock(spec, table, name)
        filled = [_filled(table[column], clock, spec.interpolate, f"signal '{name}', column '{column}'")
                  for column in columns]  # fmt: skip
    except LaglensError as error:  # names and cells are quoted, and may hold line breaks or a page of text
        raise LaglensError(one_line(str(error))) from error
    series = np.stack([values for values, _ in filled])
    length = spec.window or series.shape[1]
    if series.shape[1] < length:
        raise LaglensError(
            f"signal '{name}': window {length} is longer than the {series.shape[1]} rows of '{spec.file}'"
        )
    starts = np.arange(0, series.shape[1] - length + 1, spec.stride or length)
    cut = np.lib.stride_tricks.sliding_window_view(series, length, axis=1)[:, starts].reshape(-1, length)
    signal = labelled(
        cut,
        source=f"file {spec.file}",
        parameters=spec.model_dump(mode="json"),
        name=name,
        periods=spec.periods,
        time_step=clock.step,
        time_unit=clock.unit,
        unit=spec.unit,
    )
    signal.attrs["interpolated"] = sum(n_gaps for _, n_gaps in filled)
    signal = signal.assign_coords(column=("sample", np.repeat(np.array(columns, dtype=object), len(starts))))
    return _timed(signal, clock, starts if spec.window else None)


def _columns(spec: OwnTable, table: pd.DataFrame, name: str) -> list[str]:
    """The value columns asked for, or the only numeric one."""
    wanted = spec.value_columns
    for column in [*wanted, *([spec.time] if spec.time else ())]:
        if column not in table.columns:
            known = [str(c) for c in table.columns]
            raise LaglensError(f"signal '{name}': '{spec.file}' has no column '{column}'; {nearest(column, known)}")
    if wanted:
        return wanted
    numeric = [str(c) for c in table.columns if pd.api.types.is_numeric_dtype(table[c]) and c != spec.time]
    if len(numeric) != 1:
        found = ", ".join(numeric) or "none"
        raise LaglensError(f"signal '{name}': name the 'column' to take from '{spec.file}'; numeric columns: {found}")
    return numeric


def _clock(spec: OwnTable, table: pd.DataFrame, name: str) -> Clock:
    if spec.time is None:
        return Clock(np.arange(len(table)), 1.0, spec.time_unit or "samples")
    clock = read_clock(table[spec.time], f"signal '{name}', column '{spec.time}'", spec.time_unit)
    missing = np.flatnonzero(np.diff(clock.position) > 1)
    if len(missing) and not spec.interpolate:
        row = int(missing[0])
        gap = int(clock.position[row + 1] - clock.position[row]) - 1
        raise LaglensError(
            f"signal '{name}', column '{spec.time}': {gap} steps are missing after row {row + 1} "
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


def _timed(signal: xr.Dataset, clock: Clock, starts: NDArray[np.int64] | None) -> xr.Dataset:
    """Add dates; windows have dates of their own, so that only where they start can be told."""
    if starts is None:
        return signal if clock.dates is None else signal.assign_coords(date=("time", clock.dates))
    start = np.tile(starts, signal.sizes["sample"] // len(starts))
    signal = signal.assign_coords(start=("sample", start))
    return signal if clock.dates is None else signal.assign_coords(start_date=("sample", clock.dates[start]))
