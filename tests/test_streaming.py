"""Attention reduced while it is computed equals attention computed in full and reduced afterwards."""

import math
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import poisoned
from models import TINY, entropy_ratio, tiny
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from laglens.attention import streaming_pass, streaming_products
from laglens.attention.calls import AttentionCall
from laglens.attention.capture import read_attention
from laglens.attention.cube import attention_tree
from laglens.attention.readers import TokenReader, chain_reader
from laglens.attention.streaming import Columns, StreamReader, reduce_weights, rollout_start, stream_attention
from laglens.attention.streaming_statistics import block_statistics
from laglens.errors import LaglensError
from laglens.models.tokens import Stack, TokenMap
from laglens.time.reduce import to_time

ALL = ("entropy", "effective_keys", "top_key")
TOLERANCE = {
    "output": 2e-5,
    "attention": 1e-6,
    "special_mass": 1e-6,
    "entropy": 1e-4,
    "effective_keys": 1e-3,
    "top_key": 0,
}


def grid(rows: int, columns: int, special: int = 1) -> Columns:
    """An image, row by row, with special tokens in front, as queries and as keys."""
    tokens = np.concatenate([np.full(special, -1), np.tile(np.arange(columns), rows)])
    return Columns(tokens, tokens)


def vectors(lead: tuple[int, ...], tokens: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random vectors, heads from diffuse to peaked: among heads that are alike nobody would see them exchanged."""
    sharpness = torch.linspace(0.5, 3, lead[-1])[:, None, None] if lead else 2.0
    return (torch.randn(*lead, tokens, width) * sharpness).to(dtype)


def naive(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    columns: Columns,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> dict[str, Tensor]:
    """Everything in float64 from written-out exponentials and membership matrices."""
    query, key, value = query.double(), key.double(), value.double()
    if query.dim() > 2:
        head = torch.arange(query.shape[-3]) * key.shape[-3] // query.shape[-3]
        key, value = key[..., head, :, :], value[..., head, :, :]
    score = torch.einsum("...id,...jd->...ij", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    visible = torch.ones(score.shape, dtype=torch.bool)
    if is_causal:
        visible &= torch.arange(score.shape[-2])[:, None] >= torch.arange(score.shape[-1])
    if mask is not None:
        visible &= mask if mask.dtype == torch.bool else ~torch.isneginf(mask)
        score = score if mask.dtype == torch.bool else score + mask.double().masked_fill(torch.isneginf(mask), 0)
    largest = score.masked_fill(~visible, -1e300).amax(-1, keepdim=True)
    weights = (score - largest).clamp(max=0).exp() * visible
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)
    of_query, of_key = (
        (torch.from_numpy(c)[:, None] == torch.arange(c.max() + 1)).double() for c in (columns.query, columns.key)
    )
    mean = (of_query / of_query.sum(0)).T
    squares = weights.square().sum(-1)
    return {
        "output": weights @ value,
        "attention": mean @ weights @ of_key,
        "special_mass": (mean @ weights)[..., torch.from_numpy(columns.key) < 0].sum(-1),
        "entropy": -torch.special.xlogy(weights, weights).sum(-1),
        "effective_keys": torch.where(squares > 0, 1 / squares, 0),
        "top_key": weights.argmax(-1),
        "weights": weights,
    }


def assert_equal_to_naive(output: Tensor, reduced: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    found = reduced | {"output": output}
    assert set(found) == set(expected) - {"weights"}
    for name, tensor in found.items():
        assert tensor.shape == expected[name].shape, name
        if name == "top_key":  # which of two that differ by less than rounding is no matter
            weights = expected["weights"]
            assert (weights.gather(-1, tensor[..., None].long())[..., 0] >= weights.amax(-1) - 1e-6).all()
            continue
        np.testing.assert_allclose(tensor.double(), expected[name], rtol=0, atol=TOLERANCE[name], err_msg=name)


@contextmanager
def blocks_of(elements: int) -> Iterator[None]:
    """Small blocks, so that small inputs need many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming_pass, "BLOCK_CPU", elements)
        patch.setattr(streaming_pass, "FEWEST_ROWS", 1)
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random inputs do not depend on the tests that ran before."""
    torch.manual_seed(0)


@st.composite
def token_columns(draw: st.DrawFn, most: int = 12) -> np.ndarray:
    """Columns of one axis: any sizes, even ones, one token each; special tokens and order anywhere."""
    n = draw(st.integers(1, most))
    kind = draw(st.sampled_from(["single", "grid", "neighbours", "any"]))
    size = draw(st.integers(1, 5))
    if kind == "single":
        tokens = list(range(n))
    elif kind == "grid":
        tokens = list(range(n)) * size
    elif kind == "neighbours":
        tokens = sorted(list(range(n)) * size)
    else:
        tokens = list(range(n)) + draw(st.lists(st.integers(0, n - 1), max_size=20))
    special = [-1] * draw(st.integers(0, 3))
    order = draw(st.sampled_from(["before", "after", "shuffled"]))
    tokens = special + tokens if order == "before" else tokens + special
    return np.array(draw(st.permutations(tokens)) if order == "shuffled" else tokens)


def masks(kind: str, lead: tuple[int, ...], n: int, m: int) -> Tensor | None:
    """A mask that leaves some rows without any key."""
    if kind == "none":
        return None
    visible = torch.rand(n, m) > 0.5
    visible[torch.rand(n) > 0.8] = False
    if kind == "per head":
        return torch.rand(*lead, n, m) > 0.6
    if kind == "per sample":
        return visible.expand(*lead[:-1], *(1 for _ in lead[-1:]), n, m)
    if kind == "keys":
        return torch.rand(1, m) > 0.3
    added = torch.randn(n, m).masked_fill(~visible, -math.inf)
    return added if kind == "added" else visible


@settings(max_examples=100, deadline=None)
@given(
    query_columns=token_columns(),
    key_columns=token_columns(),
    lead=st.sampled_from([(), (3,), (2, 4), (3, 1), (2, 1, 4), (2, 3, 2)]),
    mask=st.sampled_from(["none", "bool", "added", "keys", "per head", "per sample"]),
    is_causal=st.booleans(),
    scale=st.sampled_from([None, 1.0]),
    elements=st.sampled_from([2**19, 600, 100, 1]),
    groups=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_call_equals_float64_and_explicit_pooling(
    query_columns: np.ndarray,
    key_columns: np.ndarray,
    lead: tuple[int, ...],
    mask: str,
    is_causal: bool,
    scale: float | None,
    elements: int,
    groups: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    columns, (n, m) = Columns(query_columns, key_columns), (len(query_columns), len(key_columns))
    shared = (*lead[:-1], lead[-1] // 2) if groups and lead and lead[-1] % 2 == 0 else lead
    query, key, value = vectors(lead, n, 4), torch.randn(*shared, m, 4), torch.randn(*shared, m, 3)
    options = {"mask": masks(mask, lead, n, m), "is_causal": is_causal, "scale": scale}
    expected = naive(query, key, value, columns, **options)
    with blocks_of(elements), poisoned():
        output, reduced = stream_attention(query, key, value, columns, statistics=ALL, **options)
        _, only_entropy = stream_attention(query, key, value, columns, statistics=("entropy",), **options)
        _, only_maps = stream_attention(query, key, value, columns, statistics=(), **options)
    assert_equal_to_naive(output, reduced, expected)
    assert set(only_maps) == {"attention", "special_mass"}
    torch.testing.assert_close(only_maps["attention"], reduced["attention"], rtol=0, atol=1e-6)
    torch.testing.assert_close(only_entropy["entropy"], reduced["entropy"], rtol=0, atol=1e-4)
    later = reduce_weights(expected["weights"].float(), columns, statistics=ALL)
    assert_equal_to_naive(output, later, expected)


@settings(max_examples=30, deadline=None)
@given(query=token_columns(), key=token_columns(), elements=st.sampled_from([2**19, 50]), seed=st.integers(0, 2**31))
def test_mass_is_conserved_and_uniform_attention_is_the_size_of_the_columns(
    query: np.ndarray, key: np.ndarray, elements: int, seed: int
) -> None:
    torch.manual_seed(seed)
    columns = Columns(query, key)
    tensors = vectors((2, 3), len(query), 4), torch.randn(2, 3, len(key), 4), torch.randn(2, 3, len(key), 4)
    with blocks_of(elements):
        _, reduced = stream_attention(*tensors, columns)
        _, uniform = stream_attention(tensors[0] * 0, *tensors[1:], columns)
    mass = reduced["attention"].sum(-1) + reduced["special_mass"]
    np.testing.assert_allclose(mass, 1, atol=2e-6)
    sizes = np.bincount(key[key >= 0]) / len(key)
    np.testing.assert_allclose(uniform["attention"], np.broadcast_to(sizes, uniform["attention"].shape), atol=1e-6)
    np.testing.assert_allclose(uniform["entropy"], math.log(len(key)), atol=1e-5)
    np.testing.assert_allclose(uniform["effective_keys"], len(key), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_float32_whatever_the_model_computes_in(dtype: torch.dtype) -> None:
    """bfloat16 scores would err by 1e-3 in the map and .1 nats; float64 keeps its own precision."""
    torch.manual_seed(0)
    columns = grid(6, 11)
    query, key, value = vectors((2, 4), 67, 16, dtype), vectors((2, 4), 67, 16, dtype), vectors((2, 4), 67, 16, dtype)
    expected = naive(query, key, value, columns)
    assert entropy_ratio(expected["weights"]) < 0.9
    output, reduced = stream_attention(query, key, value, columns, statistics=ALL)
    with torch.autocast("cpu", torch.bfloat16):
        _, inside = stream_attention(query, key, value, columns, statistics=ALL)
    assert output.dtype == dtype
    precise = dtype == torch.float64
    for name, found in reduced.items():
        assert found.dtype == (torch.int32 if name == "top_key" else torch.float64 if precise else torch.float32)
        assert torch.equal(found, inside[name])
        np.testing.assert_allclose(found, expected[name], atol=1e-12 if precise else TOLERANCE[name], rtol=0)


def test_an_image_of_a_large_model_keeps_its_precision() -> None:
    """Heads of width 64 over 1025 tokens, from diffuse to nearly one-hot."""
    torch.manual_seed(0)
    columns = grid(32, 32)
    query, key = (vectors((1, 4), 1025, 64) for _ in range(2))
    value = torch.randn(1, 4, 1025, 64)
    expected = naive(query, key, value, columns)
    assert expected["entropy"].mean((0, 2)).min() < 1 and expected["entropy"].mean((0, 2)).max() > 6
    for linear in (streaming_products._linear(), None):  # with oneDNN where there is one, and without
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streaming_products, "_linear", lambda linear=linear: linear)
            assert_equal_to_naive(*stream_attention(query, key, value, columns, statistics=ALL), expected)
    kernel = F.scaled_dot_product_attention(query, key, value)
    output, reduced = stream_attention(query, key, value, columns)
    torch.testing.assert_close(output, kernel, atol=2e-5, rtol=0)
    # Without the weights: sum_j p_ij s_ij is the output for values that are the keys.
    log_sum_exp = (query @ key.mT / 8).logsumexp(-1)
    mean_score = (query * F.scaled_dot_product_attention(query, key, key)).sum(-1) / 8
    torch.testing.assert_close(reduced["entropy"], log_sum_exp - mean_score, atol=5e-4, rtol=0)


def test_the_weights_of_all_tokens_are_a_map_too() -> None:
    query = vectors((2, 3), 40, 8)
    columns = Columns.each_token(40, 40)
    weights = naive(query, query, query, columns)["weights"]
    for elements in (2**19, 400):  # all queries at once, and in blocks
        with blocks_of(elements):
            _, full = stream_attention(query, query, query, columns, statistics=())
            _, half = stream_attention(query, query, query, columns, maps_dtype=torch.float16)
        np.testing.assert_allclose(full["attention"], weights, atol=1e-6)
        assert torch.equal(half["attention"], full["attention"].half())
        assert (half["special_mass"] == 0).all() and (full["special_mass"] == 0).all()


@pytest.mark.parametrize("heads_inside", [False, True])
def test_the_output_lies_in_memory_as_the_kernels(heads_inside: bool) -> None:
    """The layer that follows joins the heads of a token by a reshape, which may be free."""
    query = torch.randn(2, 67, 3, 4, 16).permute(2, 0, 3, 1, 4)[0] if heads_inside else torch.randn(2, 4, 67, 16)
    output, _ = stream_attention(query, query, query, grid(6, 11))
    assert output.stride() == F.scaled_dot_product_attention(query, query, query).stride()


def test_a_mask_of_smallest_numbers_is_uniform_where_it_hides_everything() -> None:
    """As in the kernel: -3.4e38 is finite, so that such rows are not empty."""
    query = torch.randn(1, 2, 12, 8)
    mask = torch.zeros(12, 12).index_fill_(0, torch.tensor([3, 7]), torch.finfo(torch.float32).min)
    output, reduced = stream_attention(query, query, query, grid(3, 4, special=0), mask=mask, statistics=ALL)
    kernel = F.scaled_dot_product_attention(query, query, query, mask)
    torch.testing.assert_close(output, kernel, atol=1e-5, rtol=0)
    np.testing.assert_allclose(reduced["entropy"][..., [3, 7]], math.log(12), atol=1e-6)
    np.testing.assert_allclose(reduced["effective_keys"][..., [3, 7]], 12, atol=1e-4)


def test_rows_without_a_key_are_zero() -> None:
    query = torch.randn(1, 2, 13, 8)
    mask = torch.ones(13, 13, dtype=torch.bool)
    mask[[0, 5]] = False
    output, reduced = stream_attention(query, query, query, grid(3, 4), mask=mask, statistics=ALL)
    for name in ("entropy", "effective_keys", "top_key"):
        assert (reduced[name][..., [0, 5]] == 0).all() and (reduced[name][..., 1:5] != 0).any()
    assert (output[..., [0, 5], :] == 0).all()
    mass = reduced["attention"].sum(-1) + reduced["special_mass"]
    np.testing.assert_allclose(mass[0, 0], [2 / 3, 1, 1, 1], atol=1e-6)  # token 5 is one of three in the first column


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 200), levels=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_the_strongest_key_is_the_first_of_equals(n: int, levels: int, seed: int) -> None:
    scores = torch.from_numpy(np.random.default_rng(seed).integers(0, levels, (3, 2, n)).astype(np.float32))
    weights = scores.softmax(-1)
    found = block_statistics(scores.clone(), weights, ("top_key",))["top_key"]
    np.testing.assert_array_equal(found, scores.numpy().argmax(-1))


class Largest(TorchDispatchMode):
    """Remembers the largest tensor, in bytes, that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        (grid(32, 32), {}),
        (grid(32, 32), {"is_causal": True}),
        (grid(1024, 1), {}),
        (Columns(np.arange(1025) // 4, np.arange(1025) % 7), {"mask": torch.rand(1, 1025) > 0.1}),
        (grid(32, 32), {"rollout": True}),
    ],
    ids=["image", "causal", "one column", "uneven, masked", "rollout"],
)
def test_no_tensor_is_as_large_as_all_weights(columns: Columns, options: dict) -> None:
    n = columns.tokens[0]
    query, key, value = torch.randn(3, 1, 2, n, 4)
    streaming_products.keep_heap()
    if "rollout" in options:
        options = {"rollout": rollout_start(columns)[None]}
    with blocks_of(2**15), Largest() as largest:
        stream_attention(query, key, value, columns, statistics=ALL, **options)
    assert largest.bytes < 4 * n * n / 25


