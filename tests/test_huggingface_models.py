"""Each model of transformers against the library itself: weights, forecasts, and what does not depend on the batch."""

import copy
from collections import defaultdict

import numpy as np
import pytest
import torch
import xarray as xr
from models import entropy_ratio
from tiny_huggingface import eager_weights, histories, tiny

from laglens.attention.capture import read_attention
from laglens.attribution.norms import value_weighted_attention
from laglens.heads.norms import causal_layers, head_norms, weights_and_values

MODELS = {
    "patchtst": ("patchtst", {}),
    "patchtst_cls": ("patchtst", {"use_cls_token": True, "pre_norm": False, "norm_type": "layernorm"}),
    "patchtst_channels": ("patchtst", {"num_input_channels": 3, "channel_attention": True}),
    "patchtst_flat_nll": ("patchtst", {"num_input_channels": 2, "pooling_type": None, "loss": "nll"}),
    "time_series_transformer": ("time_series_transformer", {}),
    "informer": ("informer", {}),
    "informer_full": ("informer", {"attention_type": "full", "distil": False}),
    "autoformer": ("autoformer", {}),
    "timesfm": ("timesfm", {}),
    "timesfm_positions": ("timesfm", {"use_positional_embedding": True}),
    "timesfm2_5": ("timesfm2_5", {}),
}
GAIN = {"patchtst": 1.0, "patchtst_cls": 1.3, "patchtst_channels": 1.0, "patchtst_flat_nll": 1.0}


def model_of(case: str, **options):
    name, changes = MODELS[case]
    return tiny(name, GAIN.get(case, 1.7), changes=changes, **options)


