"""Checkpoints of transformers: saved as published, loaded back, and refused in one line where something is wrong."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_huggingface import TINY, histories, tiny

from laglens.attention.capture import read_attention
from laglens.errors import LaglensError
from laglens.models.architectures import REFUSED, refuse
from laglens.models.card import model_card
from laglens.models.registry import architecture_class, build_model, load_model, restore_model
from laglens.store import read_card, read_weights, write_weights


def save(model, folder):
    """As the library publishes it."""
    model.network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of each tiny model, and the model."""
    folder = tmp_path_factory.mktemp("published")
    models = {name: tiny(name) for name in TINY}
    return {name: (save(model, folder / name), model) for name, model in models.items()}


@pytest.fixture
def folder(published, tmp_path):
    """A PatchTST to break."""
    return shutil.copytree(published["patchtst"][0], tmp_path / "model")


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "removed"}))


def edit_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder, architecture="patchtst", **options):
    with pytest.raises(LaglensError) as error:
        load_model(architecture, folder, options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("name", TINY)
def test_published_folder_to_card_and_back(name, published, tmp_path):
    """Forecasts and maps survive: folder, weights and card as the workflow stores them, model."""
    folder, original = published[name]
    architecture = name.removesuffix("2_5")
    loaded = load_model(architecture, folder, {}, seed=3)
    card = model_card(
        loaded,
        name="m",
        architecture=architecture,
        options=loaded.options,
        trained_on=str(folder),
        training={},
        held_out_errors={},
        versions={},
    )
    write_weights(loaded.state_dict(), card, tmp_path / "m.safetensors")
    card = read_card(tmp_path / "m.safetensors")
    restored = restore_model(card, read_weights(tmp_path / "m.safetensors"))
    assert restored.options == loaded.options == card["options"]
    if name == "informer":
        original.sampling_seed = loaded.sampling_seed
        assert loaded.sampling_seed == 3
    history = histories(original)
    expected, maps = read_attention(original, history)
    for model in (loaded, restored):
        forecast, capture = read_attention(model, history)
        torch.testing.assert_close(forecast, expected, rtol=0, atol=0)
        for record, other in zip(capture.records, maps.records, strict=True):
            torch.testing.assert_close(record.weights, other.weights, rtol=0, atol=0)
    for stack, other in zip(restored.stacks, original.stacks, strict=True):
        assert (stack.name, stack.layers, len(stack.query)) == (other.name, other.layers, len(other.query))


def test_random_weights_follow_the_seed():
    config = TINY["patchtst"]
    one, same, other = (build_model("patchtst", {"config": config}, seed=seed).state_dict() for seed in (0, 0, 1))
    key = "network.head.projection.weight"
    assert torch.equal(one[key], same[key]) and not torch.equal(one[key], other[key])


def test_weights_of_half_precision_are_read_as_float32(folder, published):
    edit_weights(
        folder, lambda state: state.update({k: v.bfloat16() for k, v in state.items() if v.is_floating_point()})
    )
    edit_config(folder, dtype="bfloat16")
    state = load_model("patchtst", folder, {}).state_dict()
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
    key = "network.head.projection.weight"
    torch.testing.assert_close(state[key], published["patchtst"][1].state_dict()[key].bfloat16().float())


def test_older_layout_and_settings_are_read(folder, published):
    """pytorch_model.bin, settings that no longer exist, and those that only say how to run the model."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    edit_config(folder, long_gone=3, output_attentions=True, return_dict=False, minimum_scale=1e-5)
    model = load_model("patchtst", folder, {})
    assert model.config["minimum_scale"] == 1e-5 and "long_gone" not in model.config
    history = histories(model)
    with torch.no_grad():
        torch.testing.assert_close(model(history), published["patchtst"][1](history), rtol=1e-6, atol=1e-6)


def test_large_models_come_in_parts(folder, published):
    model = published["patchtst"][1]
    (folder / "model.safetensors").unlink()
    model.network.save_pretrained(folder, max_shard_size="5KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    history = histories(model)
    with torch.no_grad():
        torch.testing.assert_close(load_model("patchtst", folder, {})(history), model(history), rtol=0, atol=0)


def test_folder_that_is_none(tmp_path, folder):
    assert "is no folder" in refusal(tmp_path / "nowhere")
    assert "is no folder" in refusal(folder / "model.safetensors")


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


@pytest.mark.parametrize("content", ["", "{", "<html></html>"])
def test_config_is_not_json(folder, content):
    (folder / "config.json").write_text(content)
    assert "is not JSON" in refusal(folder)


def test_config_of_another_shape(folder):
    (folder / "config.json").write_text("[1]")
    assert "holds no mapping" in refusal(folder)


def test_model_type_of_another_architecture(published):
    message = refusal(published["informer"][0])
    assert "'model_type' is 'informer'" in message and "reads 'patchtst'" in message
    assert message.endswith("take 'architecture: informer'")
    assert refusal(published["timesfm2_5"][0]).endswith("take 'architecture: timesfm'")
    assert "reads 'timesfm' or 'timesfm2_5'" in refusal(published["patchtst"][0], "timesfm")


def test_model_type_of_no_architecture(folder):
    edit_config(folder, model_type="bert")
    assert refusal(folder).endswith("none of laglens reads it; 'architecture: factory' takes any model")


def test_model_type_is_missing(folder):
    edit_config(folder, model_type="removed")
    assert "'model_type' is missing" in refusal(folder)


def test_model_type_without_attention_over_time(folder):
    edit_config(folder, model_type="patchtsmixer")
    assert "multi-layer perceptrons" in refusal(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!doctype html>", "holds a web page instead of weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (None, "is not a whole safetensors file"),
    ],
)
def test_damaged_weights(folder, content, reason):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    message = refusal(folder)
    assert reason in message and "model.safetensors" in message


def test_code_in_weights_does_not_run(folder, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({"head.projection.bias": Attack()}, folder / "pytorch_model.bin")
    assert "loading it would run" in refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_missing_weights(folder):
    edit_weights(folder, lambda state: state.pop("head.projection.bias"))
    assert refusal(folder).endswith("the weights do not fit PatchTSTForPrediction; missing: head.projection.bias")


def test_unexpected_weights(folder):
    edit_weights(folder, lambda state: state.update({"head.extra": torch.zeros(1)}))
    assert refusal(folder).endswith("unexpected: head.extra")


def test_weights_of_another_shape(folder):
    edit_config(folder, ffn_dim=24)
    message = refusal(folder)
    assert "of another shape" in message and "ff.0.bias (16,) for (24,)" in message


def test_weights_that_are_not_finite(folder):
    edit_weights(folder, lambda state: state["head.projection.bias"].fill_(torch.nan))
    assert "weights are not finite: head.projection.bias" in refusal(folder)


def test_a_model_without_its_forecasting_head(folder):
    """A pretrained PatchTST has another head."""
    edit_weights(folder, lambda state: [state.pop(key) for key in list(state) if key.startswith("head")])
    assert "missing: head.projection.weight, head.projection.bias" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("patchtst", {"history": 60}, "history: 60 samples were asked for, but the model has exactly 64"),
        ("patchtst", {"history": 65}, "has exactly 64 (its context_length)"),
        ("patchtst", {"horizon": 9}, "horizon: 9 samples were asked for, but the model has at most 8"),
        ("time_series_transformer", {"history": 24}, "exactly 29 (its context_length 24 and longest lag 5)"),
        ("informer", {"horizon": 7}, "has at most 6 (its prediction_length)"),
        ("autoformer", {"horizon": 5}, "has exactly 6 (its prediction_length)"),
        ("timesfm", {"history": 257}, "has at most 256 (its context_length)"),
        ("timesfm2_5", {"horizon": 17}, "has at most 16 (its horizon_length)"),
    ],
)
def test_lengths_that_the_model_does_not_have(published, name, options, reason):
    assert reason in refusal(published[name][0], name.removesuffix("2_5"), **options)


@pytest.mark.parametrize(
    ("architecture", "config", "reason"),
    [
        ("patchtst", TINY["patchtst"] | {"num_hiden_layers": 2}, "patchtst has no 'num_hiden_layers'; it has"),
        ("patchtst", TINY["patchtst"] | {"d_model": "wide"}, "Field 'd_model' expected int, got str"),
        ("patchtst", TINY["patchtst"] | {"num_attention_heads": 3}, "embed_dim must be divisible by num_heads"),
        ("patchtst", TINY["patchtst"] | {"share_projection": False}, "transformers cannot run its PatchTST"),
        ("patchtst", TINY["informer"] | {"model_type": "informer"}, "'model_type' is 'informer'"),
        ("informer", TINY["informer"] | {"input_size": 2}, "a token holds all series at once"),
        ("informer", TINY["informer"] | {"lags_sequence": [0, 1]}, "a lag below 1"),
        ("autoformer", TINY["autoformer"] | {"label_length": 0}, "must be between 1 and the context_length 24"),
        ("autoformer", TINY["autoformer"] | {"label_length": 25}, "must be between 1 and the context_length 24"),
        ("timesfm", TINY["timesfm"] | {"model_type": None}, "'model_type' is missing; this architecture reads"),
    ],
)
def test_configurations_that_cannot_be_built(architecture, config, reason):
    with pytest.raises(LaglensError) as error:
        build_model(architecture, {"config": config})
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["iTransformer", "itransformer", "TiRex", "patchtsmixer", "N-BEATS"])
def test_architectures_without_attention_over_time_are_refused_with_the_reason(name):
    with pytest.raises(LaglensError, match=f"architecture '{name}' cannot be read: (it|its) "):
        architecture_class(name)


def test_only_the_named_architectures_are_refused():
    refuse("patchtst")
    assert all(name == "".join(filter(str.isalnum, name.lower())) for name in REFUSED)


def test_transformers_is_imported_for_its_own_models_only():
    code = (
        "import sys\n"
        "from laglens.models.registry import build_model\n"
        "build_model('encoder', {'history': 8, 'horizon': 2, 'width': 8, 'heads': 2})\n"
        "from laglens.models.registry import architecture_class\n"
        "architecture_class('patchtst')\n"
        "assert not any(name.partition('.')[0] == 'transformers' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_transformers_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.models.patchtst.modeling_patchtst", None)
    with pytest.raises(
        LaglensError, match=r"PatchTSTForPrediction is not installed .*pip install 'laglens\[adapters\]'"
    ):
        build_model("patchtst", {"config": TINY["patchtst"]})


def test_nothing_is_printed(folder, capfd):
    edit_config(folder, do_mask_input=True)
    load_model("patchtst", folder, {})
    assert capfd.readouterr() == ("", "")