def test_the_rollout_of_a_token_cube_needs_no_whole_weights_beside_it() -> None:
    """What is stored is half as large as the weights in float32, which never exist."""
    tokens = TokenMap.grid(np.arange(0.0, 33), 32, 24).with_special(before=1)
    stack, kept = Stack("encoder", ("layer",), tokens, tokens), {}
    follow = chain_reader((stack,), (), rollout=True)
    reader = TokenReader(stack, torch.float16, ALL, lambda place, arrays, lead: kept.update(arrays), follow)
    query, key, value = torch.randn(3, 1, 4, 1025, 8)
    with Largest() as largest:
        reader.read(AttentionCall("layer", 0, "sdpa", query, key, value))
    assert largest.bytes == kept["attention"].nbytes == 2 * 4 * 1025**2
    assert set(kept) == {"attention", "rollout", "rollout_special", *ALL}
    columns = Columns.of(stack)
    state = rollout_start(columns)[None]
    expected = reduce_weights(naive(query, key, value, columns)["weights"], columns, rollout=state)["rollout"]
    by_column = torch.stack([expected[:, columns.query == column].mean(1) for column in range(32)], 1)
    found = torch.cat([kept["rollout"], kept["rollout_special"][..., None]], -1)
    np.testing.assert_allclose(found, by_column, atol=1e-6)


