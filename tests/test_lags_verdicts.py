"""Verdicts on models whose heads are known: each condition can fail alone, and is named."""

import numpy as np
import pytest
import xarray as xr
from test_lags_combs import swap_tree
from trees import control_tree, time_tree

from laglens.lags.comb_tests import comb_test, swap_test
from laglens.lags.verdicts import COLUMNS, NOT_SUPPORTED, NOT_TESTABLE, SUPPORTED, untrained_contrasts, verdict_table

OPTIONS = {"history": 160, "horizon": 32, "lag": 44, "strength": 4.0}
PERIODS = [44.0, 60.0, 6.3]


@pytest.fixture(scope="module")
def comb():
    return comb_test(time_tree(**OPTIONS), control_tree(**OPTIONS), PERIODS)


@pytest.fixture(scope="module")
def follows():
    return swap_test(swap_tree(), n_permutations=199)


def untrained(**options):
    heads = options.pop("heads", ("uniform", "uniform", "first", "decay"))
    tree = time_tree(**OPTIONS | {"heads": heads, "samples": 3, "seed": 50})
    return untrained_contrasts(tree, [44.0, 60.0])


def test_a_head_that_passes_all_three_is_supported_and_no_other(comb, follows):
    table = verdict_table(comb, follows, untrained())
    assert list(table.columns) == list(COLUMNS)
    supported = table[table["verdict"] == SUPPORTED]
    assert set(supported["head"]) == {0}
    assert set(supported["period"]) == {44.0}
    assert len(supported) == 3  # three layers in two stacks
    assert (supported["reason"] == "").all()
    assert table["verdict"].iloc[:3].eq(SUPPORTED).all()
    aliased = table[table["period"] == 6.3]
    assert aliased["verdict"].eq(NOT_TESTABLE).all()
    assert aliased["reason"].str.contains("under 2: it would appear at").all()
    assert aliased["contrast"].isna().all()
    assert set(table["n_untrained"]) == {3}


def test_each_failed_condition_is_named(comb, follows):
    def reasons(table):
        of_head = table[(table["head"] == 0) & (table["period"] == 44.0)]
        assert of_head["verdict"].eq(NOT_SUPPORTED).all()
        return set(of_head["reason"])

    fixed = swap_test(swap_tree(follows=False), n_permutations=199)
    assert reasons(verdict_table(comb, fixed, untrained())) == {"does not follow other periods"}
    assert reasons(verdict_table(comb, follows, untrained(heads=("planted",) * 4) + 1)) == {
        "random weights show as much"
    }
    quiet = comb_test(time_tree(**OPTIONS | {"strength": 0.0, "seed": 3}), control_tree(**OPTIONS), PERIODS)
    assert all(
        "noise with the same memory shows as much" in text
        for text in reasons(verdict_table(quiet, follows, untrained()))
    )


def test_tokens_too_coarse_for_the_swap_are_said(comb):
    left_out = swap_test(xr.DataTree(xr.Dataset(attrs={"left_out": "tokens of 64 samples"})))
    table = verdict_table(comb, left_out, untrained())
    of_head = table[(table["head"] == 0) & (table["period"] == 44.0)]
    assert of_head["verdict"].eq(NOT_SUPPORTED).all()
    assert set(of_head["reason"]) == {"tokens are too coarse to see whether it follows other periods"}


def test_untrained_contrast_is_the_largest_of_any_head():
    found = untrained(heads=("planted", "uniform", "first", "decay"))
    assert found.dims == ("draw", "period")
    assert (found.sel(period=44.0) > 0.8).all()
    assert (untrained().sel(period=44.0) < 0.5).all()
    assert np.isfinite(found.values).all()
