"""Files that appear under their name complete and durable, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from laglens.errors import LaglensError


def write_json(content: Mapping[str, Any], path: str | Path) -> None:
    """Write sorted, indented JSON."""
    write_bytes((json.dumps(plain(content), indent=2, sort_keys=True) + "\n").encode(), path)


def write_bytes(content: bytes, path: str | Path) -> None:
    """Write a file that appears complete or not at all."""
    with workspace(Path(path)) as work:
        (work / "part").write_bytes(content)
        move(work / "part", Path(path))


@contextmanager
def workspace(path: Path) -> Iterator[Path]:
    """A private folder beside `path`: the same file system, so that the last step is one atomic rename."""
    work = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.{socket.gethostname()}.{os.getpid()}.", dir=path.parent))
        yield work
    except OSError as error:
        raise LaglensError(f"{path}: cannot be written: {one_line(error)}; nothing was left behind") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Delete workspaces of killed processes of this machine; another machine's may still be in use."""
    prefix = f".{path.name}.{socket.gethostname()}."
    for work in path.parent.glob(f"{prefix}*"):
        process = work.name.removeprefix(prefix).split(".")[0]
        if process.isdigit() and int(process) != os.getpid() and not Path("/proc", process).exists():
            shutil.rmtree(work, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Make a file durable, then give it its name."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(source, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def plain(value: Any) -> Any:
    """JSON-native copy with sorted keys."""
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def one_line(error: BaseException) -> str:
    """Message of an error without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
