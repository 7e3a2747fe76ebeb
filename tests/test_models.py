"""The models: geometry, training that learns, same seed same weights, loud failure."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from models import TINY, tiny

from laglens import store
from laglens.attention.capture import AttentionCapture
from laglens.errors import LaglensError
from laglens.models.card import MIXTURE, mixture_errors, model_card
from laglens.models.fitting import fit_on_signal, split_windows, validation_errors
from laglens.models.mixture import EVALUATION_KINDS, evaluation_set, random_waves, training_batch
from laglens.models.naive import seasonal_naive
from laglens.models.patch import rotary_table
from laglens.models.pretraining import horizon_errors, learning_rate_factor, train_on_mixture
from laglens.models.registry import build_model, pick_device, restore_model
from laglens.models.tokens import HISTORY, HORIZON, TokenMap
from laglens.models.watch import attention_entropy

WEIGHTS = Path(__file__).parent.parent / "src/laglens/weights"


def seasonal(n: int = 400, period: float = 12.0) -> xr.DataArray:
    rng = np.random.default_rng(0)
    values = np.sin(2 * np.pi * np.arange(n) / period) + 0.1 * rng.normal(size=n)
    return xr.DataArray(values[None], dims=("sample", "time"))


def test_patches_tile_history_and_horizon() -> None:
    tokens = TokenMap.patches(16, 8, 4)
    np.testing.assert_array_equal(tokens.start, [0, 4, 8, 12, 16, 20])
    np.testing.assert_array_equal(tokens.time, [1.5, 5.5, 9.5, 13.5, 17.5, 21.5])
    np.testing.assert_array_equal(tokens.part, [HISTORY] * 4 + [HORIZON] * 2)
    np.testing.assert_array_equal(tokens.readout, tokens.part == HORIZON)
    assert TokenMap.patches(5, 0, 1, readout="last").readout.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("architecture", TINY)
def test_a_forecast_has_the_units_of_its_input(architecture: str) -> None:
    model = tiny(architecture)
    history = torch.randn(3, model.history, dtype=torch.float64)
    with torch.no_grad():
        forecast, scaled = model(history), model(1e9 + 1e6 * history)
    assert forecast.shape == (3, model.horizon)
    torch.testing.assert_close((scaled - 1e9) / 1e6, forecast, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", TINY)
def test_a_constant_history_gives_a_finite_forecast(architecture: str) -> None:
    model = tiny(architecture)
    with torch.no_grad():
        assert torch.isfinite(model(torch.full((1, model.history), 3.5, dtype=torch.float64))).all()


@pytest.mark.parametrize("architecture", TINY)
def test_the_horizon_never_enters_the_forecast_inputs(architecture: str) -> None:
    model = tiny(architecture)
    series = torch.randn(2, model.history + model.horizon, dtype=torch.float64)
    other = series.clone()
    other[:, model.history :] = 100.0
    for a, b in zip(model.normalise(series)[1:], model.normalise(other)[1:], strict=True):
        torch.testing.assert_close(a, b)


def test_rotary_scores_depend_on_the_token_distance_alone() -> None:
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    torch.manual_seed(0)
    query, key = torch.randn(8), torch.randn(8)
    table = rotary_table(20, 8, 1000.0)
    q, k = (apply_rot_embed_cat(x.expand(20, 8), table, half=True) for x in (query, key))
    score = q @ k.T
    for distance in (-3, 0, 5):
        diagonal = torch.diagonal(score, distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)


def test_a_rendered_column_is_a_gaussian_whose_mean_is_the_value() -> None:
    model = tiny("image")
    series = torch.linspace(-2.5, 2.5, 48)[None]
    image = model.render(series)
    assert image.shape == (1, 48, 32)
    torch.testing.assert_close(image.sum(-1), torch.ones(1, 48))
    torch.testing.assert_close(image @ model.centres, series, atol=2e-3, rtol=0)


def test_image_tokens_are_the_strips_of_the_picture_with_a_blank_horizon() -> None:
    model = tiny("image")
    history = torch.randn(2, model.history)
    tokens = model.tokens(history)
    strips = 4 * model.render(history).reshape(2, -1, model.patch * 32)
    torch.testing.assert_close(tokens[:, : strips.shape[1]], strips)
    assert not tokens[:, strips.shape[1] :].any()


def test_the_same_seed_gives_the_same_model_and_leaves_torch_alone() -> None:
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    models = [build_model("numeric", TINY["numeric"], seed=s) for s in (1, 1, 2)]
    assert torch.equal(torch.rand(1), before)
    states = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@pytest.mark.parametrize("architecture", ["image", "numeric"])
def test_training_on_the_mixture_is_reproducible_and_learns(architecture: str) -> None:
    models = [build_model(architecture, TINY[architecture]) for _ in range(2)]
    curves = [train_on_mixture(model, steps=150, batch=8, seed=3) for model in models]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    loss = curves[0]["loss"].values
    assert list(curves[0]["step"].values) == [50, 100, 150]
    assert loss[-1] < 0.97 * loss[0]
    assert not models[0].training


def test_the_learning_rate_rises_holds_and_falls() -> None:
    factors = [learning_rate_factor(step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01) and factors[99:600] == [1.0] * 501
    assert factors[800] == pytest.approx(0.5) and min(factors[600:]) == pytest.approx(0.02)


def test_evaluation_sets_have_their_period_and_unit_scale() -> None:
    for kind in EVALUATION_KINDS:
        series, periods = evaluation_set(kind, 40, 384, np.random.default_rng(0))
        assert ((periods >= 24) & (periods <= 100)).all()
        if kind != "two_periods":
            shifted = [
                np.interp(np.arange(100, 250) + p, np.arange(384), x) for p, x in zip(periods, series, strict=True)
            ]
            assert np.abs(np.array(shifted) - series[:, 100:250]).mean() < 0.1
    with pytest.raises(ValueError, match="'sines' is not one of sine, harmonic, two_periods"):
        evaluation_set("sines", 1, 10, np.random.default_rng(0))


def test_random_waves_repeat_and_the_mixture_holds_random_walks() -> None:
    rng = np.random.default_rng(0)
    waves = random_waves(np.array([10.0, 25.0]), 200, rng)
    np.testing.assert_allclose(waves[0, :100], waves[0, 10:110], atol=1e-9)
    np.testing.assert_allclose(waves.std(1), 1)
    batch = training_batch(400, 384, rng)
    assert batch.shape == (400, 384) and np.isfinite(batch).all()
    assert (np.abs(batch).max(1) > 12).any()


def test_seasonal_naive_repeats_the_last_cycle() -> None:
    past = np.tile(np.arange(4.0), 5)[None]
    np.testing.assert_allclose(seasonal_naive(past, np.array([4.0]), 6), [[0, 1, 2, 3, 0, 1]])
    wave = np.sin(2 * np.pi * np.arange(300) / 17.3)[None]
    np.testing.assert_allclose(seasonal_naive(wave[:, :200], np.array([17.3]), 100), wave[:, 200:], atol=0.03)


def test_training_and_validation_windows_share_no_sample() -> None:
    values = xr.DataArray(np.arange(200.0).reshape(2, 100), dims=("sample", "time"))
    training, validation = split_windows(values, 10, validation=0.3)
    assert training.shape == (2 * 61, 10) and validation.shape == (2 * 21, 10)
    assert not set(training.flatten().tolist()) & set(validation.flatten().tolist())
    with pytest.raises(LaglensError, match="30 samples are left for validation, one window needs 40"):
        split_windows(values, 40, validation=0.3)


def test_fitting_beats_naive_forecasts_and_keeps_the_best_epoch() -> None:
    models = [build_model("encoder", TINY["encoder"]) for _ in range(2)]
    curves = [fit_on_signal(model, seasonal(), epochs=25, seed=2) for model in models]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    best = curves[0].attrs["best_epoch"]
    assert curves[0]["validation_loss"].values.argmin() + 1 == best
    held_out = split_windows(seasonal(), 30)[1]
    with torch.no_grad():
        reached = models[0].loss(held_out).item()
    assert reached == pytest.approx(float(curves[0]["validation_loss"].min()), rel=1e-4)
    errors = validation_errors(models[0], seasonal(), period=12.0)
    assert errors["model"] < 0.5 * min(errors["last_value"], errors["mean"])
    assert errors["seasonal_naive"] < 0.3


@pytest.mark.parametrize("architecture", ["image", "numeric", "encoder", "encoder_decoder"])
def test_entropy_of_the_attention_in_training_is_that_of_the_weights_that_are_captured(architecture: str) -> None:
    """Reference: the weights that the capture reads when the same loss is computed."""
    model = tiny(architecture)
    series = torch.from_numpy(training_batch(5, model.history + model.horizon, np.random.default_rng(1)))
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.train()
    found = attention_entropy(model, series)
    assert model.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    model.eval()
    with torch.no_grad(), AttentionCapture(model) as capture:
        model.loss(series)
    assert list(found) == [f"{s.name}_L{i:02d}_entropy" for s in model.stacks for i in range(len(s.layers))]
    layers = [layer for stack in model.stacks for layer in stack.layers]
    for value, layer in zip(found.values(), layers, strict=True):
        [weights] = [record.weights for record in capture.records if record.module.startswith(layer)]
        seen = (weights > 0).sum(-1)
        rows = (torch.special.entr(weights.double()).sum(-1) / seen.log())[seen > 1]
        assert value == pytest.approx(float(rows.mean()), rel=1e-4) and value < 0.99


@pytest.mark.parametrize("architecture", ["numeric", "encoder"])
def test_watching_attention_does_not_change_what_is_learnt(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(module: str, watch: Callable[..., dict[str, float]] | None) -> tuple[bytes, xr.Dataset]:
        model = build_model(architecture, TINY[architecture])
        with monkeypatch.context() as patched:
            if watch:
                patched.setattr(f"laglens.models.{module}.attention_entropy", watch)
            if module == "fitting":
                curve = fit_on_signal(model, seasonal(), epochs=2, seed=2)
            else:
                curve = train_on_mixture(model, steps=6, batch=4, seed=3)
        return b"".join(p.detach().numpy().tobytes() for p in model.parameters()), curve

    module = "fitting" if architecture == "encoder" else "pretraining"
    (watched, curve), (alone, plain) = trained(module, None), trained(module, lambda *_: {})
    assert watched == alone
    names = [name for name in curve if str(name).endswith("_entropy")]
    assert names and xr.testing.assert_equal(curve.drop_vars(names), plain) is None
    assert ((curve[names].to_array() > 0) & (curve[names].to_array() <= 1)).all()


def test_early_stopping_stops() -> None:
    noise = xr.DataArray(np.random.default_rng(1).normal(size=(1, 200)), dims=("sample", "time"))
    model = build_model("encoder", TINY["encoder"])
    curve = fit_on_signal(model, noise, epochs=60, patience=2, learning_rate=3e-3)
    assert curve.sizes["epoch"] == curve.attrs["best_epoch"] + 2 < 60


def test_a_diverging_training_is_named() -> None:
    model = build_model("encoder", TINY["encoder"])
    with pytest.raises(LaglensError, match="loss is not finite in epoch 1; lower 'learning_rate'"):
        fit_on_signal(model, seasonal(), epochs=2, learning_rate=1e30)


@pytest.mark.parametrize("architecture", ["image", "numeric"])
def test_weights_and_card_restore_the_model(architecture: str, tmp_path: Path) -> None:
    model = build_model(architecture, TINY[architecture])
    card = model_card(
        model,
        name="m",
        architecture=architecture,
        options=TINY[architecture],
        trained_on=MIXTURE,
        training={"steps": 0},
        held_out_errors=mixture_errors(model),
        versions={"torch": torch.__version__},
    )
    assert json.loads(json.dumps(card)) == card
    store.write_weights(model.state_dict(), card, tmp_path / "m.safetensors")
    restored = restore_model(
        store.read_card(tmp_path / "m.safetensors"), store.read_weights(tmp_path / "m.safetensors")
    )
    history = torch.randn(2, model.history, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(restored(history), model(history))


def test_weights_that_do_not_fit_or_are_nan_are_refused() -> None:
    card = {"architecture": "encoder", "options": TINY["encoder"]}
    state = build_model("encoder", TINY["encoder"]).state_dict()
    with pytest.raises(LaglensError, match="do not fit architecture 'encoder'.*head.bias"):
        restore_model(card, {name: tensor for name, tensor in state.items() if name != "head.bias"})
    with pytest.raises(LaglensError, match="not finite in head.bias"):
        restore_model(card, state | {"head.bias": torch.full_like(state["head.bias"], math.nan)})
    with pytest.raises(LaglensError, match="'lstm' is not one of"):
        build_model("lstm")


def test_an_absent_gpu_is_named() -> None:
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(LaglensError, match="torch sees no GPU"):
            pick_device("cuda")


@pytest.mark.parametrize("name", ["image_small", "numeric_small"])
def test_shipped_weights_reach_the_errors_on_their_card(name: str) -> None:
    card = store.read_card(WEIGHTS / f"{name}.safetensors")
    model = restore_model(card, store.read_weights(WEIGHTS / f"{name}.safetensors"))
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 1.3e6
    errors = horizon_errors(model, n_series=100, seed=7)
    for kind in EVALUATION_KINDS:
        reached = float(errors.sel(forecast="model", series_kind=kind))
        assert reached < 1.3 * card["held_out_errors"]["model"][kind] + 0.01
        assert reached < 0.5 * float(errors.sel(forecast="last_value", series_kind=kind))
