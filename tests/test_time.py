"""Token-to-time reduction: mass is conserved, identities, the published demo's mean."""

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from stage_models import Channels, Decoding, Picture, Small, Sparse, small

from laglens.attention.coordinates import token_coordinates
from laglens.attention.cube import attention_tree
from laglens.errors import LaglensError
from laglens.lags.alike import require_alike
from laglens.models.tokens import HISTORY, HORIZON, SPECIAL, TokenMap
from laglens.signals.windows import windows
from laglens.store import opened_tree, read_tree, tree_writer, write_tree
from laglens.time import reduce
from laglens.time.controls import control_time_tree
from laglens.time.reduce import time_into, to_time


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


@pytest.mark.parametrize("normalisation", ["mass", "mean"])
def test_a_cube_on_disk_is_reduced_piece_by_piece(
    normalisation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cube need not fit in memory: what is read at once does not grow with it."""
    tokens = grid_map(3, 8, 1)
    tree = token_tree(random_rows(7, 2, 4, len(tokens), len(tokens)), tokens)
    tree["encoder"]["attention"] = tree["encoder"]["attention"].astype("float16")
    whole = to_time(tree, normalisation=normalisation)
    write_tree(tree, tmp_path / "attention.zarr.zip")
    read: list[int] = []
    loaded = reduce._loaded

    def note(*args, **options):
        values = loaded(*args, **options)
        read.append(values.size * 4)
        return values

    matrix = 4 * len(tokens) ** 2
    monkeypatch.setattr(reduce, "_loaded", note)
    monkeypatch.setattr(reduce, "PIECE", 3 * matrix)
    with (
        opened_tree(tmp_path / "attention.zarr.zip") as cube,
        tree_writer(tmp_path / "time.zarr.zip", ["encoder"]) as w,
    ):
        time_into(w, cube, normalisation=normalisation)
    assert max(read) <= 3 * matrix < tree["encoder"]["attention"].size * 4 / 10
    written = read_tree(tmp_path / "time.zarr.zip")
    xr.testing.assert_identical(written, whole)


def test_memory_of_a_reduction_does_not_grow_with_the_cube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that numpy and Python take, from opening the cube on disk to the file that is left."""
    tokens = grid_map(10, 20, 0)
    monkeypatch.setattr(reduce, "PIECE", 2**20)
    peaks = []
    for samples in (4, 20):
        tree = token_tree(random_rows(samples, 2, 4, 200, 200), tokens)
        tree["encoder"]["attention"] = tree["encoder"]["attention"].astype("float16")
        write_tree(tree, tmp_path / "attention.zarr.zip")
        del tree
        tracemalloc.start()
        with (
            opened_tree(tmp_path / "attention.zarr.zip") as cube,
            tree_writer(tmp_path / "time.zarr.zip", ["encoder"]) as writer,
        ):
            time_into(writer, cube)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    cube_bytes = 2 * 20 * 2 * 4 * 200**2
    assert peaks[0] < cube_bytes / 4 and peaks[1] - peaks[0] < cube_bytes / 10  # what leaves grows with the windows


@pytest.mark.parametrize("normalisation", ["mass", "mean"])
@pytest.mark.parametrize("kind", [Small, Picture, Channels, Decoding, Sparse])
def test_controls_are_the_mean_maps_of_their_windows(kind: type[Small], normalisation: str) -> None:
    model = small(kind).double()
    length, n = model.history + model.horizon, 3
    shape = (22, model.channels, length + n - 1)
    values = np.random.default_rng(0).normal(size=shape).cumsum(-1)
    control = xr.Dataset({"value": (("replicate", "sample", "time"), values)}, attrs={"control": "ar1"})

    def cut(value: xr.DataArray) -> xr.Dataset:
        return windows(value, model.history, model.horizon, n, channels=model.channels)

    tree = control_time_tree(model, control, cut, normalisation=normalisation)
    assert tree.attrs["control"] == "ar1" and tree.attrs["n_windows"] == n * model.channels
    assert tree.attrs["certificate"]["captured"] == tree.attrs["certificate"]["found"]
    for r in (0, 20, 21):
        attention = attention_tree(model, cut(control["value"][r]), dtype="float32", statistics=())
        alone = to_time(attention, normalisation=normalisation)
        require_alike(alone, tree, ("the signal", "the control"))
        for name, node in alone.children.items():
            assert tree[name].sizes["sample"] == 22
            assert tree[name]["attention"].dtype == np.float16
            mean = node["attention"].mean("sample")
            np.testing.assert_allclose(tree[name]["attention"][r], mean, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(tree[name]["special_mass"][r], node["special_mass"].mean("sample"), atol=1e-5)


def test_controls_may_be_cut_anywhere_by_the_batches() -> None:
    """A replicate that begins in one batch and ends in another is the same."""
    model = small(Picture)
    values = np.random.default_rng(0).normal(size=(5, 1, 90)).cumsum(-1)
    control = xr.Dataset({"value": (("replicate", "sample", "time"), values)})
    cut = partial(windows, history=model.history, horizon=model.horizon, n=4)
    whole = control_time_tree(model, control, cut)
    in_parts = control_time_tree(model, control, cut, memory_gb=3.5e-4)
    for name, node in whole.children.items():
        np.testing.assert_allclose(in_parts[name]["attention"], node["attention"], rtol=1e-3, atol=1e-6)
