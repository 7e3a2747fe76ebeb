"""ViTime: checkpoints in the published layout, and those that cannot be read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import vitime_checkpoint
from vitime_checkpoint import loaded

from laglens.errors import LaglensError
from laglens.models.card import model_card
from laglens.models.registry import restore_model
from laglens.models.vitime import ViTimeForecaster
from laglens.store import read_card, read_weights, write_weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vitime_checkpoint.write(tmp_path_factory.mktemp("vitime") / "ViTime_Model.pth")


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

    series = torch.randn(2, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
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


def test_an_untrained_model_is_drawn_as_published():
    model = ViTimeForecaster(rows=64, columns=640, model_size=0.1875)
    for key, inputs, outputs in (("blocks.0.attn.qkv", 192, 576), ("patch_embed.proj", 128, 192)):
        weight, bound = model.state_dict()[f"{key}.weight"], np.sqrt(6 / (inputs + outputs))
        assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.02)
        assert not model.state_dict()[f"{key}.bias"].any()
    for key in ("pos_embed", "decoder_pos_embed"):
        np.testing.assert_allclose(model.state_dict()[key], vitime_checkpoint.weights()[key], atol=1e-6)


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


def test_weights_whose_names_do_not_fit_are_an_error_not_a_random_model(tmp_path):
    """The published loader falls back to loading nothing, and forecasts with random weights."""
    path = vitime_checkpoint.write(tmp_path / "x.pth", prefix="network.")
    with pytest.raises(LaglensError, match=r"x\.pth: the weights do not fit .*missing: cls_token.* and 47 more; unexp"):
        loaded(path)
