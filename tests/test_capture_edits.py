"""Interventions: a call is changed where it is read, so that what is measured is what was cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attention_models import Call, EagerAttention, FusedAttention, records_of
from models import sharpen, tiny
from torch import nn

from laglens.attention.calls import AttentionCall
from laglens.attention.capture import AttentionCapture, read_attention
from laglens.errors import LaglensError


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Biases of the models are drawn when they are built."""
    torch.manual_seed(0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def band(n_queries: int, n_keys: int, *lags: int) -> torch.Tensor:
    lag = torch.arange(n_queries)[:, None] - torch.arange(n_keys)
    return torch.isin(lag.abs(), torch.tensor(lags, dtype=torch.long))


def cut(*lags: int) -> Callable[[AttentionCall], AttentionCall]:
    return lambda call: call.without(band(*call.shape, *lags))


def vit() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    return model, (drawn(2, 3, 64, 64),)


def encoder() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2), (drawn(2, 12, 16),)


def both() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return nn.Transformer(16, 2, 1, 2, 32, batch_first=True), (drawn(2, 12, 16), drawn(2, 7, 16, seed=1))


def eager() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return nn.Sequential(EagerAttention(), FusedAttention(), EagerAttention()), (drawn(2, 12, 8),)


def huggingface(attention: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.PatchTSTConfig(
        context_length=48,
        patch_length=4,
        patch_stride=4,
        d_model=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        ffn_dim=16,
        num_input_channels=2,
        prediction_length=4,
    )
    model = transformers.PatchTSTForPrediction(config)
    model.set_attn_implementation(attention)
    return model, (drawn(2, 48, 2),)


MODELS = {
    "timm": vit,
    "torch encoder": encoder,
    "torch transformer": both,
    "eager": eager,
    "transformers, sdpa": lambda: huggingface("sdpa"),
    "transformers, eager": lambda: huggingface("eager"),
}


def output_of(result: object) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else result.prediction_outputs


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_edit_reproduces_the_output(name: str) -> None:
    model, inputs = MODELS[name]()
    sharpen(model)
    with torch.no_grad():
        plain = output_of(model(*inputs))
    unchanged, _ = read_attention(model, *inputs, edit=lambda call: call)
    nothing_cut, _ = read_attention(model, *inputs, edit=cut())
    assert (output_of(unchanged) - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert (output_of(nothing_cut) - plain).abs().max() <= 1e-5 * plain.abs().max()
    if name in ("timm", "eager", "transformers, sdpa", "transformers, eager"):
        assert torch.equal(output_of(unchanged), plain)


@pytest.mark.parametrize("name", MODELS)
def test_a_band_that_is_cut_has_no_mass(name: str) -> None:
    model, inputs = MODELS[name]()
    sharpen(model)
    plain, before = read_attention(model, *inputs)
    changed, after = read_attention(model, *inputs, edit=cut(2, 3))
    assert (output_of(changed) - output_of(plain)).abs().max() > 1e-3
    assert [record.module for record in after.records] == [record.module for record in before.records]
    for record, intact in zip(after.records, before.records, strict=True):
        edges = band(*record.shape, 2, 3)
        assert record.weights[..., edges].abs().max() == 0 < intact.weights[..., edges].max()
        rows = record.weights.sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))
    assert after.certificate["worst"] < 1e-5


def test_what_is_left_is_what_an_explicit_mask_leaves() -> None:
    """Bool, added and causal masks of the caller stay in force; the first layer sees the same input."""
    query, edges = drawn(2, 2, 7, 8), band(7, 7, 2)
    added = drawn(7, 7, seed=1)
    allowed = (drawn(7, 7, seed=2) > -0.5) | torch.eye(7, dtype=torch.bool)
    nothing = torch.zeros(7, 7)
    for options, mask in (
        ({}, nothing),
        ({"attn_mask": added}, added),
        ({"attn_mask": allowed}, nothing.masked_fill(~allowed, -math.inf)),
        ({"is_causal": True}, nothing.masked_fill(torch.ones(7, 7).triu(1) > 0, -math.inf)),
    ):
        _, capture = read_attention(Call(**options), query, query, query, edit=cut(2))
        expected = records_of(Call(attn_mask=mask.masked_fill(edges, -math.inf)), query, query, query)
        torch.testing.assert_close(capture.records[0].weights, expected[0].weights, atol=1e-6, rtol=1e-5)


