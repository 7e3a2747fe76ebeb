"""Files that pass between the workflow and a model's own environment. Needs numpy alone.

One ``.npz`` holds arrays by name and, as JSON, what they are about, with a digest of the arrays: the other side has no
other means to tell whether it has the right ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from laglens.errors import LaglensError

ABOUT = "about"
WINDOWS, RECORDING = "windows", "a recording"  # kinds of files
OF_TOKENS = ("start", "end", "row", "part", "readout")  # of each token axis in a recording
CONTROL = "control_"  # begins the names of what was averaged over the windows of each control


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write arrays and what they are about; the file appears complete or not at all, and is the same for the same."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    described = json.dumps({**about, "digest": digest(arrays)}, sort_keys=True)
    content: dict[str, Any] = {ABOUT: np.array(described), **{key: arrays[key] for key in sorted(arrays)}}
    # The same name every time, so that what a killed process left is written over.
    part = path.with_name(f".{path.name}.{platform.node()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_arrays(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of `write_arrays`: its arrays, and what they are about.

    Parameters
    ----------
    kind
        What ``about["kind"]`` must be.

    Raises
    ------
    LaglensError
        There is no such file, it is damaged, or of another kind. Nothing in it is unpickled.
    """
    if not Path(path).is_file():
        raise LaglensError(f"there is no file '{path}'")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name != ABOUT}
            about = json.loads(str(file[ABOUT]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise LaglensError(f"{path}: damaged, or not a file of {kind} ({' '.join(str(error).split())})") from error
    if about.get("kind") != kind:
        raise LaglensError(f"{path}: a file of {about.get('kind')}, not of {kind}")
    if digest(arrays) != about["digest"]:
        raise LaglensError(f"{path}: damaged: its content is not what was written")
    return arrays, about


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays with their names, types and shapes."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()
