"""Value zeroing: against Gram matrices where a layer is attention and residual alone, and by what must hold of any."""

import numpy as np
import pytest
import tiny_chronos
import torch
import xarray as xr
from models import sharpen, tiny
from stage_models import Attention
from torch import Tensor, nn

from laglens.attention.capture import AttentionCapture
from laglens.errors import LaglensError
from laglens.flow.rollout import roll_out
from laglens.heads.importance import importance_table, measure_importance
from laglens.heads.norms import value_zeroing_residual
from laglens.heads.nothing import NothingToMeasureError
from laglens.heads.zeroing import block_of, value_zeroing, zeroed_heads
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack, TokenMap
from laglens.signals.windows import windows

HISTORY, HORIZON = 9, 3


class WrittenOut(Attention):
    def weigh(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


class Layer(nn.Module):
    """Attention and residual connection; with `feed` a network behind them."""

    def __init__(self, kind: type[Attention], feed: bool) -> None:
        super().__init__()
        self.attention = kind()
        self.feed = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.Tanh()) if feed else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x)
        return x if self.feed is None else x + self.feed(x)


class Model(Forecaster):
    history, horizon = HISTORY, HORIZON

    def __init__(self, kind: type[Attention] = Attention, feed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place = nn.Linear(1, 12), nn.Parameter(torch.randn(HISTORY, 12))
        self.layers = nn.ModuleList(Layer(kind, feed) for _ in range(2))
        self.head = nn.Linear(12, HORIZON)
        sharpen(self)
        self.double().eval()

    @property
    def stacks(self) -> tuple[Stack, ...]:
        tokens = TokenMap.patches(HISTORY, 0, 1, readout="last")
        return (Stack("encoder", ("layers.0.attention", "layers.1.attention"), tokens, tokens),)

    def forward(self, history: Tensor) -> Tensor:
        x = self.embed(history.double()[..., None]) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, -1])


def shown(model: Forecaster, n: int = 3) -> xr.Dataset:
    value = np.random.default_rng(0).normal(size=(1, 60))
    return windows(xr.DataArray(value, dims=("sample", "time")), model.history, model.horizon, n)


