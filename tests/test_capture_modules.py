"""Torch's own attention modules and timm's: with and without their fast paths, the capture sees the same weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from attention_models import EagerAttention, FusedAttention, multihead_weights, records_of
from models import entropy_ratio, sharpen, tiny
from torch import nn
from torch.utils.checkpoint import checkpoint

from laglens.attention.capture import AttentionCapture, read_attention


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Biases of the models are drawn when they are built."""
    torch.manual_seed(0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(records: list, expected: list[torch.Tensor], valid: torch.Tensor | None = None) -> None:
    assert len(records) == len(expected) > 0
    for record, weights in zip(records, expected, strict=True):
        got, reference = record.weights, weights
        if valid is not None:
            got, reference = got.transpose(1, 2)[valid], reference.transpose(1, 2)[valid]
        assert entropy_ratio(reference) < 0.9
        torch.testing.assert_close(got, reference.reshape(got.shape), atol=5e-6, rtol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_encoder_with_and_without_its_fast_path(padded: bool, norm_first: bool) -> None:
    """Torch's fused layers leave no weights to hooks; the nested path writes zeros where keys are padded."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    model = sharpen(nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first))
    x, valid = drawn(3, 8, 16), torch.ones(3, 8, dtype=torch.bool)
    if padded:
        valid = torch.arange(8) < torch.tensor([[8], [5], [3]])
    options = {"src_key_padding_mask": ~valid} if padded else {}
    with torch.no_grad():
        plain = model(x, **options)
    output, fast = read_attention(model, x, **options)
    torch.testing.assert_close(output[valid], plain[valid], atol=1e-5, rtol=1e-4)
    assert_same(fast.records, multihead_weights(model, x, **options), valid)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        _, slow = read_attention(model, x, **options)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    for with_path, without in zip(fast.records, slow.records, strict=True):
        assert torch.equal(with_path.weights, without.weights)
    assert {record.source for record in fast.records} == {"mha"}
    assert fast.certificate["worst"] < 1e-5


def test_weights_of_the_encoder_equal_those_torch_returns_on_request() -> None:
    model = tiny("encoder")
    history = drawn(2, model.history).double()
    _, capture = read_attention(model, history)
    assert_same(capture.records, multihead_weights(model, history))


def test_transformer_with_encoder_causal_decoder_and_cross_attention() -> None:
    model = sharpen(nn.Transformer(16, 2, 2, 2, 32, batch_first=True))
    inputs = drawn(2, 9, 16), drawn(2, 5, 16, seed=1)
    options = {"tgt_mask": nn.Transformer.generate_square_subsequent_mask(5), "tgt_is_causal": True}
    _, capture = read_attention(model, *inputs, **options)
    assert_same(capture.records, multihead_weights(model, *inputs, **options))
    shapes = {record.module: record.shape for record in capture.records}
    assert shapes["encoder.layers.0.self_attn"] == (9, 9)
    assert shapes["decoder.layers.1.self_attn"] == (5, 5)
    assert shapes["decoder.layers.1.multihead_attn"] == (5, 9)
    causal = next(record for record in capture.records if record.module == "decoder.layers.0.self_attn")
    assert causal.weights.triu(1).abs().max() == 0


BUILDS = {
    "plain": {},
    "other widths": {"kdim": 6, "vdim": 10},
    "bias keys": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True},
}
MASKS = ("none", "padding", "float", "bool per head", "causal")
# Torch shows an added key to all queries of a causal call if it is asked for weights, and to none otherwise.
FORMS = [
    (build, mask)
    for build, mask in itertools.product(BUILDS, MASKS)
    if mask != "causal" or build not in ("bias keys", "zero key")
]


@pytest.mark.parametrize(("build", "mask"), FORMS)
@pytest.mark.parametrize("layout", ["batch first", "sequence first", "unbatched"])
def test_multihead_attention_in_every_form(build: str, mask: str, layout: str) -> None:
    """The caller gets what it asked for, and the record holds every head."""
    attention = sharpen(nn.MultiheadAttention(8, 2, batch_first=layout != "sequence first", **BUILDS[build]))
    widths = (8, 8, 8) if build != "other widths" else (8, 6, 10)
    inputs = [drawn(*(() if layout == "unbatched" else (3,)), 7, width, seed=i) for i, width in enumerate(widths)]
    if layout == "sequence first":
        inputs = [x.transpose(0, 1) for x in inputs]
    n_masks = 2 if layout == "unbatched" else 6
    padding = torch.arange(7) >= torch.tensor([[7], [4], [6]])
    forbidden = (drawn(n_masks, 7, 7, seed=5) > 0.5).index_fill(-1, torch.tensor([0]), False)
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    options: dict = {
        "none": {},
        "padding": {"key_padding_mask": padding[1] if layout == "unbatched" else padding},
        "float": {"attn_mask": drawn(7, 7, seed=6)},
        "bool per head": {"attn_mask": forbidden},
        "causal": {"attn_mask": causal, "is_causal": True},
    }[mask]
    every_head = attention(*inputs, **options, average_attn_weights=False)[1]
    for wanted, average in itertools.product((True, False), (True, False)):
        asked = {"need_weights": wanted, "average_attn_weights": average, **options}
        expected = attention(*inputs, **asked)
        got, capture = read_attention(attention, *inputs, **asked)
        torch.testing.assert_close(got[0], expected[0], atol=2e-6, rtol=1e-5)
        assert (got[1] is None) == (expected[1] is None) == (not wanted)
        if wanted:
            torch.testing.assert_close(got[1], expected[1], atol=2e-6, rtol=1e-5)
        record = capture.records[0]
        torch.testing.assert_close(record.weights, every_head.reshape(record.weights.shape), atol=2e-6, rtol=1e-5)
        assert (record.source, record.module, record.error < 2e-6) == ("mha", "", True)


def test_a_wrong_causal_hint_is_not_believed_where_torch_does_not() -> None:
    """Asked for weights, torch follows the mask that is given and ignores the hint that it is causal."""
    attention, x = sharpen(nn.MultiheadAttention(8, 2, batch_first=True)), drawn(2, 7, 8)
    mask = torch.zeros(7, 7, dtype=torch.bool).index_fill(1, torch.tensor([2]), True)
    expected = attention(x, x, x, attn_mask=mask, is_causal=True)
    got, capture = read_attention(attention, x, x, x, attn_mask=mask, is_causal=True)
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=1e-5)
    assert capture.records[0].weights[..., 2].abs().max() == 0 < capture.records[0].weights[..., 3:].max()


def timm_models() -> dict[str, nn.Module]:
    from timm.models.eva import Eva
    from timm.models.twins import Twins
    from timm.models.vision_transformer import VisionTransformer

    size = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    twins = {"embed_dims": (16, 32), "num_heads": (2, 2), "mlp_ratios": (2, 2), "depths": (2, 2)}
    return {
        "ViT": VisionTransformer(**size),
        "ViT with normalised queries and registers": VisionTransformer(**size, qk_norm=True, reg_tokens=4),
        "EVA, rotary": Eva(**size, use_rot_pos_emb=True, use_abs_pos_emb=False),
        "Twins, rank 5": Twins(img_size=64, patch_size=4, sr_ratios=(4, 2), wss=(4, 4), num_classes=0, **twins),
    }


@pytest.mark.parametrize("name", timm_models())
def test_fused_and_unfused_timm_give_the_same_maps(name: str) -> None:
    """Hooks and fx find nothing, or some of the layers, where timm's attention is fused."""
    model, x = sharpen(timm_models()[name]), drawn(2, 3, 64, 64)
    _, fused = read_attention(model, x)
    seen: list[torch.Tensor] = []
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
            module.attn_drop.register_forward_hook(lambda module, args, output: seen.append(output))
    _, unfused = read_attention(model, x)
    assert {record.source for record in fused.records} == {"sdpa"}
    assert {record.source for record in unfused.records} == {"softmax"}
    assert [record.module for record in fused.records] == [record.module for record in unfused.records]
    for with_kernel, without, hooked in zip(fused.records, unfused.records, seen, strict=True):
        assert torch.equal(without.weights, hooked)
        torch.testing.assert_close(with_kernel.weights, without.weights, atol=5e-6, rtol=1e-4)
        assert entropy_ratio(hooked) < 0.95


def test_transformers_with_fused_attention_gives_what_its_eager_path_returns() -> None:
    """Asked for its attention, the fused model returns a tuple of None and a line in the log."""
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
    model, series = sharpen(transformers.PatchTSTForPrediction(config)), drawn(3, 48, 2)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        assert not any(isinstance(part, torch.Tensor) for part in model(series, output_attentions=True).attentions)
    _, fused = read_attention(model, series)
    model.set_attn_implementation("eager")
    _, eager = read_attention(model, series)
    with torch.no_grad():
        returned = model(series, output_attentions=True).attentions
    assert [record.source for record in fused.records + eager.records] == ["sdpa"] * 2 + ["softmax"] * 2
    for with_kernel, without, reference in zip(fused.records, eager.records, returned, strict=True):
        assert entropy_ratio(reference) < 0.9
        assert torch.equal(without.weights, reference.reshape(without.weights.shape))
        torch.testing.assert_close(with_kernel.weights, without.weights, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"fullgraph": True}])
