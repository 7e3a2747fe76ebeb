"""Comb contrast, pooled maximum, period swap: closed forms, error rates under the null, planted truth."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from laglens.errors import LaglensError
from laglens.lags.combs import comb_contrast, comb_guards, comb_weights
from laglens.lags.permutation import (
    control_p_values,
    false_discovery_rate,
    passes,
    period_swap_test,
    pooled_max_test,
    smallest_p,
    swap_statistic,
)

LAG = np.arange(8.0, 257.0, 4.0)


def profile(log_values) -> xr.DataArray:
    """A ratio profile over `LAG` from its log(1 + ratio), raised by 2."""
    return xr.DataArray(np.expm1(2.0 + log_values), dims="lag", coords={"lag": LAG})


# -- comb contrast -------------------------------------------------------------------------------------------------


@given(period=st.floats(20, 100), slope=st.floats(-0.1, 0.1), level=st.floats(0, 2))
@settings(max_examples=50, deadline=None)
def test_decay_has_no_contrast(period, slope, level):
    assert float(comb_contrast(profile(level + slope * (LAG - 100) / 10), [period])[0]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("period", [32.0, 48.0, 64.0])
def test_cosine_has_twice_its_amplitude(period):
    """L = a cos(2 pi l / P) is a on the teeth and -a in the gaps, exact where both are lags of the axis."""
    wave = profile(0.3 * np.cos(2 * np.pi * LAG / period))
    assert float(comb_contrast(wave, [period])[0]) == pytest.approx(0.6)


def test_contrast_agrees_with_its_definition_by_interpolation():
    values = np.random.default_rng(0).normal(size=len(LAG))
    at = lambda where: np.interp(where, LAG, values)  # noqa: E731
    period = 37.3
    teeth = [k for k in range(1, 10) if (k - 0.5) * period >= LAG[0] and (k + 0.5) * period <= LAG[-1]]
    expected = np.mean([at(k * period) - (at((k - 0.5) * period) + at((k + 0.5) * period)) / 2 for k in teeth])
    assert float(comb_contrast(profile(values), [period])[0]) == pytest.approx(expected)
    assert comb_weights(LAG, period).sum() == pytest.approx(0)


def test_guards_tell_the_fundamental_from_other_combs():
    wave = profile(0.3 * np.cos(2 * np.pi * LAG / 64))
    guards = {name: float(value) for name, value in comb_guards(wave, 64.0).items()}
    assert guards["P"] == max(guards.values())
    assert guards["P/2"] == pytest.approx(0, abs=0.16)


def test_aliased_and_too_long_periods_are_refused():
    with pytest.raises(LaglensError, match=r"period 6.28 is 1.57 tokens, under 2: .* same lags"):
        comb_contrast(profile(0 * LAG), [6.28])
    with pytest.raises(LaglensError, match="no multiple of the period 200 lies between two gaps on the lags 8 to 256"):
        comb_contrast(profile(0 * LAG), [200.0])


def test_unmeasured_lags_and_weights_of_zero_do_no_harm():
    values = np.exp(0.3 * np.cos(2 * np.pi * LAG / 64))
    values[LAG == 96] = 0.0  # a gap the head never looks at
    ratio = xr.DataArray(np.concatenate([[np.nan], values]), dims="lag", coords={"lag": np.concatenate([[4.0], LAG])})
    assert np.isfinite(comb_contrast(ratio, [64.0]).values).all()


# -- pooled maximum ------------------------------------------------------------------------------------------------


def drawn_statistics(rng, replicates: int, heads: int = 20) -> np.ndarray:
    """Correlated over heads and skewed, as comb contrasts of noise are: (1 + replicate, head)."""
    common = rng.standard_normal((replicates + 1, 1))
    return np.exp(0.5 * (0.6 * common + 0.8 * rng.standard_normal((replicates + 1, heads))))


@pytest.mark.parametrize("replicates", [19, 99])
def test_pooled_maximum_is_exact(replicates):
    """The smallest family-wise p of null signals is uniform on its grid."""
    rng, runs = np.random.default_rng(1), 600
    smallest = []
    for _ in range(runs):
        drawn = drawn_statistics(rng, replicates)
        smallest.append(pooled_max_test(drawn[0], drawn[1:])[1].min())
    alarms = int((np.array(smallest) <= 0.05 + 1e-12).sum())
    assert binom.cdf(alarms, runs, 0.05) > 0.001
    assert binom.sf(alarms - 1, runs, 0.05) > 0.001
    assert kstest(np.array(smallest) - smallest_p(replicates) / 2, "uniform").pvalue > 0.001


def test_pooled_maximum_finds_the_planted_head():
    drawn = drawn_statistics(np.random.default_rng(2), 99)
    drawn[0, 7] += 8
    z, p = pooled_max_test(drawn[0], drawn[1:])
    assert p[7] == pytest.approx(smallest_p(99))
    assert z.argmax() == 7
    assert (np.delete(p, 7) > 0.05).all()


def test_a_head_that_ignores_its_input_is_never_significant():
    drawn = drawn_statistics(np.random.default_rng(3), 19)
    drawn[:, 4] = 1.0
    z, p = pooled_max_test(drawn[0], drawn[1:])
    assert z[4] == 0
    assert p[4] > 0.5


def test_wrong_shapes_and_nan_are_refused():
    with pytest.raises(LaglensError, match="heads are observed, the controls are"):
        pooled_max_test(np.ones(3), np.ones((5, 4)))
    with pytest.raises(LaglensError, match="not finite"):
        pooled_max_test(np.array([np.nan]), np.ones((5, 1)))


def test_p_values_of_single_heads_count_controls():
    controls = np.arange(99.0)[:, None]
    assert control_p_values(np.array([98.5]), controls)[0] == pytest.approx(0.01)
    assert control_p_values(np.array([94.0]), controls)[0] == pytest.approx(0.06)


@pytest.mark.parametrize(("confidence", "controls"), [(0.9, 9), (0.95, 19), (0.8, 4), (0.99, 99), (0.7, 9)])
def test_the_smallest_p_of_just_enough_controls_passes(confidence, controls):
    p = round((1 - confidence) * (controls + 1)) / (controls + 1)
    assert passes(p, confidence) and not passes([np.nan, p + 1e-6], confidence).any()


def test_false_discovery_rate_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(4).uniform(size=30) ** 2
    np.testing.assert_allclose(false_discovery_rate(p), multipletests(p, method="fdr_bh")[1])
    np.testing.assert_allclose(false_discovery_rate(p, dependence="any"), multipletests(p, method="fdr_by")[1])
    with pytest.raises(LaglensError, match="dependence is 'all'; it must be one of positive, any"):
        false_discovery_rate(p, dependence="all")
    with pytest.raises(LaglensError, match="a p-value is NaN or not between 0 and 1"):
        false_discovery_rate(np.append(p, np.nan))


# -- period swap ---------------------------------------------------------------------------------------------------


def contrasts(rng, *, effect: float = 0.0, periods: int = 4, each: int = 4, heads: int = 12):
    """Inputs that sharpen all contrasts, heads with a taste for some periods; head 3 follows with `effect`."""
    label = np.repeat(np.arange(periods), each)
    sharpness = np.exp(0.5 * rng.standard_normal((len(label), 1, 1)))
    taste = rng.standard_normal((1, heads, periods))
    own = 0.7 * rng.standard_normal((len(label), heads, periods))
    shared = 0.5 * rng.standard_normal((len(label), 1, periods))
    found = sharpness * (taste + shared + own)
    found[np.arange(len(label)), 3, label] += effect
    return found, label


def test_swap_statistic_is_the_double_centred_diagonal():
    found, label = contrasts(np.random.default_rng(5))
    for head in (0, 3):
        table = np.array([[found[label == a, head, b].mean() for b in range(4)] for a in range(4)])
        centred = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
        assert swap_statistic(found, label)[head] == pytest.approx(np.trace(centred) / 4)


def test_swap_test_keeps_its_error_rate():
    rng, runs = np.random.default_rng(6), 200
    alarms = 0
    for _ in range(runs):
        _, p = period_swap_test(*contrasts(rng), rng, n_permutations=99)
        alarms += p.min() <= 0.05 + 1e-12
    assert binom.sf(alarms - 1, runs, 0.05) > 0.001
    assert alarms > 0


def test_swap_test_finds_the_head_that_follows():
    statistic, p = period_swap_test(
        *contrasts(np.random.default_rng(7), effect=2.0, each=8), np.random.default_rng(8), n_permutations=199
    )
    assert statistic.argmax() == 3
    assert p[3] == pytest.approx(smallest_p(199))


def test_swap_test_needs_inputs_of_every_period():
    found, label = contrasts(np.random.default_rng(9))
    with pytest.raises(LaglensError, match="every candidate needs inputs"):
        period_swap_test(found, np.where(label == 2, 1, label), np.random.default_rng(0))