def test_rollout_is_the_product_of_all_layers() -> None:
    """Token by token, heads averaged, half of every token staying; masked heads count as far as they have mass."""
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).permutation(grid(4, 5, special=2).key)
    columns = Columns(tokens, tokens)
    start = rollout_start(columns)
    assert (start.sum(-1) == 1).all() and (start.sum(0) == torch.tensor([4.0] * 5 + [1, 1])).all()
    state, explicit = start.expand(2, -1, -1), torch.eye(22).double().expand(2, -1, -1)
    for layer, kind in enumerate(["none", "per head", "bool"]):
        query, key, value = vectors((2, 4), 22, 8), vectors((2, 4), 22, 8), torch.randn(2, 4, 22, 8)
        mask = masks(kind, (2, 4), 22, 22)
        weights = naive(query, key, value, columns, mask=mask)["weights"]
        mean = weights.sum(1) / weights.sum((1, 3))[..., None].clamp_min(1e-300)
        mean[mean.sum(-1) == 0] = torch.eye(22).double().expand(2, -1, -1)[mean.sum(-1) == 0]
        explicit = (0.3 * torch.eye(22) + 0.7 * mean) @ explicit
        known = reduce_weights(weights.float(), columns, rollout=state, residual=0.3)
        with blocks_of([2**19, 100, 22][layer]):
            _, reduced = stream_attention(query, key, value, columns, mask=mask, rollout=state, residual=0.3)
        state = reduced["rollout"]
        np.testing.assert_allclose(state, explicit @ start.double(), atol=1e-6)
        np.testing.assert_allclose(known["rollout"], state, atol=1e-6)
    np.testing.assert_allclose(state.sum(-1), 1, atol=1e-6)


