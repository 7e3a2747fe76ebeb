"""The encoder-decoder forecaster: decoding step by step, what is read of it, training."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from models import TINY, entropy_ratio, tiny
from torch import Tensor, nn

from laglens import store
from laglens.attention.assembly import records_of, whole_weights
from laglens.attention.capture import read_attention
from laglens.models.encoder_decoder import EncoderDecoderForecaster
from laglens.models.fitting import fit_on_signal, validation_errors
from laglens.models.registry import build_model
from laglens.models.tokens import HISTORY, HORIZON

HISTORY_LENGTH, STEPS = TINY["encoder_decoder"]["history"], TINY["encoder_decoder"]["horizon"]


def histories(n: int = 3) -> Tensor:
    return torch.randn(n, HISTORY_LENGTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def captured(model: nn.Module, history: Tensor) -> dict[str, Tensor]:
    """Weights of each stack, ``(layer, sample, head, query, key)``."""
    capture = read_attention(model, history)[1]
    return {
        stack.name: torch.stack(
            [whole_weights(stack, calls)[0] for calls in records_of(stack, capture.records).values()]
        )
        for stack in model.stacks
    }


def attend(attention: nn.MultiheadAttention, query: Tensor, key: Tensor, future: Tensor | None = None) -> tuple:
    """Output and the weights that torch itself returns, ``(sample, head, query, key)``."""
    return attention(query, key, key, attn_mask=future, need_weights=True, average_attn_weights=False)


def decoder_steps(model: nn.Module, history: Tensor) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Decode with the layers written out: weights of self- and cross-attention by layer, for each step in turn."""
    scaled = model.normalise(history)[0]
    past = model.embed(scaled[..., None]) + model.position[:HISTORY_LENGTH]
    for layer in model.transformer.encoder.layers:
        past = layer.norm1(past + attend(layer.self_attn, past, past)[0])
        past = layer.norm2(past + layer.linear2(layer.linear1(past).relu()))
    memory, previous = model.transformer.encoder.norm(past), scaled[:, -1:]
    for step in range(1, STEPS + 1):
        tokens = model.embed(previous[..., None]) + model.position[HISTORY_LENGTH : HISTORY_LENGTH + step]
        future, weights = torch.ones(step, step, dtype=torch.bool).triu(1), []
        for layer in model.transformer.decoder.layers:
            found, own = attend(layer.self_attn, tokens, tokens, future)
            tokens = layer.norm1(tokens + found)
            found, across = attend(layer.multihead_attn, tokens, memory)
            tokens = layer.norm2(tokens + found)
            tokens = layer.norm3(tokens + layer.linear2(layer.linear1(tokens).relu()))
            weights.append((own, across))
        yield weights
        value = model.head(model.transformer.decoder.norm(tokens))[:, -1]
        previous = torch.cat([previous, value.clamp(-model.limit, model.limit)], 1)


def test_tokens_stand_for_samples_of_the_history_and_for_the_steps_that_are_forecast() -> None:
    encoder, decoder, cross = tiny("encoder_decoder").stacks
    assert [stack.name for stack in (encoder, decoder, cross)] == ["encoder", "decoder", "cross"]
    np.testing.assert_array_equal(encoder.query.time, np.arange(24))
    np.testing.assert_array_equal(cross.query.time, np.arange(24, 30))
    np.testing.assert_array_equal(cross.key.time, encoder.query.time)
    np.testing.assert_array_equal(decoder.key.time, decoder.query.time)
    assert set(cross.query.part) == {HORIZON} and set(cross.key.part) == {HISTORY}
    assert cross.query.readout.all() and not encoder.query.readout.any()
    assert decoder.causal and decoder.steps and cross.steps and not encoder.steps
    names = dict(tiny("encoder_decoder").named_modules())
    layers = [names[layer] for stack in (encoder, decoder, cross) for layer in stack.layers]
    assert len(set(layers)) == 6 and all(isinstance(layer, nn.MultiheadAttention) for layer in layers)


