"""Autoformer: the delays that the library adds up, as a matrix on the values."""

import copy
import math

import numpy as np
import pytest
import torch
from models import entropy_ratio
from tiny_huggingface import histories, tiny

from laglens.attention.capture import read_attention
from laglens.errors import LaglensError
from laglens.models.autoformer import circular_correlation, delay_attention, delay_operator, lag_spectrum

# More queries than keys, as many, and fewer: the label is what the decoder sees of the history.
LABELS = {10: 16, 18: 24, 24: 30}


def values_of(model):
    """Values of each attention module in its first call, before it is compared: (batch, head, key, channel)."""
    found = {}

    def keep(name, heads):
        def hook(module, args, output):
            found.setdefault(name, output.unflatten(-1, (heads, -1)).transpose(1, 2))

        return hook

    for name, module in model.named_modules():
        if type(module).__name__ == "AutoformerAttention":
            module.v_proj.register_forward_hook(keep(name, module.num_heads))
    return found


@pytest.mark.parametrize("label", LABELS)
def test_forecast_is_that_of_the_library_window_by_window(label):
    from transformers.models.autoformer.modeling_autoformer import AutoformerForPrediction

    model = tiny("autoformer", changes={"label_length": label})
    history = histories(model, 4)
    own = AutoformerForPrediction(copy.deepcopy(model.network.config)).eval()
    own.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        forecast = model(history)
        for window, found in zip(history, forecast, strict=True):
            given = model.inputs(window[None])
            output = own(**given, future_values=torch.randn(1, model.horizon))
            mean = own.output_distribution(output.params, loc=output.loc, scale=output.scale).mean
            torch.testing.assert_close(found, mean[0].double(), rtol=1e-4, atol=1e-4)


def test_samples_of_a_batch_keep_their_own_delays():
    """The library mixes them up, which is why its forecast of a batch is no reference."""
    from transformers.models.autoformer.modeling_autoformer import AutoformerForPrediction

    model = tiny("autoformer")
    history = histories(model, 4)
    own = AutoformerForPrediction(copy.deepcopy(model.network.config)).eval()
    own.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        together = own(**model.inputs(history), future_values=torch.zeros(4, model.horizon))
        alone = own(**model.inputs(history[1:2]), future_values=torch.zeros(1, model.horizon))
    mixed = (together.encoder_last_hidden_state[1:2] - alone.encoder_last_hidden_state).abs().max()
    assert mixed > 1e-2, "the library keeps samples apart now: say so in the docs, and drop the reason in the code"


@pytest.mark.parametrize("label", LABELS)
def test_captured_matrix_times_values_is_what_the_library_computes(label):
    """W V, in float64, against the library's layer on each window alone."""
    model = tiny("autoformer", changes={"label_length": label})
    history = histories(model)
    values = values_of(model)
    modules = dict(model.named_modules())
    own = {}

    def run_own(name):
        def hook(module, args, kwargs, output):
            tokens = args[0] if args else kwargs["hidden_states"]
            others = kwargs.get("key_value_states")
            windows = [
                type(module).forward(module, tokens[i : i + 1], None if others is None else others[i : i + 1])[0]
                for i in range(len(tokens))
            ]
            own[name] = torch.cat(windows)

        return hook

    for name, module in modules.items():
        if type(module).__name__ == "AutoformerAttention":
            module.register_forward_hook(run_own(name), with_kwargs=True)
    _, capture = read_attention(model, history)
    assert len(capture.records) == len(own) == 6
    for record in capture.records:
        weights = record.weights.double()
        n = weights.shape[-1]
        assert weights.shape == (3, 1, n, n)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)), rtol=1e-6, atol=1e-6)
        value = values[record.module].double()[:, :, :n]
        value = torch.nn.functional.pad(value, (0, 0, 0, n - value.shape[2]))
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        projection = modules[record.module].out_proj
        output = mixed @ projection.weight.double().T + projection.bias.double()
        torch.testing.assert_close(output, own[record.module].double(), rtol=1e-4, atol=2e-5)
    assert np.mean([entropy_ratio(record.weights) for record in capture.records]) < 0.9


@pytest.mark.parametrize(("label", "length"), LABELS.items())
def test_cross_attention_has_as_many_keys_as_queries(label, length):
    cross = tiny("autoformer", changes={"label_length": label}).stacks[-1]
    assert len(cross.query) == len(cross.key) == length
    np.testing.assert_array_equal(cross.query.start, np.arange(29 - label, 35))
    n_real = min(length, 24)
    np.testing.assert_array_equal(cross.key.start[:n_real], np.arange(5, 5 + n_real))
    assert np.isnan(cross.key.start[n_real:]).all()