def columns_of(model: torch.nn.Module) -> dict[str, Columns]:
    return {layer: Columns.of(stack) for stack in model.stacks for layer in stack.layers}


@pytest.mark.parametrize("architecture", TINY)
def test_reading_while_the_model_runs_equals_reducing_its_cube(architecture: str) -> None:
    model = tiny(architecture)
    series = np.random.default_rng(0).normal(size=(5, model.history + model.horizon)).cumsum(1)
    windows = xr.Dataset({"series": (("sample", "time"), series)}, coords={"start": ("sample", np.arange(5))})
    full = attention_tree(model, windows, store="tokens", dtype="float32", statistics=ALL)
    dense = to_time(full)
    stacks = [stack for stack in model.stacks if not stack.steps]
    reader = StreamReader({layer: Columns.of(stack) for stack in stacks for layer in stack.layers}, ALL)
    inputs = torch.from_numpy(series[:, : model.history])
    _, capture = read_attention(model, inputs, reader=reader)
    found = {record.module: record.reduced for record in capture.records if record.reduced}
    for stack in stacks:
        node = dense[stack.name]
        for layer, name in enumerate(stack.layers):
            for key, tensor in found[name].items():
                # Layers below stream too, so that rounding differs on the way.
                tolerance = {"top_key": 0}.get(key, 10 * TOLERANCE[key])
                np.testing.assert_allclose(tensor, node[key][:, layer], atol=tolerance, rtol=0, err_msg=f"{name} {key}")


