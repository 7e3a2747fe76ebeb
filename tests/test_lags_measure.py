"""Lags: measured trees, tables, and the comparison of two signals."""

import numpy as np
import pytest
import xarray as xr
from trees import control_tree, node_of, time_tree, with_maps

from laglens.errors import LaglensError
from laglens.lags.comparison import compare_lags
from laglens.lags.measure import measure_lags
from laglens.lags.profiles import lag_ratio
from laglens.lags.tables import changes_table, nearest_multiple, peaks_table
from laglens.lags.testability import testability

HISTORY = 128
ALL_PARTS = {"horizon->history", "history->history", "horizon->horizon", "history->horizon"}


@pytest.fixture(scope="module")
def measured():
    return measure_lags(time_tree(), control_tree())


# -- the measured tree ---------------------------------------------------------------------------------------------


def test_tree_has_the_promised_shape(measured):
    node = node_of(measured)
    assert list(measured.children) == ["encoder", "decoder"] and set(node["part"].values) == ALL_PARTS
    for name in ("profile", "ratio", "control_mean", "limit", "z"):
        assert node[name].dims == ("part", "layer", "head", "lag")
    assert node["band"].dims == ("part", "layer", "head", "lag", "bound") and list(node["bound"]) == ["lower", "upper"]
    assert node["n_pairs"].dims == node["n_queries"].dims == ("part", "lag")
    assert node["limit"].sel(lag=0).isnull().all() and node["ratio"].sel(lag=0, part="history->history").notnull().all()
    attrs = {k: node.attrs[k] for k in ("null", "n_controls", "n_windows", "confidence", "samples_per_token")}
    assert attrs == {"null": "ar1", "n_controls": 99, "n_windows": 4, "confidence": 0.95, "samples_per_token": 4.0}
    assert node.attrs["periods"][0]["testable"] == "yes" and measured.attrs["model"]["name"] == "planted"
    missing = node["ratio"].isnull()
    assert (missing == (node["n_queries"] == 0)).all()
    for name in ("control_mean", "z"):
        assert (node[name].isnull() == missing).all()


def test_ratio_is_that_of_the_mean_map(measured):
    node = node_of(time_tree())
    mean = node["attention"].mean("sample", dtype="float64").values[None]
    alone = lag_ratio(with_maps(node, mean), "horizon->history", history=HISTORY).squeeze().dropna("lag")
    together = node_of(measured)["ratio"].sel(part="horizon->history").dropna("lag")
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_planted_peaks_stand_out_and_noise_does_not(measured):
    table = peaks_table(measured)
    above = table[table["above"]]
    planted = (above["head"] == 0) & above["part"].str.endswith("->history") & above["part"].str.startswith("h")
    forecasting = above[planted & (np.abs(above["offset"]) < 1) & (above["multiple"] == 1)]
    found = set(zip(forecasting["stack"], forecasting["layer"], forecasting["part"], strict=True))
    places = [("encoder", 0), ("encoder", 1), ("decoder", 2)]
    assert found == {(*place, part) for place in places for part in ("horizon->history", "history->history")}
    # 3 noise heads x 3 layers x 4 parts at 5 %: two are expected, six would be a fault
    assert len(above[above["head"] != 0].groupby(["stack", "layer", "head", "part"])) <= 5


def test_table_reads_like_the_tree(measured):
    table = peaks_table(measured)
    row = table.iloc[0]
    here = node_of(measured, row["stack"]).sel(
        layer=row["layer"], head=row["head"], part=row["part"], lag=row["axis_lag"]
    )
    assert row["ratio"] == here["ratio"] and row["limit"] == here["limit"] and row["z"] == here["z"]
    assert bool((table["above"] == (table["above_limit"] & table["above_prominence"])).all())
    assert bool((table["above_limit"] == (table["ratio"] > table["limit"])).all())
    assert (np.abs(table["lag"] - table["axis_lag"]) <= 2).all() and (table["axis_lag"] != 0).all()