def test_rows_are_one_spectrum_shifted_round():
    model = tiny("autoformer")
    _, capture = read_attention(model, histories(model))
    for record in capture.records:
        n = record.weights.shape[-1]
        spectrum = record.weights[:, 0, 0]
        for query in range(n):
            torch.testing.assert_close(record.weights[:, 0, query], spectrum.roll(query, -1), rtol=1e-6, atol=0)
        assert ((spectrum > 0).sum(-1) <= int(3 * math.log(n))).all()


def test_correlation_is_the_sum_over_shifted_products():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, 12, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    found = circular_correlation(query, key)
    for delay in range(12):
        brute = (query.roll(-delay, 2) * key).sum(2).mean((1, 2))
        torch.testing.assert_close(found[:, delay], brute)


def test_spectrum_and_operator_of_a_known_correlation():
    correlation = torch.tensor([[0.0, 3.0, 1.0, 2.0]], dtype=torch.float64)
    spectrum = lag_spectrum(correlation, 2)
    expected = torch.tensor([[0, math.e, 0, 1]], dtype=torch.float64) / (math.e + 1)
    torch.testing.assert_close(spectrum, expected)
    operator = delay_operator(spectrum)
    values = torch.arange(4, dtype=torch.float64)[:, None]
    shifted = spectrum[0, 1] * values.roll(-1, 0) + spectrum[0, 3] * values.roll(-3, 0)
    torch.testing.assert_close(operator[0] @ values, shifted)


def test_a_period_is_found_as_delay():
    """Queries and keys that repeat every 8 samples correlate most at multiples of 8."""
    wave = torch.sin(2 * torch.pi * torch.arange(32, dtype=torch.float64) / 8)[None, None, :, None]
    spectrum = lag_spectrum(circular_correlation(wave, wave), 4)
    assert spectrum[0].nonzero().flatten().tolist() == [0, 8, 16, 24]


def test_another_layer_than_the_operator_describes_is_refused(monkeypatch):
    from transformers.models.autoformer import modeling_autoformer

    model = tiny("autoformer")
    own = modeling_autoformer.AutoformerAttention.forward
    monkeypatch.setattr(
        modeling_autoformer.AutoformerAttention, "forward", lambda *args, **kwargs: (own(*args, **kwargs)[0] * 2, None)
    )
    with pytest.raises(LaglensError, match=r"does not reproduce the output of transformers \(relative error 5\.0e-01"):
        model(histories(model))


def test_a_copy_runs_with_its_own_weights():
    model = tiny("autoformer")
    history = histories(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = model(history)
        for parameter in twin.parameters():
            parameter.zero_()
        torch.testing.assert_close(model(history), before, rtol=0, atol=0)
        assert not torch.allclose(twin(history), before)
    assert twin.network.model.encoder.layers[0].self_attn.forward.__func__ is delay_attention


def test_an_intervention_in_the_weights_reaches_the_forecast():
    """A cut of the delay that matters most to the first query of each layer; the comparison stays silent."""
    model = tiny("autoformer")
    history = histories(model)
    forecast, clean = read_attention(model, history)

    def cut(call):
        edges = torch.zeros(call.shape, dtype=torch.bool)
        edges[0, int(call.weights[0, 0, 0].argmax())] = True
        return call.without(edges)

    changed, capture = read_attention(model, history, edit=cut, clean=clean)
    assert (changed - forecast).abs().max() > 1e-3
    for record, before in zip(capture.records, clean.records, strict=True):
        torch.testing.assert_close(record.weights.sum(-1), torch.ones_like(record.weights.sum(-1)))
        strongest = before.weights[0, 0, 0].argmax()
        assert record.module != "network.model.encoder.layers.0.self_attn" or record.weights[0, 0, 0, strongest] == 0
    unchanged, _ = read_attention(model, history, edit=lambda call: call, clean=clean)
    torch.testing.assert_close(unchanged, forecast, rtol=0, atol=0)


def test_all_delays_at_once_are_no_selected_queries():
    """As many delays as times: their indices look like those of selected queries, but are not."""
    changes = {"context_length": 12, "label_length": 6, "autocorrelation_factor": 5}
    model = tiny("autoformer", changes=changes)
    assert int(5 * math.log(12)) == 12
    _, capture = read_attention(model, histories(model, 1))
    assert all(record.selected is None for record in capture.records)
