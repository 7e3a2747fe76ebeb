"""ViTime: conformance to the published code, float64 recomputation, its demo's defects, bad input."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vitime_checkpoint
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from models import entropy_ratio
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from vitime_checkpoint import loaded
from vitime_reference import reference

from laglens.attention.capture import read_attention
from laglens.attention.cube import attention_tree
from laglens.attribution.forecast import attribute_forecast
from laglens.config.adapters import ViTimeModel
from laglens.errors import LaglensError
from laglens.lags.profiles import subdiagonal_means
from laglens.models.tokens import HISTORY, HORIZON, SPECIAL
from laglens.models.vitime import ViTimeForecaster
from laglens.models.vitime_image import Canvas, blur
from laglens.time.reduce import to_time

EXPECTED = dict(np.load(Path(__file__).parent / "data" / "vitime" / "expected.npz"))
CASES = ("harmonics", "trend", "short_history")
LAYERS = {"encoder": ("blocks.0", "blocks.1"), "decoder": ("decoder_blocks.0",)}
ROWS, COLUMNS = 16, 20
SMALL: dict[str, Any] = {"h": 32, "size": [128, 0, 192]}
SMALL_ARGS = vitime_checkpoint.settings(**SMALL)
SMALL_STATE = vitime_checkpoint.state_of(SMALL_ARGS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of the fixture."""
    return vitime_checkpoint.write(tmp_path_factory.mktemp("vitime") / "ViTime_Model.pth")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 8 x 10 patches, for what needs no published numbers."""
    return vitime_checkpoint.write(tmp_path_factory.mktemp("small") / "ViTime_Model.pth", **SMALL)


def published(path: Path, case: str) -> tuple[ViTimeForecaster, xr.Dataset]:
    """The model as a case of the fixture has it, and its window."""
    signal, horizon = EXPECTED[f"{case}/signal"], int(EXPECTED[f"{case}/horizon"])
    return loaded(path, len(signal), horizon), windows(signal[None], horizon)


def windows(histories: np.ndarray, horizon: int) -> xr.Dataset:
    series = np.pad(histories, ((0, 0), (0, horizon)), constant_values=np.nan)
    return xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(len(series))})


def waves(n: int, length: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(length) / rng.uniform(9, 40, (n, 1)) + rng.uniform(0, 6, (n, 1))
    return 3 * np.sin(angle) + 0.3 * rng.normal(size=(n, length)) + rng.normal(size=(n, 1))


def assert_maps_close(found: np.ndarray, expected: np.ndarray) -> None:
    """To float32 rounding: 1e-5 of the largest weight."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())