@pytest.mark.parametrize("case", MODELS)
def test_forecast_is_finite_deterministic_and_of_one_window_alone(case):
    model = model_of(case)
    history = histories(model)
    with torch.no_grad():
        forecast = model(history)
        assert forecast.shape == (*history.shape[:-1], model.horizon) and forecast.dtype == torch.float64
        assert torch.isfinite(forecast).all() and forecast.std() > 1e-3
        torch.testing.assert_close(model(history), forecast, rtol=0, atol=0)
        alone = torch.cat([model(window[None]) for window in history])
    torch.testing.assert_close(alone, forecast, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", MODELS)
def test_forecast_has_a_gradient_in_the_history(case):
    model = model_of(case)
    history = histories(model).requires_grad_()
    (gradient,) = torch.autograd.grad(model(history).sum(), history)
    assert torch.isfinite(gradient).all() and (gradient != 0).any(-1).all()


@pytest.mark.parametrize("case", [case for case in MODELS if case != "autoformer"])
def test_captured_weights_are_those_of_eager_attention(case):
    model = model_of(case)
    history = histories(model)
    expected = eager_weights(model, history)
    _, capture = read_attention(model, history)
    found = {(record.module, record.call): record for record in capture.records}
    assert set(found) == set(expected)
    for place, record in found.items():
        torch.testing.assert_close(record.weights.reshape(expected[place].shape), expected[place], rtol=1e-4, atol=2e-5)
        assert not record.error > record.tolerance
    many = [record.weights for record in capture.records if record.weights.shape[-1] > 1]
    assert np.mean([entropy_ratio(weights) for weights in many]) < 0.9


@pytest.mark.parametrize("case", MODELS)
def test_stacks_name_modules_that_ran_and_fit_the_tokens(case):
    model = model_of(case)
    _, capture = read_attention(model, histories(model))
    shapes = {(record.module, record.call): record.shape for record in capture.records}
    in_stacks = {layer for stack in model.stacks for layer in stack.layers}
    assert in_stacks == {module for module, _ in shapes}
    for stack in model.stacks:
        for layer in stack.layers:
            calls = sorted(call for module, call in shapes if module == layer)
            queries, keys = shapes[layer, calls[-1] if stack.steps else stack.call]
            assert keys == len(stack.key)
            assert queries == len(stack.query) or any(record.selected is not None for record in capture.records)
            assert not stack.steps or len(calls) == len(stack.query)


@pytest.mark.parametrize("case", MODELS)
def test_some_query_makes_the_forecast(case):
    stacks = model_of(case).stacks
    assert any(stack.query.readout.any() for stack in stacks) or case == "patchtst_cls"


@pytest.mark.parametrize("case", MODELS)
def test_options_build_the_same_model(case):
    model = model_of(case)
    twin = type(model)(**model.options).eval()
    twin.load_state_dict(model.state_dict())
    assert twin.options == model.options
    history = histories(model)
    with torch.no_grad():
        torch.testing.assert_close(twin(history), model(history), rtol=0, atol=0)


# PatchTST


def test_patchtst_forecasts_what_the_library_does():
    for case in ("patchtst", "patchtst_cls", "patchtst_channels"):
        model = model_of(case)
        history = histories(model)
        series = history[..., None] if model.channels == 1 else history.transpose(1, 2)
        with torch.no_grad():
            own = model.network(past_values=series.float()).prediction_outputs.transpose(1, 2).squeeze(1)
            torch.testing.assert_close(model(history), own.double(), rtol=0, atol=0)


def test_patchtst_forecasts_the_mean_of_its_samples():
    model = model_of("patchtst_flat_nll")
    model.network.config.num_parallel_samples = 4000
    history = histories(model)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        samples = model.network.generate(past_values=history.transpose(1, 2).float()).sequences
        error = (model(history).transpose(1, 2) - samples.mean(1)).abs() / samples.std(1)
    assert error.mean() < 3 / 4000**0.5


def test_patchtst_patches_end_with_the_history():
    model = tiny("patchtst", changes={"context_length": 66, "use_cls_token": True})
    (stack,) = model.stacks
    assert np.isnan(stack.query.start[0])
    np.testing.assert_array_equal(stack.query.start[1:], [2, 10, 18, 26, 34, 42, 50])
    np.testing.assert_array_equal(stack.query.end[1:] - stack.query.start[1:], 16)
    assert stack.query.end[-1] == 66
    history = histories(model)
    with torch.no_grad():
        patches = model.network.model.patchifier(history[..., None].float())
    for token, patch in zip(range(1, 8), patches[0, 0], strict=True):
        start, end = int(stack.query.start[token]), int(stack.query.end[token])
        torch.testing.assert_close(patch, history[0, start:end].float(), rtol=0, atol=0)


def test_patchtst_folds_channels_into_the_batch_channel_fastest():
    """Attention of channel 1 moves with the input of channel 1, and in no other row, without channel attention."""
    model = tiny("patchtst", 1.0, changes={"num_input_channels": 3})
    history = histories(model, 2)
    changed = history.clone()
    changed[1, 2] = changed[1, 2].flip(-1)
    before, after = (read_attention(model, series)[1].records[0].weights for series in (history, changed))
    moved = (before - after).abs().amax((1, 2, 3)) > 1e-6
    assert moved.tolist() == [False] * 5 + [True]


def test_patchtst_attention_over_channels_belongs_to_no_stack():
    """It is the second call of the layers, of which the stack holds the first."""
    model = model_of("patchtst_channels")
    (stack,) = model.stacks
    _, capture = read_attention(model, histories(model))
    calls = [(record.module, record.call, record.shape) for record in capture.records]
    assert calls == [(layer, call, shape) for layer in stack.layers for call, shape in enumerate([(7, 7), (3, 3)])]
    assert stack.call == 0 and len(stack.query) == 7


# TimeSeriesTransformer and Informer


def as_library_decodes(model, history, monkeypatch):
    """The library's own decoding loop, with means instead of samples."""
    import transformers.time_series_utils as distributions

    network = copy.deepcopy(model.network)
    network.config.num_parallel_samples = 1
    monkeypatch.setattr(distributions.AffineTransformed, "sample", lambda self: self.mean)
    with torch.no_grad():
        return network.generate(**model.inputs(history)).sequences[:, 0]


def fixed_keys(low, high, size):
    """Instead of random keys: those of a fixed pattern, which does not depend on how often it was asked."""
    return (torch.arange(size[0]) * 7) % high


@pytest.mark.parametrize("case", ["time_series_transformer", "informer", "informer_full"])
def test_step_by_step_forecast_is_that_of_the_library(case, monkeypatch):
    monkeypatch.setattr(torch, "randint", fixed_keys)
    model = model_of(case)
    history = histories(model)
    with torch.no_grad():
        forecast = model(history)
    expected = as_library_decodes(model, history, monkeypatch)
    torch.testing.assert_close(forecast, expected.double(), rtol=1e-5, atol=1e-5)


def test_all_features_of_a_checkpoint_are_given():
    changes = {
        "num_time_features": 2,
        "num_dynamic_real_features": 1,
        "num_static_real_features": 2,
        "num_static_categorical_features": 1,
        "cardinality": [4],
        "scaling": "std",
        "distribution_output": "normal",
    }
    for name in ("time_series_transformer", "informer", "autoformer"):
        model = tiny(name, changes=changes)
        history = histories(model)
        given = model.inputs(history)
        time = torch.cat([given["past_time_features"], given["future_time_features"]], 1)
        assert time.shape == (3, 29 + 6, 3)
        torch.testing.assert_close(time[0, :, 1], torch.log10(2 + torch.arange(35)), rtol=1e-6, atol=0)
        assert (time[..., [0, 2]] == 0).all()
        with torch.no_grad():
            assert torch.isfinite(model(history)).all()


def test_decoding_steps_give_the_rows_of_one_causal_pass():
    """Given its own forecast as the truth, the library computes all steps at once; last rows of steps must agree."""
    model = model_of("time_series_transformer")
    history = histories(model)
    forecast, capture = read_attention(model, history)
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        whole = network(**model.inputs(history), future_values=forecast.float(), output_attentions=True)
    stacks = {stack.name: stack for stack in model.stacks}
    for name, expected in (("decoder", whole.decoder_attentions), ("cross", whole.cross_attentions)):
        for layer, weights in zip(stacks[name].layers, expected, strict=True):
            steps = [record.weights[..., -1, :] for record in capture.records if record.module == layer]
            assert len(steps) == model.horizon
            for step, row in enumerate(steps):
                torch.testing.assert_close(row, weights[:, :, step, : row.shape[-1]], rtol=1e-4, atol=1e-5)


def test_a_token_holds_the_samples_at_its_lags():
    model = model_of("time_series_transformer")
    ramp = torch.arange(model.history, dtype=torch.float64)[None]
    tokens, loc, scale, _ = model.network.model.create_network_inputs(
        **{key: value for key, value in model.inputs(ramp).items() if key != "future_time_features"}
    )
    held = tokens[0, :, :3] * scale + loc
    encoder = model.stacks[0].query
    for token, values in enumerate(held):
        expected = torch.tensor([encoder.start[token] - lag for lag in (1, 2, 5)]).float()
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-3)


