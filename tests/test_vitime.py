"""ViTime: conformance to the published code, float64 recomputation, its demo's defects, bad input."""

import json
import math
from pathlib import Path

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
from vitime_reference import reference

from laglens.attention.capture import read_attention
from laglens.attention.cube import attention_tree
from laglens.attribution.forecast import attribute_forecast
from laglens.config.adapters import ViTimeModel
from laglens.errors import LaglensError
from laglens.lags.profiles import subdiagonal_means
from laglens.models.card import model_card
from laglens.models.registry import load_model, restore_model
from laglens.models.tokens import HISTORY, HORIZON, SPECIAL
from laglens.models.vitime import ViTimeForecaster
from laglens.models.vitime_image import Canvas, blur
from laglens.store import read_card, read_weights, write_weights
from laglens.time.reduce import to_time

EXPECTED = dict(np.load(Path(__file__).parent / "data" / "vitime" / "expected.npz"))
CASES = ("harmonics", "trend", "short_history")
LAYERS = {"encoder": ("blocks.0", "blocks.1"), "decoder": ("decoder_blocks.0",)}
ROWS, COLUMNS = 16, 20
STATE = {key: value.numpy() for key, value in vitime_checkpoint.weights().items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vitime_checkpoint.write(tmp_path_factory.mktemp("vitime") / "ViTime_Model.pth")


def loaded(path: Path, history: int = 128, horizon: int = 192) -> ViTimeForecaster:
    model = load_model("vitime", path, {"history": history, "horizon": horizon})
    assert isinstance(model, ViTimeForecaster)
    return model


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
    "as published": ({}, 128, 192),
    "short": ({}, 37, 61),
    "long": ({}, 700, 20),
    "plain mean": ({"muNorm": None}, 100, 60),
    "power 1": ({"muNorm": 1}, 100, 60),
    "power 3": ({"muNorm": 3}, 100, 60),
    "trained on squares": ({"lossType": "MSE"}, 100, 60),
    "sharp values": ({"maxScal": 2.0}, 100, 60),
    "other picture": ({"patch_size": (8, 16), "size": [192, 0, 128], "h": 32}, 128, 192),
    "long before": ({"size": [512, 0, 128]}, 100, 60),
}


