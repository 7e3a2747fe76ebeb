"""Lags: bands, limits and peaks against controls, and what tokens can show."""

import numpy as np
import pytest

from laglens.errors import LaglensError
from laglens.lags.bands import control_bands, leave_one_out_z, order_quantile, smallest_controls
from laglens.lags.peaks import profile_peaks, prominence_limit
from laglens.lags.testability import testability

# -- bands ---------------------------------------------------------------------------------------------------------


def correlated_profiles(rng, replicates, heads=1, lags=40):
    """Log-normal, correlated over heads and lags: what profiles of noise look like. (replicate, head, lag)."""
    common, head = rng.standard_normal((replicates, 1, 1)), rng.standard_normal((replicates, heads, 1))
    return np.exp(0.6 * (0.5 * common + 0.5 * head + 0.7 * rng.standard_normal((replicates, heads, lags))))


def test_leave_one_out_agrees_with_leaving_one_out():
    controls = correlated_profiles(np.random.default_rng(0), 19)[:, 0]
    z = leave_one_out_z(controls)
    for i in (0, 7, 18):
        others = np.delete(controls, i, axis=0)
        np.testing.assert_allclose(z[i], (controls[i] - others.mean(0)) / others.std(0, ddof=1))


def test_order_quantile_is_the_five_percent_test():
    values = np.arange(99.0)[::-1]
    assert order_quantile(values, 0.95) == 94  # five of a hundred values, the observation among them, lie above
    assert np.isnan(order_quantile(np.array([1.0, np.nan, 2.0]), 0.5))


@pytest.mark.parametrize(("replicates", "runs"), [(19, 1000), (99, 400)])
def test_limit_is_calibrated(replicates, runs):
    """Of null signals at most 5 % have any lag of a head above its limit; 3 standard errors are allowed."""
    rng, tested, false = np.random.default_rng(3), np.ones(40, bool), 0
    for _ in range(runs):
        profiles = correlated_profiles(rng, replicates + 1)
        false += (profiles[0] > control_bands(profiles[0], profiles[1:], tested).limit_upper).any()
    assert 0.01 < false / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(("replicates", "published"), [(19, 0.89), (99, 0.28)])
def test_limit_from_nulls_standardised_by_themselves_would_not_be(replicates, published):
    """Over 32 heads x 40 lags, as tabulated for both; the limit in use stays calibrated there too."""
    rng, runs, tested = np.random.default_rng(4), 100, np.ones(32 * 40, bool)
    naive_false, false = 0, 0
    for _ in range(runs):
        profiles = correlated_profiles(rng, replicates + 1, heads=32).reshape(replicates + 1, -1)
        observed, controls = profiles[0], profiles[1:]
        mean, sd = controls.mean(0), controls.std(0, ddof=1)
        naive = order_quantile(((controls - mean) / sd).max(1), 0.95)
        naive_false += ((observed - mean) / sd).max() > naive
        false += (observed > control_bands(observed, controls, tested).limit_upper).any()
    assert naive_false / runs == pytest.approx(published, abs=0.15)
    assert false / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_band_holds_its_share_at_each_lag():
    profiles = correlated_profiles(np.random.default_rng(1), 1099, lags=200)[:, 0]
    bands = control_bands(profiles[0], profiles[100:], np.ones(200, bool))
    inside = (profiles[:100] >= bands.lower) & (profiles[:100] <= bands.upper)
    assert inside.mean() == pytest.approx(0.95, abs=0.02)


def test_a_head_that_ignores_its_input_is_never_above():
    """Its maps never change, and the observed ones may be rounded to float16."""
    decay = np.exp(-np.arange(40) / 10)[None].repeat(99, 0)
    observed = decay[0].astype(np.float16).astype(float)
    bands = control_bands(observed, decay, np.ones(40, bool))
    assert (observed <= bands.limit_upper).all() and (np.abs(bands.z) <= 1).all()


@pytest.mark.parametrize(("n", "found"), [(0, "no controls"), (1, "1 control;"), (18, "18 controls")])
def test_too_few_controls_are_refused(n, found):
    assert smallest_controls(0.95) == 19
    with pytest.raises(LaglensError, match=f"0.95 needs at least 19 controls, found {found}"):
        control_bands(np.ones(4), np.ones((n, 4)), np.ones(4, bool))
    with pytest.raises(LaglensError, match="confidence is 95; it must lie between 0 and 1"):
        control_bands(np.ones(4), np.ones((99, 4)), np.ones(4, bool), confidence=95)


# -- peaks ---------------------------------------------------------------------------------------------------------


def test_peak_location_is_refined_between_tokens():
    lag = np.arange(-30, 31) * 4.0
    profile = np.maximum(0, 1 - ((lag - 33.3) / 12) ** 2) + np.maximum(0, 0.5 - ((lag + 50.5) / 12) ** 2)
    profile[30] = 9  # lag 0 leans on neither side
    peaks = profile_peaks(profile, lag)
    np.testing.assert_allclose(peaks.lag, [-50.5, 33.3], atol=1e-6)
    np.testing.assert_allclose(peaks.prominence, profile[peaks.index])


def test_ends_and_missing_lags_are_no_peaks():
    lag = np.arange(1, 9) * 1.0
    assert len(profile_peaks(np.array([9, 1, 1.5, 2, 3, 4, 5, 6]), lag).index) == 0
    assert profile_peaks(np.array([np.nan, 0, 1, 0, 2, 0, np.nan, np.nan]), lag).index.tolist() == [2, 4]


def test_prominence_limit_is_calibrated():
    rng, lag = np.random.default_rng(5), np.arange(1, 41) * 1.0
    false = 0
    for _ in range(150):
        profiles = correlated_profiles(rng, 40)[:, 0]
        limit = prominence_limit(profiles[1:], lag, 0.95)
        false += profile_peaks(profiles[0] - profiles[1:].mean(0), lag).prominence.max() > limit
    assert 0.003 < false / 150 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


# -- testability ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "answer", "apparent"),
    [(62.83, "coarse", 62.83), (31.42, "no", 32.6), (6.28, "no", 35.38), (64, "yes", 64), (100, "yes", 100)],
)
def test_testability_of_the_published_periods(period, answer, apparent):
    result = testability(period, 16)
    assert result.testable == answer and result.apparent == pytest.approx(apparent, rel=2e-3)
    assert str(result).startswith(f"period {period:.4g} is {period / 16:.3g} tokens")


def test_a_period_of_one_token_never_shows():
    assert testability(16, 16).apparent == np.inf and testability(16, 16).testable == "no"
    with pytest.raises(LaglensError, match="true period of 0 samples"):
        testability(0, 16)
