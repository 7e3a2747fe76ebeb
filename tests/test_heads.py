"""Measures of heads: closed forms, naive loops, planted heads, invariance."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from trees import time_tree

from laglens.errors import LaglensError
from laglens.heads.measure import MEASURES, measure_heads
from laglens.heads.rows import Keys, effective_keys, entropy, gini, row_measures, share_of_keys
from laglens.heads.table import heads_table
from laglens.store import read_tree, write_tree


def plain_keys(n: int, window: float = 1.0) -> Keys:
    return Keys.of(np.ones((1, n), bool), np.zeros(1), np.arange(n), window)


def random_rows(*shape: int, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).exponential(size=shape) ** 3
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("n", [2, 7, 96])
def test_closed_forms_of_uniform_and_one_hot_rows(n: int) -> None:
    uniform = row_measures(np.full((1, n), 1 / n), plain_keys(n))
    one_hot = row_measures(np.eye(n)[n - 1 :], plain_keys(n))
    expected = {"entropy": np.log(n), "relative_entropy": 1, "effective_keys": n, "gini": 0, "distance": (n - 1) / 2}
    for name, value in expected.items():
        np.testing.assert_allclose(uniform[name], value, atol=1e-12, err_msg=name)
    expected = {"entropy": 0, "relative_entropy": 0, "effective_keys": 1, "gini": (n - 1) / n, "distance": n - 1}
    for name, value in expected.items():
        np.testing.assert_allclose(one_hot[name], value, atol=1e-12, err_msg=name)


def test_the_gini_coefficient_is_half_the_relative_mean_difference() -> None:
    rows = random_rows(5, 9)
    naive = np.abs(rows[:, :, None] - rows[:, None, :]).sum((1, 2)) / (2 * 9**2 * rows.mean(1))
    np.testing.assert_allclose(gini(rows, np.full(5, 9.0)), naive, rtol=1e-12)


@given(st.integers(2, 12), st.integers(0, 6), st.integers(0, 100))
def test_keys_that_do_not_count_change_nothing(n: int, hidden: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    row = random_rows(1, n, seed=seed)
    counts = np.zeros(n + hidden, bool)
    counts[rng.permutation(n + hidden)[:n]] = True
    time = np.sort(rng.choice(100, n + hidden, replace=False)).astype(float)
    padded = rng.random((1, n + hidden))  # what stands under a key that does not count is ignored
    padded[:, counts] = row
    alone = Keys.of(np.ones((1, n), bool), np.array([50.0]), time[counts], 4)
    among = Keys.of(counts[None], np.array([50.0]), time, 4)
    for name, value in row_measures(row, alone).items():
        here = row_measures(share_of_keys(padded, among.counts), among)[name]
        np.testing.assert_allclose(here, value, rtol=1e-9, err_msg=name)


def test_a_row_without_mass_has_no_measure_and_a_single_key_no_relative_entropy() -> None:
    assert np.isnan(share_of_keys(np.zeros((1, 3)), np.ones((1, 3), bool))).all()
    measured = row_measures(np.ones((1, 1)), plain_keys(1))
    assert np.isnan(measured["relative_entropy"]) and measured["entropy"] == 0 and measured["gini"] == 0
    assert not np.signbit(measured["entropy"]).any()


def test_measures_equal_a_naive_loop_over_windows_rows_and_keys() -> None:
    tree = time_tree(history=32, horizon=16, step=4, lag=8, special_mass=0.2, samples=2)
    node, heads = tree["encoder"], measure_heads(tree, window=8)["encoder"]
    attention = node["attention"].values.astype(float)
    sample, layer, head, part = 1, 0, 3, "horizon->history"
    found: dict[str, list[float]] = {"entropy": [], "effective_keys": [], "distance": [], "locality": [], "mass": []}
    for q in range(8, 12):
        row = attention[sample, layer, head, q, :8]
        found["mass"].append(row.sum())
        a = row / row.sum()
        distance = np.abs(4 * (q - np.arange(8)))
        found["entropy"].append(-(a * np.log(a)).sum())
        found["effective_keys"].append(1 / (a**2).sum())
        found["distance"].append((a * distance).sum())
        found["locality"].append(a[distance <= 8].sum())
    here = heads.to_dataset().isel(sample=sample, layer=layer, head=head).sel(part=part)
    for name, values in found.items():
        np.testing.assert_allclose(here[name], np.mean(values), rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(here["special_mass"], 0.2, rtol=1e-6)


def test_the_mass_on_all_keys_and_on_special_tokens_sums_to_one() -> None:
    tree = time_tree(special_mass=0.3)
    heads = measure_heads(tree)["decoder"]
    for queries in ("history", "horizon"):
        parts = [heads["mass"].sel(part=f"{queries}->{keys}") for keys in ("history", "horizon")]
        np.testing.assert_allclose(sum(parts) + heads["special_mass"].sel(part=f"{queries}->history"), 1, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_uniform_heads_have_the_values_of_no_preference(causal: bool) -> None:
    tree = time_tree(heads=("uniform",), noise=0.0, causal=causal, stacks={"encoder": (0,)})
    heads = measure_heads(tree)["encoder"].to_dataset()
    for name in ("entropy", "effective_keys", "distance", "locality", "mass"):
        found = heads[name].isel(sample=0, layer=0, head=0)
        np.testing.assert_allclose(found, heads[f"{name}_uniform"], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(heads["relative_entropy"], 1, rtol=1e-5)
    np.testing.assert_allclose(heads["gini"], 0, atol=1e-5)
    assert ("history->horizon" in heads["part"].values) is not causal


def test_planted_heads_are_told_apart() -> None:
    tree = time_tree(heads=("same", "planted", "uniform"), strength=np.inf, noise=0.0, lag=32, step=4)
    heads = measure_heads(tree)["encoder"].to_dataset().isel(sample=0, layer=0).sel(part="history->history")
    same, planted, uniform = (heads.isel(head=i) for i in range(3))
    assert same["distance"] == 0 and same["locality"] == 1 and same["effective_keys"] == 1
    assert planted["gini"] > uniform["gini"] and planted["entropy"] < uniform["entropy"]
    np.testing.assert_allclose(uniform["distance"], heads["distance_uniform"], rtol=1e-5)


def test_permuted_heads_permute_the_measures_and_the_normalisation_does_not_matter() -> None:
    tree = time_tree()
    measured = measure_heads(tree)["encoder"].to_dataset()
    order = [2, 0, 3, 1]
    permuted = measure_heads(tree.isel(head=order))["encoder"].to_dataset()
    for name in MEASURES:
        np.testing.assert_array_equal(permuted[name], measured[name].isel(head=order))
    mean = tree.copy()
    mean["encoder/attention"] = tree["encoder/attention"] / 4  # 4 value rows per column under `normalisation: mean`
    for name in MEASURES:
        np.testing.assert_allclose(measure_heads(mean)["encoder"][name], measured[name], rtol=1e-5)


def test_an_encoder_that_forecasts_from_its_last_token_has_a_readout_part() -> None:
    tree = time_tree(horizon_tokens=False, readout="last", stacks={"encoder": (0,)})
    heads = measure_heads(tree)["encoder"]
    assert list(heads["part"].values) == ["readout->history", "history->history"]
    assert list(heads["n_rows"].values) == [1, 32]


def test_the_table_has_a_row_per_head_and_part_and_the_tree_survives_a_file(tmp_path) -> None:
    tree = measure_heads(time_tree(samples=3))
    write_tree(tree, tmp_path / "heads.zarr.zip")
    again = read_tree(tmp_path / "heads.zarr.zip")
    for name, node in tree.children.items():
        xr.testing.assert_identical(again[name].to_dataset(), node.to_dataset())
    table = heads_table(tree)
    assert len(table) == (2 + 1) * 4 * 4
    assert table["n_windows"].eq(3).all()
    row = table.set_index(["stack", "layer", "head", "part"]).loc["encoder", 1, 2, "horizon->history"]
    values = tree["encoder"]["gini"].sel(layer=1, head=2, part="horizon->history").values
    np.testing.assert_allclose(row[["gini", "gini_sd"]].astype(float), [values.mean(), values.std(ddof=1)])
    assert np.isnan(heads_table(measure_heads(time_tree(samples=1)))["gini_sd"]).all()


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(LaglensError, match="window is -1; it must be 'auto' or a distance above 0"):
        measure_heads(time_tree(), window=-1)
    with pytest.raises(LaglensError, match="no attention stack"):
        measure_heads(xr.DataTree(xr.Dataset(attrs={"history": 8})))
    with pytest.raises(LaglensError, match="result of the heads stage"):
        heads_table(time_tree())


def test_kernels_take_any_leading_dimensions() -> None:
    rows = random_rows(2, 3, 4, 6)
    assert entropy(rows).shape == effective_keys(rows).shape == gini(rows, np.full(4, 6.0)).shape == (2, 3, 4)
