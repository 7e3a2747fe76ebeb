"""Chronos models from folders as published, from their configuration, and what is refused."""

import copy
import json
from pathlib import Path

import pytest
import torch
import xarray as xr
from chronos import ChronosBoltPipeline
from safetensors.torch import load, save_file
from tiny_chronos import TINY, folder_of, tiny, windows

from laglens.attention.cube import attention_tree
from laglens.config.load import canonical, load_study
from laglens.errors import LaglensError
from laglens.models.card import model_card
from laglens.models.chronos import ChronosForecaster
from laglens.models.registry import build_model, load_model, restore_model
from laglens.store import read_card, read_weights, write_weights

# Checkpoints


@pytest.mark.parametrize("name", TINY)
def test_a_folder_is_loaded_and_restored_from_its_card(tmp_path: Path, name: str) -> None:
    source = tiny(name)
    folder = folder_of(source, tmp_path / "published")
    model = load_model(name, folder, {"history": 40, "horizon": 5, "config": None})
    assert isinstance(model, ChronosForecaster) and (model.history, model.horizon) == (40, 5)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in source.state_dict().items())
    assert load_model(name, folder, {}).history == TINY[name]["chronos_config"]["context_length"]

    card = model_card(
        model,
        name="small",
        architecture=name,
        options=model.options,
        trained_on=str(folder),
        training={},
        held_out_errors={},
        versions={},
    )
    write_weights(model.state_dict(), card, tmp_path / "kept.safetensors")
    again = restore_model(read_card(tmp_path / "kept.safetensors"), read_weights(tmp_path / "kept.safetensors"))
    first, second = (attention_tree(m, windows(m), store="tokens") for m in (model, again))
    for node in first.children:
        xr.testing.assert_identical(first[node].to_dataset(), second[node].to_dataset())
    xr.testing.assert_identical(first["forecast"], second["forecast"])


def test_half_precision_is_widened(tmp_path: Path) -> None:
    model = tiny("chronos_t5")
    copy.deepcopy(model.network).bfloat16().save_pretrained(tmp_path)
    loaded = load_model("chronos_t5", tmp_path, {})
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    reference = model.network.shared.weight.bfloat16().float()
    assert torch.equal(loaded.network.shared.weight, reference)


def test_settings_that_t5_does_not_declare_survive(tmp_path: Path) -> None:
    config = TINY["chronos_t5"] | {"tie_word_embeddings": False, "decoder_start_token_id": 7}
    model = build_model("chronos_t5", {"config": config})
    again = build_model("chronos_t5", model.options)
    loaded = load_model("chronos_t5", folder_of(model, tmp_path), {})
    for each in (model, again, loaded):
        assert each.network.config.scale_decoder_outputs is False and each.network.config.decoder_start_token_id == 7


@pytest.mark.parametrize("asked", TINY)
@pytest.mark.parametrize("given", TINY)
def test_another_chronos_is_named(tmp_path: Path, asked: str, given: str) -> None:
    folder = folder_of(tiny(given), tmp_path)
    if asked == given:
        assert load_model(asked, folder, {}).architecture == asked
        return
    with pytest.raises(LaglensError, match=f"is a model of 'architecture: {given}', not of '{asked}'"):
        load_model(asked, folder, {})


def rewritten(folder: Path, **changes) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tiny("chronos_t5"), tmp_path / "x")
    with pytest.raises(LaglensError, match="nowhere: is no folder"):
        load_model("chronos_t5", tmp_path / "nowhere", {})
    with pytest.raises(LaglensError, match="x: is a Chronos model on 'gpt2'; only those on T5 are read"):
        load_model("chronos_t5", rewritten(folder, model_type="gpt2"), {})
    with pytest.raises(LaglensError, match="x: has no 'chronos_config' of a known kind, so it is no Chronos model"):
        load_model("chronos_t5", rewritten(folder, model_type="t5", chronos_config=None), {})


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for name in TINY:
        folder = folder_of(tiny(name), tmp_path / name)
        weights = load((folder / "model.safetensors").read_bytes())
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000])
        with pytest.raises(LaglensError, match=r"model\.safetensors: is not a whole safetensors file"):
            load_model(name, folder, {})
        gone = "encoder.block.1.layer.0.layer_norm.weight"
        save_file({key: value for key, value in weights.items() if key != gone}, folder / "model.safetensors")
        with pytest.raises(LaglensError, match=rf"the weights do not fit \w+; missing: {gone}"):
            load_model(name, folder, {})


