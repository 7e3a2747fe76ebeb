"""Importance of heads: gates, finite differences, batches, planted unimportant heads, models of every kind."""

import tracemalloc

import numpy as np
import pytest
import torch
import xarray as xr
from models import tiny
from stage_models import Channels, Image, small
from torch import nn

from laglens.attention.capture import AttentionCapture
from laglens.errors import LaglensError
from laglens.heads.ablation import RemovedHeads, ablate_heads
from laglens.heads.importance import GRADIENT, head_importance, importance_table
from laglens.heads.norms import head_norms, output_projection, summed_norms, value_zeroing_residual
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack, TokenMap
from laglens.signals.windows import windows
from laglens.time.reduce import channels_as_samples


def shown(model, n: int = 5, seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    value = np.cumsum(rng.normal(size=(model.channels, 4 * (model.history + model.horizon))), 1)
    cut = xr.DataArray(value, dims=("sample", "time"))
    return windows(cut, model.history, model.horizon, n, channels=model.channels).isel(sample=slice(1, n))


class Gate:
    """Multiplies what one head gives by a factor."""

    def __init__(self, module: str, head: int, factor: float) -> None:
        self.module, self.head, self.factor = module, head, factor

    def __call__(self, call):
        if call.module != self.module:
            return call
        value = call.value.clone()
        value[:, self.head] *= self.factor
        return call.__class__(**{**call.__dict__, "value": value})


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_the_importance_is_the_derivative_of_the_loss_in_a_gate(architecture: str) -> None:
    model = tiny(architecture, history=24, horizon=4).double()
    model.normalise = lambda series: _normalised(model, series)  # in double precision throughout
    cut = shown(model)
    found = head_importance(model, cut)
    series = cut["series"].values
    history, truth = series[:, :24], series[:, 24:]

    def losses(module: str, head: int, factor: float) -> np.ndarray:
        with torch.no_grad(), AttentionCapture(model, certify=False, edit=Gate(module, head, factor)):
            forecast = model(torch.from_numpy(history)).numpy()
        return (((forecast - truth) / history.std(1, ddof=1, keepdims=True)) ** 2).mean(1)

    for stack in model.stacks:
        node = found[stack.name]
        for layer, module in enumerate(stack.layers):
            slope = (losses(module, 1, 1 + 1e-6) - losses(module, 1, 1 - 1e-6)) / 2e-6
            np.testing.assert_allclose(node["signed"].isel(layer=layer, head=1), slope, rtol=1e-3, atol=1e-6)


def _normalised(model, series):
    past = series[:, : model.history]
    mean, sd = past.mean(1, keepdim=True), past.std(1, keepdim=True)
    return (series - mean) / sd, mean, sd


@pytest.mark.parametrize("kind", ["encoder", "encoder_decoder", "channels", "written_out"])
def test_the_three_versions_are_in_order_and_batches_change_nothing(kind: str) -> None:
    makers = {
        "channels": lambda: small(Channels),
        "written_out": written_out,
    }
    model = makers[kind]() if kind in makers else tiny(kind, history=24, horizon=4)
    cut = shown(model)
    if model.channels > 1:
        cut = channels_as_samples(cut)
    whole, alone = head_importance(model, cut), head_importance(model, cut, batch=1)
    for stack in model.stacks:
        node = whole[stack.name]
        assert (node["michel"] <= node["michel_token"] + 1e-9).all()
        assert (node["michel_token"] <= node["michel_map"] + 1e-9).all()
        assert float(node["michel_map"].max()) > 0
        np.testing.assert_allclose(node["michel"], abs(node["signed"]))
        for name in GRADIENT:
            np.testing.assert_allclose(alone[stack.name][name], node[name], rtol=1e-3, atol=1e-7, err_msg=name)


def written_out() -> nn.Module:
    """A forecaster that writes its softmax out, in two heads of one layer."""

    class Attention(nn.Module):
        def forward(self, x):
            heads = torch.stack([x, x.flip(-1)], 1)
            weights = (heads @ heads.transpose(-1, -2)).softmax(-1)
            return (weights @ heads).sum(1)

    class Model(Forecaster):
        history, horizon = 12, 3

        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention()
            self.embed = nn.Linear(1, 4)
            self.head = nn.Linear(4, 3)

        @property
        def stacks(self):
            tokens = TokenMap.patches(12, 0, 1, readout="last")
            return (Stack("encoder", ("attention",), tokens, tokens),)

        def forward(self, history):
            x = self.embed(torch.tanh(history).float()[..., None])
            return self.head(self.attention(x)[:, -1]).double()

    torch.manual_seed(0)
    return Model().eval()


@pytest.mark.parametrize("make", [lambda: tiny("encoder", history=24, horizon=4), written_out])
def test_a_head_without_values_matters_to_nothing_and_the_others_do(make) -> None:
    model = make()
    cut = shown(model)
    before = ablate_heads(model, cut)["encoder"]
    assert float(before["forecast_change"].min()) > 0
    table = importance_table(ablate_heads(model, cut))
    assert len(table) == before.sizes["layer"] * before.sizes["head"]
    assert (table["n_windows"] == len(cut["sample"])).all()


def test_removing_a_head_is_zeroing_its_part_of_the_output_projection() -> None:
    model = tiny("encoder", history=24, horizon=4)
    cut = shown(model)
    found = ablate_heads(model, cut)["encoder"]
    history = torch.from_numpy(cut["series"].values[:, :24])
    attention = dict(model.named_modules())[model.stacks[0].layers[0]]
    width = attention.head_dim
    with torch.no_grad():
        intact = model(history)
        attention.out_proj.weight[:, width : 2 * width] = 0
        changed = model(history)
    expected = (changed - intact).abs().mean(1).numpy() / cut["series"].values[:, :24].std(1, ddof=1)
    np.testing.assert_allclose(found["forecast_change"].isel(layer=0, head=1), expected, rtol=1e-4)
    again = ablate_heads(model, cut)["encoder"]
    np.testing.assert_allclose(again["forecast_change"].isel(layer=0, head=1), 0, atol=1e-9)
    np.testing.assert_allclose(head_importance(model, cut)["encoder"]["signed"].isel(layer=0, head=1), 0, atol=1e-7)


def test_models_without_forecast_or_truth_are_refused() -> None:
    with pytest.raises(LaglensError, match="does not forecast"):
        head_importance(small(Image), xr.Dataset())
    model = tiny("encoder", history=24, horizon=4)
    cut = shown(model)
    cut["series"][:, 24:] = np.nan
    with pytest.raises(LaglensError, match="no window has a known horizon"):
        head_importance(model, cut)
    model.differentiable = False
    with pytest.raises(LaglensError, match="has no gradient"):
        head_importance(model, cut)
    assert RemovedHeads({}, 1)


def test_norms_by_gram_matrices_equal_brute_force() -> None:
    rng = np.random.default_rng(0)
    attention = rng.dirichlet(np.ones(7), (3, 7))  # head, query, key
    value = rng.normal(size=(3, 7, 5))  # head, key, width: what each head makes of each key
    stream = rng.normal(size=(7, 5))
    contributions = attention[..., None] * value[:, None]  # head, query, key, width
    np.testing.assert_allclose(summed_norms(attention, value), np.linalg.norm(contributions.sum(0), axis=-1))
    whole = contributions.sum((0, 2)) + stream
    zeroed = whole[:, None] - contributions.sum(0)
    cosine = (whole[:, None] * zeroed).sum(-1) / np.linalg.norm(zeroed, axis=-1)
    expected = 1 - cosine / np.linalg.norm(whole, axis=-1)[:, None]
    np.testing.assert_allclose(value_zeroing_residual(attention, value, stream), expected, atol=1e-10)
    assert (summed_norms(attention, 0 * value) == 0).all()
    np.testing.assert_allclose(summed_norms(attention, 3 * value), 3 * summed_norms(attention, value))


def test_norms_by_gram_matrices_do_not_need_what_the_published_code_builds() -> None:
    """(head, query, key, width) numbers: 328 MB here, 199 GB for one layer of ViTime."""
    rng = np.random.default_rng(0)
    attention, value = rng.dirichlet(np.ones(400), (4, 400)), rng.normal(size=(4, 400, 64))
    tracemalloc.start()
    summed_norms(attention, value)
    value_zeroing_residual(attention, value, value[0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert attention.nbytes < peak < 6 * attention.nbytes  # 5 MB each, whatever the width


def test_heads_that_cancel_have_norm_0_and_not_the_root_of_a_rounding_error() -> None:
    rng = np.random.default_rng(0)
    attention, value = rng.dirichlet(np.ones(9), (1, 9)).repeat(2, 0), rng.normal(size=(1, 9, 5))
    opposed = np.concatenate([value, -value * (1 + 1e-9)])
    assert float(summed_norms(attention, opposed).max()) < 1e-6  # NaN is not
    whole = attention[:1] @ value[:1]
    away = value_zeroing_residual(attention[:1], value, -whole[0])  # nothing is left of the output
    assert np.isfinite(away).all()


def test_scaling_the_output_projection_scales_the_norms_and_values_of_0_have_none() -> None:
    model = tiny("encoder", history=24, horizon=4)
    cut = shown(model)
    before = head_norms(model, cut)["encoder"]
    attention = dict(model.named_modules())[model.stacks[0].layers[-1]]
    with torch.no_grad():
        attention.out_proj.weight *= 3
    scaled = head_norms(model, cut)["encoder"]
    third = attention.in_proj_weight.shape[0] // 3
    with torch.no_grad():
        attention.in_proj_weight[2 * third :] = 0
        attention.in_proj_bias[2 * third :] = 0
    none = head_norms(model, cut)["encoder"]
    for name in ("weighted_norm", "output_norm"):
        np.testing.assert_allclose(scaled[name].isel(layer=-1), 3 * before[name].isel(layer=-1), rtol=1e-5)
        assert float(none[name].isel(layer=-1).max()) == 0


def test_norms_of_a_model_are_those_of_its_output_projection() -> None:
    model = tiny("encoder", history=24, horizon=4)
    cut = shown(model)
    norms = head_norms(model, cut)["encoder"]
    name = model.stacks[0].layers[0]
    attention = dict(model.named_modules())[name]
    with torch.no_grad(), AttentionCapture(model, certify=False) as capture:
        kept = {}
        hook = attention.register_forward_hook(lambda module, args, output: kept.update(x=args[0]))
        model(torch.from_numpy(cut["series"].values[:, :24]))
        hook.remove()
        heads, width = attention.num_heads, attention.head_dim
        value = (
            kept["x"] @ attention.in_proj_weight[2 * heads * width :].T + attention.in_proj_bias[2 * heads * width :]
        )
        value = value.unflatten(-1, (heads, width)).transpose(1, 2)
        made = torch.einsum("bhkw,ohw->bhko", value, attention.out_proj.weight.unflatten(1, (heads, width)))
        weights = capture.records[0].weights
        expected = (weights * made.norm(dim=-1)[:, :, None]).sum(-1).mean(-1)
        output = (weights @ made).norm(dim=-1).mean(-1)
    np.testing.assert_allclose(norms["weighted_norm"].isel(layer=0), expected, rtol=1e-4)
    np.testing.assert_allclose(norms["output_norm"].isel(layer=0), output, rtol=1e-4)
    assert output_projection(attention, heads * width) is attention.out_proj
    assert output_projection(nn.Linear(3, 4), 9) is None
