"""What is said of every head beside its test: on planted heads, and against the functions it is made of."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr
from trees import control_tree, time_tree

from laglens.lags.combs import comb_guards
from laglens.lags.headlines import read_headlines
from laglens.lags.inputs import token_autocorrelation
from laglens.lags.precision import resample_windows
from laglens.lags.reach import sort_stacks
from laglens.lags.readings import describe_heads, nearest_multiple

OPTIONS = {"history": 160, "horizon": 32, "lag": 44, "strength": 4.0}


def described(periods=(60.0, 44.0, 22.0), samples=6, **options):
    tree = time_tree(**OPTIONS | options, samples=samples)
    control = control_tree(**OPTIONS, windows=samples, replicates=39)
    line = read_headlines(tree, control, sort_stacks(tree)[0])["encoder"]
    apart = xr.Dataset(coords={"sample": np.arange(samples)})
    shown = tree.to_dataset()["series"].isel(time=slice(160))
    return line, describe_heads(line, periods, resample_windows(apart, 160), shown), shown


@pytest.fixture(scope="module")
def reading():
    return described()


def test_the_strongest_lag_lies_at_the_period_or_at_a_multiple(reading):
    _, found, _ = reading
    planted = found.sel(head=0)
    assert (planted["strongest_lag"] == 44).all()
    assert (planted["at_period"].sel(period=44.0)).all()
    assert not (planted["at_period"].sel(period=22.0)).any()
    assert (planted["multiple"].sel(period=44.0) == 1).all()
    assert (planted["multiple"].sel(period=22.0) == 2).all()
    assert nearest_multiple(np.array([50.0, 90.0]), np.array([44.0, 44.0]), 4.0).tolist() == [0, 2]


def test_the_detected_period_has_an_interval_where_windows_are_independent(reading):
    _, found, _ = reading
    lower, upper = found["detected_interval"].sel(head=0).values[0]
    assert lower <= float(found["detected"].sel(head=0)[0]) <= upper
    assert float(found["detected"].sel(head=0)[0]) == pytest.approx(44, abs=4)
    _, two, _ = described(samples=2)
    assert np.isnan(two["detected_interval"]).all()
    assert np.isfinite(two["detected"]).all()


def test_guards_are_the_contrasts_of_other_combs(reading):
    line, found, _ = reading
    ratio = xr.DataArray(line.ratio, dims=("layer", "head", "lag"), coords={"lag": line.lag})
    guards = comb_guards(ratio, 44.0, step=line.step)
    for name in ("P/2", "2P", "1.618 P"):
        np.testing.assert_allclose(found["guard"].sel(period=44.0, comb=name), guards[name])
    assert np.isnan(found["guard"].sel(period=60.0, comb="2P")).all()  # 120 + 60 samples are beyond the lags
    lower, upper = (found["contrast_interval"].sel(bound=bound, period=44.0, head=0) for bound in ("lower", "upper"))
    assert (lower < guards["P"][:, 0].values).all()
    assert (guards["P"][:, 0].values < upper).all()


def test_the_input_explains_a_profile_as_far_as_ranks_agree(reading):
    line, found, shown = reading
    curve = token_autocorrelation(shown, line.step, line.lag)
    known = np.isfinite(curve)  # the longest lag has no pair within the history
    expected = spearmanr(line.ratio[1, 2][known], curve[known]).statistic
    assert found["acf_correlation"].values[1, 2] == pytest.approx(expected)
