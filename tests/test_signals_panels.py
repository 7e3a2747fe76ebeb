"""Many series in one file become one signal, with their names; a model sees each of them."""

import numpy as np
import pandas as pd
import pytest

from laglens.errors import LaglensError
from laglens.signals.controls import make_control
from laglens.signals.make import make_signal
from laglens.signals.stretch import stretch_windows
from laglens.signals.windows import windows

NAMES = ["north", "south", "A/1 é"]


def wide(rows: int = 40) -> pd.DataFrame:
    """Three columns of numbers, one of dates and one of words."""
    n = np.arange(rows)
    columns = {name: np.sin(n / (k + 1)) for k, name in enumerate(NAMES)}
    return pd.DataFrame(
        {"when": pd.date_range("2024-01-01", periods=rows, freq="h").astype(str), "note": "x"} | columns
    )


def long(lengths: dict[str, int] | None = None, **starts: str) -> pd.DataFrame:
    """The same, one row per value; `starts` are dates by name."""
    parts = []
    for k, (name, rows) in enumerate((lengths or dict.fromkeys(NAMES, 40)).items()):
        dates = pd.date_range(starts.get(name, "2024-01-01"), periods=rows, freq="h").astype(str)
        parts.append(pd.DataFrame({"id": name, "when": dates, "GW": np.sin(np.arange(rows) / (k + 1))}))
    return pd.concat(parts, ignore_index=True)


def own(table: pd.DataFrame, **spec: object):
    return make_signal({"file": "panel.csv", **spec}, table=table, name="panel")


def test_every_numeric_column_is_a_series() -> None:
    signal = own(wide(), column="*", time="when")
    assert list(signal.series_name.values) == NAMES
    np.testing.assert_array_equal(signal.value, wide()[NAMES].to_numpy().T)
    assert "date" in signal.coords


def test_a_long_table_is_the_same_signal_as_a_wide_one() -> None:
    table = long()
    mixed = table.iloc[np.argsort(np.arange(120) % 40, kind="stable")]  # hour by hour, the series in turn
    for rows in (table, mixed):
        signal = own(rows, series="id", column="GW", time="when")
        assert list(signal.series_name.values) == NAMES
        np.testing.assert_array_equal(signal.value, own(wide(), column="*", time="when").value)
        np.testing.assert_array_equal(signal.date, own(wide(), column="*", time="when").date)
    assert own(table.drop(columns="when"), series="id").sizes == {"sample": 3, "time": 40}


def test_series_that_begin_on_different_dates_keep_them() -> None:
    signal = own(long(south="2024-03-01"), series="id", column="GW", time="when")
    assert "date" not in signal.coords
    expected = np.array(["2024-01-01", "2024-03-01", "2024-01-01"], dtype="datetime64[ns]")
    np.testing.assert_array_equal(signal.start_date, expected)


def test_series_of_different_length_are_cut_into_pieces_or_refused() -> None:
    table = long({"north": 40, "south": 23, "A/1 é": 31})
    with pytest.raises(LaglensError, match=r"differ in length, from 23 samples \('south'\) to 40 .*'window: 23' cuts"):
        own(table, series="id", column="GW", time="when")
    signal = own(table, series="id", column="GW", time="when", window=10)
    assert list(signal.series_name.values) == ["north"] * 4 + ["south"] * 2 + ["A/1 é"] * 3
    np.testing.assert_array_equal(signal.start, [0, 10, 20, 30, 0, 10, 0, 10, 20])
    np.testing.assert_array_equal(signal.value[5], np.sin(np.arange(10, 20) / 2))
    with pytest.raises(LaglensError, match=r"window 24 is longer than the 23 rows of series 'south'"):
        own(table, series="id", column="GW", window=24)


def test_a_gap_is_filled_within_its_series() -> None:
    table = long().drop(index=[50, 51])
    with pytest.raises(LaglensError, match=r"series 'south', column 'when': 2 steps are missing after row 10"):
        own(table, series="id", column="GW", time="when")
    signal = own(table, series="id", column="GW", time="when", interpolate=True)
    assert signal.attrs["interpolated"] == 2
    np.testing.assert_array_equal(signal.value[[0, 2]], own(long(), series="id", column="GW").value[[0, 2]])


def changed(column: str, row: int, value: object) -> pd.DataFrame:
    table = long().astype(object)
    table.loc[row, column] = value
    return table


