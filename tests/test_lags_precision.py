"""Bootstrap over windows: against scipy, against known coverage, in blocks where windows overlap."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import bootstrap
from trees import node_of, time_tree

from laglens.lags.layout import Layout
from laglens.lags.precision import mean_interval, resample_windows, window_ratios
from laglens.lags.profiles import ratio_of_part


def root(start, series=0, channels=False) -> xr.Dataset:
    n = len(start)
    coords = {"start": ("sample", np.asarray(start)), "signal_sample": ("sample", np.broadcast_to(series, n))}
    if channels:
        coords["channel"] = ("sample", np.broadcast_to(series, n))
    return xr.Dataset({"series": (("sample", "time"), np.zeros((n, 5)))}, coords)


def apart(n: int) -> xr.Dataset:
    return root(100 * np.arange(n))


@pytest.mark.parametrize(("n", "method"), [(30, "BCa"), (12, "percentile")])
def test_interval_is_that_of_scipy(n, method):
    values = np.random.default_rng(0).exponential(size=(n, 3))
    mine = mean_interval(values, resample_windows(apart(n), 100, n_resamples=20000), 0.9)
    for column, (lower, upper) in zip(values.T, mine, strict=True):
        theirs = bootstrap(
            (column,), np.mean, confidence_level=0.9, method=method, n_resamples=20000, rng=np.random.default_rng(1)
        ).confidence_interval
        assert (lower, upper) == pytest.approx((theirs.low, theirs.high), abs=0.03 * (theirs.high - theirs.low))


def test_interval_covers_the_mean_about_as_often_as_it_says():
    """1000 columns of 24 independent skewed windows; 95 % nominal."""
    rng = np.random.default_rng(2)
    values = rng.exponential(size=(24, 1000))
    interval = mean_interval(values, resample_windows(apart(24), 100))
    covered = ((interval[:, 0] <= 1) & (interval[:, 1] >= 1)).mean()
    assert 0.89 < covered < 0.97


def test_blocks_cover_where_overlapping_windows_are_like_each_other():
    """Means over 10 shared samples out of 20 starts each: as independent they would cover half as often as they say."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(1000, 400))
    start = np.arange(0, 990, 2)
    values = np.stack([noise[s : s + 10].mean(0) for s in start])
    as_blocks = mean_interval(values, resample_windows(root(start), 10))
    as_independent = mean_interval(values, resample_windows(apart(len(start)), 10))
    covered = [((x[:, 0] <= 0) & (x[:, 1] >= 0)).mean() for x in (as_blocks, as_independent)]
    assert 0.92 < covered[0] < 0.98
    assert covered[1] < 0.70


def test_too_few_independent_windows_have_no_interval():
    for windows in (apart(2), root(np.arange(16) * 8), root([0, 0, 0, 5], [0, 1, 2, 0], channels=True)):
        resamples = resample_windows(windows, 100)
        assert resamples.weights is None
        assert np.isnan(mean_interval(np.ones((windows.sizes["sample"], 2)), resamples)).all()
        assert "an interval needs 3" in str(resamples)
    assert str(resample_windows(root(np.arange(16) * 8), 100)).startswith(
        "16 overlapping windows, as good as 1.2 independent ones"
    )


def test_windows_of_different_series_are_independent():
    several = root(np.arange(4), np.arange(4))
    assert resample_windows(several, 100).independent == 4
    without = several.drop_vars(["start", "signal_sample"])
    assert resample_windows(without, 100).independent == 4


def test_unmeasured_lags_stay_unmeasured_and_constants_have_no_width():
    values = np.stack([np.full(5, np.nan), np.full(5, 2.0)], axis=1)
    interval = mean_interval(values, resample_windows(apart(5), 100))
    assert np.isnan(interval[0]).all()
    assert interval[1] == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("special", [0.0, 0.3])
def test_what_windows_add_is_the_ratio_of_the_mean_map(special):
    node = node_of(time_tree(samples=5, special_mass=special))
    if special:  # special tokens that take another share in every window
        share = np.linspace(0.2, 0.9, 5)[:, None, None, None, None]
        node = node.assign(attention=node["attention"] * share)
    layout = Layout.of(node, 128)
    part = "horizon->history"
    of_windows = window_ratios(node, layout, [part])[part]
    whole = ratio_of_part(node["attention"].values.astype(float).mean(0), layout, part)
    np.testing.assert_allclose(of_windows.mean(0), whole, rtol=1e-6)
    alone = [ratio_of_part(window, layout, part) for window in node["attention"].values.astype(float)]
    if not special:
        np.testing.assert_allclose(of_windows, alone, rtol=1e-5)


def test_what_windows_add_has_the_variance_of_the_ratio():
    """Against the jackknife of the ratio itself, where special tokens take another share in every window."""
    node = node_of(time_tree(samples=12, seed=4))
    share = np.random.default_rng(5).uniform(0.2, 0.9, (12, 1, 1, node.sizes["query"], 1))
    node = node.assign(attention=node["attention"] * share)
    layout, part = Layout.of(node, 128), "horizon->history"
    maps = node["attention"].values.astype(float)
    of_windows = window_ratios(node, layout, [part])[part]
    left_out = np.stack([ratio_of_part(np.delete(maps, i, 0).mean(0), layout, part) for i in range(12)])
    jackknife = np.sqrt(11 / 12 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    spread = of_windows.std(0, ddof=1) / np.sqrt(12)
    measured = np.isfinite(spread)
    ratio = spread[measured] / jackknife[measured]
    assert np.median(np.abs(ratio - 1)) < 0.1


def test_a_lag_that_is_not_measured_has_no_interval_however_many_windows() -> None:
    values = np.random.default_rng(0).normal(size=(25, 3))
    values[:, 1] = np.nan
    found = mean_interval(values, resample_windows(apart(25), 100))
    assert np.isnan(found[1]).all() and (found[[0, 2], 0] < found[[0, 2], 1]).all()