@pytest.mark.parametrize(("changes", "history", "horizon"), OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_attention_and_forecast_equal_a_float64_recomputation(tmp_path, changes, history, horizon):
    args = vitime_checkpoint.settings(**changes)
    if changes.get("muNorm", 0) is None:
        del args.muNorm
    state = vitime_checkpoint.weights(args.modelSize, args.h, tuple(args.patch_size), tuple(args.size))
    torch.save({"args": args, "model": state}, tmp_path / "x.pth")
    model = loaded(tmp_path / "x.pth", history, horizon)
    series = waves(1, history, seed=history)

    found = dense(model, series)
    forecast = model(torch.from_numpy(series))

    expected = reference({k: v.numpy() for k, v in state.items()}, args, series[0], horizon)
    assert found.keys() == expected.weights.keys()
    for layer, weights in expected.weights.items():
        assert_maps_close(found[layer][0], weights)
    sharpness = [entropy_ratio(torch.from_numpy(weights)) for weights in expected.weights.values()]
    assert np.mean(sharpness) < 0.9  # not so even that any capture would pass
    assert forecast.dtype == torch.float64
    # A row as bright as another, to float32 rounding, may be taken for it: its column of the picture is a bin off.
    off = ~np.isclose(forecast[0].detach().numpy(), expected.forecast, rtol=0, atol=1e-9)
    assert off.mean() < 0.02


def test_a_network_that_runs_in_float64_gives_the_forecast_exactly(checkpoint):
    series = waves(4, 128)

    found = loaded(checkpoint).double()(torch.from_numpy(series)).detach().numpy()

    for one, history in zip(found, series, strict=True):
        expected = reference(STATE, vitime_checkpoint.settings(), history, 192)
        np.testing.assert_allclose(one, expected.forecast, rtol=0, atol=1e-9)


def test_the_picture_is_that_of_scipy(checkpoint):
    canvas = loaded(checkpoint).canvas
    series = waves(3, 128)
    series[2] *= 1e6

    drawn = canvas.draw(canvas.normalise(torch.from_numpy(series))[0]).numpy()

    for one, history in zip(drawn, series, strict=True):
        np.testing.assert_allclose(
            one, reference(STATE, vitime_checkpoint.settings(), history, 192).picture, rtol=0, atol=1e-12
        )
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


def test_two_captures_on_one_object_agree(checkpoint):
    """The demo's second forward fails: handles overwrite the names of its hooks."""
    model, series = loaded(checkpoint), waves(2, 128)
    first, second = dense(model, series), dense(model, series)
    assert first.keys() == second.keys() == {layer for layers in LAYERS.values() for layer in layers}
    for layer, weights in first.items():
        np.testing.assert_array_equal(weights, second[layer])


def test_no_hooks_and_no_changed_settings_remain(checkpoint):
    """The demo leaves its hooks, and fused attention switched off."""
    model = loaded(checkpoint)
    before = [dict(module.__dict__) for module in model.modules()]
    dense(model, waves(1, 128))
    for module, state in zip(model.modules(), before, strict=True):
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert module.__dict__.keys() == state.keys()
        assert all(module.__dict__[key] is value for key, value in state.items() if isinstance(value, (bool, int)))


def test_a_batch_of_two_equals_two_batches_of_one(checkpoint):
    """The demo keeps sample 0 alone."""
    model, series = loaded(checkpoint), waves(2, 128)
    both = dense(model, series)
    for sample in range(2):
        for layer, weights in dense(model, series[sample : sample + 1]).items():
            assert_maps_close(both[layer][sample], weights[0])
    assert np.abs(both["blocks.0"][0] - both["blocks.0"][1]).max() > 0.01
    together = model(torch.from_numpy(series))
    apart = torch.cat([model(torch.from_numpy(series[i : i + 1])) for i in range(2)])
    np.testing.assert_allclose(together.detach(), apart.detach(), rtol=0, atol=1e-9)


def test_encoder_maps_are_in_true_order_not_shuffled(checkpoint):
    """The published encoder shuffles its tokens anew at each call, and its maps with them."""
    series, order = waves(1, 128), np.random.default_rng(3).permutation(ROWS * COLUMNS)
    shuffled = reference(STATE, vitime_checkpoint.settings(), series[0], 192, order=order).weights
    ours, back = dense(loaded(checkpoint), series), np.concatenate([[0], 1 + np.argsort(order)])
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


def test_weights_whose_names_do_not_fit_are_an_error_not_a_random_model(tmp_path):
    """The published loader falls back to loading nothing, and forecasts with random weights."""
    path = vitime_checkpoint.write(tmp_path / "x.pth", prefix="network.")
    with pytest.raises(LaglensError, match=r"x\.pth: the weights do not fit .*missing: cls_token.* and 47 more; unexp"):
        loaded(path)


# Loading


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model."])
def test_names_with_and_without_prefixes_load_alike(tmp_path, checkpoint, prefix):
    model = loaded(vitime_checkpoint.write(tmp_path / "x.pth", prefix=prefix))
    for key, value in loaded(checkpoint).state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("changes", [{}, {"muNorm": None, "lossType": "MSE"}, {"maxScal": 3, "patch_size": (8, 16)}])
def test_card_and_safetensors_rebuild_the_model_without_the_checkpoint(tmp_path, changes):
    model = loaded(vitime_checkpoint.write(tmp_path / "x.pth", **changes), 100, 60)
    card = model_card(
        model, name="v", architecture="vitime", options=model.options, trained_on="", training={},
        held_out_errors={}, versions={},
    )  # fmt: skip
    assert json.loads(json.dumps(model.options)) == model.options

    write_weights(model.state_dict(), card, tmp_path / "v.safetensors")
    again = restore_model(read_card(tmp_path / "v.safetensors"), read_weights(tmp_path / "v.safetensors"))

    series = torch.from_numpy(waves(2, 100))
    assert torch.equal(model(series), again(series)) and again.options == model.options


def test_settings_of_other_types_are_read(tmp_path):
    changes = {
        "size": (np.int64(256), 0, 384.0),
        "h": np.int32(64),
        "modelSize": np.float64(0.1875),
        "muNorm": 2.0,
        "device": torch.device("cpu"),
        "root_path": Path("/somewhere/data"),
    }
    model = loaded(vitime_checkpoint.write(tmp_path / "x.pth", state=vitime_checkpoint.weights(), **changes))
    assert model.options == loaded(vitime_checkpoint.write(tmp_path / "y.pth")).options
    assert model.canvas.mu_norm == 2 and isinstance(model.canvas.mu_norm, int)


def test_settings_given_as_a_dict_are_read(tmp_path):
    args = vars(vitime_checkpoint.settings())
    torch.save({"args": args, "model": vitime_checkpoint.weights()}, tmp_path / "x.pth")
    assert loaded(tmp_path / "x.pth").options["columns"] == 640


def test_an_untrained_model_has_the_published_position_code():
    model = ViTimeForecaster(rows=64, columns=640, model_size=0.1875)
    for key in ("pos_embed", "decoder_pos_embed"):
        np.testing.assert_allclose(model.state_dict()[key], STATE[key], atol=1e-6)


REFUSED = {
    "expanded data": ({"expandData": 2}, r"expandData is 2: .*only 1 is read"),
    "moving averages": ({"MA_STD": True}, r"several pictures of each series \(MA_STD\)"),
    "envelopes": ({"Env_double": 1, "KeyP": 3}, r"several pictures of each series \(Env_double, KeyP\)"),
    "another network": ({"modelSize": 0.25}, r"the weights do not fit ViTimeForecaster; missing: .* another shape: "),
    "another picture": ({"size": [256, 0, 768]}, r"of another shape: pos_embed \(1, 321, 192\) for \(1, 513, 192\)"),
    "another patch": ({"patch_size": [4, 16]}, r"of another shape: .*patch_embed.proj.weight \(192, 1, 4, 32\) for "),
    "pixels left over": ({"size": [512, 0, 720]}, r"64 x 1232 pixels is no whole number of patches 4 x 32"),
    "no patch": ({"patch_size": [0, 32]}, r"no whole number of patches 0 x 32"),
    "one number": ({"size": 1232}, r"args cannot be read \(.*\): .*size 1232"),
    "words": ({"h": "64"}, r"args cannot be read \('64' is no whole number\): h '64'"),
    "half a power": ({"muNorm": 1.5}, r"args cannot be read \(1.5 is no whole number\): .*muNorm 1.5"),
    "too small": ({"modelSize": 0.1}, r"modelSize 0.1 gives 1 blocks of width 102 with 1 heads"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_checkpoint_that_cannot_be_read_is_refused_with_the_reason(tmp_path, changes, message):
    path = vitime_checkpoint.write(tmp_path / "x.pth", state=vitime_checkpoint.weights(), **changes)
    with pytest.raises(LaglensError, match=message) as caught:
        loaded(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_flags_that_are_off_do_not_refuse(tmp_path):
    changes = {"MA": False, "KeyP": None, "expandData": 1, "MAE_name": "x"}
    assert loaded(vitime_checkpoint.write(tmp_path / "x.pth", **changes)).options["rows"] == 64


def test_settings_that_are_missing_are_named(tmp_path):
    args = vitime_checkpoint.settings()
    del args.h, args.patch_size
    torch.save({"args": args, "model": vitime_checkpoint.weights()}, tmp_path / "x.pth")
    with pytest.raises(LaglensError, match=r"x\.pth: args have no h, patch_size; this is no checkpoint of ViTime"):
        loaded(tmp_path / "x.pth")


def test_other_networks_of_the_project_are_refused_with_the_reason(tmp_path):
    weights = {f"model.{key}": value for key, value in vitime_checkpoint.weights().items()}
    for key, reason in (
        ("RefiningModel.conv.weight", "refining network"),
        ("channel_combiner.block.0.weight", r"several pictures of each series \(channel_combiner\)"),
    ):
        content = {"args": vitime_checkpoint.settings(), "model": weights | {key: torch.ones(1)}}
        for prefix in ("", "module."):
            content["model"] = {prefix + name.removeprefix("module."): w for name, w in content["model"].items()}
            torch.save(content, tmp_path / "x.pth")
            with pytest.raises(LaglensError, match=reason):
                loaded(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [{"a": torch.ones(2)}, {"args": 3, "model": {}}, [1], {"args": {}, "model": 3}])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(LaglensError, match=r"x\.pth: does not hold the 'args' and 'model' of a checkpoint of ViTime"):
        loaded(tmp_path / "x.pth")


def test_truncated_and_broken_checkpoints_are_refused(tmp_path, checkpoint):
    (tmp_path / "x.pth").write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(LaglensError, match=r"x\.pth: is truncated"):
        loaded(tmp_path / "x.pth")
    broken = vitime_checkpoint.weights()
    broken["blocks.1.norm1.weight"][3] = torch.nan
    with pytest.raises(LaglensError, match=r"y\.pth: weights are not finite: blocks\.1\.norm1\.weight"):
        loaded(vitime_checkpoint.write(tmp_path / "y.pth", state=broken))


# Input


def test_a_constant_history_is_drawn_and_forecast_as_itself(checkpoint):
    model = loaded(checkpoint)
    series = np.array([np.zeros(128), np.full(128, 5.0), np.full(128, -1e9)])
    forecast = model(torch.from_numpy(series)).detach().numpy()
    np.testing.assert_allclose(forecast, series[:, :1] + np.zeros((1, 192)), rtol=1e-6, atol=1e-3)
    for one, history in zip(forecast[:1], series[:1], strict=True):
        expected = reference(STATE, vitime_checkpoint.settings(), history, 192).forecast
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


def test_the_forecast_is_attributed_by_occlusion_alone(checkpoint):
    model, series = loaded(checkpoint, 90, 100), waves(2, 90)
    found = attribute_forecast(model, windows(series, 100), step=5)
    assert list(found["attribution_method"].values) == ["occlusion"]
    assert found.attrs["left_out"] == ["gradient", "input_x_gradient"] and found.attrs["occlusion_window"] == 9
    assert np.isfinite(found["attribution"]).all() and np.abs(found["attribution"]).max() > 0
    assert not model(torch.from_numpy(series).requires_grad_()).requires_grad or not model.differentiable
