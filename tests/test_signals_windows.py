"""Windows are different, even and honest about what is unknown; controls share short memory and moments."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.tsa.stattools import acf

from laglens.errors import LaglensError
from laglens.signals.controls import make_control
from laglens.signals.make import make_signal
from laglens.signals.windows import histories, windows
from laglens.store import read_dataset, write_dataset


def ramp(n_samples: int, length: int) -> xr.DataArray:
    array = 1000.0 * np.arange(n_samples)[:, None] + np.arange(length)
    return xr.DataArray(array, dims=("sample", "time"), coords={"sample": range(n_samples)})


def test_windows_are_spread_over_time_and_run_past_the_end() -> None:
    cut = windows(ramp(1, 309), history=256, horizon=128, n=16)
    assert dict(cut.sizes) == {"sample": 16, "time": 384}
    assert cut.start.values[0] == 0
    assert set(np.diff(cut.start)) <= {3, 4}
    for k, start in enumerate(cut.start.values):
        known = cut.series[k, : 309 - start].values
        np.testing.assert_array_equal(known, start + np.arange(len(known)))
        assert np.isnan(cut.series[k, 309 - start :]).all()


def test_windows_take_one_of_each_sample_first() -> None:
    cut = windows(ramp(20, 400), history=256, horizon=128, n=16)
    np.testing.assert_array_equal(cut.signal_sample, np.arange(16))
    np.testing.assert_array_equal(cut.series[:, 0], 1000 * cut.signal_sample + cut.start)
    assert set(np.diff(cut.start)) <= {9, 10}


def test_channels_of_a_window_are_the_samples_at_the_same_time(tmp_path: Path) -> None:
    cut = windows(ramp(3, 20), history=8, horizon=6, n=5, channels=3)
    assert cut["series"].dims == ("sample", "channel", "time") and cut["series"].shape == (5, 3, 14)
    np.testing.assert_array_equal(cut.start, [0, 2, 5, 7, 10])
    np.testing.assert_array_equal(cut.signal_sample, [0, 1, 2])
    for k, start in enumerate(cut.start.values):
        expected = 1000 * np.arange(3)[:, None] + start + np.arange(8)
        np.testing.assert_array_equal(cut.series[k, :, :8], expected)
        np.testing.assert_array_equal(histories(cut, 8, 3)[k], expected)
    assert np.isnan(cut.series[4, :, 10:]).all()
    write_dataset(cut, tmp_path / "windows.zarr.zip")
    xr.testing.assert_identical(read_dataset(tmp_path / "windows.zarr.zip"), cut)
    assert windows(ramp(3, 8), history=8, horizon=0, n=5, channels=3)["series"].shape == (1, 3, 8)


def test_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LaglensError, match="has 2 samples, the model takes 3 channels together"):
        windows(ramp(2, 20), history=8, horizon=6, n=5, channels=3)
    with pytest.raises(LaglensError, match="takes 1 series at once, the windows hold 3"):
        histories(windows(ramp(3, 20), history=8, horizon=6, n=5, channels=3), 8)
    with pytest.raises(LaglensError, match="takes 3 series at once, the windows hold 1"):
        histories(windows(ramp(3, 20), history=8, horizon=6, n=5), 8, 3)


def test_windows_have_the_dates_of_their_samples(tmp_path: Path) -> None:
    signal = make_signal({"dataset": "elnino"})
    cut = windows(signal.value, history=256, horizon=500, n=3)
    for k, start in enumerate(cut.start.values):
        np.testing.assert_array_equal(cut.date[k, : 732 - start], signal.date[start:][:756])
        assert np.isnat(cut.date[k, 732 - start :]).all()
    write_dataset(cut, tmp_path / "windows.zarr.zip")
    xr.testing.assert_identical(read_dataset(tmp_path / "windows.zarr.zip"), cut)
    assert "date" not in make_control(signal, 2).coords


@given(
    n_samples=st.integers(1, 6), spare=st.integers(0, 12), history=st.integers(1, 9), horizon=st.integers(0, 9),
    n=st.integers(1, 60),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_windows_are_different_as_many_as_there_are_and_even(
    n_samples: int, spare: int, history: int, horizon: int, n: int
) -> None:
    cut = windows(ramp(n_samples, history + spare), history, horizon, n)
    pairs = set(zip(cut.signal_sample.values.tolist(), cut.start.values.tolist(), strict=True))
    assert len(pairs) == cut.sizes["sample"] == min(n, n_samples * (spare + 1))
    assert np.isfinite(cut.series[:, :history]).all()
    per_sample = np.bincount(cut.signal_sample, minlength=n_samples)
    assert np.ptp(per_sample) <= 1
    per_start = np.bincount(cut.start, minlength=spare + 1)
    assert np.ptp(per_start) <= 1


def test_windows_of_replicates_are_those_of_each() -> None:
    control = make_control(make_signal({"dataset": "sunspots"}), replicates=3)
    together = windows(control.value, 256, 128, 5)
    assert together.series.dims == ("replicate", "sample", "time")
    for r in range(3):
        xr.testing.assert_equal(together.isel(replicate=r), windows(control.value.isel(replicate=r), 256, 128, 5))


def test_a_signal_too_short_for_the_model_is_named() -> None:
    with pytest.raises(LaglensError, match=r"signal 'river': 100 samples are fewer than the history of 256"):
        windows(make_signal({"dataset": "nile"}, name="river").value, 256, 128, 4)


def test_a_single_series_is_told_that_it_needs_a_sample_dimension() -> None:
    series = xr.Dataset({"value": ramp(1, 300)[0]})
    for function in (lambda: windows(series.value, 100, 20, 4), lambda: make_control(series, 3)):
        with pytest.raises(LaglensError, match=r"dimensions \(time\) have no 'sample'"):
            function()


@pytest.mark.parametrize("coefficient", [0.9, 0.3, -0.6])
def test_control_has_the_short_memory_and_the_values_of_each_sample(coefficient: float) -> None:
    spec = {"generator": "heavy_tailed_ar1", "coefficient": coefficient, "length": 4000, "samples": 2}
    signal = make_signal(spec) + xr.DataArray([0.0, 50.0], dims="sample")
    control = make_control(signal.assign_attrs(name="x"), replicates=6, seed=1)
    assert control.value.dims == ("replicate", "sample", "time")
    assert dict(control.sizes) == {"replicate": 6, "sample": 2, "time": 4000}
    np.testing.assert_allclose(
        control.attrs["coefficient"], coefficient, atol=0.08
    )  # of normal scores: tails weigh less
    for k in range(2):
        own = np.sort(signal.value[k])
        for r in range(6):  # every value of the sample once
            np.testing.assert_array_equal(np.sort(control.value[r, k]), own)
        matched = [acf(control.value[r, k], nlags=3) for r in range(6)]
        np.testing.assert_allclose(np.mean(matched, 0), control.attrs["coefficient"][k] ** np.arange(4), atol=0.08)
        np.testing.assert_allclose(np.mean(matched, 0)[1], acf(signal.value[k], nlags=1)[1], atol=0.05)
    assert control.attrs["control"] == "ar1"


def test_control_starts_in_its_stationary_state_and_loses_the_period() -> None:
    signal = make_signal({"dataset": "elnino"})
    control = make_control(signal, replicates=200)
    spread = control.value.std(("replicate", "sample")).values
    assert spread[:20].mean() == pytest.approx(spread[300:400].mean(), rel=0.15)
    assert acf(signal.value[0], nlags=12)[12] > 0.6
    assert abs(np.mean([acf(x[0], nlags=12)[12] for x in control.value.values]) - control.coefficient[0] ** 12) < 0.1


def test_control_depends_on_seed_and_name_alone_and_keeps_replicates() -> None:
    signal = make_signal({"dataset": "nile"}, name="nile")
    three, five = make_control(signal, 3, seed=2), make_control(signal, 5, seed=2)
    xr.testing.assert_equal(three, five.isel(replicate=slice(3)))
    assert not make_control(signal, 3, seed=3).value.equals(three.value)
    assert not make_control(signal.assign_attrs(name="other"), 3, seed=2).value.equals(three.value)


def test_control_of_a_straight_line_or_of_nothing() -> None:
    line = xr.Dataset({"value": (("sample", "time"), [np.arange(50.0), [1.0, -1.0] * 25])})
    assert np.isfinite(make_control(line, 2).value).all()
    with pytest.raises(LaglensError, match="sample 0 is constant or not finite"):
        make_control(line * 0, 2)
    with pytest.raises(LaglensError, match="0 control replicates: at least 1"):
        make_control(line, 0)
