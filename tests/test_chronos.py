"""Chronos-T5, Chronos-Bolt and Chronos-2: the package's forecasts, certified attention, places of tokens in time."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from chronos import Chronos2Pipeline, ChronosBoltPipeline, ChronosPipeline
from models import entropy_ratio, sharpen
from tiny_chronos import CASES, LENGTHS, TINY, folder_of, histories, tiny, windows
from torch import Tensor

from laglens.attention.capture import AttentionCapture, read_attention
from laglens.attention.cube import attention_tree
from laglens.models.chronos import ChronosForecaster
from laglens.models.registry import build_model
from laglens.models.tokens import HISTORY, HORIZON, SPECIAL
from laglens.time.reduce import to_time


def package_forecast(name: str, folder: Path, series: Tensor, horizon: int) -> Tensor:
    if name == "chronos_t5":  # the likeliest word is the only one it may draw
        return ChronosPipeline.from_pretrained(folder).predict(series, horizon, num_samples=1, top_k=1)[:, 0]
    if name == "chronos_bolt":
        return ChronosBoltPipeline.from_pretrained(folder).predict_quantiles(series, horizon)[1]
    return torch.cat(Chronos2Pipeline.from_pretrained(folder).predict_quantiles(list(series), horizon)[1])


@pytest.mark.parametrize(("name", "history", "horizon"), CASES)
def test_forecasts_are_those_of_the_package(tmp_path: Path, name: str, history: int, horizon: int) -> None:
    model = tiny(name, history, horizon)
    series = histories(model)
    with torch.no_grad():
        forecast, again = model(series), model(series)
        alone = torch.cat([model(row[None]) for row in series])
    expected = package_forecast(name, folder_of(model, tmp_path), series, horizon).double()
    assert forecast.shape == (3, horizon) and forecast.dtype == torch.float64
    scale = float(expected.abs().max())
    torch.testing.assert_close(forecast, expected, atol=2e-5 * scale, rtol=0)
    torch.testing.assert_close(forecast, alone, atol=2e-5 * scale, rtol=0)
    assert torch.equal(forecast, again)


# Attention against what the models return when they write their softmax out


def eager(model: ChronosForecaster, series: Tensor) -> list[Tensor]:
    """Weights in the order in which they are computed, from the library's own explicit softmax."""
    slow = copy.deepcopy(model)
    slow.network.set_attn_implementation("eager")
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, given, output: seen.append(output[-1]))
        for name, module in slow.network.named_modules()
        if name.endswith(("SelfAttention", "EncDecAttention"))
    ]
    with torch.no_grad():
        slow(series)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("name", "history", "horizon"), CASES[:4])
def test_weights_equal_the_eager_ones(name: str, history: int, horizon: int) -> None:
    model = tiny(name, history, horizon)
    series = histories(model)
    _, capture = read_attention(model, series)
    expected = eager(model, series)
    assert len(capture.records) == len(expected)
    for record, reference in zip(capture.records, expected, strict=True):
        assert record.error < 1e-5
        torch.testing.assert_close(record.weights, reference, atol=2e-5, rtol=1e-3)
        if record.shape[1] > 8:
            assert entropy_ratio(record.weights) < 0.9, record.module