def parts_of(model: Model, layer: int, history: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, transformed values and stream of the first window in one layer."""
    kept: list[Tensor] = []
    module = model.layers[layer]
    hook = module.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    with torch.no_grad(), AttentionCapture(model, certify=False) as capture:
        model(history)
    hook.remove()
    attention, x = module.attention, kept[0]
    value = attention.heads(attention.to_value(x))[0]
    made = torch.einsum("hkw,ohw->hko", value, attention.out.weight.unflatten(1, (3, -1)))
    weights = capture.records[layer].weights[0].double()
    return tuple(tensor.detach().numpy() for tensor in (weights, made, x[0] + attention.out.bias))


@pytest.mark.parametrize("kind", [Attention, WrittenOut])
def test_without_a_network_behind_it_it_is_the_form_by_gram_matrices(kind: type[Attention]) -> None:
    model = Model(kind)
    cut = shown(model)
    found, heads = value_zeroing(model, cut, batch=2)["encoder"], zeroed_heads(model, cut, batch=2)["encoder"]
    history = torch.from_numpy(cut["series"].values[:, :HISTORY])
    for layer in range(2):
        weights, made, stream = parts_of(model, layer, history)
        expected = value_zeroing_residual(weights, made, stream)
        raw = found["attention"][0, layer, 0] * found["turned"][0, layer].rename(query="query")
        np.testing.assert_allclose(raw, expected, atol=1e-6)
        whole = np.einsum("hqk,hkw->qw", weights, made) + stream
        for head in range(3):
            left = whole - weights[head] @ made[head]
            cosine = (whole * left).sum(-1) / np.linalg.norm(whole, axis=-1) / np.linalg.norm(left, axis=-1)
            assert heads["value_zeroing"][0, layer, head] == pytest.approx((1 - cosine).mean(), abs=1e-6)
    assert float(found["turned"].min()) > 1e-3


def test_the_network_behind_the_attention_is_in_it() -> None:
    cut = shown(Model())
    alone, fed = (value_zeroing(Model(feed=feed), cut)["encoder"]["attention"] for feed in (False, True))
    np.testing.assert_allclose(fed.sum("key"), 1)
    assert float(abs(alone - fed).isel(layer=0).max()) > 0.01


def test_a_token_whose_values_are_0_moves_nothing_and_rollout_takes_it_without_residual() -> None:
    model = Model(feed=True)
    with torch.no_grad():
        model.place[4] = 0
        model.embed.weight.zero_()
        model.embed.bias.zero_()
        model.layers[0].attention.to_value.bias.zero_()
    tree = value_zeroing(model, shown(model))
    first = tree["encoder"]["attention"].isel(layer=0, head=0)
    assert float(first.isel(key=4).max()) < 1e-12 and float(first.isel(key=5).min()) > 0
    rollout = roll_out(tree, residual=0.0)["rollout"]
    expected = tree["encoder"]["attention"][0, 1, 0].values @ first[0].values
    np.testing.assert_allclose(rollout[0, -1], expected, atol=1e-6)


def test_it_is_a_column_of_the_importance() -> None:
    model = tiny("encoder", history=24, horizon=4)
    table = importance_table(measure_importance(model, shown(model)))
    assert (table["value_zeroing"] > 0).all()


def test_a_flat_window_has_no_importance_in_its_units_and_is_left_out_of_the_means() -> None:
    model, cut = tiny("encoder", history=24, horizon=4), shown(tiny("encoder", history=24, horizon=4))
    whole = importance_table(measure_importance(model, cut))
    flat = cut.isel(sample=[*range(cut.sizes["sample"]), 0])
    flat["series"][-1, :24] = 2.0
    importance = measure_importance(model, flat)
    table = importance_table(importance)
    for name in ("michel", "error_change", "forecast_change", "signed"):
        np.testing.assert_allclose(table[name], whole[name], rtol=1e-4, atol=1e-7)
    assert f"1 of {flat.sizes['sample']} windows" in importance.attrs["left_out"]
    with pytest.raises(LaglensError, match="every window is constant, .* choose another stretch"):
        measure_importance(model, flat.isel(sample=[-1]))


@pytest.mark.parametrize("kind", ["encoder", "encoder_decoder"])
def test_the_layer_is_the_element_of_the_list_that_holds_the_attention(kind: str) -> None:
    model = tiny(kind, history=24, horizon=4)
    for stack in model.stacks:
        for layer in stack.layers:
            block = block_of(model, stack, layer)
            assert layer.startswith(f"{block}.") and block.rpartition(".")[2].isdigit()


class Remembering(Layer):
    """Adds what it was shown before, as a cache of keys does."""

    before = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.before = self.before + x.detach()
        return super().forward(x + self.before)


def test_a_layer_that_does_not_run_alone_is_left_out_of_the_importance_with_the_reason() -> None:
    model = Model()
    model.layers[1] = Remembering(Attention, False).double()
    with pytest.raises(LaglensError, match="'layers.1.attention' puts out something else when it runs alone"):
        value_zeroing(model, shown(model))
    importance = measure_importance(model, shown(model))
    assert "when it runs alone" in importance.attrs["left_out"]
    assert "value_zeroing" not in importance["encoder"] and "michel" in importance["encoder"]


def test_decoding_steps_and_long_stacks_are_refused(monkeypatch) -> None:
    model = Model()
    steps = Stack(**{**model.stacks[0].__dict__, "steps": True})
    cut = shown(model)
    monkeypatch.setattr("laglens.heads.zeroing.LONGEST", 8)
    with pytest.raises(LaglensError, match="has 9 keys"):
        value_zeroing(model, cut)
    monkeypatch.setattr(Model, "stacks", (steps,))
    with pytest.raises(NothingToMeasureError, match="decoding steps"):
        value_zeroing(model, cut)


def test_the_importance_says_which_stacks_value_zeroing_leaves_out() -> None:
    model = tiny_chronos.tiny("chronos_t5", 50, 2)
    importance = measure_importance(model, tiny_chronos.windows(model, 2))
    for name in ("decoder", "cross"):
        assert (
            "value_zeroing" not in importance[name]
            and f"value zeroing of stack '{name}': its rows are decoding" in (importance.attrs["left_out"])
        )
        assert np.isfinite(importance[name]["weighted_norm"]).all()
    assert np.isfinite(importance["encoder"]["value_zeroing"]).all() and "'encoder'" not in importance.attrs["left_out"]