def test_lag_in_time_units_and_nothing_known_about_periods():
    tree, control = time_tree(periods=[]), control_tree(replicates=19)
    tree.attrs["signal"] |= {"time_step": 0.5, "time_unit": "hours"}
    table = peaks_table(measure_lags(tree, control))
    np.testing.assert_allclose(table["lag_time"], table["lag"] / 2)
    assert set(table["time_unit"]) == {"hours"} and table["period"].isna().all() and (table["multiple"] == 0).all()


def test_nearest_multiple_prefers_the_simplest_and_skips_what_is_aliased():
    periods = [vars(testability(p, 8)) for p in (62.83, 31.42, 6.28)]
    assert nearest_multiple(64, periods, 8)["period"] == 62.83
    assert nearest_multiple(-30, periods, 8) == {
        "period": 31.42, "multiple": 1, "offset": pytest.approx(-1.42), "testable": "coarse",
    }  # fmt: skip
    assert nearest_multiple(126, periods, 8)["multiple"] == 2


def test_special_mass_is_reported_and_changes_no_ratio(measured):
    sink = node_of(measure_lags(time_tree(special_mass=0.9), control_tree(special_mass=0.9, replicates=19)))
    np.testing.assert_allclose(sink["special_mass"], 0.9, rtol=1e-6)
    xr.testing.assert_allclose(sink["ratio"], node_of(measured)["ratio"], rtol=1e-5)
    assert (node_of(measured)["special_mass"] == 0).all()


def test_encoder_that_forecasts_from_its_last_token():
    options = {"history": 100, "horizon": 20, "step": 1, "horizon_tokens": False, "readout": "last", "lag": 12}
    options |= {"stacks": {"encoder": (0,)}, "heads": ("planted", "uniform")}
    tree = measure_lags(time_tree(**options), control_tree(replicates=39, **options))
    assert list(tree["encoder"]["part"].values) == ["readout->history", "history->history"]
    table = peaks_table(tree)
    best = table[(table["part"] == "readout->history") & table["above"]].iloc[0]
    assert best["head"] == 0 and best["lag"] == pytest.approx(12, abs=0.6)


def test_parts_too_small_are_left_out_with_the_reason():
    options = {"horizon": 16, "stacks": {"encoder": (0,)}}
    node = node_of(measure_lags(time_tree(**options), control_tree(replicates=19, **options)))
    assert "horizon->horizon" not in node["part"]
    assert "shared by 8 of its 4 queries" in node.attrs["left_out"]["horizon->horizon"]


def test_head_without_mass_on_the_keys_is_not_measurable_and_breaks_nothing():
    tree, control = time_tree(), control_tree(replicates=19)
    tree["encoder"]["attention"][:, 0, 0] = 0
    measured = measure_lags(tree, control)
    assert measured["encoder"]["ratio"].sel(layer=0, head=0).isnull().all()
    assert measured["encoder"]["z"].sel(layer=0, head=1, part="horizon->history").notnull().any()
    assert ((t := peaks_table(measured))["ratio"].notna()).all() and len(t)


# -- loud errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": 124}, "'history' differs: 128 in the signal, 124 in the control"),
        ({"stacks": {"encoder": (0, 1)}}, "list of attention stacks differs"),
        ({"stacks": {"encoder": (0, 1), "decoder": (3,)}}, "stack 'decoder': layer differs"),
        ({"heads": ("planted", "uniform", "first")}, "stack 'encoder': head differs: 4 values.* 3 values"),
        ({"step": 8}, r"samples_per_token differs: 4.0 in the signal, 8.0 in the control"),
        ({"readout": "last"}, "stack 'encoder': query_readout differs"),
        ({"replicates": 9}, "needs at least 19 controls, found 9 controls"),
        ({"replicates": 0}, "found no controls"),
        ({"windows": 2}, "controls average 2 windows each, the signal 4"),
    ],
)
def test_controls_that_do_not_fit_are_named(change, message):
    with pytest.raises(LaglensError, match=message):
        measure_lags(time_tree(), control_tree(**({"replicates": 19} | change)))


