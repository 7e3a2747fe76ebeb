"""Single measures on labelled maps: closed forms, naive loops in float64, masks, planted stripes."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from trees import time_tree

from laglens.errors import LaglensError
from laglens.flow.maximum import attention_flow
from laglens.flow.rollout import roll_out
from laglens.heads import labelled
from laglens.heads.measure import measure_heads
from laglens.lags.profiles import lag_profile, lag_ratio

ROWS = ("row_entropy", "relative_entropy", "effective_keys", "gini", "top_mass", "attention_distance", "directedness")
MAPS = ("vertical_stripe", "diagonal_stripe", "toeplitz_share", "horizontal_stripe", "confidence", "sink_score")


def maps(weights: np.ndarray, step: float = 4.0) -> xr.DataArray:
    """Label maps ``(..., query, key)``; keys end where the queries end."""
    leading = [f"dim_{i}" for i in range(weights.ndim - 2)]
    n_query, n_key = weights.shape[-2:]
    key_time = step * np.arange(n_key)
    coords = {"query_time": ("query", key_time[-1] - step * np.arange(n_query)[::-1]), "key_time": ("key", key_time)}
    return xr.DataArray(weights, dims=(*leading, "query", "key"), coords=coords)


def random_maps(*shape: int, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).exponential(size=shape) ** 3
    return weights / weights.sum(-1, keepdims=True)


def causal_mask(n: int) -> xr.DataArray:
    return xr.DataArray(np.tri(n, dtype=bool), dims=("query", "key"))


def measured(name: str, attention: xr.DataArray, visible: xr.DataArray | None = None) -> xr.DataArray:
    return getattr(labelled, name)(attention, visible)


@pytest.mark.parametrize("n", [3, 24])
def test_uniform_rows_have_their_closed_forms_under_any_mask(n: int) -> None:
    visible = causal_mask(n)
    number = visible.sum("key").values
    attention = maps(visible.values / number[:, None])
    expected = {
        "row_entropy": np.log(number),
        "relative_entropy": np.where(number > 1, 1, np.nan),
        "effective_keys": number,
        "gini": 0 * number,
        "top_mass": np.minimum(5 / number, 1),
        "attention_distance": 4 * (number - 1) / 2,
        "directedness": 4 * (number - 1) / 2,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(measured(name, attention, visible), value, atol=1e-12, err_msg=name)
    for name in ("vertical_stripe", "diagonal_stripe", "horizontal_stripe"):
        np.testing.assert_allclose(measured(name, attention, visible), 0, atol=1e-12, err_msg=name)
    assert np.isnan(measured("toeplitz_share", attention, visible))


def test_all_rows_on_one_key_are_the_strongest_vertical_stripe() -> None:
    n = 12
    attention = maps(np.eye(n)[np.full(n, 0)])
    assert measured("vertical_stripe", attention) == pytest.approx(n - 1)
    assert measured("horizontal_stripe", attention) == pytest.approx(0, abs=1e-12)
    assert measured("sink_score", attention) == measured("confidence", attention) == 1
    assert measured("sink_score", maps(np.eye(n)[np.full(n, 1)])) == 0
    assert measured("toeplitz_share", attention) < 0.2


def test_one_lag_is_a_diagonal_and_rows_of_different_spread_are_horizontal() -> None:
    n = 12
    diagonal = maps(np.roll(np.eye(n), -2, 1)[2:])  # lag 2 in every row
    assert measured("toeplitz_share", diagonal) == pytest.approx(1)
    assert measured("diagonal_stripe", diagonal) == pytest.approx(n - 1)
    assert measured("vertical_stripe", diagonal) < 0.5
    half = np.full((n, n), 1 / n)
    half[::2] = np.eye(n)[np.arange(0, n, 2)]
    assert measured("horizontal_stripe", maps(half)) == pytest.approx(np.log(n) ** 2 / 4)


def test_the_top_lag_is_that_of_the_largest_mean_ratio() -> None:
    n = 12
    planted = maps(np.roll(np.eye(n), -2, 1)[2:])  # lag 2 in every row, tokens of 4 samples
    np.testing.assert_array_equal(measured("top_lag", planted), 8)
    weights = np.where(causal_mask(n), random_maps(3, n, n, seed=5), 0)
    ratio = weights / weights.sum(-1, keepdims=True) * np.arange(1, n + 1)[:, None]
    means = [ratio.diagonal(-lag, -2, -1).mean(-1) for lag in range(1, 10)]  # 3 of 12 queries reach back 9 tokens
    expected = 4 * (1 + np.argmax(means, 0))
    np.testing.assert_array_equal(measured("top_lag", maps(weights), causal_mask(n)), expected)
    future = maps(np.eye(n, k=3)[: n - 3]).assign_coords(query_time=("query", 4.0 * np.arange(n - 3)))
    np.testing.assert_array_equal(measured("top_lag", future, future.key_time > future.query_time), -12)
    uniform = causal_mask(n) / causal_mask(n).sum("key")
    assert np.isnan(measured("top_lag", maps(uniform.values), causal_mask(n)))  # no preference, no lag


def test_without_a_mask_the_vertical_stripe_is_the_variance_of_the_column_means() -> None:
    weights = random_maps(3, 9, 7)
    expected = weights.mean(-2).var(-1) * 7**2
    np.testing.assert_allclose(measured("vertical_stripe", maps(weights)), expected, rtol=1e-12)


def test_stripes_equal_a_naive_loop_over_pairs() -> None:
    n, visible = 8, causal_mask(8)
    weights = np.where(visible, random_maps(n, n, seed=3), 0)
    ratio = {}
    for q in range(n):
        row = weights[q, : q + 1] / weights[q, : q + 1].sum()
        ratio |= {(q, k): row[k] * (q + 1) for k in range(q + 1)}
    groups = {"vertical_stripe": lambda q, k: k, "diagonal_stripe": lambda q, k: q - k}
    for name, group in groups.items():
        members: dict[int, list[float]] = {}
        for pair, value in ratio.items():
            members.setdefault(group(*pair), []).append(value)
        expected = np.mean([(np.mean(members[group(*pair)]) - 1) ** 2 for pair in ratio])
        np.testing.assert_allclose(measured(name, maps(weights), visible), expected, rtol=1e-9, err_msg=name)
    share = measured("diagonal_stripe", maps(weights), visible) / np.var(list(ratio.values()))
    np.testing.assert_allclose(measured("toeplitz_share", maps(weights), visible), share, rtol=1e-9)


def test_the_mass_on_the_strongest_keys_and_the_confidence_equal_sorted_rows() -> None:
    weights = random_maps(2, 5, 9)
    for top in (1, 3, 9, 20):
        expected = np.sort(weights, -1)[..., ::-1][..., :top].sum(-1)
        np.testing.assert_allclose(labelled.top_mass(maps(weights), top=top), expected, rtol=1e-12)
    np.testing.assert_allclose(labelled.confidence(maps(weights)), weights.max(-1).mean(-1), rtol=1e-12)


@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 50))
def test_hidden_keys_and_padded_rows_change_nothing(n: int, hidden: int, seed: int) -> None:
    plain = maps(random_maps(n, n, seed=seed))
    padded = np.random.default_rng(seed).random((n + hidden, n + hidden))
    padded[:n, :n] = plain.values
    visible = np.zeros(padded.shape, bool)
    visible[:n, :n] = True
    among = maps(padded).assign_coords(query_time=("query", 4.0 * np.arange(n + hidden)))
    mask = xr.DataArray(visible, dims=("query", "key"))
    alone = plain.assign_coords(query_time=("query", 4.0 * np.arange(n)))
    for name in ROWS:
        found = measured(name, among, mask)
        np.testing.assert_allclose(found[:n], measured(name, alone), rtol=1e-9, err_msg=name)
        assert np.isnan(found[n:]).all(), name
    for name in MAPS:
        np.testing.assert_allclose(measured(name, among, mask), measured(name, alone), rtol=1e-9, err_msg=name)


def test_a_row_without_mass_is_left_out_of_the_stripes() -> None:
    weights = random_maps(2, 6, 6)
    weights[1, 2] = 0
    both = measured("vertical_stripe", maps(weights)).values
    without = measured("vertical_stripe", maps(np.delete(weights[1], 2, 0))).item()
    assert both[1] == pytest.approx(without)
    assert both[0] == pytest.approx(measured("vertical_stripe", maps(weights[0])).item())


def test_the_tree_holds_the_same_values_as_the_single_measures() -> None:
    tree = time_tree(samples=2, special_mass=0.2)
    node = tree["encoder"].to_dataset(inherit=False)
    heads = measure_heads(tree, window=8, top_keys=3)["encoder"].to_dataset().sel(part="history->history")
    past = (node["query_part"] == 0) & (node["key_part"] == 0)
    attention = node["attention"].transpose("sample", "layer", "head", "query", "key")
    of_rows = {
        "entropy": labelled.row_entropy(attention, past),
        "gini": labelled.gini(attention, past),
        "top_mass": labelled.top_mass(attention, past, top=3),
        "distance": labelled.attention_distance(attention, past),
        "locality": labelled.locality(attention, past, window=8),
    }
    of_maps = {
        "vertical_stripe": labelled.vertical_stripe(attention, past),
        "diagonal_share": labelled.toeplitz_share(attention, past),
        "confidence": labelled.confidence(attention, past),
        "sink": labelled.sink_score(attention, past),
    }
    mean = (attention.where(past, 0) / attention.where(past, 0).sum("key")).mean("sample")
    np.testing.assert_array_equal(heads["top_lag"], labelled.top_lag(mean, past))
    for name, value in ({k: v.mean("query") for k, v in of_rows.items()} | of_maps).items():
        np.testing.assert_allclose(heads[name], value, rtol=1e-5, err_msg=name)


def test_planted_heads_score_on_their_own_stripe() -> None:
    tree = time_tree(heads=("planted", "uniform", "first", "decay"), strength=6.0, noise=0.1, special_mass=0.0)
    heads = measure_heads(tree)["encoder"].to_dataset().sel(part="history->history").mean(["sample", "layer"])
    planted, uniform, first, decay = (heads.isel(head=i) for i in range(4))
    assert planted["diagonal_share"] > 0.5 > first["diagonal_share"]
    assert first["vertical_share"] > 0.9 and first["sink"] == 1 and first["top_column_time"] == 1.5
    assert uniform["sink"] == decay["sink"] == 0 and planted["sink"] == 1 / 32  # the first key is at its lag
    assert first["confidence"] > 0.8 and uniform["confidence"] < 0.1
    assert decay["diagonal_share"] > 0.5 and decay["locality"] > uniform["locality"]
    assert planted["directedness"] > decay["directedness"]
    assert planted["top_lag"] == 32


def test_what_cannot_be_measured_is_refused() -> None:
    attention = maps(random_maps(4, 4))
    with pytest.raises(LaglensError, match="no dim 'key'"):
        labelled.gini(attention.isel(key=0))
    with pytest.raises(LaglensError, match="no coordinate 'key_time'"):
        labelled.locality(attention.drop_vars("key_time"), window=4)
    with pytest.raises(LaglensError, match=r"visible keys is \(3, 3\), the attention map is \(4, 4\)"):
        labelled.gini(attention, causal_mask(3))
    with pytest.raises(LaglensError, match="no query sees any key"):
        labelled.gini(attention, xr.zeros_like(causal_mask(4)))
    with pytest.raises(LaglensError, match="top is 0"):
        labelled.top_mass(attention, top=0)
    with pytest.raises(LaglensError, match="top_keys is 0"):
        measure_heads(time_tree(), top_keys=0)


def test_small_weights_count_for_what_they_are() -> None:
    """pytorch-forecasting takes weights below 1e-5 for missing, and means over the rest are too high."""
    n = 200
    weights = np.full((n, n), 4e-6)
    weights[:, 7] = 1 - 4e-6 * (n - 1)
    rows = measured("attention_distance", maps(weights, step=1.0)).values
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    np.testing.assert_allclose(rows, (weights * distance).sum(1), rtol=1e-12)
    assert rows[7] == pytest.approx(4e-6 * distance[7].sum())  # all that this row adds comes from small weights
    tree = time_tree(heads=("uniform",), special_mass=0.0)
    node = tree["encoder"].to_dataset(inherit=False)
    small = np.where(np.arange(node.sizes["key"]) == 0, 1 - 1e-6 * (node.sizes["key"] - 1), 1e-6)
    node["attention"] = node["attention"].copy(data=np.broadcast_to(small, node["attention"].shape).astype(np.float64))
    profile = lag_profile(node, "history->history", history=tree.attrs["history"])
    near = profile.sel(lag=node.attrs["samples_per_token"])  # one of its pairs has the first key
    pairs = int(((node["query_part"] == 0).sum()) - 1)
    np.testing.assert_allclose(near, (small[0] + 1e-6 * (pairs - 1)) / pairs, rtol=1e-9)


@pytest.mark.parametrize("measure", ["heads", "lags", "rollout", "flow", "similarity"])
def test_no_measure_changes_the_maps_that_it_is_given(measure: str) -> None:
    """detect_head of TransformerLens writes zeros into the cache that it reads, where it leaves out the first token."""
    tree = time_tree(samples=2, special_mass=0.1)
    before = tree.copy(deep=True)
    for node in tree.subtree:
        for variable in node.data_vars.values():
            variable.values.setflags(write=False)
    {
        "heads": lambda: measure_heads(tree),
        "lags": lambda: lag_ratio(tree["encoder"].to_dataset(), "history->history", history=tree.attrs["history"]),
        "rollout": lambda: roll_out(tree, discard=0.5),
        "flow": lambda: attention_flow(tree),
        "similarity": lambda: labelled.head_similarity(tree["encoder"]["attention"]),
    }[measure]()
    xr.testing.assert_identical(tree, before)
