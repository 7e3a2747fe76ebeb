"""VisionTS: the published code's forecast, its attention, and where the patches of a folded series lie in time."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from models import entropy_ratio, sharpen
from torch import nn
from visionts import model as published
from visionts.models_mae import MaskedAutoencoderViT

from laglens.attention.capture import read_attention
from laglens.attention.cube import attention_tree
from laglens.config.load import canonical, load_study
from laglens.errors import LaglensError
from laglens.lags.profiles import lag_profile
from laglens.models.card import model_card
from laglens.models.registry import build_model, load_model, restore_model
from laglens.models.tokens import HISTORY, HORIZON, SPECIAL, TokenMap
from laglens.models.visionts import VisionTSForecaster
from laglens.store import read_card, read_weights, write_weights
from laglens.time.reduce import to_time

SIZES = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "decoder_embed_dim": 16,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
    "mlp_ratio": 2.0,
}
# Period, history, horizon and how it is drawn: whole cycles, a part of one, one phase, stretched, many to a column.
CASES: dict[str, dict] = {
    "whole": {"period": 24, "history": 240, "horizon": 48},
    "padded": {"period": 17, "history": 300, "horizon": 50, "align_const": 0.6},
    "no period": {"period": 1, "history": 20, "horizon": 8},
    "one cycle": {"period": 50, "history": 50, "horizon": 20},
    "short period": {"period": 5, "history": 33, "horizon": 7, "interpolation": "bicubic"},
    "nearest": {"period": 12, "history": 96, "horizon": 24, "interpolation": "nearest", "align_const": 1.0},
    "loud": {"period": 30, "history": 300, "horizon": 90, "norm_const": 0.8},
}


def tiny(case: str = "whole", **options) -> VisionTSForecaster:
    model = sharpen(build_model("visionts", {"config": SIZES, **CASES[case], **options}))
    assert isinstance(model, VisionTSForecaster)
    return model


def histories(model: VisionTSForecaster, n: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, model.history)).cumsum(1))


def windows(model: VisionTSForecaster, n: int = 3) -> xr.Dataset:
    series = np.pad(histories(model, n).numpy(), ((0, 0), (0, model.horizon)), constant_values=np.nan)
    return xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(n)})


def original(model: VisionTSForecaster, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The published class, made by its own constructor, with the same weights."""
    small = partial(MaskedAutoencoderViT, **SIZES, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    monkeypatch.setitem(published.MAE_ARCH, "small", [small, "nowhere"])
    whole = published.VisionTS("small", load_ckpt=False).eval()
    whole.vision_model.load_state_dict(model.network.vision_model.state_dict())
    drawing = {key: getattr(model, key) for key in ("norm_const", "align_const", "interpolation")}
    whole.update_config(model.history, model.horizon, periodicity=model.period, **drawing)
    return whole


@pytest.mark.parametrize("case", CASES)
def test_forecasts_are_those_of_the_published_code(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(case)
    series = histories(model)
    with torch.no_grad():
        forecast = model(series)
        expected = original(model, monkeypatch)(series.float()[..., None])[..., 0]
    assert forecast.shape == (3, model.horizon) and forecast.dtype == torch.float64
    torch.testing.assert_close(forecast, expected.double(), atol=1e-5 * float(expected.abs().max()), rtol=1e-5)
    assert torch.equal(forecast, model(series).detach())
    np.testing.assert_allclose(model(series[1:2]).detach(), forecast[1:2], rtol=1e-5, atol=1e-5)


def test_a_series_far_from_0_keeps_its_precision() -> None:
    model = tiny()
    series = histories(model)
    with torch.no_grad():
        torch.testing.assert_close(model(series + 1e9) - 1e9, model(series), atol=1e-4, rtol=1e-4)


def test_the_forecast_has_a_gradient() -> None:
    model = tiny()
    series = histories(model, 1).requires_grad_()
    model(series)[0, 3].backward()
    slope, step = series.grad[0], 1e-2
    for at in (5, 100, 239):
        moved = [series.detach().clone() for _ in range(2)]
        moved[0][0, at] += step
        moved[1][0, at] -= step
        with torch.no_grad():
            expected = (model(moved[0])[0, 3] - model(moved[1])[0, 3]) / (2 * step)
        assert float(slope[at]) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize("case", ["whole", "padded", "no period"])
def test_weights_equal_the_softmax_that_timm_writes_out(case: str) -> None:
    model = tiny(case)
    series = histories(model)
    _, capture = read_attention(model, series)
    layers = [layer for stack in model.stacks for layer in stack.layers]
    assert [record.module for record in capture.records] == layers
    seen, hooks = [], []
    for layer in layers:
        attention = model.get_submodule(layer)
        attention.fused_attn = False
        hooks.append(attention.attn_drop.register_forward_hook(lambda module, given, output: seen.append(output)))
    with torch.no_grad():
        model(series)
    for record, reference in zip(capture.records, seen, strict=True):
        assert record.error < 1e-5
        assert entropy_ratio(record.weights) < 0.9
        torch.testing.assert_close(record.weights, reference, atol=5e-6, rtol=1e-4)


# Which patches the encoder keeps, and in which order


@pytest.mark.parametrize("case", CASES)
def test_the_encoder_has_the_tokens_that_the_model_really_kept(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, kept = tiny(case), []
    masking = MaskedAutoencoderViT.random_masking

    def spy(self, tokens, *args, **options):
        mine = torch.arange(tokens.shape[1], dtype=tokens.dtype)[None, :, None].expand(len(tokens), -1, 1)
        kept.append(masking(self, mine, *args, **options)[0][..., 0].long())  # the numbers of the kept patches
        return masking(self, tokens, *args, **options)

    monkeypatch.setattr(MaskedAutoencoderViT, "random_masking", spy)
    with torch.no_grad():
        model(histories(model))
    assert (kept[0] == kept[0][0]).all()
    encoder, decoder = model.stacks
    expected = decoder.query.taken(1 + kept[0][0].numpy()).with_special(before=1)
    for name in ("start", "end", "row", "part"):
        np.testing.assert_array_equal(getattr(encoder.query, name), getattr(expected, name))
    assert not (encoder.query.part == HORIZON).any() and len(decoder.query) == 65


def test_patches_are_sorted_without_ties() -> None:
    """The published mask has ties, whose order is a matter of the machine."""
    model = tiny()
    order = torch.argsort(model.network.mask[0])
    assert len(model.network.mask[0].unique()) == 64
    torch.testing.assert_close(torch.argsort(model.network.mask[0].double(), stable=True), order)


# Where patches lie in time


def centres(weights: torch.Tensor, first: int) -> np.ndarray:
    """Mean sample of each patch, ``(patch,)``, by the weight with which it draws or fills every sample."""
    weights = weights.double().numpy()
    sample = first + np.arange(weights.shape[1])
    return (weights * sample).sum(1) / weights.sum(1)


@pytest.mark.parametrize("case", CASES)
def test_a_patch_of_the_history_lies_amid_the_samples_it_draws(case: str) -> None:
    """Every sample is drawn alone, by the published resizing."""
    model = tiny(case)
    network, n, side = model.network, model.network.num_patch, model.network.patch_size
    samples = model.cycles * model.period
    alone = torch.eye(samples).reshape(samples, 1, model.cycles, model.period).transpose(2, 3)
    drawn = network.input_resize(alone)[:, 0].unflatten(1, (n, side)).unflatten(3, (-1, side)).sum((2, 4))
    filled = np.arange(n * n).reshape(n, n)[:, : network.num_patch_input].ravel()
    tokens, expected = model.tokens.taken(filled), centres(drawn.flatten(1).T, -network.pad_left)
    whole = (tokens.part == HISTORY) & (tokens.start > 0)  # not cut at the first sample
    tolerance = 0.1 if case == "nearest" else 0.04  # of a period: pixels at the edges repeat the first or last cycle
    np.testing.assert_allclose(tokens.time[whole], expected[whole], atol=tolerance * model.period)


@pytest.mark.parametrize(("period", "history", "horizon"), [(24, 240, 96), (17, 300, 153), (40, 320, 160)])
def test_a_patch_of_the_horizon_lies_amid_the_samples_read_from_it(period: int, history: int, horizon: int) -> None:
    """Every patch is lit alone, and read by the published resizing."""
    model = tiny(period=period, history=history, horizon=horizon, align_const=1.0)
    network, n, side = model.network, model.network.num_patch, model.network.patch_size
    lit = torch.eye(n * n).reshape(n * n, 1, n, n).repeat_interleave(side, 2).repeat_interleave(side, 3)
    read = network.output_resize(lit)[:, 0].transpose(1, 2).flatten(1)[:, network.pad_left + history :]
    tokens = model.tokens
    whole = (tokens.part == HORIZON) & (tokens.end < history + horizon)
    assert whole.sum() >= 7
    expected = centres(read[torch.from_numpy(whole)], history)
    np.testing.assert_allclose(tokens.time[whole], expected, atol=0.15 * period)


def test_one_cycle_to_a_column_is_the_plain_fold() -> None:
    model = tiny(period=24, history=144, horizon=48, align_const=1.0)
    fold = TokenMap.folded(24, 8, 8, 8, 144)
    for name in ("start", "end", "row", "part", "readout"):
        np.testing.assert_array_equal(getattr(model.tokens, name), getattr(fold, name))


def test_what_is_drawn_beyond_the_horizon_has_no_samples() -> None:
    model = tiny("whole")  # 3 of 8 columns hold the history, as much lies beyond the horizon
    part = model.tokens.part.reshape(8, 8)
    filled = model.network.num_patch_input
    assert (part[:, :filled] == HISTORY).all()
    assert (part[:, filled] == HORIZON).all() and (part[:, -1] == SPECIAL).all()
    assert model.tokens.end[model.tokens.part != SPECIAL].max() == 288


def test_padding_on_the_left_has_no_samples() -> None:
    model = tiny("padded", align_const=1.0)  # 300 samples are 18 cycles of 17 less 6
    tokens = model.tokens
    assert model.cycles == 18 and tokens.start[tokens.part != SPECIAL].min() == 0
    alone = tiny(period=64, history=100, horizon=20, align_const=1.0, config=SIZES | {"patch_size": 4})
    column = alone.tokens.part.reshape(16, 16)[:, 0]  # less than a cycle to a column: all of it is filled up
    assert (column[:7] == SPECIAL).all() and (column[7:] == HISTORY).all()


# A head whose lag is known


def plant(model: VisionTSForecaster, columns: int, rows: int) -> None:
    """Make head 0 of the decoder look `columns` to the left and `rows` up; head 1 looks everywhere alike.

    The embeddings carry nothing but the position of the patch, one place of the vector for each.
    """
    mae, n = model.network.vision_model, model.network.num_patch
    width, tokens = mae.decoder_embed.out_features, n * n
    assert width == 2 * tokens
    with torch.no_grad():
        for weight in (mae.decoder_embed.weight, mae.decoder_embed.bias, mae.mask_token, mae.decoder_pos_embed):
            weight.zero_()
        mae.decoder_pos_embed[0, 1:, :tokens] = torch.eye(tokens)
        mae.decoder_pos_embed[0, 0, tokens] = 1.0
        projection = mae.decoder_blocks[0].attn.qkv
        projection.weight.zero_()
        projection.bias.zero_()
        query, key = projection.weight[:tokens], projection.weight[width : width + tokens]
        key[:, :tokens] = torch.eye(tokens)
        for row in range(rows, n):
            for column in range(columns, n):
                query[(row - rows) * n + column - columns, row * n + column] = 2.0


@pytest.mark.parametrize(
    ("geometry", "columns", "rows", "lag"),
    [
        ({"period": 24, "history": 144, "horizon": 48}, 1, 0, 24),
        ({"period": 24, "history": 144, "horizon": 48}, 2, 0, 48),
        ({"period": 24, "history": 144, "horizon": 48}, 1, 2, 30),
        ({"period": 40, "history": 240, "horizon": 80}, 1, 0, 40),
        ({"period": 16, "history": 192, "horizon": 64}, 1, 0, 32),  # two cycles to a column
    ],
)
def test_a_head_that_looks_a_cycle_back_is_found_at_the_period(
    geometry: dict, columns: int, rows: int, lag: float
) -> None:
    config = SIZES | {"decoder_embed_dim": 128, "decoder_depth": 1}
    model = tiny(align_const=1.0, config=config, **geometry)
    plant(model, columns, rows)
    node = to_time(attention_tree(model, windows(model), store="tokens", dtype="float32"))["decoder"].to_dataset()
    for part in ("horizon->history", "history->history"):
        profile = lag_profile(node, part, history=model.history, min_pairs=1)[:, 0]
        past = profile.sel(lag=profile["lag"] > 0)
        assert (past.sel(head=0).idxmax("lag") == lag).all(), part
        assert past.sel(head=0).max() > 4 * past.sel(head=1).max()


# Checkpoints


def checkpoint(path: Path, **sizes) -> tuple[Path, dict[str, torch.Tensor]]:
    """A masked autoencoder in the format of those published with MAE."""
    mae = sharpen(MaskedAutoencoderViT(**SIZES | sizes))
    torch.save({"model": mae.state_dict()}, path)
    return path, mae.state_dict()


HEADS = {"num_heads": 2, "decoder_num_heads": 2}


def test_a_checkpoint_is_loaded_and_restored_from_its_card(tmp_path: Path) -> None:
    path, state = checkpoint(tmp_path / "mae.pth")
    model = load_model("visionts", path, CASES["whole"] | {"config": HEADS})
    assert isinstance(model, VisionTSForecaster) and model.config == SIZES
    assert all(torch.equal(model.network.vision_model.state_dict()[key], value) for key, value in state.items())

    card = model_card(
        model,
        name="mae",
        architecture="visionts",
        options=model.options,
        trained_on=str(path),
        training={},
        held_out_errors={},
        versions={},
    )
    write_weights(model.state_dict(), card, tmp_path / "kept.safetensors")
    again = restore_model(read_card(tmp_path / "kept.safetensors"), read_weights(tmp_path / "kept.safetensors"))
    first, second = (attention_tree(m, windows(m), store="tokens") for m in (model, again))
    xr.testing.assert_identical(first["decoder"].to_dataset(), second["decoder"].to_dataset())
    xr.testing.assert_identical(first["forecast"], second["forecast"])


def test_heads_of_the_published_sizes_are_known(tmp_path: Path) -> None:
    path, _ = checkpoint(
        tmp_path / "base.pth", embed_dim=768, depth=1, num_heads=12, decoder_embed_dim=512, decoder_depth=1
    )
    model = load_model("visionts", path, CASES["whole"])
    assert model.config["num_heads"] == 12 and model.config["decoder_num_heads"] == 16


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"model": None}, {}, "does not hold the 'model' of a masked autoencoder"),
        ({"model": {"a": torch.ones(2)}}, {}, "not those of a masked autoencoder .*patch_embed"),
        (None, {}, r"of no published size \(width 32\).*give the model's section 'config: {num_heads: ...}'"),
        (None, {"config": {**HEADS, "depth": 5}}, "has depth 2; take 5 out of the config"),
        ("missing", {"config": HEADS}, "the weights do not fit .*missing: decoder_norm.bias"),
        ("++", {"config": HEADS}, r"VisionTS\+\+, with a head for every quantile"),
    ],
)
def test_checkpoints_of_something_else_are_refused(tmp_path: Path, content, options: dict, message: str) -> None:
    path, state = checkpoint(tmp_path / "mae.pth")
    if content == "missing":
        content = {"model": {key: value for key, value in state.items() if key != "decoder_norm.bias"}}
    if content == "++":
        content = {"model": state | {"decoder_pred_1.weight": torch.ones(2)}}
    if content is not None:
        torch.save(content, path)
    with pytest.raises(LaglensError, match=rf"mae\.pth: .*{message}") as caught:
        load_model("visionts", path, CASES["whole"] | options)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path / "mae.pth")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(LaglensError, match=r"mae\.pth: is truncated or damaged"):
        load_model("visionts", path, CASES["whole"] | {"config": HEADS})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 129, "history": 400}, "period 129 is too long: the picture has 64 rows .* take at most 128"),
        ({"period": 2, "history": 400}, "period 2 is too short, or history 400 too long: its 200 cycles have 16 col"),
        ({"period": 24, "history": 48, "horizon": 900}, "history 48 is too short for horizon 900"),
        ({"config": {"depht": 2}}, "the autoencoder has no 'depht'"),
        ({"config": SIZES | {"num_heads": 5}}, "visionts builds no autoencoder of it"),
    ],
)
def test_what_does_not_fit_the_picture_is_said_in_one_line(options: dict, message: str) -> None:
    with pytest.raises(LaglensError, match=message) as caught:
        build_model("visionts", {"config": SIZES, **CASES["whole"], **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("interpolation", "most"), [("nearest", 64), ("bilinear", 128), ("bicubic", 256)])
def test_the_limits_are_those_at_which_samples_are_lost(interpolation: str, most: int) -> None:
    """At the longest period every sample is still drawn; a third more, and some are in no pixel."""
    network = tiny(period=most, history=most, horizon=20, interpolation=interpolation).network
    for period, lost in ((most, False), (most * 4 // 3, True)):
        alone = torch.eye(period).reshape(period, 1, period, 1)
        assert bool((network.input_resize(alone).abs().sum((1, 2, 3)) == 0).any()) == lost
    with pytest.raises(LaglensError, match=f"take at most {most}, or average"):
        tiny(period=most + 1, history=most + 1, horizon=20, interpolation=interpolation)


def test_streaming_gives_the_same_map() -> None:
    model = tiny("padded")
    tokens = to_time(attention_tree(model, windows(model), store="tokens", dtype="float32"))
    streamed = attention_tree(model, windows(model), store="time")
    for stack in model.stacks:
        np.testing.assert_allclose(streamed[stack.name]["attention"], tokens[stack.name]["attention"], atol=1e-6)
        total = streamed[stack.name]["attention"].sum("key") + streamed[stack.name]["special_mass"]
        np.testing.assert_allclose(total, 1, atol=1e-5)


def test_the_config_builds_the_model() -> None:
    study = load_study(
        {
            "signals": {"wave": {"generator": "random_walk", "length": 400}},
            "models": {"fold": {"architecture": "visionts", **CASES["whole"], "config": SIZES}},
            "runs": [{"models": ["fold"], "signals": ["wave"]}],
        }
    )
    plain = canonical(study)["models"]["fold"]
    model = load_model(plain["architecture"], plain["source"], plain["options"], seed=plain["seed"])
    assert isinstance(model, VisionTSForecaster) and (model.period, model.history, model.horizon) == (24, 240, 48)