def dense(model: ViTimeForecaster, histories: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of every block: ``(sample, head, query, key)``."""
    _, capture = read_attention(model, torch.from_numpy(histories))
    return {record.module.removesuffix(".attn"): record.weights.numpy() for record in capture.records}


# Conformance to the published code


@pytest.mark.parametrize("store", ["tokens", "time"])
@pytest.mark.parametrize("case", CASES)
def test_time_maps_lag_curves_and_forecasts_are_those_of_the_published_code(checkpoint, case, store):
    model, shown = published(checkpoint, case)

    attention = attention_tree(model, shown, store=store, dtype="float32")
    time = to_time(attention, normalisation="mean")

    for stack, layers in LAYERS.items():
        maps = time[stack]["attention"].transpose("layer", "sample", "head", "query", "key").values[:, 0]
        for layer, found in zip(layers, maps, strict=True):
            assert_maps_close(found, EXPECTED[f"{case}/{layer}"])
    curve = subdiagonal_means(time["decoder"].to_dataset(inherit=False))
    assert_maps_close(curve.transpose(..., "head", "lag").values.reshape(3, 19), EXPECTED[f"{case}/lag_attention"])
    np.testing.assert_allclose(time["forecast"].values[0], EXPECTED[f"{case}/forecast"], rtol=0, atol=1e-9)
    assert attention.attrs["certificate"]["found"] == attention.attrs["certificate"]["captured"] == 3
    assert attention.attrs["certificate"]["worst"] < 1e-5


def test_token_weights_are_those_of_the_published_code(checkpoint):
    model, shown = published(checkpoint, "harmonics")

    cube = attention_tree(model, shown, store="tokens", dtype="float32")["decoder/attention"]

    assert_maps_close(cube.squeeze().transpose("head", "query", "key").values[:, :40], EXPECTED["harmonics/tokens"])


# Independent recomputation


OTHER_SETTINGS = {
    "the fixture's": ({"h": 64, "size": [256, 0, 384]}, 300, 61),
    "short": ({}, 17, 31),
    "long": ({}, 700, 100),
    "plain mean": ({"muNorm": None}, 100, 60),
    "power 1": ({"muNorm": 1}, 100, 60),
    "power 3": ({"muNorm": 3}, 100, 60),
    "trained on squares": ({"lossType": "MSE"}, 100, 60),
    "sharp values": ({"maxScal": 2.0}, 100, 60),
    "other picture": ({"patch_size": [8, 16], "size": [96, 0, 48]}, 128, 192),
    "long before": ({"size": [256, 0, 64]}, 100, 60),
}


@pytest.mark.parametrize(("changes", "history", "horizon"), OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_attention_and_forecast_equal_a_float64_recomputation(tmp_path, changes, history, horizon):
    args = vitime_checkpoint.settings(**SMALL | changes)
    if args.muNorm is None:
        del args.muNorm
    state = vitime_checkpoint.state_of(args)
    torch.save({"args": args, "model": state}, tmp_path / "x.pth")
    model = loaded(tmp_path / "x.pth", history, horizon)
    series = waves(1, history, seed=history)

    found = dense(model, series)
    forecast = model(torch.from_numpy(series))

    expected = reference(state, args, series[0], horizon)
    assert found.keys() == expected.weights.keys()
    for layer, weights in expected.weights.items():
        assert_maps_close(found[layer][0], weights)
    sharpness = [entropy_ratio(torch.from_numpy(weights)) for weights in expected.weights.values()]
    assert np.mean(sharpness) < 0.9  # not so even that any capture would pass
    assert forecast.dtype == torch.float64
    # A row as bright as another, to float32 rounding, may be taken for it: its column of the picture is a bin off.
    off = ~np.isclose(forecast[0].detach().numpy(), expected.forecast, rtol=0, atol=1e-9)
    assert off.mean() < 0.02


def test_a_network_that_runs_in_float64_gives_the_forecast_exactly(small):
    series = waves(4, 128)

    found = loaded(small).double()(torch.from_numpy(series)).detach().numpy()

    for one, history in zip(found, series, strict=True):
        expected = reference(SMALL_STATE, SMALL_ARGS, history, 192)
        np.testing.assert_allclose(one, expected.forecast, rtol=0, atol=1e-9)


def test_the_picture_is_that_of_scipy(small):
    canvas = loaded(small).canvas
    series = waves(3, 128)
    series[2] *= 1e6

    drawn = canvas.draw(canvas.normalise(torch.from_numpy(series))[0]).numpy()

    for one, history in zip(drawn, series, strict=True):
        np.testing.assert_allclose(one, reference(SMALL_STATE, SMALL_ARGS, history, 192).picture, rtol=0, atol=1e-12)
    first = canvas.history_columns
    assert (drawn[..., first : first + 15] > 0).any(1).all() and not drawn[..., first + 15 :].any()  # the leak


@pytest.mark.parametrize("n", [2, 7, 15, 16, 64])
def test_the_blur_mirrors_also_where_the_picture_is_smaller_than_its_kernel(n):
    picture = np.random.default_rng(0).normal(size=(3, n))

    found = blur(torch.from_numpy(picture)).numpy()

    np.testing.assert_allclose(found, gaussian_filter(picture, (0, 5), radius=(0, 15), mode="mirror"), atol=1e-14)


def test_mu_is_the_signed_root_mean_square():
    canvas = Canvas(512, 720, 128, 2464, 3.5, 2)
    for series in (np.sin(np.arange(512) / 7) + 0.007, np.random.default_rng(1).normal(size=512) - 0.02):
        _, mu, sigma = canvas.normalise(torch.from_numpy(series)[None])
        drawn = np.interp(np.linspace(0, 511, 1024), np.arange(512), series)
        power = (drawn * np.abs(drawn)).mean() + 1e-7
        assert mu.item() == pytest.approx(math.copysign(math.sqrt(abs(power)), power), abs=1e-12)
        assert sigma.item() == pytest.approx(drawn.std() + 1e-7, abs=1e-12)
        assert abs(mu.item() - series.mean()) > 0.02


# Tokens


def test_a_token_covers_16_samples_only_where_history_and_horizon_are_1232():
    model = ViTimeForecaster(history=512, horizon=720, model_size=0.1875)
    tokens = model.stacks[0].key
    np.testing.assert_allclose((tokens.end - tokens.start)[1:], 16)
    assert (tokens.part == HISTORY).sum() == 32 * 32 and (tokens.part == HORIZON).sum() == 32 * 45
    other = ViTimeForecaster(history=512, horizon=96, model_size=0.1875).stacks[0].key
    np.testing.assert_allclose((other.end - other.start)[1:], 608 / 77, atol=1e-5)


def test_a_token_across_the_border_is_of_the_history_and_read_for_the_forecast(checkpoint):
    model = loaded(checkpoint, 90, 100)
    encoder, decoder = model.stacks
    tokens = decoder.query
    assert model.canvas.history_columns == 303
    assert tokens.part[0] == SPECIAL and np.isnan(tokens.start[0])
    np.testing.assert_allclose(tokens.start[1:21], 9.5 * np.arange(20))
    np.testing.assert_array_equal(tokens.row[1:], np.repeat(np.arange(ROWS), COLUMNS))
    np.testing.assert_array_equal(tokens.column[1:], np.tile(np.arange(COLUMNS), ROWS))
    at_border = (tokens.start < 90) & (tokens.end > 90)
    assert at_border.sum() == ROWS and (tokens.part[at_border] == HISTORY).all() and tokens.readout[at_border].all()
    np.testing.assert_array_equal(tokens.readout, tokens.end > 90)
    np.testing.assert_array_equal(tokens.part[1:] == HORIZON, tokens.start[1:] >= 90)
    assert encoder.layers == ("blocks.0.attn", "blocks.1.attn") and decoder.layers == ("decoder_blocks.0.attn",)


@settings(max_examples=40, deadline=None)
@given(history=st.integers(2, 3000), horizon=st.integers(1, 3000))
def test_any_history_and_horizon_fill_the_columns_they_stand_for(history, horizon):
    canvas = Canvas(history, horizon, 16, 64, 3.5, 2)
    columns = canvas.history_columns
    assert columns == math.floor(64 * history / (history + horizon) + 1e-9) or columns == 64 * history // (
        history + horizon
    )
    if columns:
        picture = canvas.draw(canvas.normalise(torch.arange(history, dtype=torch.float64)[None])[0])
        assert picture.shape == (1, 16, 64) and bool((picture[..., :columns].sum(1) > 0).all())
        mu, sigma = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[3.0]], dtype=torch.float64)
        forecast = canvas.read(picture, mu, sigma)
        assert forecast.shape == (1, horizon) and bool((forecast >= 2 - 3.5 * 3 - 1e-9).all())


def test_a_bright_row_is_read_as_its_lower_edge():
    canvas = Canvas(8, 8, 16, 16, 3.5, None)
    rows = torch.arange(16)
    picture = torch.eye(16)[rows].T[None]  # column t is bright in row t
    one = torch.ones(1, 1, dtype=torch.float64)
    np.testing.assert_allclose(canvas.read(picture, 0 * one, one)[0], np.arange(8, 16) * 7 / 15 - 3.5)


# Defects of the published demo


def test_two_captures_on_one_object_agree(small):
    """The demo's second forward fails: handles overwrite the names of its hooks."""
    model, series = loaded(small), waves(2, 128)
    first, second = dense(model, series), dense(model, series)
    assert first.keys() == second.keys() == {layer for layers in LAYERS.values() for layer in layers}
    for layer, weights in first.items():
        np.testing.assert_array_equal(weights, second[layer])


def test_no_hooks_and_no_changed_settings_remain(small):
    """The demo leaves its hooks, and fused attention switched off."""
    model = loaded(small)
    before = [dict(module.__dict__) for module in model.modules()]
    dense(model, waves(1, 128))
    for module, state in zip(model.modules(), before, strict=True):
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert module.__dict__.keys() == state.keys()
        assert all(module.__dict__[key] is value for key, value in state.items() if isinstance(value, (bool, int)))


def test_a_batch_of_two_equals_two_batches_of_one(small):
    """The demo keeps sample 0 alone."""
    model, series = loaded(small), waves(2, 128)
    both = dense(model, series)
    for sample in range(2):
        for layer, weights in dense(model, series[sample : sample + 1]).items():
            assert_maps_close(both[layer][sample], weights[0])
    assert np.abs(both["blocks.0"][0] - both["blocks.0"][1]).max() > 0.01
    together = model(torch.from_numpy(series))
    apart = torch.cat([model(torch.from_numpy(series[i : i + 1])) for i in range(2)])
    np.testing.assert_allclose(together.detach(), apart.detach(), rtol=0, atol=1e-9)


def test_encoder_maps_are_in_true_order_not_shuffled(small):
    """The published encoder shuffles its tokens anew at each call, and its maps with them."""
    series, order = waves(1, 128), np.random.default_rng(3).permutation(8 * 10)
    shuffled = reference(SMALL_STATE, SMALL_ARGS, series[0], 192, order=order).weights
    ours, back = dense(loaded(small), series), np.concatenate([[0], 1 + np.argsort(order)])
    for layer in LAYERS["encoder"]:
        assert_maps_close(ours[layer][0], shuffled[layer][:, back][:, :, back])
        assert abs(np.corrcoef(ours[layer][0].ravel(), shuffled[layer].ravel())[0, 1]) < 0.3
    assert_maps_close(ours["decoder_blocks.0"][0], shuffled["decoder_blocks.0"])


@pytest.mark.parametrize("store", ["tokens", "time"])
def test_mass_is_conserved_and_what_cls_takes_is_reported(checkpoint, store):
    """The demo averages over key rows, so that rows sum to 1/16, and drops the CLS column without a word."""
    model, shown = published(checkpoint, "trend")
    tree = attention_tree(model, shown, store=store, dtype="float32")
    mass, mean = to_time(tree), to_time(tree, normalisation="mean")
    for stack in LAYERS:
        rows = mass[stack]["attention"].sum("key")
        np.testing.assert_allclose(rows + mass[stack]["special_mass"], 1, atol=1e-5)
        np.testing.assert_allclose(mass[stack]["attention"], mean[stack]["attention"] * ROWS, rtol=1e-5)
        assert float(mass[stack]["special_mass"].max()) > 0.002


def test_lags_are_in_the_samples_of_this_history_and_horizon(checkpoint):
    """The demo multiplies every lag by 16."""
    for case, step in (("harmonics", 16.0), ("short_history", 9.5)):
        model, shown = published(checkpoint, case)
        node = to_time(attention_tree(model, shown), normalisation="mean")["decoder"].to_dataset(inherit=False)
        np.testing.assert_allclose(subdiagonal_means(node)["lag"], step * np.arange(1, 20))


def test_options_that_would_never_reach_the_model_are_refused():
    """The demo's temperature is written to a misspelt attribute."""
    with pytest.raises(ValidationError, match="temperature"):
        ViTimeModel(architecture="vitime", checkpoint="x.pth", temperature=2)
    with pytest.raises(TypeError, match="temperature"):
        ViTimeForecaster(temperature=2)


# Input


def test_a_constant_history_is_drawn_and_forecast_as_itself(small):
    model = loaded(small)
    series = np.array([np.zeros(128), np.full(128, 5.0), np.full(128, -1e9)])
    forecast = model(torch.from_numpy(series)).detach().numpy()
    np.testing.assert_allclose(forecast, series[:, :1] + np.zeros((1, 192)), rtol=1e-6, atol=1e-3)
    for one, history in zip(forecast[:1], series[:1], strict=True):
        expected = reference(SMALL_STATE, SMALL_ARGS, history, 192).forecast
        np.testing.assert_allclose(one, expected, atol=1e-9)
    assert all(np.isfinite(weights).all() for weights in dense(model, series).values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_history_that_is_not_finite_is_an_error(checkpoint, value):
    series = waves(2, 128)
    series[1, 40] = value
    with pytest.raises(LaglensError, match="not finite; ViTime cannot draw them"):
        loaded(checkpoint)(torch.from_numpy(series))


def test_a_history_of_another_length_is_an_error(checkpoint):
    with pytest.raises(LaglensError, match="the history has 100 samples; this model was set up for 128"):
        loaded(checkpoint)(torch.from_numpy(waves(1, 100)))


@pytest.mark.parametrize(("history", "horizon"), [(1, 10), (2, 5000), (10, 0)])
def test_what_cannot_be_drawn_is_an_error(checkpoint, history, horizon):
    with pytest.raises(LaglensError, match=rf"history {history} and horizon {horizon} cannot be drawn"):
        loaded(checkpoint, history, horizon)


def test_the_forecast_is_attributed_by_occlusion_alone(small):
    model, series = loaded(small, 90, 100), waves(2, 90)
    found = attribute_forecast(model, windows(series, 100), step=5)
    assert list(found["attribution_method"].values) == ["occlusion"]
    assert found.attrs["left_out"] == ["gradient", "input_x_gradient", "integrated_gradients"]
    assert found.attrs["occlusion_window"] == 19
    assert np.isfinite(found["attribution"]).all() and np.abs(found["attribution"]).max() > 0
    # A gradient would be that of mu and sigma alone: the picture has none.
    scaled, mu, sigma = model.canvas.normalise(torch.from_numpy(series).requires_grad_())
    assert mu.requires_grad and sigma.requires_grad and not model.canvas.draw(scaled).requires_grad
