"""Files of weights that others publish: read safely, refused in one line, fitted without exception."""

import argparse
import io
import os
import pathlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from laglens.errors import LaglensError
from laglens.models.checkpoints import load_strictly, read_checkpoint, strip_prefix


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def weights() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5, -2.0])}


def archive(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def refused(tmp_path: Path, content: bytes, name: str = "model.pth") -> str:
    """The message with which a file of this content is refused: one line that names the file."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LaglensError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("new_layout", [True, False])
def test_settings_and_weights_are_read_from_both_layouts_of_torch(tmp_path, new_layout):
    settings = argparse.Namespace(h=128, size=[1024, 0, 1440], device=torch.device("cpu"), target="OT")
    torch.save({"args": settings, "model": weights()}, tmp_path / "x", _use_new_zipfile_serialization=new_layout)

    found = read_checkpoint(tmp_path / "x")

    assert vars(found["args"]) == vars(settings)
    assert all(torch.equal(found["model"][key], value) for key, value in weights().items())


def test_settings_of_a_training_script_may_hold_paths_and_numpy_numbers(tmp_path):
    settings = argparse.Namespace(
        root=pathlib.Path("runs/one"),
        scale=np.float64(3.5),
        size=np.int64(7),
        flag=np.bool_(True),
        half=np.float32(0.5),
    )
    torch.save(settings, tmp_path / "x")

    found = read_checkpoint(tmp_path / "x")

    assert found == settings
    assert type(found.root) is pathlib.PurePosixPath  # never one that could touch the disk


def test_safetensors_are_known_by_content_not_by_name(tmp_path):
    save_file(weights(), tmp_path / "weights.pth")

    found = read_checkpoint(tmp_path / "weights.pth")

    assert all(torch.equal(found[key], value) for key, value in weights().items())


@pytest.mark.parametrize("new_layout", [True, False])
def test_code_in_a_checkpoint_is_named_and_never_run(tmp_path, new_layout):
    trace = tmp_path / "trace"
    torch.save({"args": Attack(trace), "model": weights()}, tmp_path / "x", _use_new_zipfile_serialization=new_layout)
    torch.load(tmp_path / "x", weights_only=False)
    assert trace.exists()  # the attack works where it is let in
    trace.unlink()

    with pytest.raises(LaglensError, match=r"x: loading it would run 'posix\.system', so it was not loaded") as caught:
        read_checkpoint(tmp_path / "x")

    assert not trace.exists() and "\n" not in str(caught.value)


def test_a_plain_pickle_with_code_is_not_run_either(tmp_path):
    trace = tmp_path / "trace"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        refused(tmp_path, pickle.dumps(Attack(trace), protocol=protocol))

    assert not trace.exists()


def test_code_that_passes_through_an_allowed_type_is_not_run(tmp_path):
    trace = tmp_path / "trace"
    message = refused(tmp_path, archive(argparse.Namespace(h=128, hidden=[Attack(trace)])))

    assert "posix.system" in message and not trace.exists()


def test_a_whole_model_is_refused_by_the_class_it_would_build(tmp_path):
    message = refused(tmp_path, archive(nn.Linear(2, 2)))

    assert "would run 'torch.nn.modules.linear.Linear'" in message and "state_dict" in message


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path, kept):
    whole = archive(weights())

    assert "truncated" in refused(tmp_path, whole[: int(kept * len(whole))])


def test_a_truncated_file_of_the_older_layout_is_refused(tmp_path):
    torch.save({"a": torch.ones(500)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "x").read_bytes()

    assert "truncated or damaged" in refused(tmp_path, whole[: len(whole) // 2])
    assert "truncated or damaged" in refused(tmp_path, whole[:-1])
    for kept in range(1, 600, 17):  # wherever the cut is
        refused(tmp_path, whole[:kept])


def test_truncated_safetensors_are_refused(tmp_path):
    save_file(weights(), tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()

    assert "not a whole safetensors file" in refused(tmp_path, whole[:-1], "x.safetensors")


def test_a_flipped_bit_is_refused_though_torch_reads_it(tmp_path):
    content = bytearray(archive({"a": torch.ones(500)}))
    content[content.index(bytes.fromhex("0000803f") * 8) + 2] ^= 4
    assert not torch.load(io.BytesIO(content), weights_only=True)["a"].eq(1).all()

    assert "damaged in its part" in refused(tmp_path, bytes(content))


def test_an_archive_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights(), tmp_path / "x")
    finally:
        torch.serialization.set_crc32_options(before)

    assert torch.equal(read_checkpoint(tmp_path / "x")["b"], weights()["b"])


def numpy_archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "a web page instead of weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "neither a checkpoint of torch nor safetensors"),
        (b"time,value\n0,1\n1,2\n", "neither a checkpoint of torch nor safetensors"),
        (numpy_archive(), "a zip archive, but not of torch"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_the_reason(tmp_path, content, reason):
    assert reason in refused(tmp_path, content)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program")

    assert "TorchScript program" in refused(tmp_path, (tmp_path / "program").read_bytes())


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(LaglensError, match="there is no such checkpoint"):
        read_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(LaglensError, match="cannot be read as one file"):
        read_checkpoint(tmp_path)


def test_prefixes_are_taken_off_where_all_keys_carry_them():
    assert strip_prefix({"module.model.a": 1, "module.model.b": 2}, "model.", "module.") == {"a": 1, "b": 2}
    assert strip_prefix({"a": 1}, "module.") == {"a": 1}
    assert strip_prefix({"module.a": 1, "b": 2}, "module.") == {"module.a": 1, "b": 2}
    assert strip_prefix({}, "module.") == {}


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def test_weights_that_fit_are_all_put_in():
    source, target = linear(), linear()

    load_strictly(target, source.state_dict(), "x.pth")

    assert all(torch.equal(target.state_dict()[key], value) for key, value in source.state_dict().items())


def test_weights_that_do_not_fit_are_named_in_one_line_and_leave_the_model_as_it_was():
    model, wrong = linear(), linear().state_dict()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    del wrong["0.bias"]
    wrong |= {"1.weight": torch.zeros(1, 4), "2.weight": torch.zeros(1), "args": 3}

    with pytest.raises(LaglensError) as caught:
        load_strictly(model, wrong, "x.pth")

    assert str(caught.value) == (
        "x.pth: the weights do not fit Sequential; missing: 0.bias; unexpected: 2.weight, args; "
        "of another shape: 1.weight (1, 4) for (1, 3)"
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_many_keys_are_counted_instead_of_listed():
    with pytest.raises(LaglensError, match=r"missing: 0\.weight, 0\.bias, 1\.weight and 1 more$"):
        load_strictly(linear(), {}, "x.pth")


def test_weights_that_are_not_finite_are_refused():
    broken = linear().state_dict()
    broken["1.bias"] = torch.tensor([float("nan")])

    with pytest.raises(LaglensError, match=r"x\.pth: weights are not finite: 1\.bias"):
        load_strictly(linear(), broken, "x.pth")
