"""Rollout: identities, closed forms, an explicit product, planted lags, stacks in their order."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from models import tiny
from stage_models import Picture, small, windows_of
from trees import node_of, time_tree

from laglens.attention.cube import attention_tree
from laglens.errors import LaglensError
from laglens.flow.lags import flow_lags, flow_table, rollout_lags
from laglens.flow.layers import FUSIONS
from laglens.flow.maximum import attention_flow
from laglens.flow.rollout import roll_out, rollout
from laglens.store import read_tree, write_dataset, write_tree
from laglens.time.reduce import to_time


def random_maps(*shape: int, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).exponential(size=shape) ** 3
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("residual", [0.0, 0.3, 1.0])
def test_rows_sum_to_one_whatever_the_fusion_even_when_rows_do_not(fusion: str, residual: float) -> None:
    maps = 0.4 * random_maps(5, 3, 8, 8)
    maps[2, 0, 4], maps[2, 1:, 4, 0] = 0, 1  # the minimum leaves this row without any mass
    reached = rollout(maps, fusion=fusion, residual=residual)
    assert reached.shape == (5, 8, 8)
    np.testing.assert_allclose(reached.sum(-1), 1, rtol=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_attention_to_oneself_stays_with_oneself(fusion: str) -> None:
    maps = np.broadcast_to(np.eye(6), (4, 2, 6, 6))
    np.testing.assert_array_equal(rollout(maps, fusion=fusion), np.broadcast_to(np.eye(6), (4, 6, 6)))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_uniform_attention_has_its_closed_form(fusion: str) -> None:
    n = 7
    reached = rollout(np.full((6, 3, n, n), 1 / n), fusion=fusion)
    for depth, map_ in enumerate(reached, start=1):
        expected = (1 - 2.0**-depth) / n + 2.0**-depth * np.eye(n)
        np.testing.assert_allclose(map_, expected, rtol=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_it_is_the_explicit_product_with_the_new_layer_on_the_left(fusion: str) -> None:
    maps, w, n = random_maps(3, 4, 5, 5), 0.3, 5
    explicit = []
    for heads in maps:
        fused = {"mean": heads.mean(0), "max": heads.max(0), "min": heads.min(0)}[fusion]
        explicit.append(w * np.eye(n) + (1 - w) * fused / fused.sum(1)[:, None])
    a, b, c = explicit
    reached = rollout(maps, fusion=fusion, residual=w)
    for found, expected in zip(reached, (a, b @ a, c @ (b @ a)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.abs(reached[2] - a @ b @ c).max() > 0.01


def test_permuting_tokens_permutes_the_rollout_and_permuting_heads_does_nothing() -> None:
    maps = random_maps(3, 4, 6, 6)
    order = np.random.default_rng(1).permutation(6)
    permuted = rollout(maps[:, ::-1][..., order, :][..., order])
    np.testing.assert_allclose(permuted, rollout(maps)[..., order, :][..., order], rtol=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("n", [1, 2])
def test_windows_do_not_depend_on_each_other(n: int, fusion: str) -> None:
    tree = time_tree(samples=5)
    whole = roll_out(tree, fusion=fusion)
    for first in range(0, 5, n):
        alone = roll_out(tree.isel(sample=slice(first, first + n)), fusion=fusion)
        np.testing.assert_array_equal(alone["rollout"], whole["rollout"][first : first + n])
    np.testing.assert_allclose(whole["rollout"].mean("sample"), whole["rollout_mean"], rtol=1e-5)


def test_the_decoder_follows_the_encoder_also_after_a_file_has_sorted_them(tmp_path) -> None:
    tree = time_tree(history=32, horizon=16, step=4, lag=8, samples=2)
    write_tree(tree, tmp_path / "time.zarr.zip")
    flow = roll_out(read_tree(tmp_path / "time.zarr.zip"))
    assert list(flow["stack"].values) == ["encoder", "encoder", "decoder"]
    assert list(flow["stack_layer"].values) == [0, 1, 2]
    both = np.concatenate([tree[name]["attention"].values[1] for name in ("encoder", "decoder")])
    np.testing.assert_allclose(flow["rollout"][1], rollout(both), atol=1e-6)
    xr.testing.assert_identical(flow, roll_out(tree))


def test_special_tokens_are_left_out_of_the_rows_and_told() -> None:
    plain, special = roll_out(time_tree(noise=0.1)), roll_out(time_tree(noise=0.1, special_mass=0.25))
    np.testing.assert_allclose(special["rollout"], plain["rollout"], atol=1e-6)
    np.testing.assert_allclose(special["special_mass"], 0.25, rtol=1e-6)
    assert special["special_mass"].sizes == {"sample": 4, "layer": 3, "query": 48}


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_discarding_is_done_row_by_row_in_every_window_and_never_of_special_columns(n: int, fusion: str) -> None:
    maps = random_maps(n, 2, 3, 7, 7)
    special = np.arange(7) == 0
    maps[..., 0] = 1e-15  # the smallest of every row, and special
    for window in maps:
        expected = np.eye(7)
        for heads in window:
            fused = {"mean": heads.mean(0), "max": heads.max(0), "min": heads.min(0)}[fusion]
            for row in fused:
                row[1 + np.argsort(row[1:])[:3]] = 0  # half of the six others
            expected = (np.eye(7) + fused / fused.sum(1, keepdims=True)) / 2 @ expected
        found = rollout(window, fusion=fusion, discard=0.5, special=special)
        np.testing.assert_allclose(found[-1], expected, rtol=1e-12)
        assert (rollout(window, fusion=fusion, discard=0.5)[0][1:, 0] == 0).all()


def test_keys_that_a_row_cannot_see_do_not_count_as_dropped() -> None:
    maps = np.tril(np.ones((6, 6)))[None, None]
    maps = maps / maps.sum(-1, keepdims=True)
    reached = rollout(maps, discard=0.5, residual=0.0)[0]
    np.testing.assert_array_equal((reached > 0).sum(1), [1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("start", [1, 2])
def test_layers_below_the_start_are_not_followed(start: int) -> None:
    tree = time_tree(samples=2, noise=0.2)
    both = np.concatenate([tree[name]["attention"].values[1] for name in ("encoder", "decoder")])
    flow = roll_out(tree, start=start)
    np.testing.assert_allclose(flow["rollout"][1], rollout(both[start:]), atol=1e-6)
    np.testing.assert_array_equal(rollout(both, start=start), rollout(both[start:]))
    assert list(flow["layer"].values) == list(range(start, 3)) and flow["stack"].values[-1] == "decoder"
    assert flow["special_mass"].sizes["layer"] == 3 - start


def forecast_tree(samples: int = 3) -> xr.DataTree:
    """Time maps of an encoder-decoder model whose decoder has tokens of its own."""
    model = tiny("encoder_decoder")
    series = np.random.default_rng(0).normal(size=(samples, model.history + model.horizon)).cumsum(1)
    windows = xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(samples)})
    windows.attrs["history"] = model.history
    return to_time(attention_tree(model, windows, dtype="float32"))


def test_a_decoder_with_tokens_of_its_own_reads_the_encoder_through_cross_attention() -> None:
    tree = forecast_tree()
    flow = roll_out(tree, residual=0.4)
    n, m = 24, 6
    maps = (tree[name]["attention"].values[1].astype(float).mean(1) for name in ("encoder", "decoder", "cross"))
    encoder, decoder, cross = maps
    of_encoder, own, read = np.eye(n), np.eye(m), np.zeros((m, n))
    for map_ in encoder:
        of_encoder = (0.4 * np.eye(n) + 0.6 * map_ / map_.sum(1, keepdims=True)) @ of_encoder
    for self_, across in zip(decoder, cross, strict=True):
        mixed = 0.4 * np.eye(m) + 0.6 * self_ / self_.sum(1, keepdims=True)
        own, read = 0.4 * mixed @ own, 0.4 * mixed @ read + 0.6 * across / across.sum(1, keepdims=True) @ of_encoder
    found = flow["rollout"].values[1, -1]
    np.testing.assert_allclose(found[:n, :n], of_encoder, atol=1e-6)
    np.testing.assert_allclose(found[n:, :n], read, atol=1e-6)
    np.testing.assert_allclose(found[n:, n:], own, atol=1e-6)
    np.testing.assert_allclose(flow["rollout"].sum("key"), 1, atol=1e-6)
    assert list(flow["stack"].values) == ["encoder", "encoder", "decoder", "decoder"]
    assert flow.attrs["followed"] == ["encoder", "decoder", "cross"] and flow.attrs["left_out"] == {}
    later = np.triu(np.ones((m, m), bool), 1)
    assert (found[n:, n:][later] == 0).all() and not flow["visible"].values[n:, n:][later].any()
    assert not flow["visible"].values[:n, n:].any() and flow["visible"].values[n:, :n].all()
    np.testing.assert_array_equal(flow["query_time"], np.arange(n + m))
    assert set(rollout_lags(flow)["part"].values) >= {"horizon->history", "history->history"}
    whole = attention_flow(tree, queries="all")
    assert whole["max_flow"].sizes == {"query": n + m, "key": n + m} and (whole["max_flow"].values[:n, n:] == 0).all()


def nodes(**datasets: xr.Dataset) -> xr.DataTree:
    root = {"/": time_tree().to_dataset()}
    return xr.DataTree.from_dict(root | {f"/{name}": node for name, node in datasets.items()})


def test_stacks_that_do_not_go_on_from_the_first_are_left_out_with_the_reason() -> None:
    square, other = node_of(time_tree()), node_of(time_tree(step=8), "decoder")
    crossed = square.isel(key=slice(32))
    tree = nodes(cross=crossed, encoder=square, encoder_flipped=square, decoder=other)
    flow = roll_out(tree)
    assert flow.attrs["left_out"] == {
        "cross": "the path is encoder and then decoder",
        "encoder_flipped": "the path is encoder and then decoder",
        "decoder": "its tokens are not those of 'encoder', and no cross-attention joins them",
    }
    xr.testing.assert_equal(flow, roll_out(nodes(encoder=square)))
    assert roll_out(nodes(encoder=crossed, decoder=other)).sizes["query"] == 24
    with pytest.raises(LaglensError, match="nothing to roll out in this tree: 'encoder': its queries and keys are not"):
        roll_out(nodes(encoder=crossed))


@pytest.mark.parametrize("architecture", ["image", "numeric"])
def test_the_rollout_of_the_capture_is_that_of_the_columns_where_each_is_one_token(architecture: str) -> None:
    model = tiny(architecture)
    series = np.random.default_rng(0).normal(size=(3, model.history + model.horizon)).cumsum(1)
    windows = xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(3)})
    tree = to_time(attention_tree(model, windows, store="time", rollout=True))
    streamed = roll_out(tree)
    columns = xr.DataTree.from_dict(
        {"/": tree.to_dataset()} | {f"/{name}": node_of(tree, name).drop_vars("rollout") for name in tree.children}
    )
    assert streamed.attrs["level"] == "tokens"
    assert roll_out(columns).attrs["level"] == roll_out(tree, residual=0.3).attrs["level"] == "columns"
    np.testing.assert_allclose(streamed["rollout"], roll_out(columns)["rollout"], atol=1e-6)
    assert list(streamed["stack"].values) == ["encoder", "encoder", "decoder"]


def test_a_tree_of_tokens_is_rolled_out_over_all_tokens_and_then_reduced_to_time() -> None:
    model = small(Picture)
    tokens = attention_tree(model, windows_of(model), rollout=True, dtype="float32", store="tokens")
    streamed = roll_out(to_time(tokens))
    whole = roll_out(tokens)
    assert whole.attrs["level"] == streamed.attrs["level"] == "tokens"
    np.testing.assert_allclose(whole["rollout"], streamed["rollout"], atol=1e-5)
    assert whole.attrs["samples_per_token"] == 4 and whole.sizes["query"] == streamed.sizes["query"] == 12
    weights = tokens["encoder"]["attention"].values[2].astype(float)
    special = tokens["encoder"]["key_part"].values == 2
    explicit = rollout(weights, discard=0.6, special=special)[-1]
    assert special.sum() == 2 and (explicit[:, special] > 0).all()
    dropped = roll_out(tokens, discard=0.6)
    # Two value rows of twelve columns each between the special tokens.
    by_column = explicit[1:-1].reshape(2, 12, -1).mean(0)
    np.testing.assert_allclose(dropped["special_mass"][2, -1], by_column[:, [0, -1]].sum(1), atol=1e-6)
    history = by_column[:, 1:-1].reshape(12, 2, 12).sum(1)
    np.testing.assert_allclose(dropped["rollout"][2, -1], history / history.sum(1, keepdims=True), atol=1e-6)


def test_a_rollout_through_special_tokens_is_not_that_of_the_columns() -> None:
    model = small(Picture)
    tree = to_time(attention_tree(model, windows_of(model), rollout=True, dtype="float32"))
    node = node_of(tree)
    flow = roll_out(tree)
    np.testing.assert_allclose(flow["rollout"].sum("key"), 1, atol=1e-6)
    np.testing.assert_allclose(flow["rollout"] * (1 - node["rollout_special"]), node["rollout"], atol=1e-6)
    without = xr.DataTree.from_dict({"/": tree.to_dataset(), "/encoder": node.drop_vars("rollout")})
    assert np.abs(flow["rollout"] - roll_out(without)["rollout"]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "sum"}, "fusion 'sum' is not one of mean, max, min"),
        ({"residual": 1.2}, "residual is 1.2"),
        ({"discard": 1.0}, "discard is 1"),
        ({"start": 3}, "start is 3; the path has 3 layers"),
        ({"start": -1}, "start is -1"),
    ],
)
def test_wrong_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(LaglensError, match=message):
        roll_out(time_tree(), **options)


def test_the_lag_of_planted_heads_is_the_lag_of_the_rollout() -> None:
    tree = time_tree(heads=("planted", "uniform"), lag=32, stacks={"encoder": (0,)}, strength=6)
    lags = rollout_lags(roll_out(tree))
    for part in ("history->history", "horizon->history"):
        ratio = lags["ratio"].sel(part=part).isel(layer=-1)
        ratio = ratio.where(ratio["lag"] > 0, drop=True)
        assert ratio.idxmax("lag") == 32, part
    uniform = rollout_lags(roll_out(time_tree(heads=("uniform",), noise=0.0), residual=0.0))["ratio"]
    np.testing.assert_allclose(uniform.values[np.isfinite(uniform.values)], 1, rtol=1e-5)


def test_two_layers_at_one_lag_reach_twice_as_far() -> None:
    tree = time_tree(heads=("planted",), lag=16, stacks={"encoder": (0, 1)}, strength=np.inf, noise=0.0, horizon=32)
    lags = rollout_lags(roll_out(tree))["ratio"].sel(part="history->history")
    for layer, present, absent in ((0, [16], [32, 48]), (1, [16, 32], [48])):
        assert (lags.sel(layer=layer, lag=present) > 1).all()
        assert (lags.sel(layer=layer, lag=absent) == 0).all()


def test_the_table_tells_the_last_layer_in_the_unit_of_the_signal(tmp_path) -> None:
    tree = time_tree(samples=3)
    tree.attrs["signal"] |= {"time_step": 0.5, "time_unit": "days"}
    flow = roll_out(tree, fusion="max")
    lags = rollout_lags(flow)
    maximum = attention_flow(tree, queries="all")
    both = flow_table(lags.assign(flow_lags(maximum).data_vars))
    assert set(both["method"]) == {"rollout", "max_flow", "widest_path"} and both["ratio"].notna().all()
    pd.testing.assert_frame_equal(both[both["method"] == "rollout"], flow_table(lags))
    write_dataset(flow.merge(lags, combine_attrs="override"), tmp_path / "flow.zarr.zip")
    table = flow_table(lags)
    assert set(table["part"]) == set(lags["part"].values) and set(table["method"]) == {"rollout"}
    assert table["time_unit"].eq("days").all() and table["fusion"].eq("max").all() and table["n_windows"].eq(3).all()
    np.testing.assert_array_equal(table["lag_time"], table["lag"] / 2)
    row = table.set_index(["part", "lag"]).loc["horizon->history", 32.0]
    here = lags.isel(layer=-1).sel(part="horizon->history", lag=32)
    np.testing.assert_allclose(row[["ratio", "ratio_sd"]].astype(float), [here["ratio"], here["ratio_sd"]])
    assert np.isfinite(table["ratio_sd"]).all()
