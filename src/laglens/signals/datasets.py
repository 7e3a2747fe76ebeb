"""Real series that come with statsmodels, with their known periods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from statsmodels.datasets import co2, elnino, interest_inflation, macrodata, nile, sunspots

from laglens.config.signals import DATASET_COLUMNS, RealSeries
from laglens.signals.labelled import labelled

DAYS_PER_YEAR = 365.2425


@dataclass(frozen=True)
class Known:
    """What is known about a real series.

    Attributes
    ----------
    read
        Gives the table, one row per sample, indexed by date.
    time_unit
        One sample is one of these.
    periods
        In samples.
    unit
        Of the values.
    """

    read: Callable[[], pd.DataFrame]
    time_unit: str
    periods: tuple[float, ...]
    unit: str


def from_dataset(spec: RealSeries, name: str) -> xr.Dataset:
    """Label a real series; gaps are filled on a straight line and counted in the attribute ``interpolated``."""
    known = KNOWN[spec.dataset]
    table = known.read()
    column = spec.column or DATASET_COLUMNS.get(spec.dataset, table.columns)[0]
    series = table[column]
    differs = column != DATASET_COLUMNS.get(spec.dataset, (column,))[0]  # periods and unit are of the default column
    signal = labelled(
        series.interpolate(method="linear").to_numpy()[None],
        source=f"dataset {spec.dataset}",
        parameters=spec.model_dump(mode="json") | {"column": column},
        name=name,
        periods=() if differs else known.periods,
        time_unit=known.time_unit,
        unit="" if differs else known.unit,
    )
    signal.attrs["interpolated"] = int(series.isna().sum())
    return signal.assign_coords(date=("time", table.index.to_numpy().astype("datetime64[ns]")))


def _yearly(table: pd.DataFrame, year: str) -> pd.DataFrame:
    return table.set_axis(_dates(table[year], 1)).drop(columns=year)


def _quarterly(table: pd.DataFrame) -> pd.DataFrame:
    dates = _dates(table["year"], 3 * table["quarter"].astype(int) - 2)
    return table.set_axis(dates).drop(columns=["year", "quarter"])


def _elnino() -> pd.DataFrame:
    """A row per year and a column per month, read line by line."""
    table = elnino.load_pandas().data.set_index("YEAR")
    dates = _dates(np.repeat(table.index.to_numpy(), 12), np.tile(np.arange(1, 13), len(table)))
    return pd.DataFrame({"temperature": table.to_numpy().ravel()}, index=dates)


def _dates(year: np.ndarray | pd.Series, month: np.ndarray | pd.Series | int) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime({"year": np.asarray(year, int), "month": month, "day": 1}))


KNOWN = {
    "sunspots": Known(lambda: _yearly(sunspots.load_pandas().data, "YEAR"), "years", (11.0,), "sunspot number"),
    "co2": Known(lambda: co2.load_pandas().data, "weeks", (DAYS_PER_YEAR / 7,), "ppm"),
    "co2_monthly": Known(lambda: co2.load_pandas().data.resample("MS").mean(), "months", (12.0,), "ppm"),
    "elnino": Known(_elnino, "months", (12.0,), "°C"),
    "interest_inflation": Known(
        lambda: _quarterly(interest_inflation.load_pandas().data), "quarters", (4.0, 2.0), "log change per quarter"
    ),
    "nile": Known(lambda: _yearly(nile.load_pandas().data, "year"), "years", (), "10^8 m^3"),
    "macrodata": Known(lambda: _quarterly(macrodata.load_pandas().data), "quarters", (), "%"),
}