def test_a_compiled_model_is_read_as_it_was_written(options: dict) -> None:
    model, x = sharpen(nn.Sequential(FusedAttention(), EagerAttention())), drawn(2, 9, 8)
    plain = records_of(model, x)
    graphs = []

    def backend(graph: torch.fx.GraphModule, example: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, **options)
    with torch.no_grad():
        before = compiled(x)
    output, capture = read_attention(compiled, x)
    assert torch.equal(output, before)
    assert len(graphs) == 1, "compiled again for the capture"
    assert [record.module for record in capture.records] == ["_orig_mod.0", "_orig_mod.1"]
    for record, expected in zip(capture.records, plain, strict=True):
        assert torch.equal(record.weights, expected.weights)
    with torch.no_grad():
        assert torch.equal(compiled(x), before)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_is_recorded_once(reentrant: bool) -> None:
    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(FusedAttention(), EagerAttention())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = checkpoint(layer, x, use_reentrant=reentrant)
            return x

    model, x = sharpen(Saving()), drawn(2, 9, 8).requires_grad_()
    with AttentionCapture(model) as capture:
        model(x).sum().backward()
    assert [record.module for record in capture.records] == ["layers.0", "layers.1"]
    assert x.grad.abs().max() > 0
    _, again = read_attention(model, x)
    for record, expected in zip(capture.records, again.records, strict=True):
        torch.testing.assert_close(record.weights, expected.weights)
