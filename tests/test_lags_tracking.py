"""Period tracking on heads that follow, and on heads that do not."""

import numpy as np
import pytest
from test_lags_combs import swap_tree
from trees import time_tree

from laglens.errors import LaglensError
from laglens.lags.comb_tests import swap_test
from laglens.lags.tracking import candidate_combs, following_table, near, track_periods

PERIODS = (28.0, 36.0, 44.0, 60.0, 80.0)  # the heads look at the first multiple alone, from 12 samples on
NOISE = {"history": 160, "horizon": 32, "heads": ("uniform", "uniform", "first", "decay"), "samples": 30, "seed": 99}


def test_a_head_that_follows_has_slope_one_and_the_others_have_not():
    found = track_periods(swap_tree(PERIODS), time_tree(**NOISE))
    for name in ("encoder", "decoder"):
        node = found[name].to_dataset(inherit=False)
        assert node["slope"].sel(head=0).values == pytest.approx(1, abs=0.15)
        assert (node["slope_interval"].sel(head=0, bound="lower") > 0.7).all()
        assert (node["at_period"].sel(head=0) == 1).all()
        assert (node["chance_at_period"].sel(head=0) < 0.4).all()
        assert (node["at_multiple"] >= node["at_period"]).all()
        assert (np.abs(node["slope"].sel(head=[1, 2, 3])) < 0.6).all()
    assert found["encoder"]["detected"].dims == ("layer", "head", "sample")


def test_a_head_that_always_looks_at_one_lag_has_slope_zero():
    found = track_periods(swap_tree(PERIODS, follows=False), time_tree(**NOISE))
    assert np.abs(found["encoder"]["slope"].sel(head=0)).max() < 0.05
    assert found["encoder"]["at_period"].sel(head=0).values == pytest.approx(0.2)
    assert found["encoder"]["chance_at_period"].sel(head=0).values == pytest.approx(0.2, abs=1e-9)


def test_table_puts_the_heads_that_follow_first():
    probe = swap_tree(PERIODS)
    table = following_table(swap_test(probe, n_permutations=99), track_periods(probe, time_tree(**NOISE)))
    assert len(table) == 12
    assert (table["head"].iloc[:3] == 0).all()
    assert (table["p_swap"].iloc[:3] == 0.01).all()
    assert (table["slope_lower"].iloc[:3] > 0.7).all()
    assert (table["at_multiple"].iloc[:3] > table["chance_at_multiple"].iloc[:3]).all()


def test_near_counts_multiples_within_a_token():
    lags = np.array([20.0, 41.0, 70.0, 93.0])
    periods = np.full(4, 30.0)
    assert near(lags, periods, 4.0, multiples=True) == 0.25
    assert near(lags, periods, 10.0, multiples=False) == 0.25
    assert near(lags, periods, 10.0, multiples=True) == 0.75


def test_no_comb_fits_into_a_few_lags():
    with pytest.raises(LaglensError, match="hold no comb"):
        candidate_combs(np.arange(4.0, 12.0, 4.0), 4.0)


def test_probes_need_their_periods():
    with pytest.raises(LaglensError, match="no 'true_period"):
        track_periods(time_tree(), time_tree())
