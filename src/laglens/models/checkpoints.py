"""Read the weights that others publish, without ever running what is in them."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from laglens.errors import LaglensError

PICKLE = b"\x80"  # how a pickle of protocol 2 or later begins, and so the older layout of torch
UNKNOWN = "is neither a checkpoint of torch nor safetensors, or is damaged"
NAMED = 3  # keys that a message names before it counts the rest

# Beyond tensors and plain values, which torch allows by itself: what the settings of a training script are made of.
# Each entry only builds a value from its arguments. Paths stay pure: they touch no disk and load on any system.
_NUMBERS = {type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]}
_SCALAR: Any = np.float64(0).__reduce__()[0]  # numpy's own builder of a number, which it keeps private
ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *sorted(_NUMBERS, key=str),
]


def read_checkpoint(path: str | Path) -> Any:
    """Content of a checkpoint file of torch (zip or the older layout) or safetensors, on the CPU.

    The content decides what a file is, not its name. Tensors, plain values, `argparse.Namespace`, paths and numpy
    numbers are read; anything else would have to run code, and is refused.

    Raises
    ------
    LaglensError
        The file is missing, empty, truncated or damaged; holds a web page, a Git LFS pointer, a program, code or
        another format.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise LaglensError(f"{path}: there is no such checkpoint") from None
    except OSError as error:
        raise LaglensError(f"{path}: cannot be read as one file of weights ({error.strerror})") from error
    _refuse_stand_ins(path, head)
    if _is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        _check_archive(path)
    elif not head.startswith(PICKLE):
        raise LaglensError(f"{path}: {UNKNOWN}")
    return _read_torch(path)


def _refuse_stand_ins(path: Path, head: bytes) -> None:
    """What downloads leave behind instead of weights."""
    text = head.lstrip().lower()
    if not text:
        raise LaglensError(f"{path}: the file is empty; download it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise LaglensError(f"{path}: holds a web page instead of weights; download the file itself, not its page")
    if text.startswith(b"version https://git-lfs"):
        raise LaglensError(f"{path}: is a Git LFS pointer, not the weights; fetch them with 'git lfs pull'")


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise LaglensError(
            f"{path}: is not a whole safetensors file ({_one_line(error)}); download it again"
        ) from error


def _check_archive(path: Path) -> None:
    """Torch itself reads an archive with flipped bits without a word."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # Torch can be told to write no checksums; they are all 0 then.
            damaged = archive.testzip() if any(entry.CRC for entry in archive.infolist()) else None
    except zipfile.BadZipFile as error:
        raise LaglensError(f"{path}: is truncated or damaged ({error}); download it again") from error
    if damaged:
        raise LaglensError(f"{path}: is damaged in its part '{damaged}'; download it again")
    if any(name.endswith("constants.pkl") for name in names):
        raise LaglensError(f"{path}: is a TorchScript program; save the state_dict of the model instead")
    if not any(name.endswith("/data.pkl") for name in names):
        raise LaglensError(f"{path}: is a zip archive, but not of torch; give the file that torch.save wrote")


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED):
            warnings.simplefilter("ignore", UserWarning)  # on pickle protocols: what follows is an error in one line
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise LaglensError(
                f"{path}: loading it would run '{code[1]}', so it was not loaded; if you trust its source, save its "
                "state_dict alone where it was made"
            ) from None
        raise LaglensError(f"{path}: {UNKNOWN}") from None
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes torch stumbles in any way
        raise LaglensError(f"{path}: is truncated or damaged ({_one_line(error)}); download it again") from error


def strip_prefix(state: Mapping[str, Any], *prefixes: str) -> dict[str, Any]:
    """Take off prefixes that all keys carry, such as ``module.`` after data-parallel training, in any order."""
    stripped = dict(state)
    while found := [p for p in prefixes if stripped and all(key.startswith(p) for key in stripped)]:
        stripped = {key.removeprefix(found[0]): value for key, value in stripped.items()}
    return stripped


def load_strictly(model: nn.Module, state: Mapping[str, Any], source: str | Path) -> None:
    """Put published weights into a model: every key, none to spare, all of the same shape and finite.

    Raises
    ------
    LaglensError
        In one line, what is missing, unexpected, of another shape, or not finite.
    """
    own = model.state_dict()
    fits = {key: own[key].shape == getattr(value, "shape", None) for key, value in state.items() if key in own}
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(getattr(state[key], 'shape', ()))} for {tuple(own[key].shape)}"
            for key in fits
            if not fits[key]
        ],
    }
    if found := [f"{what}: {_some(keys)}" for what, keys in problems.items() if keys]:
        raise LaglensError(f"{source}: the weights do not fit {type(model).__name__}; {'; '.join(found)}")
    if broken := [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise LaglensError(f"{source}: weights are not finite: {_some(broken)}; take another checkpoint")
    model.load_state_dict(state, strict=True)


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    rest = len(keys) - NAMED
    return ", ".join(keys[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
