"""Token-to-time reduction: mass is conserved, identities, the published demo's mean."""

import numpy as np
import pytest
import xarray as xr
from models import tiny

from laglens.attention.cube import attention_tree, token_coordinates
from laglens.errors import LaglensError
from laglens.models.tokens import HISTORY, HORIZON, SPECIAL, TokenMap
from laglens.time.controls import control_time_tree
from laglens.time.reduce import average_windows, stack_replicates, to_time


def grid_map(rows: int, columns: int, special: int, step: float = 16.0) -> TokenMap:
    """CLS tokens, then a row-major grid of value rows by time columns; the last third is the horizon."""
    column = np.tile(np.arange(columns), rows)
    start = np.concatenate([np.full(special, np.nan), column * step])
    row = np.concatenate([np.zeros(special, int), np.repeat(np.arange(rows), columns)])
    part = np.where(column >= columns * 2 // 3, HORIZON, HISTORY)
    part = np.concatenate([np.full(special, SPECIAL), part])
    return TokenMap(start, start + step, row, part, part == HORIZON)


def token_tree(weights: np.ndarray, tokens: TokenMap) -> xr.DataTree:
    dims = ("sample", "layer", "head", "query", "key")
    statistics = {
        "entropy": (dims[:-1], -(weights * np.log(weights.clip(1e-30))).sum(-1)),
        "effective_keys": (dims[:-1], 1 / (weights**2).sum(-1)),
        "top_key": (dims[:-1], weights.argmax(-1)),
    }
    coords = token_coordinates("query", tokens) | token_coordinates("key", tokens)
    coords |= {"layer": np.arange(weights.shape[1]), "head": np.arange(weights.shape[2])}
    coords["layer_name"] = ("layer", np.array(["a"] * weights.shape[1], dtype=object))
    node = xr.Dataset({"attention": (dims, weights), **statistics}, coords)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"history": 1}), "/encoder": node})


def random_rows(*shape: int, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).exponential(size=shape) ** 3
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize(("rows", "columns", "special"), [(1, 12, 0), (4, 9, 1), (5, 13, 2), (3, 1, 1)])
def test_mass_is_conserved_and_equals_a_naive_loop(rows: int, columns: int, special: int) -> None:
    tokens = grid_map(rows, columns, special)
    weights = random_rows(2, 3, 2, len(tokens), len(tokens))
    node = to_time(token_tree(weights, tokens))["encoder"]
    np.testing.assert_allclose(node["attention"].sum("key") + node["special_mass"], 1, atol=1e-5)
    grid = weights[..., special:, special:].reshape(2, 3, 2, rows, columns, rows, columns)
    np.testing.assert_allclose(node["attention"], grid.sum(5).mean(3), atol=1e-6)
    naive_special = weights[..., special:, :special].sum(-1).reshape(2, 3, 2, rows, columns).mean(3)
    np.testing.assert_allclose(node["special_mass"], naive_special, atol=1e-6)
    assert node.attrs["samples_per_token"] == 16.0
    np.testing.assert_array_equal(node["query_time"], 16.0 * np.arange(columns) + 7.5)


def test_the_mean_of_the_published_demo_is_the_mass_over_the_rows() -> None:
    tokens = grid_map(4, 9, 1)
    tree = token_tree(random_rows(1, 1, 2, len(tokens), len(tokens)), tokens)
    mass, mean = (to_time(tree, normalisation=n)["encoder"]["attention"] for n in ("mass", "mean"))
    np.testing.assert_allclose(mean * 4, mass, rtol=1e-6)


def test_identity_attention_stays_on_the_diagonal_and_a_shift_keeps_its_lag() -> None:
    tokens = grid_map(1, 10, 0, step=4.0)
    for shift in (0, 3):
        weights = np.eye(10)[None, None, None][..., (np.arange(10) - shift) % 10, :]
        node = to_time(token_tree(weights, tokens))["encoder"]
        strongest = node["attention"][0, 0, 0].argmax("key").values[shift:]
        lag = node["query_time"].values[shift:] - node["key_time"].values[strongest]
        np.testing.assert_array_equal(lag, 4.0 * shift)


def test_row_statistics_travel_on_the_tokens() -> None:
    tokens = grid_map(3, 6, 1)
    tree = token_tree(random_rows(1, 2, 2, len(tokens), len(tokens)), tokens)
    node = to_time(tree)["encoder"]
    for name in ("entropy", "effective_keys", "top_key"):
        np.testing.assert_array_equal(node[name], tree["encoder"][name])
    np.testing.assert_array_equal(node["token_part"], tokens.part)


def test_a_model_without_time_tokens_and_an_unknown_normalisation_are_refused() -> None:
    n = 4
    nowhere = TokenMap(np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, int), np.full(n, SPECIAL), np.zeros(n, bool))
    with pytest.raises(LaglensError, match="no token in time"):
        to_time(token_tree(random_rows(1, 1, 1, n, n), nowhere))
    with pytest.raises(LaglensError, match="'max' is not one of mass, mean"):
        to_time(token_tree(random_rows(1, 1, 1, 9, 9), grid_map(1, 9, 0)), normalisation="max")


@pytest.mark.parametrize("architecture", ["image", "encoder"])
def test_controls_are_the_mean_maps_of_their_windows(architecture: str) -> None:
    model = tiny(architecture)
    length, n = model.history + model.horizon, 3
    values = np.random.default_rng(0).normal(size=(50, 1, length + n - 1)).cumsum(-1)
    control = xr.Dataset({"value": (("replicate", "sample", "time"), values)}, attrs={"control": "ar1"})

    def cut(value: xr.DataArray) -> xr.Dataset:
        series = np.lib.stride_tricks.sliding_window_view(value.values[0], length)
        return xr.Dataset({"series": (("sample", "time"), series)})

    tree = control_time_tree(model, control, cut)
    assert tree["encoder"].sizes["sample"] == 50
    assert tree.attrs["control"] == "ar1" and tree.attrs["n_windows"] == n
    for r in (0, 42, 49):
        alone = to_time(attention_tree(model, cut(control["value"][r]), dtype="float32"))
        for name, node in alone.children.items():
            mean = node["attention"].mean("sample")
            assert tree[name]["attention"].dtype == np.float16
            np.testing.assert_allclose(tree[name]["attention"][r], mean, rtol=1e-3, atol=1e-6)


def test_stacked_replicates_keep_their_order() -> None:
    tokens = grid_map(1, 5, 0)
    trees = [average_windows(to_time(token_tree(random_rows(2, 1, 1, 5, 5, seed=s), tokens))) for s in range(3)]
    stacked = stack_replicates(trees)
    for s, tree in enumerate(trees):
        np.testing.assert_array_equal(stacked["encoder"]["attention"][s], tree["encoder"]["attention"][0])