@pytest.mark.parametrize("architecture", ["image", "numeric"])
@pytest.mark.parametrize("statistics", [(), *((one,) for one in ALL), ALL])
def test_one_reader_takes_batches_of_any_size_whatever_was_in_memory(
    architecture: str, statistics: tuple[str, ...]
) -> None:
    """Buffers are as large as the largest block of a call, and whole layers leave theirs to the next."""
    model = tiny(architecture)
    inputs, columns = torch.randn(11, model.history, dtype=torch.float64), columns_of(model)
    alone = [read_attention(model, one[None], reader=StreamReader(columns, statistics, rollout=True)) for one in inputs]
    reader = StreamReader(columns, statistics, rollout=True)
    with poisoned(), blocks_of(150):
        for part in inputs.split([3, 1, 5, 2]):
            first = len(inputs) - len(alone)
            output, capture = read_attention(model, part, reader=reader, certify=not first)
            for sample, (expected, known) in enumerate(alone[: len(part)]):
                torch.testing.assert_close(output[sample], expected[0], atol=1e-5, rtol=0)
                for record, single in zip(capture.records, known.records, strict=True):
                    assert set(record.reduced) >= {"attention", "special_mass", "rollout", *statistics}
                    for name, tensor in record.reduced.items():
                        tolerance = 10 * TOLERANCE.get(name, 1e-6)
                        torch.testing.assert_close(tensor[sample], single.reduced[name][0], atol=tolerance, rtol=0)
            del alone[: len(part)]


