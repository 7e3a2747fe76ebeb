"""What is captured is what the model used, whatever way it computes attention."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.attention.bias
import torch.nn.functional as F
from attention_models import ByName, Call, EagerAttention, FusedAttention, naive_weights, records_of
from models import TINY, entropy_ratio, sharpen, tiny
from torch import nn

from laglens.attention.capture import read_attention
from laglens.attention.weights import attention_weights
from laglens.models.registry import build_model

HALF = {torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Biases of the models are drawn when they are built."""
    torch.manual_seed(0)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float", "empty row"])
def test_weights_equal_a_float64_softmax(kind: str, dtype: torch.dtype) -> None:
    query, key = drawn(2, 4, 9, 8, dtype=dtype), drawn(2, 4, 13, 8, dtype=dtype, seed=1)
    allowed = torch.ones(9, 13, dtype=torch.bool)
    options: dict = {}
    if kind == "causal":
        allowed, options = allowed.tril(), {"is_causal": True}
    if kind in ("bool", "float", "empty row"):
        allowed = drawn(9, 13, seed=2) > -0.2
        allowed[:, 0] = True
        if kind == "empty row":
            allowed[3] = False
        mask = allowed if kind != "float" else torch.zeros(9, 13, dtype=dtype).masked_fill(~allowed, -math.inf)
        options = {"mask": mask}
    got = attention_weights(query, key, **options)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), naive_weights(query, key, allowed, 8**-0.5), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain", "causal", "bool", "float", "scale", "grouped", "wide value"])
def test_every_form_of_the_call_is_certified(kind: str, dtype: torch.dtype) -> None:
    query, key, value = (drawn(2, 4, n, 8, dtype=dtype, seed=n) for n in (9, 13, 14))
    value, scale, allowed, options = value[..., :13, :], 8**-0.5, torch.ones(9, 13, dtype=torch.bool), {}
    if kind == "causal":
        allowed, options = allowed.tril(), {"is_causal": True}
    if kind in ("bool", "float"):
        allowed = (drawn(2, 1, 9, 13, seed=3) > -0.3).index_fill(-1, torch.tensor([0]), True)
        options = {"attn_mask": allowed}
    if kind == "float":
        options = {"attn_mask": torch.zeros(2, 1, 9, 13, dtype=dtype).masked_fill(~allowed, -math.inf)}
    if kind == "scale":
        scale, options = 0.7, {"scale": 0.7}
    if kind == "grouped":
        key, value, options = key[:, :2], value[:, :2], {"enable_gqa": True}
    if kind == "wide value":
        value = value.repeat(1, 1, 1, 2)
    _, capture = read_attention(Call(**options), query, key, value)
    record = capture.records[0]
    expected = naive_weights(query, key.repeat_interleave(4 // key.shape[1], 1), allowed, scale)
    torch.testing.assert_close(record.weights.double(), expected, atol=2e-6, rtol=1e-5)
    assert record.error < HALF.get(dtype, 2e-6) <= record.tolerance
    assert record.shape == (9, 13)


@pytest.mark.parametrize("corner", ["upper_left", "lower_right"])
def test_a_mask_that_is_an_object_of_torch_is_written_out(corner: str) -> None:
    query, key = drawn(2, 2, 5, 8), drawn(2, 2, 9, 8, seed=1)
    mask = getattr(torch.nn.attention.bias, f"causal_{corner}")(5, 9)
    _, capture = read_attention(Call(attn_mask=mask), query, key, key)
    allowed = torch.ones(5, 9, dtype=torch.bool).tril(0 if corner == "upper_left" else 4)
    expected = naive_weights(query, key, allowed, 8**-0.5)
    torch.testing.assert_close(capture.records[0].weights.double(), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 3, 2), (2, 1, 3, 2)])
def test_calls_of_any_rank_are_read(lead: tuple[int, ...]) -> None:
    query = drawn(*lead, 6, 8)
    _, capture = read_attention(Call(), query, query, query)
    allowed = torch.ones(6, 6, dtype=torch.bool)
    torch.testing.assert_close(
        capture.records[0].weights.double(), naive_weights(query, query, allowed, 8**-0.5), atol=2e-6, rtol=1e-5
    )


def test_masks_of_every_kind_equal_an_explicit_mask() -> None:
    """Bool, added, causal, and the padding of multi-head attention."""
    query = drawn(2, 2, 7, 8)
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    added = torch.zeros(7, 7).masked_fill(~causal, -math.inf)
    smallest = torch.zeros(7, 7).masked_fill(~causal, torch.finfo(torch.float32).min)
    found = [
        records_of(Call(**options), query, query, query)[0].weights
        for options in ({"attn_mask": causal}, {"attn_mask": added}, {"attn_mask": smallest}, {"is_causal": True})
    ]
    for weights in found[1:]:
        torch.testing.assert_close(weights, found[0], atol=1e-7, rtol=1e-6)
    attention, x = sharpen(nn.MultiheadAttention(8, 2, batch_first=True)), drawn(2, 7, 8)
    padding = torch.arange(7) >= torch.tensor([[7], [4]])
    _, padded = read_attention(attention, x, x, x, key_padding_mask=padding)
    explicit = padding[:, None, None].expand(2, 2, 7, 7).flatten(0, 1)
    _, masked = read_attention(attention, x, x, x, attn_mask=explicit)
    torch.testing.assert_close(padded.records[0].weights, masked.records[0].weights)
    assert padded.records[0].weights[1, :, :, 4:].abs().max() == 0


