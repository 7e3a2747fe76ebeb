"""Vision transformers of timm on drawn series: any plain one is read, any other refused with the reason."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import xarray as xr
from models import entropy_ratio, sharpen
from pydantic import ValidationError
from safetensors.torch import save_file

from laglens.attention.capture import read_attention
from laglens.attention.cube import attention_tree
from laglens.config.adapters import TimmModel
from laglens.config.load import canonical, load_study
from laglens.errors import LaglensError
from laglens.models.card import model_card
from laglens.models.registry import build_model, load_model, restore_model
from laglens.models.timm_vit import TimmTransformer
from laglens.models.tokens import HISTORY, SPECIAL
from laglens.store import read_card, read_weights, write_weights
from laglens.time.reduce import to_time

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
# Tokens before the patches, and what was changed to make them small.
PLAIN: dict[str, tuple[int, dict]] = {
    "test_vit": (1, {"depth": 2}),
    "test_vit3": (1, {"depth": 2}),  # pools with a learnt query
    "vit_tiny_patch16_224": (1, SMALL),
    "deit_tiny_distilled_patch16_224": (2, SMALL),
    "vit_small_patch16_dinov3": (5, SMALL),  # rotary positions, registers
    "vit_base_patch16_siglip_gap_224": (0, SMALL),
    "eva02_tiny_patch14_224": (1, SMALL),
    "beit_base_patch16_224": (1, SMALL),
    "test_vit_relpos": (0, {"depth": 2}),
}
REFUSED = {
    "swin_tiny_patch4_window7_224": ({"embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}, "inside windows"),
    "twins_svt_small": ({"embed_dims": [16] * 4, "num_heads": [1] * 4}, "inside windows"),
    "twins_pcpvt_small": ({"embed_dims": [16] * 4, "num_heads": [1] * 4}, "over 3136 x 49, not 3136 x 3136"),
    "cait_xxs24_224": (SMALL, r"what weighs the values in blocks\.0\.attn is no softmax of one head"),
    "convit_tiny": (SMALL, r"what weighs the values in blocks\.0\.attn is no softmax of one head"),
    "xcit_nano_12_p16_224": (SMALL, "over 16 x 16, not 197 x 197: pooled patches or channels"),
    "vit_dlittle_patch16_reg1_gap_256": (SMALL, "attends more than once"),
    "pit_ti_224": ({}, "over 197 x 197, not 730 x 730: pooled"),
    "vit_small_r26_s32_224": (SMALL, "not the patches row by row, each of its own pixels alone"),
    "samvit_base_patch16_224": (SMALL, "inside windows"),
    "test_resnet": ({}, "it has no attention"),
}


def tiny(name: str = "test_vit", **options) -> TimmTransformer:
    """A sharpened small model of 64 x 96 pixels."""
    prefix, config = PLAIN[name]
    patch = 14 if "14" in name else 16
    options = {"config": config | {"img_size": [4 * patch, 6 * patch]}, "history": 120} | options
    model = sharpen(build_model("timm", {"name": name, **options}))
    assert isinstance(model, TimmTransformer)
    assert model.layout.prefix == prefix
    return model


def histories(model: TimmTransformer, n: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n, model.history)).cumsum(1))


def windows(model: TimmTransformer, n: int = 2) -> xr.Dataset:
    return xr.Dataset({"series": (("sample", "time"), histories(model, n).numpy())}, {"sample": np.arange(n)})


@pytest.mark.parametrize("name", PLAIN)
def test_weights_equal_the_softmax_that_timm_writes_out(name: str) -> None:
    model = tiny(name)
    series = histories(model)
    _, capture = read_attention(model, series)
    layers = model.stacks[0].layers
    assert set(capture.found) == set(layers)
    records = [record for record in capture.records if record.module in layers]
    seen, hooks = [], []
    for layer in layers:
        attention = model.get_submodule(layer)
        attention.fused_attn = False
        hooks.append(attention.attn_drop.register_forward_hook(lambda module, given, output: seen.append(output)))
    with torch.no_grad():
        model(series)
    assert [record.module for record in records] == list(layers) and len(seen) == len(layers)
    for record, reference in zip(records, seen, strict=True):
        assert record.source == "sdpa" and record.error < 1e-5
        assert entropy_ratio(record.weights) < 0.9
        torch.testing.assert_close(record.weights, reference, atol=5e-6, rtol=1e-4)


@pytest.mark.parametrize("name", PLAIN)
def test_a_column_of_patches_is_a_stretch_of_time(name: str) -> None:
    model = tiny(name)
    stack = model.stacks[0]
    tokens, prefix = stack.query, PLAIN[name][0]
    assert stack.key is tokens and len(tokens) == prefix + 24
    assert (tokens.part[:prefix] == SPECIAL).all() and (tokens.part[prefix:] == HISTORY).all()
    np.testing.assert_array_equal(tokens.start[prefix:].reshape(4, 6), np.tile(20.0 * np.arange(6), (4, 1)))
    np.testing.assert_array_equal(tokens.row[prefix:].reshape(4, 6), np.tile(np.arange(4)[:, None], (1, 6)))
    assert not tokens.readout.any()


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("drawing", ["line", "raster"])
def test_a_token_sees_the_samples_of_its_column(colours: int, drawing: str) -> None:
    """A sample is changed, without changing mean and spread; the tokens that then change stand for it."""
    model = tiny("test_vit", colours=colours, drawing=drawing)
    series = torch.zeros(2, model.history, dtype=torch.float64)
    series[:, ::2] = 1.0
    series[1, 50], series[1, 51] = 0.0, 1.0  # two samples change places, in the column of 40 to 60
    layer = model.get_submodule(model.stacks[0].layers[0])
    seen: list[torch.Tensor] = []
    layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        model(series)
    changed = (seen[0][0] - seen[0][1]).abs().amax(-1) > 1e-6
    tokens = model.stacks[0].query
    assert set(tokens.start[changed.numpy()]) == {40.0}


def test_the_tree_keeps_all_mass_on_the_way_to_time() -> None:
    model = tiny("deit_tiny_distilled_patch16_224")
    tree = attention_tree(model, windows(model, 3), store="tokens", dtype="float32")
    assert tree["forecast"].shape == (3, 0)
    assert tree["encoder"]["attention"].shape == (3, 2, 2, 26, 26)
    node = to_time(tree)["encoder"]
    assert node["attention"].shape == (3, 2, 2, 6, 6)
    np.testing.assert_allclose(node["attention"].sum("key") + node["special_mass"], 1, atol=1e-5)
    streamed = attention_tree(model, windows(model, 3), store="time")["encoder"]
    np.testing.assert_allclose(streamed["attention"], node["attention"], atol=1e-6)


def test_pooling_for_a_classifier_belongs_to_no_stack() -> None:
    model = tiny("test_vit3")
    assert list(model.not_in_time) == ["network.attn_pool"]
    tree = attention_tree(model, windows(model))
    assert tree.attrs["certificate"]["captured"] == tree.attrs["certificate"]["found"] == 2


@pytest.mark.parametrize("name", REFUSED)
def test_attention_that_is_not_of_all_patches_over_all_patches_is_refused(name: str) -> None:
    config, reason = REFUSED[name]
    with pytest.raises(LaglensError, match=rf"timm model '{name}': .*{reason}.*; take a plain vision transformer"):
        build_model("timm", {"name": name, "config": config})


def test_tokens_in_another_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = timm.layers.PatchEmbed.forward
    monkeypatch.setattr(timm.layers.PatchEmbed, "forward", lambda self, x: forward(self, x).flip(1))
    with pytest.raises(LaglensError, match="not the patches row by row"):
        build_model("timm", {"name": "vit_tiny_patch16_224", "config": SMALL})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vit_tny_patch16_224"}, "timm has no model 'vit_tny_patch16_224'; did you mean vit_tiny_patch16_224"),
        ({"name": "hf-hub:timm/vit_tiny_patch16_224"}, "timm has no model 'hf-hub:timm/vit_tiny_patch16_224'"),
        ({"config": {"pretrained": True}}, "config cannot hold 'pretrained'"),
        ({"config": {"depht": 2}}, "timm builds no 'test_vit' of config {'depht': 2} .*depht"),
        (
            {"config": {"img_size": [100, 160]}},
            r"divisible by patch size \(16\)\. Change img_size",
        ),
        ({"horizon": 8}, "does not forecast; leave 'horizon' out"),
    ],
)
def test_what_timm_cannot_build_is_said_in_one_line(options: dict, message: str) -> None:
    with pytest.raises(LaglensError, match=message) as caught:
        build_model("timm", {"name": "test_vit", **options})
    assert "\n" not in str(caught.value)


# Checkpoints


def saved(path: Path, wrap, **config) -> tuple[Path, dict[str, torch.Tensor]]:
    network = sharpen(timm.create_model("test_vit", depth=2, **config))
    content = wrap(network.state_dict())
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path, network.state_dict()


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("plain.pth", lambda state: state),
        ("training.pth", lambda state: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}),
        ("model.pth", lambda state: {"model": state}),
        ("model.safetensors", lambda state: state),
    ],
)
def test_a_checkpoint_is_loaded_and_restored_from_its_card(tmp_path: Path, name: str, wrap) -> None:
    path, state = saved(tmp_path / name, wrap, num_classes=7)
    model = load_model("timm", path, {"name": "test_vit", "config": {"depth": 2}, "horizon": 0, "history": 100})
    assert all(torch.equal(model.network.state_dict()[key], value) for key, value in state.items())
    assert model.network.num_classes == 7 and not model.training

    card = model_card(
        model,
        name="vit",
        architecture="timm",
        options=model.options,
        trained_on=str(path),
        training={},
        held_out_errors={},
        versions={},
    )
    write_weights(model.state_dict(), card, tmp_path / "kept.safetensors")
    again = restore_model(read_card(tmp_path / "kept.safetensors"), read_weights(tmp_path / "kept.safetensors"))
    first, second = (attention_tree(m, windows(m), store="tokens")["encoder"] for m in (model, again))
    xr.testing.assert_identical(first.to_dataset(), second.to_dataset())


def test_a_backbone_without_head_is_loaded(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "backbone.pth", lambda state: state, num_classes=0)
    model = load_model("timm", path, {"name": "test_vit", "config": {"depth": 2}})
    assert model.network.num_classes == 0


def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "deep.pth", lambda state: state)
    with pytest.raises(LaglensError, match=r"deep\.pth: the weights do not fit .*missing: blocks\.2\."):
        load_model("timm", path, {"name": "test_vit", "config": {"depth": 3}})
    with pytest.raises(LaglensError, match=r"patch_embed\.proj\.weight \(64, 3, 16, 16\) for \(64, 1, 16, 16\)"):
        load_model("timm", path, {"name": "test_vit", "config": {"depth": 2}, "colours": 1})
    torch.save({"epoch": 3, "note": "no weights"}, tmp_path / "note.pth")
    with pytest.raises(LaglensError, match=r"note\.pth: does not hold the weights of a timm model by their names"):
        load_model("timm", tmp_path / "note.pth", {"name": "test_vit"})
    (tmp_path / "half.pth").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LaglensError, match=r"half\.pth: is truncated or damaged"):
        load_model("timm", tmp_path / "half.pth", {"name": "test_vit"})


def test_random_weights_follow_the_seed() -> None:
    options = {"name": "test_vit", "config": {"depth": 1}}
    first, again, other = (load_model("timm", None, options, seed=seed).network.head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


# Config


def test_the_config_names_the_model_after_a_colon() -> None:
    study = load_study(
        {
            "signals": {"wave": {"generator": "random_walk", "length": 300}},
            "models": {"look": {"architecture": "timm:test_vit", "colours": 1, "config": {"depth": 2}}},
            "runs": [{"models": ["look"], "signals": ["wave"]}],
        }
    )
    plain = canonical(study)["models"]["look"]
    model = load_model(plain["architecture"], plain["source"], plain["options"], seed=plain["seed"])
    assert isinstance(model, TimmTransformer)
    assert (model.name, model.colours, model.history, model.horizon) == ("test_vit", 1, 224, 0)


def test_a_horizon_is_refused_in_the_config() -> None:
    with pytest.raises(ValidationError, match="horizon"):
        TimmModel(architecture="timm", name="test_vit", horizon=8)