def test_an_edit_may_differ_by_sample_head_and_module() -> None:
    model, x = sharpen(nn.Sequential(FusedAttention(), EagerAttention())), drawn(2, 9, 8)
    edges = torch.zeros(2, 2, 9, 9, dtype=torch.bool)
    edges[1, 0, :, 4] = True

    def edit(call: AttentionCall) -> AttentionCall:
        return call.without(edges) if call.module == "1" else call

    _, before = read_attention(model, x)
    _, after = read_attention(model, x, edit=edit)
    assert torch.equal(after.records[0].weights, before.records[0].weights)
    assert after.records[1].weights[1, 0, :, 4].abs().max() == 0
    for sample, head in ((0, 0), (0, 1), (1, 1)):
        assert torch.equal(after.records[1].weights[sample, head], before.records[1].weights[sample, head])


def test_a_head_may_be_silenced() -> None:
    """By its values, or by the weights where the softmax is written out."""

    def silence(call: AttentionCall) -> AttentionCall:
        kept = torch.tensor([0.0, 1.0])[:, None, None]
        if call.weights is not None:
            return replace(call, weights=call.weights * kept)
        return replace(call, value=call.operands[2] * kept)

    x = drawn(2, 9, 8)
    fused = sharpen(FusedAttention())
    eager = EagerAttention()
    eager.load_state_dict(fused.state_dict())
    outputs = [read_attention(model.eval(), x, edit=silence)[0] for model in (fused, eager)]
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        assert (fused(x) - outputs[0]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", [FusedAttention, EagerAttention])
def test_rows_emptied_by_an_edit_are_zero_and_counted(kind: type) -> None:
    model, x = sharpen(kind()), drawn(2, 9, 8)
    edges = torch.zeros(9, 9, dtype=torch.bool)
    edges[4] = True
    output, capture = read_attention(model, x, edit=lambda call: call.without(edges))
    record = capture.records[0]
    assert record.empty_rows == 2 * 2
    assert record.weights[:, :, 4].abs().max() == 0
    torch.testing.assert_close(output[:, 4], model.output.bias.expand(2, -1))


def test_the_softmax_of_a_model_is_edited_once_a_clean_run_has_proved_it() -> None:
    model, x = sharpen(nn.Sequential(EagerAttention(), nn.Softmax(-1), FusedAttention())), drawn(2, 9, 8)
    _, clean = read_attention(model, x)
    runs = []
    model.register_forward_hook(lambda module, args, output: runs.append(output))
    _, given = read_attention(model, x, edit=cut(2), clean=clean)
    assert len(runs) == 1
    _, found = read_attention(model, x, edit=cut(2))
    assert len(runs) == 3  # stopped, clean, edited; the stopped run leaves no output
    for record, expected in zip(given.records, found.records, strict=True):
        assert torch.equal(record.weights, expected.weights)
    unknown = "softmax of '0' was not known to be attention when it could be edited"
    with pytest.raises(LaglensError, match=unknown), torch.no_grad(), AttentionCapture(model, edit=cut(2)):
        model(x)


def test_edits_reach_every_layer_of_a_model_of_the_workflow() -> None:
    model = tiny("encoder")
    history = drawn(2, model.history).double()
    output, capture = read_attention(model, history, edit=cut(5))
    plain, _ = read_attention(model, history)
    assert all(record.weights[..., band(*record.shape, 5)].max() == 0 for record in capture.records)
    assert (output - plain).abs().max() > 1e-3
