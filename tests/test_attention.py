"""What is captured is what the model used: independent recomputation, certificates, loud failure."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from models import TINY, entropy_ratio, sharpen, tiny
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as imported_by_name

from laglens.attention.capture import AttentionCapture, read_attention
from laglens.attention.cube import attention_tree
from laglens.attention.weights import attention_weights
from laglens.errors import LaglensError
from laglens.models.registry import build_model


def windows(model: nn.Module, n: int = 5, seed: int = 0) -> xr.Dataset:
    series = np.random.default_rng(seed).normal(size=(n, model.history + model.horizon)).cumsum(1)
    return xr.Dataset({"series": (("sample", "time"), series)}, coords={"start": ("sample", np.arange(n))})


def naive_weights(query: torch.Tensor, key: torch.Tensor, allowed: torch.Tensor, scale: float) -> torch.Tensor:
    """Float64 softmax written out with explicit loops over the mask."""
    score = torch.einsum("...ld,...sd->...ls", query.double(), key.double()) * scale
    score[~allowed.expand_as(score)] = -math.inf
    score = score - score.amax(-1, keepdim=True).nan_to_num(neginf=0)
    return score.exp() / score.exp().sum(-1, keepdim=True).clamp_min(1e-300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float", "empty row"])
def test_weights_equal_a_float64_softmax(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8, dtype=dtype), torch.randn(2, 4, 13, 8, dtype=dtype)
    allowed = torch.ones(9, 13, dtype=torch.bool)
    options: dict = {}
    if kind == "causal":
        allowed, options = allowed.tril(), {"is_causal": True}
    if kind in ("bool", "float", "empty row"):
        allowed = torch.rand(9, 13) > 0.4
        allowed[:, 0] = True
        if kind == "empty row":
            allowed[3] = False
        mask = allowed if kind != "float" else torch.zeros(9, 13, dtype=dtype).masked_fill(~allowed, -math.inf)
        options = {"mask": mask}
    got = attention_weights(query, key, **options)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), naive_weights(query, key, allowed, 8**-0.5), atol=2e-6, rtol=1e-5)


def test_grouped_queries_repeat_their_keys() -> None:
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    expected = attention_weights(query, key.repeat_interleave(2, 1))
    torch.testing.assert_close(attention_weights(query, key), expected)


@pytest.mark.parametrize("architecture", TINY)
def test_models_of_the_workflow_are_captured_and_certified(architecture: str) -> None:
    model = tiny(architecture)
    history = torch.randn(3, model.history, dtype=torch.float64)
    with torch.no_grad():
        plain = model(history)
    output, capture = read_attention(model, history)
    torch.testing.assert_close(output, plain, atol=1e-5, rtol=1e-5)
    layers = [layer for stack in model.stacks for layer in stack.layers]
    assert [record.module for record in capture.records] == layers == sorted(capture.found, key=layers.index)
    for record in capture.records:
        assert record.error < 1e-5
        assert entropy_ratio(record.weights) < 0.9
        torch.testing.assert_close(record.weights.sum(-1), torch.ones_like(record.weights[..., 0]))


@pytest.mark.parametrize("architecture", ["image", "numeric"])
def test_weights_of_timm_blocks_equal_its_unfused_path(architecture: str) -> None:
    """timm's own explicit softmax, read by a hook on its dropout, is the independent reference."""
    model = tiny(architecture)
    history = torch.randn(2, model.history, dtype=torch.float64)
    _, capture = read_attention(model, history)
    seen, hooks = [], []
    for stack in model.stacks:
        for layer in stack.layers:
            attention = model.get_submodule(layer)
            attention.fused_attn = False
            hooks.append(attention.attn_drop.register_forward_hook(lambda m, a, out: seen.append(out)))
    with torch.no_grad():
        model(history)
    for hook in hooks:
        hook.remove()
    for record, reference in zip(capture.records, seen, strict=True):
        torch.testing.assert_close(record.weights, reference, atol=2e-6, rtol=1e-4)
    _, unfused = read_attention(model, history)
    for record, reference in zip(unfused.records, seen, strict=True):
        assert record.source == "softmax"
        torch.testing.assert_close(record.weights, reference)


def test_weights_of_the_encoder_equal_those_torch_returns_on_request() -> None:
    model = tiny("encoder")
    layer = model.encoder.layers[0]
    history = torch.randn(2, model.history, dtype=torch.float64)
    _, capture = read_attention(model, history)
    with torch.no_grad():
        tokens = model.embed(model.normalise(history)[0][..., None]) + model.position
        expected = layer.self_attn(tokens, tokens, tokens, average_attn_weights=False)[1]
    torch.testing.assert_close(capture.records[0].weights, expected, atol=1e-6, rtol=1e-5)


class Eager(nn.Module):
    """Softmax written out, beside a gate and an expectation over bins, which are not attention."""

    def forward(self, x):
        gate = torch.softmax(x, -1)
        expectation = torch.softmax(x, -1) @ torch.linspace(0, 1, x.shape[-1])
        codebook = torch.softmax(x, -1) @ torch.ones(x.shape[-1], 4)
        weights = F.dropout(torch.softmax(x @ x.transpose(1, 2), -1), 0.1, self.training)
        return torch.bmm(weights, x * gate) + expectation[..., None] + codebook.sum(-1, keepdim=True)


class ByName(nn.Module):
    """A call site that a monkey patch of torch.nn.functional does not reach."""

    def forward(self, x):
        return imported_by_name(x, x, x)


class SpectralAttention(nn.Module):
    """Named attention, but computes no softmax."""

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x, dim=1).abs() ** 2, dim=1)