def test_fewer_steps_are_the_first_of_all():
    model = model_of("time_series_transformer")
    short = type(model)(**model.options | {"horizon": 4}).eval()
    short.load_state_dict(model.state_dict())
    history = histories(model)
    with torch.no_grad():
        torch.testing.assert_close(short(history), model(history)[:, :4], rtol=1e-6, atol=1e-6)
    assert [len(stack.query) for stack in short.stacks] == [24, 4, 4]


def test_informer_selects_queries_and_each_row_is_that_of_its_query():
    """Against float64 attention of all queries, from the projections of the layer."""
    model = model_of("informer")
    projected = defaultdict(list)

    def keep(module, args, output):
        projected[module].append(output)

    for layer in (*model.network.model.encoder.layers, *model.network.model.decoder.layers):
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.register_forward_hook(keep)
    history = histories(model)
    _, capture = read_attention(model, history)
    modules = dict(model.named_modules())
    few = 0
    for record in capture.records:
        if not record.module.endswith("self_attn"):
            continue
        attention = modules[record.module]
        query, key = (
            projected[projection][record.call].double().unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj)
        )
        score = query @ key.transpose(-2, -1) * attention.scaling
        if attention.is_decoder:
            score = score.masked_fill(torch.ones(score.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        whole = score.softmax(-1).flatten(0, 1)
        selected = record.selected.reshape(len(whole), -1)
        few += selected.shape[-1] < whole.shape[-2]
        expected = whole.gather(1, selected[..., None].expand(-1, -1, whole.shape[-1]))
        torch.testing.assert_close(record.weights.flatten(0, -3).double(), expected, rtol=1e-4, atol=1e-5)
    assert few >= 2


def test_informer_halves_its_tokens():
    model = tiny("informer", changes={"encoder_layers": 3})
    stacks = {stack.name: stack for stack in model.stacks}
    assert list(stacks) == ["encoder", "encoder_distilled_1", "encoder_distilled_2", "decoder", "cross"]
    assert [len(stack.key) for stack in stacks.values()] == [24, 12, 6, 6, 6]
    once = stacks["encoder_distilled_1"].key
    np.testing.assert_array_equal(once.start[:4], [5, 5, 7, 9])
    np.testing.assert_array_equal(once.end[:4], [8, 10, 12, 14])
    np.testing.assert_array_equal(stacks["cross"].key.start, stacks["encoder_distilled_2"].key.start)


def test_informer_distilled_tokens_cover_all_that_they_can_see():
    """Change one sample's token: only distilled tokens that cover it move, but for the circular ends."""
    model = tiny("informer", changes={"encoder_layers": 2})
    layer = model.network.model.encoder.conv_layers[0]
    tokens = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(1))
    before, after = model.stacks[0].key, model.stacks[1].key
    for changed in range(2, 22):
        other = tokens.clone()
        other[0, changed] += 10
        with torch.no_grad():
            moved = (layer(tokens) - layer(other)).abs().amax((0, 2)) > 1e-6
        covers = (after.start <= before.start[changed]) & (before.start[changed] < after.end)
        assert not (moved.numpy() & ~covers).any() and (moved.numpy() & covers).any()


def test_informer_leaves_the_random_state_alone_and_follows_its_seed():
    model = model_of("informer", sampling_seed=1)
    history = histories(model)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        forecast = model(history)
        torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
        model.sampling_seed = 2
        assert not torch.allclose(model(history), forecast)
    assert model.options["sampling_seed"] == 2


# TimesFM


def test_timesfm_forecasts_what_the_library_does():
    for name in ("timesfm", "timesfm2_5"):
        model = model_of(name)
        history = histories(model)
        with torch.no_grad():
            for window in history:
                own = model.network([window.float()]).mean_predictions[0]
                torch.testing.assert_close(model(window[None])[0], own.double(), rtol=1e-6, atol=1e-6)


def test_timesfm_cuts_at_zero_window_by_window():
    model = model_of("timesfm2_5")
    history = histories(model)
    history = torch.cat([history - history.amin(1, keepdim=True), history - 3])
    with torch.no_grad():
        forecast = model(history)
        alone = torch.stack([model.network([window.float()]).mean_predictions[0] for window in history])
    torch.testing.assert_close(forecast, alone.double(), rtol=1e-5, atol=1e-5)
    assert (forecast[:3] >= 0).all() and (forecast[3:] < 0).any()


def test_timesfm_2_5_labels_both_passes():
    """The second pass is the first of the negated series."""
    model = model_of("timesfm2_5")
    straight, flipped = model.stacks
    assert (straight.name, straight.call, flipped.name, flipped.call) == ("encoder", 0, "encoder_flipped", 1)
    history = histories(model)
    _, capture = read_attention(model, history)
    _, negated = read_attention(model, -history)
    for layer in straight.layers:
        first, second = ([r.weights for r in capture.records if r.module == layer][call] for call in (0, 1))
        of_negated = next(r.weights for r in negated.records if r.module == layer and r.call == 0)
        torch.testing.assert_close(second, of_negated, rtol=1e-5, atol=1e-6)
        assert (first - second).abs().max() > 0.05
    assert [stack.name for stack in tiny("timesfm2_5", changes={"force_flip_invariance": False}).stacks] == ["encoder"]


@pytest.mark.parametrize("name", ["timesfm", "timesfm2_5"])
def test_timesfm_first_patch_is_short_where_the_history_is_no_multiple(name):
    model = tiny(name, history=100, horizon=5)
    tokens = model.stacks[0].query
    np.testing.assert_array_equal(tokens.start, [0, 4, 36, 68])
    np.testing.assert_array_equal(tokens.end, [4, 36, 68, 100])
    assert tokens.readout.tolist() == [False, False, False, True]
    _, capture = read_attention(model, histories(model))
    assert all(record.shape == (4, 4) and record.empty_rows == 0 for record in capture.records)


def test_timesfm_looks_at_no_later_patch():
    for name in ("timesfm", "timesfm2_5"):
        model = model_of(name)
        _, capture = read_attention(model, histories(model))
        assert all((record.weights.triu(1) == 0).all() for record in capture.records)
        assert all(stack.causal for stack in model.stacks)


def test_timesfm_frequency_reaches_the_network():
    low, high = (tiny("timesfm", frequency=frequency) for frequency in (2, None))
    history = histories(low)
    with torch.no_grad():
        own = low.network(list(history.float()), freq=[2] * 3).mean_predictions
        torch.testing.assert_close(low(history), own.double(), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(low(history), high(history))


@pytest.mark.parametrize("case", ["time_series_transformer", "informer", "informer_full", "autoformer"])
def test_values_beside_a_written_out_softmax_give_what_the_layer_projects(case):
    """Weights times values are the input of the output projection, in every call, of selected queries too."""
    model = model_of(case)
    history, modules = histories(model), dict(model.named_modules())
    projected, found, causal = defaultdict(list), defaultdict(list), causal_layers(model)

    class Keep:
        def read(self, call):
            weights, value = weights_and_values(call, len(history), causal=call.module in causal)
            assert call.source == "softmax"
            found[call.module].append((weights @ value).transpose(1, 2).flatten(2))

    for name in [layer for stack in model.stacks for layer in stack.layers]:
        keep = projected[name]
        modules[name].out_proj.register_forward_pre_hook(
            lambda module, given, keep=keep: keep.extend([given[0].detach()][: len(given[0]) == len(history)])
        )
    read_attention(model, history, reader=Keep(), certify=False)
    assert found.keys() == projected.keys()
    for name, contexts in found.items():
        for context, given in zip(contexts, projected[name], strict=True):
            torch.testing.assert_close(context, given, rtol=1e-4, atol=1e-5)
    series = np.concatenate([history.numpy(), np.full((len(history), model.horizon), np.nan)], 1)
    shown = xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(len(history))})
    for projection in (False, True):
        norms = value_weighted_attention(model, shown, projected=projection)
        assert all((node["attention"].sum(("query", "key")) > 0).all() for node in norms.children.values())
    for node in head_norms(model, shown).children.values():
        assert (node["weighted_norm"] >= 0.999 * node["output_norm"]).all() and (node["output_norm"] > 0).all()