@pytest.mark.parametrize("value", [False, -math.inf, torch.finfo(torch.float32).min])
def test_rows_without_a_visible_key_are_counted_from_the_mask(value: float) -> None:
    query = drawn(2, 3, 5, 8)
    allowed = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    allowed[1, :, 3:] = False
    mask = allowed if value is False else torch.zeros(2, 1, 5, 5).masked_fill(~allowed, value)
    _, capture = read_attention(Call(attn_mask=mask), query, query, query)
    assert capture.records[0].empty_rows == 2 * 3
    used = 0.2 if value == torch.finfo(torch.float32).min else 0.0  # what torch's kernel does there
    assert (capture.records[0].weights[1, :, 3:] - used).abs().max() < 1e-7


def test_a_call_site_imported_by_name_is_seen() -> None:
    _, capture = read_attention(ByName().eval(), drawn(2, 9, 16))
    assert capture.records[0].error < 1e-5


@pytest.mark.parametrize("architecture", TINY)
def test_models_of_the_workflow_are_captured_and_certified(architecture: str) -> None:
    model = tiny(architecture)
    history = drawn(3, model.history).double()
    with torch.no_grad():
        plain = model(history)
    output, capture = read_attention(model, history)
    torch.testing.assert_close(output, plain, atol=1e-5, rtol=1e-5)
    layers = {layer for stack in model.stacks for layer in stack.layers}
    assert {record.module for record in capture.records} == layers == set(capture.found)
    ratios = [entropy_ratio(record.weights) for record in capture.records if record.shape[1] > 1]
    assert sum(ratios) / len(ratios) < 0.9
    for record in capture.records:
        assert record.error < 1e-5
        torch.testing.assert_close(record.weights.sum(-1), torch.ones_like(record.weights[..., 0]))


def test_default_weights_would_hide_errors() -> None:
    """Why the tests sharpen: freshly built models attend almost uniformly."""
    model = build_model("numeric", TINY["numeric"])
    _, capture = read_attention(model, drawn(2, model.history).double())
    assert min(entropy_ratio(record.weights) for record in capture.records) > 0.9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [FusedAttention, EagerAttention])
def test_half_precision_is_certified_within_its_rounding(kind: type, dtype: torch.dtype) -> None:
    model, x = sharpen(kind()), drawn(2, 9, 8)
    exact = records_of(model.double(), x.double())[0].weights
    _, capture = read_attention(model.to(dtype), x.to(dtype))
    record = capture.records[0]
    assert entropy_ratio(record.weights) < 0.9
    torch.testing.assert_close(record.weights.double(), exact, atol=20 * HALF[dtype], rtol=0)
    if record.source == "sdpa":
        assert record.error < HALF[dtype] and record.weights.dtype == torch.float32


def test_under_autocast_scores_come_from_the_cast_tensors() -> None:
    """Normalised queries are float32; autocast casts them where the kernel is called."""

    class Normalised(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            query = F.layer_norm(x, x.shape[-1:])
            assert query.dtype == torch.float32
            return F.scaled_dot_product_attention(query, query, x)

    x = 3 * drawn(2, 3, 9, 16)
    with torch.autocast("cpu", torch.bfloat16):
        output, capture = read_attention(Normalised().eval(), x)
    record = capture.records[0]
    cast = F.layer_norm(x, (16,)).bfloat16()
    assert output.dtype == torch.bfloat16
    assert record.weights.dtype == torch.float32
    expected = naive_weights(cast, cast, torch.ones(9, 9, dtype=torch.bool), 0.25)
    torch.testing.assert_close(record.weights.double(), expected, atol=2e-6, rtol=1e-5)
    assert 1e-4 < record.error < 8e-3


def test_products_of_reduced_precision_have_the_tolerance_of_half() -> None:
    """TF32 and bfloat16 products keep about three digits of a float32 model."""
    model, x = sharpen(FusedAttention()), drawn(2, 9, 8)
    assert records_of(model, x)[0].tolerance == 1e-4
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert records_of(model, x)[0].tolerance == 2e-2
        assert records_of(model.double(), x.double())[0].tolerance == 1e-4
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    model, x = sharpen(nn.Sequential(FusedAttention(), EagerAttention())), drawn(2, 9, 8)
    both = records_of(model, x)
    alone = [records_of(model, sample[None]) for sample in x]
    for i, record in enumerate(both):
        apart = torch.cat([records[i].weights for records in alone])
        torch.testing.assert_close(record.weights, apart, atol=1e-6, rtol=1e-5)


def test_a_module_that_runs_twice_leaves_two_records() -> None:
    layer = sharpen(FusedAttention())
    model, x = nn.Sequential(layer, nn.Identity(), layer), drawn(1, 5, 8)
    _, capture = read_attention(model.eval(), x)
    assert [(record.module, record.call) for record in capture.records] == [("0", 0), ("0", 1)]
    second = records_of(layer, layer(x).detach())[0]
    torch.testing.assert_close(capture.records[1].weights, second.weights)