def calls(n: int = 13) -> AttentionCall:
    query = torch.randn(2, 3, n, 8)
    return AttentionCall("layer", 0, "sdpa", query, torch.randn(2, 3, n, 8), torch.randn(2, 3, n, 8))


def test_modules_without_columns_run_their_own_kernel() -> None:
    assert StreamReader({"other": grid(3, 4)}).read(calls()) is None
    model = tiny("image")
    one = {name: columns for name, columns in columns_of(model).items() if name == "decoder.0.attn"}
    inputs = torch.randn(2, model.history, dtype=torch.float64)
    output, capture = read_attention(model, inputs, reader=StreamReader(one))
    assert [record.module for record in capture.records if record.reduced] == ["decoder.0.attn"]
    assert len(capture.records) == 3
    torch.testing.assert_close(output, model(inputs), atol=1e-5, rtol=0)


def test_queries_are_let_go_before_the_next_layer() -> None:
    """Held through a feed-forward layer they would add to its peak."""
    seen: list[weakref.ref] = []

    class Reader(StreamReader):
        def read(self, call):
            seen.append(weakref.ref(call.query))
            return super().read(call)

    model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    alive = []
    model.linear1.register_forward_pre_hook(lambda *_: alive.append(seen[-1]() is not None))
    columns = Columns.each_token(5, 5)
    read_attention(model, torch.randn(1, 5, 8), reader=Reader({"self_attn": columns}))
    vision = tiny("image")
    vision.encoder[0].mlp.register_forward_pre_hook(lambda *_: alive.append(seen[-1]() is not None))
    read_attention(vision, torch.randn(2, vision.history, dtype=torch.float64), reader=Reader(columns_of(vision)))
    assert alive == [False, False]


def test_some_of_the_tokens_are_kept_as_weights() -> None:
    """Decoding steps and selected queries have no columns of their own; they are put in place later."""
    reader = StreamReader({"layer": grid(3, 4)})
    step = calls(5)
    reading = reader.read(step)
    assert reading.reduced is None and reading.output is None and reading.weights.shape == (2, 3, 5, 5)
    weights = torch.rand(2, 3, 13, 13)
    selected = AttentionCall("layer", 0, "softmax", weights=weights, selected=torch.arange(13).expand(2, 3, 13))
    assert torch.equal(reader.read(selected).weights, weights)


def test_weights_that_the_model_computes_itself_are_reduced_as_they_are() -> None:
    call = calls()
    reader = StreamReader({"layer": grid(3, 4)}, ALL, rollout=True)
    streamed = reader.read(call)
    weights = naive(call.query, call.key, call.value, grid(3, 4))["weights"].float()
    reading = reader.read(AttentionCall("layer", 1, "softmax", weights=weights))
    assert reading.output is None and set(reading.reduced) == set(streamed.reduced)
    for name, tensor in reading.reduced.items():
        np.testing.assert_allclose(tensor, streamed.reduced[name], atol=TOLERANCE.get(name, 1e-6), rtol=0)