def test_every_decoding_step_has_the_weights_that_torch_returns_for_it() -> None:
    model, history = tiny("encoder_decoder"), histories()
    found = captured(model, history)
    assert found["decoder"].shape == (2, 3, 2, STEPS, STEPS) and found["cross"].shape == (2, 3, 2, STEPS, 24)
    assert entropy_ratio(found["cross"]) < 0.9
    with torch.no_grad():
        for step, layers in enumerate(decoder_steps(model, history)):
            for layer, (own, across) in enumerate(layers):
                torch.testing.assert_close(found["decoder"][layer, :, :, step, : step + 1], own[:, :, -1])
                torch.testing.assert_close(found["cross"][layer, :, :, step], across[:, :, -1])


def test_the_encoder_has_the_weights_that_torch_returns() -> None:
    model, history = tiny("encoder_decoder"), histories()
    found = captured(model, history)["encoder"]
    assert entropy_ratio(found) < 0.9
    with torch.no_grad():
        past = model.embed(model.normalise(history)[0][..., None]) + model.position[:HISTORY_LENGTH]
        torch.testing.assert_close(found[0], attend(model.transformer.encoder.layers[0].self_attn, past, past)[1])


def test_a_step_sees_no_later_step() -> None:
    found = captured(tiny("encoder_decoder"), histories())
    assert not found["decoder"].triu(1).any()
    assert found["decoder"][..., 1:, 0].min() > 0
    for weights in found.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_decoding_step_by_step_equals_one_pass_over_what_was_decoded() -> None:
    model = tiny("encoder_decoder")
    with torch.no_grad():
        scaled = model.normalise(histories())[0]
        forecast = model.scaled_forecast(scaled)
        previous = torch.cat([scaled[:, -1:], forecast[:, :-1]], 1)
        torch.testing.assert_close(model.decode(previous, model.encode(scaled)), forecast)
        assert forecast.std(1).min() > 0.01


def test_training_is_fed_the_truth_and_not_its_own_forecast() -> None:
    model = tiny("encoder_decoder")
    series = torch.cat([histories(), torch.zeros(3, STEPS, dtype=torch.float64)], 1)
    other = series.clone()
    other[:, -1] = 5.0  # the last true value is fed to no step
    with torch.no_grad():
        scaled, changed = model.normalise(series)[0], model.normalise(other)[0]
        memory = model.encode(scaled[:, :HISTORY_LENGTH])
        given = model.decode(scaled[:, HISTORY_LENGTH - 1 : -1], memory)
        expected = [nn.functional.mse_loss(given, whole[:, HISTORY_LENGTH:]) for whole in (scaled, changed)]
        assert [model.loss(series), model.loss(other)] == expected
        assert expected[0] != expected[1]


def sine(n: int = 260, period: float = 8.0) -> xr.DataArray:
    return xr.DataArray(np.sin(2 * np.pi * np.arange(n) / period)[None], dims=("sample", "time"))


def test_training_lowers_the_loss_and_beats_the_last_value_on_a_sine(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        model = build_model("encoder_decoder", TINY["encoder_decoder"], seed=4)
        curve = fit_on_signal(model, sine(), epochs=12, learning_rate=3e-3, seed=2)
        store.write_weights(model.state_dict(), {}, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert curve["training_loss"][-1] < 0.2 * curve["training_loss"][0]
    errors = validation_errors(model, sine())
    assert errors["model"] < 0.5 * min(errors["last_value"], errors["mean"])


def test_a_forecast_that_runs_away_stays_finite() -> None:
    model = tiny("encoder_decoder")
    with torch.no_grad():
        model.head.weight.mul_(1e6)
        forecast = model(histories())
    assert torch.isfinite(forecast).all()


def test_other_sizes_than_the_default_are_built() -> None:
    model = build_model("encoder_decoder", {"history": 10, "horizon": 1, "layers": 1, "heads": 8})
    assert [len(stack.layers) for stack in model.stacks] == [1, 1, 1]
    assert captured(model, torch.randn(2, 10, dtype=torch.float64))["cross"].shape == (1, 2, 8, 1, 10)
    default = EncoderDecoderForecaster()
    encoder = build_model("encoder")
    assert default.history == encoder.history == 100 and default.horizon == encoder.horizon == 20
    assert {key: value.shape for key, value in default.transformer.encoder.layers.state_dict().items()} == {
        key: value.shape for key, value in encoder.encoder.layers.state_dict().items()
    }