def test_only_the_softmax_that_weights_values_is_attention() -> None:
    _, capture = read_attention(Eager().eval(), torch.randn(2, 9, 6))
    assert [record.weights.shape for record in capture.records] == [(2, 9, 9)]
    assert sorted(shape for _, shape in capture.ignored) == [(2, 9, 6)] * 3


def test_a_call_site_imported_by_name_is_seen() -> None:
    _, capture = read_attention(ByName().eval(), torch.randn(2, 9, 16))
    assert capture.records[0].error < 1e-5


def test_requested_weights_are_handed_back_as_torch_would() -> None:
    attention, x = sharpen(nn.MultiheadAttention(16, 2, batch_first=True)), torch.randn(2, 10, 16)
    for average in (True, False):
        expected = attention(x, x, x, average_attn_weights=average)
        got, _ = read_attention(attention, x, x, x, average_attn_weights=average)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_batches_do_not_influence_each_other_and_two_captures_agree() -> None:
    model = tiny("numeric")
    both = attention_tree(model, windows(model, 4), dtype="float32")
    halves = attention_tree(model, windows(model, 4), dtype="float32", batch=2)
    for stack in ("encoder", "decoder"):
        np.testing.assert_allclose(halves[stack]["attention"], both[stack]["attention"], atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert F.scaled_dot_product_attention is imported_by_name


def test_fewer_captured_than_found_names_the_module() -> None:
    model = nn.Sequential(ByName(), SpectralAttention()).eval()
    with pytest.raises(LaglensError, match=r"found 1 attention modules, captured 0: nothing seen in 1;"):
        read_attention(model, torch.randn(2, 8, 6))


@pytest.mark.filterwarnings("ignore:.*jit.trace:FutureWarning")  # deprecated, and still met
def test_a_traced_model_is_an_error_not_an_empty_result() -> None:
    x = torch.randn(2, 9, 16)
    traced = torch.jit.trace(ByName().eval(), (x,))
    with pytest.raises(LaglensError, match="jit"):
        read_attention(traced, x)


def test_training_mode_is_refused() -> None:
    model = tiny("encoder").train()
    with pytest.raises(LaglensError, match=r"training mode .*call model.eval\(\) first"):
        read_attention(model, torch.randn(2, model.history))


def test_weights_that_are_nan_name_the_module() -> None:
    model = tiny("numeric")
    with torch.no_grad():
        model.decoder[0].attn.qkv.weight[0, 0] = math.nan
    with pytest.raises(LaglensError, match="'decoder.0.attn' are not finite"):
        read_attention(model, torch.randn(2, model.history, dtype=torch.float64))


def test_a_kernel_that_computes_something_else_fails_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(query, key, value, *args, **options):
        return value.mean(-2, keepdim=True).expand_as(value) * 1.01

    monkeypatch.setattr("laglens.attention.capture.SDPA", wrong)
    with AttentionCapture(ByName()) as capture:
        capture._sdpa(*torch.randn(3, 2, 9, 16))
    with pytest.raises(LaglensError, match="do not reproduce its output"):
        capture.check()


@pytest.mark.parametrize("architecture", TINY)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_tree_has_the_documented_layout(architecture: str, dtype: str) -> None:
    model = tiny(architecture)
    tree = attention_tree(model, windows(model), dtype=dtype, batch=2)
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    assert tree.attrs["certificate"]["captured"] == tree.attrs["certificate"]["found"] > 0
    assert tree["forecast"].dims == ("sample", "step") and tree["forecast"].shape == (5, model.horizon)
    assert tree["start"].values.tolist() == [0, 1, 2, 3, 4]
    for stack in model.stacks:
        node = tree[stack.name]
        assert node["attention"].dims == ("sample", "layer", "head", "query", "key")
        assert node["attention"].dtype == dtype
        assert list(node["layer_name"].values) == list(stack.layers)
        assert node["layer_name"].dtype == object
        np.testing.assert_allclose(node["attention"].astype("f4").sum("key"), 1, atol=tolerance)
        np.testing.assert_array_equal(node["query_end"] - node["query_start"], TINY[architecture].get("patch", 1))


def test_row_statistics_come_from_the_full_rows() -> None:
    model = tiny("image")
    node = attention_tree(model, windows(model), dtype="float32")["encoder"]
    weights = node["attention"].values.astype(float)
    np.testing.assert_allclose(node["entropy"], -(weights * np.log(weights)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(node["effective_keys"], 1 / (weights**2).sum(-1), rtol=1e-4)
    np.testing.assert_array_equal(node["top_key"], weights.argmax(-1))


def test_gaps_and_short_histories_are_refused() -> None:
    model = tiny("numeric")
    broken = windows(model)
    broken["series"][2, 3] = np.nan
    with pytest.raises(LaglensError, match="NaN"):
        attention_tree(model, broken)
    with pytest.raises(LaglensError, match="needs 32 samples of history, the windows have 20"):
        attention_tree(model, windows(model).isel(time=slice(20)))
    unknown_future = windows(model)
    unknown_future["series"][:, model.history :] = np.nan
    assert np.isfinite(attention_tree(model, unknown_future)["forecast"]).all()


def test_the_reader_needs_torch_and_numpy_alone() -> None:
    program = (
        "import sys\n"
        "for name in ('xarray', 'zarr', 'pandas', 'scipy', 'timm', 'pydantic'): sys.modules[name] = None\n"
        "import torch; from laglens.attention.capture import read_attention\n"
        "layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()\n"
        "print(len(read_attention(layer, torch.randn(1, 5, 8))[1].records))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1"


def test_default_weights_would_hide_errors() -> None:
    """Why the tests sharpen: freshly built models attend almost uniformly."""
    model = build_model("numeric", TINY["numeric"])
    _, capture = read_attention(model, torch.randn(2, model.history, dtype=torch.float64))
    assert min(entropy_ratio(record.weights) for record in capture.records) > 0.9