def daily_south() -> pd.DataFrame:
    table = long()
    table.loc[40:79, "when"] = pd.date_range("2024-01-01", periods=40, freq="D").astype(str)
    return table


@pytest.mark.parametrize(
    ("table", "spec", "message"),
    [
        (long(), {"series": "idd"}, r"has no column 'idd'; did you mean 'id'\?"),
        (
            changed("id", 7, None),
            {"series": "id", "column": "GW"},
            r"column 'id', row 8: the name of the series is missing",
        ),
        (
            changed("GW", 43, "1,5"),
            {"series": "id", "column": "GW"},
            r"series 'south', column 'GW', row 4: '1,5' is no",
        ),
        (
            changed("GW", 43, None),
            {"series": "id", "column": "GW"},
            r"series 'south', column 'GW', row 4: the value is",
        ),
        (changed("when", 43, "x"), {"series": "id", "column": "GW", "time": "when"}, r"'south', column 'when', row 4:"),
        (
            daily_south(),
            {"series": "id", "time": "when"},
            r"'south' has one value every 1 days, 'north' one every 1 hou",
        ),
        (wide()[["when", "note"]], {"column": "*"}, r"'panel\.csv' has no numeric column"),
        (long(), {"series": "id", "column": ["GW", "x"]}, r"with 'series' the values are in one 'column'"),
        (long(), {"series": "id", "column": "*"}, r"with 'series' the values are in one 'column'"),
        (long(), {"series": "GW", "column": "GW"}, r"'GW' is given both as 'series' and as 'column'"),
        (long(), {"series": "id", "time": "id"}, r"'id' is given both as 'time' and as 'series'"),
    ],
)
def test_a_wrong_panel_is_refused_in_one_line(table: pd.DataFrame, spec: dict, message: str) -> None:
    with pytest.raises(LaglensError, match=message) as error:
        own(table, **spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("begins", "step", "same"), [(0, 0.1, True), (5.0, 0.1, True), (0, 0.5, False)])
@pytest.mark.parametrize("unit", [None, "hours"])
def test_numbers_as_times_have_one_step(begins: float, step: float, same: bool, unit: str | None) -> None:
    times = np.r_[0.1 * np.arange(40), begins + step * np.arange(40)]
    table = pd.DataFrame({"id": ["a"] * 40 + ["b"] * 40, "t": times, "GW": np.sin(times)})
    if same:
        assert own(table, series="id", column="GW", time="t", time_unit=unit).sizes["sample"] == 2
    else:
        with pytest.raises(LaglensError, match=r"'b' has one value every 0\.5 \w+, 'a' one every 0\.1"):
            own(table, series="id", column="GW", time="t", time_unit=unit)


def test_pieces_and_generated_samples_have_as_many_windows_as_are_asked_for() -> None:
    pieces = own(long(), series="id", column="GW", window=20, stride=1)
    assert pieces.sizes["sample"] == 63
    assert windows(pieces.value, 10, 2, n=5, per_series=3).sizes["sample"] == 5
    unnamed = pieces.drop_vars("series_name").value
    assert windows(unnamed, 10, 2, n=5, per_series=3).sizes["sample"] == 5


def test_every_series_has_its_windows_with_its_name() -> None:
    panel = own(long(), series="id", column="GW", time="when")
    cut = windows(panel.value, history=10, horizon=2, n=2, per_series=2)
    assert list(cut.series_name.values) == NAMES * 2
    stored = panel.assign_coords(series_name=("sample", np.array(NAMES, dtype=np.dtypes.StringDType())))
    assert windows(stored.value, history=10, horizon=2, n=2, per_series=2).sizes == cut.sizes  # as a store gives them
    np.testing.assert_array_equal(np.bincount(cut.signal_sample), [2, 2, 2])
    assert len({(int(s), int(t)) for s, t in zip(cut.signal_sample, cut.start, strict=True)}) == 6
    assert windows(panel.value, 10, 2, 7, per_series=2).sizes["sample"] == 7
    assert windows(panel.value, 40, 2, 1, per_series=5).sizes["sample"] == 3  # there are no more
    together = windows(panel.value, 10, 2, 1, per_series=2, channels=3)
    assert together["series"].shape == (2, 3, 12) and list(together.series_name.values) == NAMES
    assert stretch_windows(panel.value, 24, 1, per_series=1).sizes["sample"] == 3
    control = make_control(panel, replicates=2)
    assert list(control.series_name.values) == NAMES and len(set(control.attrs["coefficient"])) == 3