def test_bolt_without_its_patch_layers_is_refused(tmp_path: Path) -> None:
    """The package draws them at random without a word."""
    folder = folder_of(tiny("chronos_bolt"), tmp_path)
    weights = load((folder / "model.safetensors").read_bytes())
    kept = {key: value for key, value in weights.items() if not key.startswith("input_patch_embedding")}
    save_file(kept, folder / "model.safetensors")
    ChronosBoltPipeline.from_pretrained(folder)
    with pytest.raises(LaglensError, match="missing: input_patch_embedding"):
        load_model("chronos_bolt", folder, {})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("chronos_t5", {"tokenizer_class": "os"}, "tokenizer_class: 'os' is not known"),
        ("chronos_t5", {"top_q": 1}, "chronos_config: chronos-forecasting cannot use it .*top_q"),
        ("chronos_t5", {"model_type": "causal"}, "model_type is 'causal'; only 'seq2seq'"),
        ("chronos_t5", {"n_tokens": 90}, "90 words do not fit vocab_size 80"),
        ("chronos_bolt", {"quantiles": [0.1, 0.9]}, r"\[0\.1, 0\.9\] has no 0\.5"),
        ("chronos_2", {"quantiles": [0.1, 0.9]}, r"\[0\.1, 0\.9\] has no 0\.5"),
        ("chronos_2", {"use_reg_token": False}, "with its token REG alone"),
        ("chronos_2", {"output_patch_size": 8}, "input_patch_size and output_patch_size sizes must be equal"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(name: str, changes: dict, message: str) -> None:
    with pytest.raises(LaglensError, match=message) as caught:
        tiny(name, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "history", "horizon", "message"),
    [
        ("chronos_t5", 65, 8, "history: 65 samples were asked for, but the model has at most 64"),
        ("chronos_t5", 64, 9, "horizon: 9 samples were asked for, but the model has at most 8"),
        ("chronos_bolt", 129, 8, "history: 129 .* at most 128"),
        ("chronos_bolt", 64, 25, "horizon: 25 .* at most 24"),
        ("chronos_2", 64, 49, r"horizon: 49 .* at most 48 \(max_output_patches x output_patch_size\)"),
    ],
)
def test_lengths_beyond_the_model_are_refused(name: str, history: int, horizon: int, message: str) -> None:
    with pytest.raises(LaglensError, match=message):
        tiny(name, history, horizon)


def test_code_beside_the_weights_is_never_run(tmp_path: Path) -> None:
    folder = folder_of(tiny("chronos_bolt"), tmp_path / "x")
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    rewritten(folder, auto_map={"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"})
    load_model("chronos_bolt", folder, {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", TINY)
def test_the_config_builds_the_model(name: str) -> None:
    section = {"architecture": name, "config": TINY[name], "history": 40}
    study = load_study(
        {
            "signals": {"wave": {"generator": "random_walk", "length": 300}},
            "models": {"small": section},
            "runs": [{"models": ["small"], "signals": ["wave"]}],
        }
    )
    plain = canonical(study)["models"]["small"]
    model = load_model(plain["architecture"], plain["source"], plain["options"], seed=plain["seed"])
    assert isinstance(model, ChronosForecaster) and model.history == 40
    assert TINY[name]["chronos_config"].get("time_encoding_scale") is None  # what was given is left as it was