def test_another_model_is_named():
    control = control_tree(replicates=19)
    control.attrs["model"] = {**control.attrs["model"], "name": "other"}
    with pytest.raises(LaglensError, match="model 'name' differs: 'planted' in the signal, 'other' in the control"):
        measure_lags(time_tree(), control)


def test_a_tree_of_another_stage_is_named(measured):
    with pytest.raises(LaglensError, match="no stack with 'ratio'"):
        peaks_table(time_tree())
    with pytest.raises(LaglensError, match="no stack with 'difference'"):
        changes_table(measured)
    with pytest.raises(LaglensError, match="stack 'encoder': max_lag is 2"):
        measure_lags(time_tree(), control_tree(replicates=19), max_lag=2)


# -- comparison ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared():
    without = ("uniform", "uniform", "first", "decay")
    a, b = time_tree(), time_tree(seed=5, heads=without, periods=[16, 6])
    return compare_lags(a, control_tree(), b, control_tree(seed=7), names=("with", "without"))


def test_a_removed_lag_is_the_largest_change(compared):
    table = changes_table(compared)
    planted = table[(table["head"] == 0) & (table["part"] == "horizon->history") & (table["at"] == "period")]
    at_32 = planted[planted["period"] == 32]
    assert at_32["beyond_limit"].all() and (at_32["difference"] > 5).all() and set(at_32["period_of"]) == {"with"}
    assert set(table["period"].dropna()) == {32.0, 16.0}  # 6 samples are under two tokens
    largest = table[table["at"] == "largest"]
    assert len(largest) == 3 * 4 * 4 and not largest.duplicated(["stack", "layer", "head", "part"]).any()
    noise = largest[largest["head"] != 0]
    assert noise["beyond_limit"].mean() < 0.2


def test_comparison_holds_both_signals_and_their_difference(compared, measured):
    node = node_of(compared)
    a, b = (node["ratio"].sel(signal=name, drop=True) for name in ("with", "without"))
    xr.testing.assert_allclose(node["difference"], a - b)
    xr.testing.assert_allclose(a, node_of(measured)["ratio"])
    xr.testing.assert_allclose(node["signal_limit"].sel(signal="with", drop=True), node_of(measured)["limit"])
    limit = node["limit"].transpose(..., "bound").values
    mean = node["control_mean"].values
    np.testing.assert_allclose(mean - limit[..., 0], limit[..., 1] - mean)
    assert node.attrs["null"] == "ar1 - ar1" and compared.attrs["names"] == ["with", "without"]


def test_a_signal_compared_with_itself_changes_nothing():
    tree, control = time_tree(stacks={"encoder": (0,)}), control_tree(replicates=19, stacks={"encoder": (0,)})
    node = node_of(compare_lags(tree, control, tree, control))
    assert (node["difference"].fillna(0) == 0).all() and (node["z"].fillna(0) == 0).all()
    assert not changes_table(compare_lags(tree, control, tree, control))["beyond_limit"].any()


def test_signals_that_cannot_be_compared_are_named():
    tree, control = time_tree(), control_tree(replicates=19)
    with pytest.raises(LaglensError, match="a has 19 controls, b has 20"):
        compare_lags(tree, control, tree, control_tree(replicates=20))
    with pytest.raises(LaglensError, match="both signals are called 'x'"):
        compare_lags(tree, control, tree, control, names=("x", "x"))
    other, other_control = time_tree(step=8), control_tree(replicates=19, step=8)
    with pytest.raises(LaglensError, match="samples_per_token differs: 4.0 in a, 8.0 in b"):
        compare_lags(tree, control, other, other_control)
