"""From single calls to whole cubes: passes, decoding steps, channels, selected rows; every layout in both stores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from stage_models import (
    HEADS,
    CausalSparse,
    Channels,
    Decoding,
    Picture,
    Small,
    Sparse,
    TwoPasses,
    small,
    windows_of,
)
from torch import Tensor

from laglens.attention.assembly import Batch, records_of, whole_weights
from laglens.attention.calls import Record
from laglens.attention.capture import read_attention
from laglens.attention.cube import attention_tree
from laglens.attention.weights import attention_weights
from laglens.errors import LaglensError
from laglens.models.tokens import Stack, TokenMap
from laglens.time.reduce import to_time


def captured(model: Small, n: int = 4, **options) -> xr.DataTree:
    return attention_tree(model, windows_of(model, n), dtype="float32", **options)


def shown(model: Small, n: int = 4) -> Tensor:
    return torch.from_numpy(windows_of(model, n)["series"].values[..., : model.history])


def test_passes_are_told_apart_by_their_call() -> None:
    model = small(TwoPasses)
    tree = captured(model)
    with torch.no_grad():
        for name, sign in (("encoder", 1), ("encoder_flipped", -1)):
            x = model.embedded(sign * shown(model))
            layer = model.layers[0]
            expected = attention_weights(layer.heads(layer.to_query(x)), layer.heads(layer.to_key(x)))
            np.testing.assert_allclose(tree[name]["attention"][:, 0], expected, atol=1e-5)
    assert np.abs(tree["encoder"]["attention"] - tree["encoder_flipped"]["attention"]).max() > 0.1


@pytest.mark.parametrize("prompt", [1, 3])
def test_rows_of_decoding_steps_are_put_in_place(prompt: int) -> None:
    """With cached keys every step has one row, without it has all rows so far; both are those of one causal run."""
    cached, uncached = (captured(small(Decoding, cached=c, prompt=prompt).double()) for c in (True, False))
    model = small(Decoding, prompt=prompt).double()
    n = prompt + model.horizon - 1
    for name, keys in (("decoder", n), ("cross", model.history)):
        weights = cached[name]["attention"]
        assert weights.shape == (4, 2, HEADS, n, keys)
        np.testing.assert_allclose(uncached[name]["attention"], weights, atol=1e-5)
        np.testing.assert_allclose(weights.sum("key"), 1, atol=1e-5)
    assert (np.triu(cached["decoder"]["attention"].values, 1) == 0).all()
    assert cached["decoder"].attrs["causal"] and not cached["cross"].attrs["causal"]
    with torch.no_grad():
        memory, tokens = model.encode(model.embedded(shown(model))), model.start.expand(4, -1, -1)
        for _ in range(model.horizon - 1):
            tokens = torch.cat([tokens, model.decode(tokens, memory, None)[:, -1:]], 1)
        own = model.own[0]
        expected = attention_weights(own.heads(own.to_query(tokens)), own.heads(own.to_key(tokens)), is_causal=True)
    np.testing.assert_allclose(cached["decoder"]["attention"][:, 0], expected, atol=1e-5)


def test_channels_become_an_axis_and_then_samples() -> None:
    model = small(Channels)
    tree = captured(model)
    assert tree["encoder"]["attention"].dims == ("sample", "channel", "layer", "head", "query", "key")
    assert tree["forecast"].dims == ("sample", "channel", "step")
    one = small(Small)
    for c in range(3):
        alone = windows_of(model, 4).isel(channel=c)
        expected = attention_tree(one, alone, dtype="float32")["encoder"]["attention"]
        np.testing.assert_allclose(tree["encoder"]["attention"][:, c], expected, atol=1e-5)
    time = to_time(tree)
    assert time["encoder"]["attention"].dims == ("sample", "layer", "head", "query", "key")
    assert time["channel"].values.tolist() == [0, 1, 2] * 4
    assert time["series"].dims == ("sample", "time") and time["forecast"].shape == (12, model.horizon)
    np.testing.assert_array_equal(time["series"][4], tree["series"][1, 1])
    np.testing.assert_array_equal(time["encoder"]["attention"][4], tree["encoder"]["attention"][1, 1])


@pytest.mark.parametrize("kind", [Sparse, CausalSparse])
def test_selected_rows_are_placed_and_the_others_are_even(kind: type[Small]) -> None:
    model = small(kind)
    tree = captured(model)
    (node,) = tree.children.values()
    causal = node.attrs["causal"]
    selected, weights = node["selected"].values, node["attention"].values
    assert (selected.sum(-1) == 3).all()
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    visible = np.tril(np.ones((12, 12))) if causal else np.ones((12, 12))
    even = np.broadcast_to(visible / visible.sum(1, keepdims=True), weights.shape)
    np.testing.assert_allclose(weights[~selected], even[~selected], atol=1e-6)
    layer, x = model.layers[0], model.embedded(shown(model))
    with torch.no_grad():
        q, k = layer.heads(layer.to_query(x)), layer.heads(layer.to_key(x))
        expected = attention_weights(q, k, is_causal=causal).numpy()
    np.testing.assert_allclose(weights[:, 0][selected[:, 0]], expected[selected[:, 0]], atol=1e-5)
    assert np.abs(weights[selected] - even[selected]).max() > 0.2


MODELS = {
    "picture": (Picture, {}),
    "passes": (TwoPasses, {}),
    "channels": (Channels, {}),
    "sparse": (Sparse, {}),
    "cached": (Decoding, {"cached": True}),
    "uncached": (Decoding, {"cached": False, "prompt": 2}),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-7)])
@pytest.mark.parametrize("normalisation", ["mass", "mean"])
@pytest.mark.parametrize("name", MODELS)
def test_both_stores_give_the_same_time_maps(
    name: str, normalisation: str, dtype: torch.dtype, tolerance: float
) -> None:
    """In float32 the outputs of a layer, and so the inputs of the next, differ by rounding."""
    kind, options = MODELS[name]
    model = small(kind, **options).to(dtype)
    trees = [captured(model, 5, store=store, rollout=True) for store in ("tokens", "time")]
    assert [{node.attrs["store"] for node in tree.children.values()} for tree in trees] == [{"tokens"}, {"time"}]
    from_tokens, streamed = (to_time(tree, normalisation=normalisation) for tree in trees)
    assert list(from_tokens.children) == list(streamed.children) == [stack.name for stack in model.stacks]
    for stack, node in from_tokens.children.items():
        other = streamed[stack]
        assert set(node.variables) == set(other.variables) and node.attrs == other.attrs
        assert "store" not in node.attrs
        for variable in node.data_vars:
            assert node[variable].dims == other[variable].dims and node[variable].dtype == other[variable].dtype
            allowed = {"entropy": 1e-4, "effective_keys": 1e-3}.get(str(variable), tolerance)
            np.testing.assert_allclose(other[variable], node[variable], atol=allowed)
        for coord in node.coords:
            np.testing.assert_array_equal(other[coord], node[coord])
    first, same = (tree[model.stacks[0].name]["attention"][:, 0] for tree in (from_tokens, streamed))
    np.testing.assert_allclose(same, first, atol=1e-6)
    np.testing.assert_allclose(trees[0]["forecast"], trees[1]["forecast"], atol=1e-5)


def test_a_streamed_rollout_is_the_product_of_the_layers() -> None:
    model = small(Picture).double()
    tree = captured(model, 3, store="time", rollout=True)["encoder"]
    cube = captured(model, 3)["encoder"]["attention"].values.astype(float).mean(2)
    tokens = model.tokens
    state = np.broadcast_to(np.eye(len(tokens)), cube[:, 0].shape)
    for layer in range(2):
        state = 0.5 * state + 0.5 * cube[:, layer] @ state
        for q in range(12):
            rows = state[:, tokens.column == q].mean(1)
            by_column = np.stack([rows[:, tokens.column == k].sum(1) for k in range(12)], 1)
            np.testing.assert_allclose(tree["rollout"][:, layer, q], by_column, atol=1e-5)
            np.testing.assert_allclose(
                tree["rollout_special"][:, layer, q], rows[:, tokens.column < 0].sum(1), atol=1e-5
            )


def record(weights: Tensor, call: int = 0, **options) -> Record:
    return Record("a", call, "softmax", tuple(weights.shape[-2:]), weights, None, None, 0, 0, 0, **options)


def test_what_does_not_fit_is_named() -> None:
    tokens = TokenMap.patches(6, 0, 1)
    plain, steps = Stack("encoder", ("a",), tokens, tokens), Stack("decoder", ("a",), tokens, tokens, steps=True)
    with pytest.raises(LaglensError, match=r"stack 'encoder': no attention call in a"):
        records_of(plain, [])
    with pytest.raises(LaglensError, match=r"no attention call number 2 in a"):
        records_of(Stack("flipped", ("a",), tokens, tokens, call=1), [record(torch.ones(1, 1, 6, 6))])
    with pytest.raises(LaglensError, match=r"\(6, 6\) query and key tokens, the weights of 'a' \(5, 6\)"):
        whole_weights(plain, [record(torch.ones(1, 1, 5, 6))])
    for shapes in ([(1, 1), (1, 2)], [(5, 5), (2, 6)], [(6, 7)]):
        calls = [record(torch.ones(1, 1, *shape), i) for i, shape in enumerate(shapes)]
        with pytest.raises(LaglensError, match=r"stack 'decoder': step \d of 'a' attends from"):
            whole_weights(steps, calls)
    with pytest.raises(LaglensError, match=r"leading dims of its attention are \(7, 4\)"):
        Batch(slice(0, 4)).unfold(torch.ones(7, 4, 3, 3), (7, 4), "a")


@pytest.mark.parametrize("lead", [(4, 3), (4, 1, 3), (12,), (2, 2, 3)])
def test_the_batch_and_the_heads_are_told_apart(lead: tuple[int, ...]) -> None:
    weights = torch.rand(*lead, 5, 5)
    batch = Batch(slice(4, 6), 2)
    assert torch.equal(batch.unfold(weights, lead, "a"), weights.reshape(2, 2, 3, 5, 5))


def test_capture_reads_what_the_small_models_use() -> None:
    """Of the tests themselves: the attention is far from uniform, and certified."""
    for kind in (Small, Picture, Channels, Decoding):
        model = small(kind)
        _, capture = read_attention(model, shown(model))
        assert capture.certificate["worst"] < 1e-5
        weights = capture.records[0].weights
        entropy = -torch.special.xlogy(weights, weights).sum(-1).mean() / np.log(weights.shape[-1])
        assert entropy < 0.9
