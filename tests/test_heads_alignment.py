"""Which history each forecast step reads: perfect alignments, naive loops, decoding steps of real models."""

import numpy as np
import pytest
import xarray as xr
from models import tiny
from trees import node_of, time_tree

from laglens.attention.cube import attention_tree
from laglens.errors import LaglensError
from laglens.heads.alignment import align_heads, alignment_error, alignment_table, coverage, drift, monotonicity
from laglens.heads.labelled import alignment_coverage, alignment_drift, alignment_monotonicity
from laglens.signals.windows import windows
from laglens.time.reduce import to_time


def planted(lag: int, n_query: int = 8, n_key: int = 24) -> xr.DataArray:
    """Each of the steps after the keys reads the one sample `lag` before it."""
    query, key = n_key + np.arange(n_query), np.arange(n_key)
    weights = (np.subtract.outer(query, key) == lag).astype(float)
    coords = {"query_time": ("query", query.astype(float)), "key_time": ("key", key.astype(float))}
    return xr.DataArray(weights, dims=("query", "key"), coords=coords)


def test_a_perfect_alignment_has_error_0_slope_1_monotonicity_1() -> None:
    attention = planted(12)
    times = attention["query_time"].values, attention["key_time"].values
    assert alignment_error(attention, 12, tolerance=1) == 0
    assert monotonicity(attention.values) == 1
    assert drift(attention.values, *times) == pytest.approx(1)
    backwards = attention.values[::-1]
    assert monotonicity(backwards) == 0
    assert drift(backwards, *times) == pytest.approx(-1)


def test_labelled_measures_are_those_of_the_rows_that_see_anything() -> None:
    rng = np.random.default_rng(0)
    attention = planted(12).expand_dims(head=3).copy(data=rng.dirichlet(np.ones(24), (3, 8)))
    visible = np.ones((8, 24), bool)
    visible[3] = False
    mask = xr.DataArray(visible, dims=("query", "key"))
    rows, times = np.delete(attention.values, 3, 1), np.delete(attention["query_time"].values, 3)
    np.testing.assert_allclose(alignment_coverage(attention, mask), coverage(rows))
    np.testing.assert_allclose(alignment_monotonicity(attention, mask), monotonicity(rows))
    np.testing.assert_allclose(alignment_drift(attention, mask), drift(rows, times, attention["key_time"].values))
    attention[1, 5] = 0  # a row without mass
    for measure in (alignment_coverage, alignment_monotonicity, alignment_drift):
        assert np.isnan(measure(attention)).values.tolist() == [False, True, False]


def test_one_token_beside_is_possible_but_not_sure_and_farther_is_wrong() -> None:
    assert alignment_error(planted(12), 13, tolerance=1) == pytest.approx(0.5)
    assert alignment_error(planted(12), 15, tolerance=1) == 1
    with pytest.raises(LaglensError, match="no query has a key 99 samples before it"):
        alignment_error(planted(12), 99, tolerance=1)


def test_coverage_is_1_where_all_keys_get_as_much_and_0_on_one_key() -> None:
    assert coverage(np.eye(6)) == pytest.approx(1)
    assert coverage(np.full((3, 6), 1 / 6)) == pytest.approx(1)
    assert coverage(np.eye(6)[[2, 2, 2]]) == pytest.approx(0)


def test_steps_and_lags_are_in_time_and_equal_a_naive_loop() -> None:
    tree = time_tree(history=32, horizon=16, step=4, lag=16, samples=2, strength=6, stacks={"cross": (0,)})
    aligned = align_heads(tree)["cross"].to_dataset()
    assert aligned["step"].values.tolist() == [2.5, 6.5, 10.5, 14.5]
    maps = tree["cross/attention"].values[1, 0, 0, 8:, :8].astype(float)
    for i, row in enumerate(maps / maps.sum(-1, keepdims=True)):
        lag = 4 * (8 + i - np.arange(8))
        here = aligned.isel(sample=1, layer=0, head=0, query=i)
        assert here["mean_lag"] == pytest.approx((row * lag).sum(), rel=1e-6)
        assert here["strongest_lag"] == lag[row.argmax()]
        assert here["alignment_entropy"] == pytest.approx(-(row * np.log(row)).sum(), rel=1e-6)
        for quantile in (0.1, 0.5, 0.9):
            shortest = next(w for w in sorted(lag) if row[lag <= w].sum() >= quantile)
            assert here["lag_quantile"].sel(quantile=quantile) == shortest
    assert (aligned["strongest_lag"].isel(head=0) == 16).all()
    np.testing.assert_allclose(aligned["read"].sum("key"), 1, rtol=1e-6)
    table = alignment_table(align_heads(tree)).set_index(["stack", "head", "step"])
    assert len(table) == 4 * 4
    assert table.loc[("cross", 0, 6.5), "lag_50"] == 16
    assert table.loc[("cross", 0, 6.5), "strongest_lag"] == 16


def test_greedy_decoding_reads_one_row_per_forecast_step() -> None:
    model = tiny("encoder_decoder", history=24, horizon=6)
    value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 60)), dims=("sample", "time"))
    aligned = align_heads(to_time(attention_tree(model, windows(value, 24, 6, 3))))
    assert set(aligned.children) == {"cross"}
    cross = aligned["cross"].to_dataset()
    assert cross["step"].values.tolist() == [1, 2, 3, 4, 5, 6]
    assert cross["query_time"].values.tolist() == [24, 25, 26, 27, 28, 29]
    assert float(cross["mean_lag"].min()) >= 1 and float(cross["mean_lag"].max()) <= 29
    assert ((cross["monotonicity"] >= 0) & (cross["monotonicity"] <= 1)).all()


def test_a_single_readout_token_has_lags_but_no_alignment() -> None:
    tree = time_tree(horizon_tokens=False, readout="last", stacks={"encoder": (0,)})
    aligned = align_heads(tree)["encoder"]
    assert aligned.attrs["part"] == "readout->history"
    assert np.isnan(aligned["monotonicity"]).all() and np.isfinite(aligned["mean_lag"]).all()
    node = node_of(tree).assign_coords(query_readout=("query", np.zeros(32, bool)))
    within = xr.DataTree.from_dict({"/": tree.to_dataset(), "/decoder": node})
    with pytest.raises(LaglensError, match="no attention stack reads the history"):
        align_heads(within)
