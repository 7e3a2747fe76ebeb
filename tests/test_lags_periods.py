"""Which periods are tested."""

import numpy as np
import pytest
import xarray as xr

from laglens.lags.periods import GRID, periods_to_test


def series(values) -> xr.DataArray:
    return xr.DataArray(np.atleast_2d(values), dims=("sample", "time"))


def test_true_periods_and_planted_lags_come_first():
    signal = {"truth": {"periods": [31.4, 62.8], "lags": [12]}}
    assert periods_to_test(signal, series(np.zeros(256)), 8, 256) == ([62.8, 31.4, 12.0], "truth")


def test_a_signal_without_truth_has_the_period_of_its_input():
    periods, source = periods_to_test({}, series(np.sin(2 * np.pi * np.arange(256) / 50)), 8, 256)
    assert source == "input"
    assert periods[0] == pytest.approx(50, rel=0.02)


@pytest.mark.parametrize(
    "values", [np.random.default_rng(0).normal(size=256), np.arange(256.0), np.sin(2 * np.pi * np.arange(256) / 6)]
)
def test_noise_lines_and_waves_too_short_for_the_tokens_get_a_grid(values):
    periods, source = periods_to_test({}, series(values), 8, 256)
    assert source == "grid"
    assert len(periods) == GRID
    assert periods[0] == pytest.approx(102.4)
    assert periods[-1] == pytest.approx(36)