def test_the_reader_rolls_out_through_all_layers_and_begins_anew() -> None:
    model, inputs = tiny("image"), torch.randn(2, 32, dtype=torch.float64)
    columns = columns_of(model)
    _, dense = read_attention(model, inputs)
    reader = StreamReader(columns, (), rollout=True)
    for _ in range(2):
        _, capture = read_attention(model, inputs, reader=reader)
        product = torch.eye(12)
        for full, record in zip(dense.records, capture.records, strict=True):
            product = (0.5 * torch.eye(12) + 0.5 * full.weights.mean(1)) @ product
            np.testing.assert_allclose(record.reduced["rollout"], product, atol=1e-5)  # one token per column
            assert (record.reduced["rollout_special"] == 0).all()


def test_rollout_of_special_tokens_is_told_apart() -> None:
    call, columns = calls(), grid(3, 4)
    reduced = StreamReader({"layer": columns}, rollout=True).read(call).reduced
    assert reduced["rollout"].shape == (2, 4, 4) and reduced["rollout_special"].shape == (2, 4)
    np.testing.assert_allclose(reduced["rollout"].sum(-1) + reduced["rollout_special"], 1, atol=1e-6)
    expected = 0.5 * torch.eye(4) + 0.5 * reduced["attention"].mean(1)
    np.testing.assert_allclose(reduced["rollout"], expected, atol=1e-6)
    np.testing.assert_allclose(reduced["rollout_special"], 0.5 * reduced["special_mass"].mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: Columns(np.array([-1, -1]), np.arange(2)), "query axis has no token in time"),
        (lambda: Columns(np.arange(2), np.array([0, 2])), "of the key axis go up to 2, but only 2 are used"),
        (lambda: stream_attention(*torch.randn(3, 1, 2, 9, 4), grid(2, 4), statistics=("gini",)), "'gini' is not one"),
        (lambda: StreamReader({}, ("gini",)), "'gini' is not one of entropy, effective_keys, top_key"),
        (lambda: reduce_weights(torch.rand(2, 9, 9), grid(2, 4), statistics=("gini",)), "'gini' is not one"),
        (
            lambda: stream_attention(*torch.randn(3, 1, 2, 9, 4), grid(2, 5)),
            r"attention of \(9, 9\) .* columns of \(11, 11\)",
        ),
        (
            lambda: stream_attention(
                torch.randn(2, 8, 4),
                *torch.randn(2, 2, 9, 4),
                Columns(grid(2, 4, 0).query, grid(2, 4).key),
                rollout=torch.rand(9, 5),
            ),
            r"rollout needs queries and keys to be the same tokens, here there are \(8, 9\)",
        ),
        (
            lambda: StreamReader({"a": grid(2, 4), "b": grid(4, 2)}, rollout=True),
            "rollout needs the same tokens everywhere: 'b' has others than 'a'",
        ),
    ],
)
def test_what_cannot_be_reduced_is_told_in_one_line(attempt, message: str) -> None:
    with pytest.raises(LaglensError, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def test_streaming_needs_torch_and_numpy_alone() -> None:
    program = (
        "import sys\n"
        "for name in ('xarray', 'zarr', 'pandas', 'scipy', 'timm', 'pydantic'): sys.modules[name] = None\n"
        "import numpy, torch\n"
        "from laglens.attention.streaming import Columns, StreamReader\n"
        "from laglens.attention.capture import read_attention\n"
        "layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()\n"
        "columns = {'self_attn': Columns(numpy.arange(5), numpy.arange(5))}\n"
        "capture = read_attention(layer, torch.randn(1, 5, 8), reader=StreamReader(columns))[1]\n"
        "print(tuple(capture.records[0].reduced['attention'].shape))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(1, 2, 5, 5)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same() -> None:
    columns = grid(32, 32)
    query, key, value = vectors((2, 4), 1025, 64), vectors((2, 4), 1025, 64), torch.randn(2, 4, 1025, 64)
    expected = naive(query, key, value, columns)
    output, reduced = stream_attention(query.cuda(), key.cuda(), value.cuda(), columns, statistics=ALL)
    del reduced["top_key"]  # sums in another order: the first of two near equals may be the other one
    for name, tensor in (reduced | {"output": output}).items():
        np.testing.assert_allclose(tensor.cpu(), expected[name], atol=10 * TOLERANCE[name], rtol=0)
