"""What the input repeats: against closed forms and known distributions."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import kstest, spearmanr
from trees import time_tree

from laglens.errors import LaglensError
from laglens.lags.inputs import (
    acf_peaks,
    curves_of_windows,
    estimate_period,
    fisher_p,
    input_autocorrelation,
    input_curves,
    input_periodogram,
    rank_correlation,
    token_autocorrelation,
    token_average,
)


def series(values) -> xr.DataArray:
    return xr.DataArray(np.atleast_2d(values), dims=("sample", "time"))


def wave(period: float, length: int = 384, noise: float = 0.1, n: int = 6, seed: int = 0) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    time = np.arange(length)
    phase = rng.uniform(0, 2 * np.pi, (n, 1))
    return series(np.sin(2 * np.pi * time / period + phase) + noise * rng.normal(size=(n, length)))


def test_autocorrelation_of_ar1_falls_geometrically():
    rng = np.random.default_rng(0)
    values = np.zeros((40, 2000))
    for t in range(1, 2000):
        values[:, t] = 0.8 * values[:, t - 1] + rng.normal(size=40)
    found = input_autocorrelation(series(values), n_lags=6)
    np.testing.assert_allclose(found, 0.8 ** np.arange(7), atol=0.03)


def test_autocorrelation_peaks_at_the_period():
    assert acf_peaks(input_autocorrelation(wave(31.4)))[0] == pytest.approx(31.4, abs=1)


def test_periodogram_sums_to_one_and_peaks_at_the_frequency():
    found = input_periodogram(wave(32.0, noise=0.0))
    assert float(found.sum()) == pytest.approx(1)
    assert float(found["frequency"][found.argmax("frequency")]) == pytest.approx(1 / 32)


@pytest.mark.parametrize("period", [9.7, 31.4, 62.8])
def test_period_is_found_to_a_fraction_of_a_sample(period):
    found = estimate_period(wave(period))
    assert found.period == pytest.approx(period, rel=0.01)
    assert found.lower <= found.period <= found.upper
    assert found.upper - found.lower < 0.05 * period
    assert found.fisher_p < 1e-6


def test_what_does_not_come_twice_is_no_period():
    rng = np.random.default_rng(0)
    walk = estimate_period(series(np.cumsum(rng.normal(size=(3, 384)), axis=1)))
    assert np.isnan([walk.period, estimate_period(wave(384.0)).period, estimate_period(wave(250.0)).period]).all()
    assert estimate_period(wave(180.0)).period == pytest.approx(180, rel=0.03)
    for seed in range(50):
        found = estimate_period(series(np.random.default_rng(seed).normal(size=(1, 24)))).period
        assert np.isnan(found) or 2 <= found < 13


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(40):
        found = estimate_period(wave(23.0, length=128, noise=1.0, n=16, seed=seed), seed=seed, n_resamples=200)
        covered += found.lower - 0.1 <= 23.0 <= found.upper + 0.1
    assert covered >= 32


def test_fisher_p_is_uniform_on_white_noise():
    rng = np.random.default_rng(1)
    p = [fisher_p(rng.normal(size=128)) for _ in range(400)]
    # Large values are cut at 1, where the alternating sum has lost its digits.
    assert kstest(p, "uniform").statistic < 0.12
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09


def test_token_average_is_a_mean_per_token_and_hides_short_periods():
    found = token_average(series(np.arange(10.0)), 4)
    np.testing.assert_allclose(found.values, [[1.5, 5.5]])
    np.testing.assert_allclose(found["time"], [1.5, 5.5])
    hidden = token_average(wave(4.0, noise=0.0), 8)
    assert float(np.abs(hidden).max()) < 1e-10


def test_straight_lines_and_short_series_are_refused():
    with pytest.raises(LaglensError, match="series 1 is a straight line"):
        estimate_period(series([np.sin(np.arange(50.0)), np.arange(50.0)]))
    with pytest.raises(LaglensError, match="too short to look for periods"):
        input_autocorrelation(series(np.arange(5.0)))
    noise = wave(8)
    for function in (estimate_period, input_autocorrelation, input_periodogram):
        with pytest.raises(LaglensError, match=r"dimensions \(time\) have no 'sample'; .*expand_dims\('sample'\)"):
            function(noise[0])
    with pytest.raises(LaglensError, match="1 values are not finite, the first at sample 2, time 5"):
        input_autocorrelation(noise.where(np.arange(noise.size).reshape(noise.shape) != 2 * 384 + 5))
    with pytest.raises(LaglensError, match="n_lags is 384; series of 384 samples have lags 0 to 383"):
        input_autocorrelation(noise, n_lags=384)


def test_rank_correlation_is_that_of_scipy():
    rng = np.random.default_rng(3)
    profiles, curve = rng.normal(size=(2, 3, 30)), rng.normal(size=30)
    found = rank_correlation(profiles, curve)
    for place in np.ndindex(2, 3):
        assert found[place] == pytest.approx(spearmanr(profiles[place], curve).statistic)
    curve[4] = np.nan
    kept = np.delete(np.arange(30), 4)
    assert rank_correlation(profiles, curve)[1, 2] == pytest.approx(
        spearmanr(profiles[1, 2, kept], curve[kept]).statistic
    )
    assert np.isnan(rank_correlation(np.ones((1, 30)), curve)).all()


def test_token_autocorrelation_is_that_of_the_averages():
    """A wave of 32 samples in tokens of 8 repeats after 4 tokens; one of 8 samples is gone."""
    lag = np.arange(-64.0, 65.0, 8.0)
    slow = token_autocorrelation(wave(32.0, noise=0.0), 8.0, lag)
    np.testing.assert_allclose(slow, slow[::-1])
    assert slow[lag == 32] > 0.8
    assert slow[lag == 16] < -0.8
    both = wave(32.0, noise=0.0) + wave(8.0, noise=0.0, seed=1)
    np.testing.assert_allclose(token_autocorrelation(both, 8.0, lag), slow, atol=0.02)
    assert np.isnan(token_autocorrelation(wave(32.0), 8.0, np.array([400.0])))


def test_curves_of_the_input_and_of_its_tokens_are_in_samples():
    curves = input_curves(wave(32.0), 4.0)
    assert float(curves["token_frequency"][curves["token_power"].argmax("token_frequency")]) == pytest.approx(1 / 32)
    assert float(curves["frequency"][curves["power"].argmax("frequency")]) == pytest.approx(1 / 32)
    assert float(curves["autocorrelation"].sel(lag=32)) > 0.8
    assert float(curves["token_autocorrelation"].sel(token_lag=32)) > 0.8
    assert curves["token_lag"].values[1] == 4


def test_a_straight_line_has_no_curves_and_that_is_said():
    tree = time_tree()
    flat = xr.DataTree.from_dict(
        {"/": tree.to_dataset().assign(series=tree["series"] * 0)}
        | {f"/{name}": node.to_dataset(inherit=False) for name, node in tree.children.items()}
    )
    assert "straight line" in curves_of_windows(flat).attrs["left_out"]
    period = curves_of_windows(tree).attrs["period"]
    assert period["period"] == pytest.approx(32, rel=0.02)
    assert period["lower"] is None  # four windows that overlap
    assert set(curves_of_windows(tree)) == {"autocorrelation", "power", "token_autocorrelation", "token_power"}
