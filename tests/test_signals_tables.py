"""Real series hold what their tables hold; a person's own table is read right or refused in one line."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from laglens.config.load import load_study
from laglens.config.signals import DATASET_LENGTHS
from laglens.errors import LaglensError
from laglens.signals.make import make_signal
from laglens.store import read_table

ROOT = Path(__file__).parents[1]


def test_real_series_have_their_length_dates_and_period() -> None:
    for name, length in DATASET_LENGTHS.items():
        signal = make_signal({"dataset": name}, name=name)
        assert signal.sizes["time"] == length
        assert signal.attrs["source"] == f"dataset {name}"
        if "date" in signal.coords:
            assert (np.diff(signal.date) > np.timedelta64(0)).all()
        for period in signal.attrs["truth"]["periods"]:
            x = signal.value[0].values
            trend = np.polyval(np.polyfit(np.arange(length), x, 3), np.arange(length))
            power = np.abs(np.fft.rfft((x - trend) * np.hanning(length))) ** 2
            at = length / period
            around = power[round(at) - 2 : round(at) + 3].max()
            assert around > 10 * np.median(power), f"{name}: nothing at {period}"


def test_real_series_hold_the_numbers_of_their_tables() -> None:
    pacific = make_signal({"dataset": "elnino"})
    np.testing.assert_array_equal(pacific.value[0, :3], [23.11, 24.20, 25.37])  # January to March 1950
    assert float(pacific.value[0, 12]) == 24.19  # January 1951
    assert str(pacific.date.values[12])[:10] == "1951-01-01"
    carbon = make_signal({"dataset": "co2"})
    assert (carbon.attrs["interpolated"], carbon.attrs["time_unit"], carbon.attrs["unit"]) == (59, "weeks", "ppm")
    assert make_signal({"dataset": "co2_monthly"}).attrs["interpolated"] == 5
    interest = make_signal({"dataset": "interest_inflation", "column": "R"})
    assert float(interest.value[0, 0]) == 0.083
    assert (interest.attrs["truth"]["periods"], interest.attrs["unit"]) == ([], "")


# --- tables ---------------------------------------------------------------------------------------------------


def hourly(rows: int = 40, **columns: object) -> pd.DataFrame:
    """Hours of 2024 and two columns without gaps."""
    n = np.arange(rows)
    base = {"when": pd.date_range("2024-01-01", periods=rows, freq="h"), "GW": n % 7 + 0.5, "price": np.sqrt(n)}
    return pd.DataFrame(base | columns)


def own(table: pd.DataFrame, **spec: object):
    return make_signal({"file": "mine.csv", **spec}, table=table, name="mine")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_read_from_csv_and_parquet(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine.{suffix}"
    hourly().to_csv(path, index=False) if suffix == "csv" else hourly().to_parquet(path)
    spec = {"file": str(path), "column": ["price", "GW"], "time": "when", "periods": [7], "unit": "GW"}
    signal = make_signal(spec, table=read_table(path))
    assert dict(signal.sizes) == {"sample": 2, "time": 40}
    np.testing.assert_array_equal(signal.value[1], np.arange(40) % 7 + 0.5)
    assert list(signal.series_name.values) == ["price", "GW"]
    np.testing.assert_array_equal(signal.date, hourly().when.to_numpy())
    assert signal.date.dtype == "datetime64[ns]"
    expected = {"time_step": 1.0, "time_unit": "hours", "unit": "GW", "interpolated": 0, "seed": None}
    assert {key: signal.attrs[key] for key in expected} == expected
    assert signal.attrs["truth"] == {"periods": [7.0], "lags": [], "events": {}}


def test_a_column_is_cut_into_windows() -> None:
    signal = own(hourly(), column=["GW", "price"], time="when", window=16, stride=10)
    assert dict(signal.sizes) == {"sample": 6, "time": 16}
    np.testing.assert_array_equal(signal.start, [0, 10, 20] * 2)
    np.testing.assert_array_equal(signal.value[4], np.sqrt(np.arange(10, 26)))
    assert list(signal.series_name.values) == ["GW"] * 3 + ["price"] * 3
    np.testing.assert_array_equal(signal.start_date, hourly().when.to_numpy()[[0, 10, 20] * 2])
    assert "date" not in signal.coords
    assert own(hourly(), column="GW", window=16).sizes["sample"] == 2


def test_the_only_numeric_column_needs_no_name() -> None:
    assert own(hourly()[["when", "GW"]]).series_name.values[0] == "GW"
    assert own(pd.DataFrame({"t": range(20), "x": np.arange(20.0) ** 2}), time="t").series_name.values[0] == "x"
    with pytest.raises(LaglensError, match=r"name the 'column' to take from 'mine\.csv'; numeric columns: GW, price"):
        own(hourly())


@pytest.mark.parametrize(
    ("dates", "step", "unit"),
    [
        (pd.date_range("2024-01-01", periods=20, freq="15min"), 15, "minutes"),
        (pd.date_range("2024-01-01", periods=20, freq="36h"), 36, "hours"),
        (pd.date_range("2024-01-01", periods=20, freq="D"), 1, "days"),
        (pd.date_range("2024-01-01", periods=20, freq="14D"), 2, "weeks"),
        (pd.date_range("2024-01-01", periods=20, freq="MS"), 1, "months"),
        (pd.date_range("2023-01-31", periods=20, freq="ME"), 1, "months"),
        (pd.date_range("2023-02-15", periods=20, freq=pd.DateOffset(months=6)), 2, "quarters"),
        (pd.date_range("1900-12-31", periods=20, freq="YE"), 1, "years"),
        (pd.date_range("2024-01-01", periods=20, freq="250ms"), 0.25, "seconds"),
    ],
)
def test_the_step_of_dates_is_found(dates: pd.DatetimeIndex, step: float, unit: str) -> None:
    table = pd.DataFrame({"t": dates.astype(str), "x": np.arange(20.0)})
    signal = own(table, column="x", time="t")
    assert (signal.attrs["time_step"], signal.attrs["time_unit"]) == (step, unit)
    np.testing.assert_array_equal(signal.date, dates.to_numpy())
    gappy = own(table.drop(index=[5, 6]), column="x", time="t", interpolate=True)
    np.testing.assert_allclose(gappy.value, signal.value)
    np.testing.assert_array_equal(gappy.date, dates.to_numpy())
    assert gappy.attrs["interpolated"] == 2


def test_the_unit_of_time_can_be_chosen() -> None:
    quarter_hours = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=20, freq="15min"), "x": np.arange(20.0)})
    assert own(quarter_hours, column="x", time="t", time_unit="hours").attrs["time_step"] == 0.25
    numbers = pd.DataFrame({"t": np.arange(20) / 8, "x": np.arange(20.0)})
    chosen, plain = (own(numbers, column="x", time="t", time_unit=unit).attrs for unit in ("seconds", None))
    assert (chosen["time_step"], chosen["time_unit"]) == (0.125, "seconds")
    assert (plain["time_step"], plain["time_unit"]) == (1, "samples")
    with pytest.raises(LaglensError, match=r"which 'months' cannot count; use weeks, days, hours"):
        own(quarter_hours, column="x", time="t", time_unit="months")


def test_dates_with_a_time_zone_cross_a_clock_change() -> None:
    dates = pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    table = pd.DataFrame({"t": [d.isoformat() for d in dates], "x": np.arange(60.0)})
    assert own(table, column="x", time="t").date.values[0] == np.datetime64("2024-03-29T23:00")
    local = pd.DataFrame({"t": dates.tz_localize(None).astype(str), "x": np.arange(60.0)})
    with pytest.raises(LaglensError, match="1 steps are missing after row 26"):
        own(local, column="x", time="t")


def test_midnight_may_be_written_without_a_time() -> None:
    dates = [d.removesuffix(" 00:00") for d in hourly().when.dt.strftime("%Y-%m-%d %H:%M")]
    assert own(hourly(when=dates), column="GW", time="when").attrs["time_unit"] == "hours"


def test_month_and_day_need_not_be_told_apart_where_only_one_can_be_meant() -> None:
    days = pd.date_range("2024-01-01", periods=40)  # 13 is no month
    np.testing.assert_array_equal(own(hourly(when=days.strftime("%m/%d/%Y")), column="GW", time="when").date, days)
    years = pd.date_range("1900-01-01", periods=40, freq="YS")  # the same in both orders
    np.testing.assert_array_equal(own(hourly(when=years.strftime("%d.%m.%Y")), column="GW", time="when").date, years)


def test_indices_are_columns_but_no_series(tmp_path: Path) -> None:
    hourly().drop(columns="when").to_csv(tmp_path / "a.csv")
    signal = own(read_table(tmp_path / "a.csv").assign(on=True), column="*")
    assert list(signal.series_name.values) == ["GW", "price"]
    assert signal.attrs["left_out"] == ["Unnamed: 0", "on"]
    hourly().set_index(["when"]).to_parquet(tmp_path / "b.parquet")
    signal = own(read_table(tmp_path / "b.parquet"), column="GW", time="when")
    np.testing.assert_array_equal(signal.date, hourly().when)
    hourly()[["GW", "price"]].set_axis([0, 1], axis=1).rename_axis("row").to_parquet(tmp_path / "c.parquet")
    assert list(own(read_table(tmp_path / "c.parquet"), column="*").series_name.values) == ["0", "1"]


def test_gaps_are_filled_only_when_asked() -> None:
    values = np.arange(40.0) ** 2
    values[[10, 11, 20]] = np.nan
    filled = own(hourly(GW=values), column="GW", interpolate=True)
    np.testing.assert_allclose(filled.value[0, 9:13], [81, 102, 123, 144])
    assert filled.attrs["interpolated"] == 3
    with pytest.raises(LaglensError, match=r"column 'GW', row 11: the value is missing \(as are 2 more\).*interpolate"):
        own(hourly(GW=values), column="GW")
    values[0] = np.nan
    with pytest.raises(LaglensError, match="first or the last value is missing"):
        own(hourly(GW=values), column="GW", interpolate=True)
    nullable = hourly().convert_dtypes()
    nullable.loc[4, "GW"] = pd.NA
    with pytest.raises(LaglensError, match="column 'GW', row 5: the value is missing"):
        own(nullable, column="GW")


def changed(**rows: object) -> pd.DataFrame:
    """Hourly table with one cell replaced: column=(row, value)."""
    table = hourly().astype(object)
    for column, (row, value) in rows.items():
        table.loc[row, column] = value
    return table


MONTHLY = pd.date_range("2020-01-01", periods=40, freq="MS")


@pytest.mark.parametrize(
    ("table", "spec", "message"),
    [
        (hourly(), {"column": "prize"}, r"signal 'mine': 'mine\.csv' has no column 'prize'; did you mean 'price'\?"),
        (hourly(), {"column": "GW", "time": "wen"}, r"has no column 'wen'; did you mean 'when'\?"),
        (changed(GW=(7, "1,5")), {"column": "GW"}, r"column 'GW', row 8: '1,5' is not a number; write .*12\.5"),
        (changed(GW=(7, np.inf)), {"column": "GW"}, r"column 'GW', row 8: the value is missing"),
        (hourly(GW=3.0), {"column": ["price", "GW"]}, r"series 'GW', sample 1: every value is 3; a constant series"),
        (hourly(rows=7), {"column": "GW"}, r"signal 'mine' \(file mine\.csv\): 7 samples in time are fewer than 8"),
        (hourly(rows=1), {"column": "GW", "time": "when"}, r"one row has no time step"),
        (hourly(), {"column": "GW", "window": 41}, r"window 41 is longer than the 40 rows"),
        (changed(when=(9, "noon")), {"column": "GW", "time": "when"}, r"'when', row 10: 'noon' is not a date"),
        (changed(when=(9, None)), {"column": "GW", "time": "when"}, r"'when', row 10: .* is not a date"),
        (hourly()[::-1], {"column": "GW", "time": "when"}, r"row 2: '2024-01-02 14:00:00' is not later than .* sort"),
        (hourly(when="2024-01-01"), {"column": "GW", "time": "when"}, r"row 2: .* is not later than .* repeated"),
        (
            changed(when=(9, "2024-01-01 09:20")),
            {"column": "GW", "time": "when"},
            r"row 10: '2024-01-01 09:20' comes 1\.33333 hours after the row before, most come 1 hours .*resample",
        ),
        (
            hourly().drop(index=[20, 21]),
            {"column": "GW", "time": "when"},
            r"2 steps are missing after row 20 \('2024-01-01 19:00:00'\); give 'interpolate: true'",
        ),
        (hourly(), {"column": "when"}, r"column 'when': it holds dates \(datetime64.*'time: when'"),
        (
            hourly(GW=pd.to_timedelta(range(40), "s")),
            {"column": "GW"},
            r"column 'GW': it holds durations .*seconds\(\)",
        ),
        (hourly().set_axis(["when", "GW", "GW"], axis=1), {"column": "GW"}, r"has two columns 'GW'; rename one"),
        (
            pd.concat({"a": hourly()}, axis=1),
            {"column": "GW"},
            r"'mine\.csv' have names of 2 levels; give each one name",
        ),
        (
            hourly(when=MONTHLY.strftime("%d/%m/%Y")),
            {"column": "GW", "time": "when", "interpolate": True},
            r"row 2: '01/02/2020' can be 2 January and 1 February, and no row tells which; .*ISO 8601",
        ),
        (
            hourly(when=np.r_[:30, 100:110]),
            {"column": "GW", "time": "when", "interpolate": True},
            r"column 'when': at one time every 1 samples, 70 of 110 are missing, too many to fill",
        ),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(table: pd.DataFrame, spec: dict, message: str) -> None:
    with pytest.raises(LaglensError, match=message) as error:
        own(table, **spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"file": "a.xls"}, r"'a\.xls' is neither a \.csv nor a \.parquet file"),
        ({"stride": 5}, r"'stride' is given without 'window'"),
        ({"column": []}, r"'column' is an empty list"),
        ({"column": ["GW", "GW"]}, r"names a column twice"),
        ({"column": ["GW", "when"], "time": "when"}, r"'when' is given both as 'time' and as 'column'"),
        ({"time_unit": "fortnights"}, r"time_unit: must be 'seconds'.* not 'fortnights'"),
    ],
)
def test_wrong_settings_of_a_table_are_one_line(spec: dict, message: str) -> None:
    with pytest.raises(LaglensError, match=message):
        own(hourly(), **spec)


def test_a_table_must_be_passed_on() -> None:
    with pytest.raises(LaglensError, match=r"signal 'mine': read 'mine\.csv' with laglens\.store\.read_table"):
        own(None, column="GW")


def test_the_example_table_is_what_its_script_makes() -> None:
    made = runpy.run_path(str(ROOT / "data/make_load.py"))["make_load"]()
    pd.testing.assert_frame_equal(read_table(ROOT / "data/load.csv"), made, check_dtype=False)
    spec = {"file": "data/load.csv", "column": "GW", "time": "timestamp"}
    signal = make_signal(spec, table=read_table(ROOT / "data/load.csv"))
    x = signal.value[0].values - signal.value[0].values.mean()
    power = np.abs(np.fft.rfft(x)) ** 2
    assert {len(x) / k for k in np.argsort(power)[-4:]} >= {24, 168}


@pytest.mark.parametrize("study", ["distributions", "real"])
def test_the_studies_of_signals_are_valid(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = pytest.importorskip("yaml")
    monkeypatch.chdir(ROOT)
    loaded = load_study(yaml.safe_load((ROOT / f"studies/{study}.yaml").read_text()))
    compared = {signal for distribution in loaded.distributions.values() for signal in distribution.signals}
    assert {signal for _, signal in loaded.pairs} | compared == set(loaded.signals)