@pytest.mark.parametrize(("history", "horizon"), LENGTHS["chronos_2"])
def test_weights_of_chronos_2_equal_those_it_returns(history: int, horizon: int) -> None:
    model = tiny("chronos_2", history, horizon)
    series = histories(model)
    _, capture = read_attention(model, series)
    mean = series.mean(1, keepdim=True)
    with torch.no_grad():
        output = model.network((series - mean).float(), num_output_patches=-(-horizon // 16), output_attentions=True)
    over_time = {record.module: record for record in capture.records if record.module in model.stacks[0].layers}
    over_series = {record.module: record for record in capture.records if record.module in model.not_in_time}
    for found, expected in (
        (over_time, output.enc_time_self_attn_weights),
        (over_series, output.enc_group_self_attn_weights),
    ):
        for record, reference in zip(found.values(), expected, strict=True):
            assert record.error < 1e-5
            torch.testing.assert_close(record.weights, reference, atol=1e-5, rtol=1e-3)
    assert all(entropy_ratio(record.weights) < 0.9 for record in over_time.values())


def test_all_attention_belongs_to_a_stack_or_has_a_reason() -> None:
    for name in TINY:
        model = tiny(name)
        _, capture = read_attention(model, histories(model))
        layers = {layer for stack in model.stacks for layer in stack.layers}
        assert set(capture.found) == layers
        assert bool(model.not_in_time) == (name != "chronos_t5")
        assert all(
            any(record.module.startswith(place) for place in (*layers, *model.not_in_time))
            for record in capture.records
        )


# Places in time


def test_words_are_single_samples_and_the_last_is_eos() -> None:
    encoder, decoder, cross = tiny("chronos_t5", 50, 5).stacks
    assert len(encoder.query) == 51 and encoder.query.part[-1] == SPECIAL
    np.testing.assert_array_equal(encoder.query.time[:-1], np.arange(50))
    np.testing.assert_array_equal(decoder.query.time, np.arange(50, 55))
    assert decoder.query.readout.all() and decoder.causal and decoder.steps and cross.steps
    assert cross.key is encoder.key and len(decoder.layers) == len(cross.layers) == 2
    without = tiny("chronos_t5", 50, 5, use_eos_token=False)
    assert len(without.stacks[0].query) == 50
    read_attention(without, histories(without))


def test_the_first_patch_of_bolt_is_short_and_reg_is_last() -> None:
    encoder, cross = tiny("chronos_bolt", 50, 10).stacks
    np.testing.assert_array_equal(encoder.query.start, [0, 2, 18, 34, np.nan])
    np.testing.assert_array_equal(encoder.query.end, [2, 18, 34, 50, np.nan])
    np.testing.assert_array_equal(encoder.query.part, [HISTORY] * 4 + [SPECIAL])
    assert len(cross.query) == 1 and cross.query.readout.all()
    assert (cross.query.start[0], cross.query.end[0], cross.query.part[0]) == (50, 60, HORIZON)
    assert len(tiny("chronos_bolt", 50, 10, use_reg_token=False).stacks[0].query) == 4


def test_patches_of_bolt_may_overlap() -> None:
    model = tiny("chronos_bolt", 100, 24, input_patch_stride=8)
    np.testing.assert_array_equal(model.stacks[0].query.end[:-1], np.arange(4, 101, 8))
    tree = attention_tree(model, windows(model))
    assert tree["encoder"].sizes["key"] == 14


def test_reg_of_chronos_2_is_between_history_and_horizon() -> None:
    tokens = tiny("chronos_2", 50, 20).stacks[0].query
    np.testing.assert_array_equal(tokens.start, [0, 2, 18, 34, np.nan, 50, 66])
    np.testing.assert_array_equal(tokens.end, [2, 18, 34, 50, np.nan, 66, 70])
    np.testing.assert_array_equal(tokens.part, [HISTORY] * 4 + [SPECIAL] + [HORIZON] * 2)
    np.testing.assert_array_equal(tokens.readout, tokens.part == HORIZON)


@pytest.mark.parametrize("name", ["chronos_bolt", "chronos_2"])
def test_a_patch_sees_the_samples_it_stands_for(name: str) -> None:
    """Two samples of a patch change places, so mean and spread stay; that token changes, and no other."""
    model = tiny(name, 50, 10)
    seen: list[Tensor] = []
    first = model.get_submodule(model.stacks[0].layers[0])
    first.register_forward_pre_hook(lambda m, given, named: seen.append((*given, *named.values())[0]), with_kwargs=True)
    base = histories(model, 1)[0]
    tokens = model.stacks[0].key
    for at in (0, 10, 18, 48):
        moved = base.clone()
        moved[at], moved[at + 1] = base[at + 1], base[at]
        with torch.no_grad():
            model(torch.stack([base, moved]))
        changed = (seen[-1][0] - seen[-1][1]).abs().amax(-1).numpy() > 1e-4
        assert changed.sum() == 1
        assert tokens.start[changed] <= at and at + 1 < tokens.end[changed]


def test_a_step_of_chronos_2_is_read_from_its_patch() -> None:
    model = tiny("chronos_2", 50, 40)
    tokens, series = model.stacks[0].query, histories(model, 1)
    chosen: list[int] = []

    def light(module: torch.nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        changed = given[0].clone()
        changed[:, chosen] += 1.0
        return (changed,)

    model.network.output_patch_embedding.register_forward_pre_hook(light)
    with torch.no_grad():
        plain = model(series)[0]
    for patch in np.flatnonzero(tokens.readout):
        chosen[:] = [patch - len(tokens)]
        with torch.no_grad():
            step = 50 + torch.nonzero((model(series)[0] - plain).abs() > 1e-6).flatten().numpy()
        assert (step.min(), step.max() + 1) == (tokens.start[patch], tokens.end[patch])


def test_decoding_steps_are_rows_of_one_causal_map() -> None:
    """Reference: all words at once, given to the eager model without a cache."""
    model = tiny("chronos_t5", 40, 6)
    tree = attention_tree(model, windows(model), store="tokens", dtype="float32")
    series = histories(model)
    words, mask, _ = model.tokenizer.context_input_transform(series)
    slow = copy.deepcopy(model.network)
    slow.set_attn_implementation("eager")
    with torch.no_grad():
        spoken = slow.generate(words, attention_mask=mask, do_sample=False, min_new_tokens=6, max_new_tokens=6)
        output = slow(words, attention_mask=mask, decoder_input_ids=spoken[:, :-1], output_attentions=True)
    for name, expected in (
        ("encoder", output.encoder_attentions),
        ("decoder", output.decoder_attentions),
        ("cross", output.cross_attentions),
    ):
        found = tree[name]["attention"].values
        np.testing.assert_allclose(found, torch.stack(expected, 1), atol=2e-5)
    assert found.shape == (3, 2, 4, 6, 41)
    decoder = tree["decoder"]["attention"].values
    assert (np.triu(decoder, 1) == 0).all()
    np.testing.assert_allclose(decoder.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_streaming_gives_the_same_map(name: str) -> None:
    model = tiny(name, 50, 5)
    tokens = to_time(attention_tree(model, windows(model), store="tokens", dtype="float32"))
    streamed = attention_tree(model, windows(model), store="time")
    for stack in model.stacks:
        node = streamed[stack.name]
        # Layers after the first get their input from the streamed output of those before.
        np.testing.assert_allclose(node["attention"], tokens[stack.name]["attention"], atol=5e-6)
        np.testing.assert_allclose(node["attention"].sum("key") + node["special_mass"], 1, atol=1e-5)
    xr.testing.assert_allclose(streamed["forecast"], tokens["forecast"], atol=1e-5)


# Several series together


def test_channels_of_chronos_2_are_forecast_together(tmp_path: Path) -> None:
    config = {"config": TINY["chronos_2"], "history": 50, "horizon": 20}
    model = sharpen(build_model("chronos_2", config | {"channels": 3}), 1.2)
    series = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 50)).cumsum(2))
    with torch.no_grad():
        forecast = model(series)
    pipeline = Chronos2Pipeline.from_pretrained(folder_of(model, tmp_path))
    expected = torch.stack(pipeline.predict_quantiles(series, 20)[1]).double()
    torch.testing.assert_close(forecast, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    alone = sharpen(build_model("chronos_2", config), 1.2)
    assert not torch.allclose(forecast[0], alone(series[0]).detach(), atol=1e-3)
    assert model.options["channels"] == 3
    data = xr.Dataset({"series": (("sample", "channel", "time"), np.pad(series, ((0, 0), (0, 0), (0, 20))))})
    tree = attention_tree(model, data, store="tokens", dtype="float32")
    assert tree["encoder"]["attention"].dims[:2] == ("sample", "channel")
    with torch.no_grad(), AttentionCapture(model) as capture:
        model(series)
    layer = model.stacks[0].layers[1]
    weights = next(record.weights for record in capture.records if record.module == layer)
    np.testing.assert_allclose(tree["encoder"]["attention"][1, 2, 1], weights[5], atol=1e-6)


# Gradients and precision


@pytest.mark.parametrize("name", ["chronos_bolt", "chronos_2"])
def test_the_forecast_has_a_gradient(name: str) -> None:
    model = tiny(name, 50, 10)
    series = histories(model, 1).requires_grad_()
    model(series)[0, 3].backward()
    step = 1e-2
    for at in (1, 20, 49):
        moved = series.detach().repeat(2, 1)
        moved[0, at] += step
        moved[1, at] -= step
        with torch.no_grad():
            up, down = model(moved)[:, 3]
        assert float(series.grad[0, at]) == pytest.approx(float(up - down) / (2 * step), abs=2e-2, rel=2e-2)
    assert model.differentiable and not tiny("chronos_t5").differentiable


@pytest.mark.parametrize("name", ["chronos_bolt", "chronos_2"])
def test_a_series_far_from_0_keeps_its_precision(name: str) -> None:
    model = tiny(name, 50, 10)
    series = histories(model)
    with torch.no_grad():
        torch.testing.assert_close(model(series + 1e9) - 1e9, model(series), atol=1e-4, rtol=1e-4)
