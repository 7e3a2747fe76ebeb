"""The only module that reads and writes artifacts.

Datasets and cubes are zarr v3 stores packed into one deterministic ``.zarr.zip``; weights are safetensors with
a JSON card; tables are CSV. Every file appears under its name complete and durable, or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from zarr.codecs import BloscCodec
from zarr.storage import ZipStore

from laglens.errors import LaglensError

if TYPE_CHECKING:
    import torch

LARGE_MATRIX = 2 << 20  # bytes; from here on one chunk holds one matrix, below it all heads of a layer
TINY_MATRIX = 64 << 10
CHILDREN = "children"  # attribute that keeps the order of the nodes: zarr lists them in the order of a set
EARLIEST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def write_tree(tree: xr.DataTree, path: str | Path) -> None:
    """Write a tree of labelled arrays as one ``.zarr.zip``, the same bytes for the same content.

    Raises
    ------
    LaglensError
        The disk is full, or what was read back differs from what was written.
    """
    tree = tree.map_over_datasets(_canonical)
    tree.attrs |= {CHILDREN: list(tree.children)} if tree.children else {}
    encoding = {node.path: _encodings(node.to_dataset(inherit=False)) for node in tree.subtree}

    def write(folder: Path) -> None:
        tree.to_zarr(folder, zarr_format=3, consolidated=False, write_inherited_coords=False, encoding=encoding)
        with xr.open_datatree(folder, engine="zarr", consolidated=False, chunks=None) as written:
            back = dict(written.subtree_with_keys)
            for name, node in tree.subtree_with_keys:
                _verify(node.to_dataset(inherit=False), back[name].to_dataset(inherit=False), path)

    _write_zip(write, Path(path))


def read_tree(path: str | Path) -> xr.DataTree:
    """Read a tree into memory.

    Raises
    ------
    LaglensError
        The file is missing, truncated or damaged.
    """
    with (
        _opened(path) as store,
        # The annotation omits zarr stores.
        xr.open_datatree(store, engine="zarr", consolidated=False, chunks=None) as tree,  # type: ignore[arg-type]
    ):
        return _in_written_order(tree.load())


def write_dataset(dataset: xr.Dataset, path: str | Path) -> None:
    """Write one dataset as ``.zarr.zip``; see `write_tree`."""
    write_tree(xr.DataTree(dataset), path)


def read_dataset(path: str | Path) -> xr.Dataset:
    """Read one dataset into memory; see `read_tree`."""
    return read_tree(path).to_dataset()


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table people read as CSV, six significant digits."""
    write_bytes(table.to_csv(index=False, float_format="%.6g").encode(), path)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Raises
    ------
    LaglensError
        The file is missing, of another kind, or cannot be parsed.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix.lower() not in readers:
        raise LaglensError(f"{path}: a table is read from {' or '.join(readers)}, not from '{path.suffix}'")
    if not path.is_file():
        raise LaglensError(f"{path}: no such file; paths are relative to the folder you run from")
    try:
        table = readers[path.suffix.lower()](path)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise LaglensError(f"{path}: cannot be read as {path.suffix[1:]}: {_one_line(error)}") from error
    if not len(table):
        raise LaglensError(f"{path}: the table has no rows")
    return table


def write_weights(state: Mapping[str, torch.Tensor], card: Mapping[str, Any], path: str | Path) -> None:
    """Write weights as safetensors, then the model card beside them as ``.json``."""
    from safetensors.torch import save

    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(state.items())}
    write_bytes(save(tensors), path)
    write_json(card, path.with_suffix(".json"))


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read safetensors; no code is ever unpickled.

    Raises
    ------
    LaglensError
        The file is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise LaglensError(f"{path}: no such weights") from error
    except SafetensorError as error:
        raise LaglensError(
            f"{path}: not a complete safetensors file ({_one_line(error)}); delete it and run again"
        ) from error


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the model card that lies beside weights (`path` of the weights or of the card)."""
    card = Path(path).with_suffix(".json")
    try:
        return json.loads(card.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise LaglensError(f"{card}: no readable model card beside the weights ({_one_line(error)})") from error


def write_json(content: Mapping[str, Any], path: str | Path) -> None:
    """Write sorted, indented JSON."""
    write_bytes((json.dumps(_plain(content), indent=2, sort_keys=True) + "\n").encode(), path)


def write_bytes(content: bytes, path: str | Path) -> None:
    """Write a file that appears complete or not at all."""
    with _workspace(Path(path)) as work:
        (work / "part").write_bytes(content)
        _move(work / "part", Path(path))


def _write_zip(write: Callable[[Path], None], path: Path) -> None:
    """Let `write` fill a folder, pack it with sorted entries and fixed dates, and move it into place."""
    with _workspace(path) as work:
        write(work / "store")
        with zipfile.ZipFile(work / "part", "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(p for p in (work / "store").rglob("*") if p.is_file()):
                entry = zipfile.ZipInfo(file.relative_to(work / "store").as_posix(), EARLIEST_ZIP_DATE)
                entry.external_attr = 0o644 << 16
                with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        _move(work / "part", path)


@contextmanager
def _workspace(path: Path) -> Iterator[Path]:
    """A private folder beside `path`: the same file system, so that the last step is one atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.{socket.gethostname()}.{os.getpid()}.", dir=path.parent))
    try:
        yield work
    except OSError as error:
        raise LaglensError(f"{path}: cannot be written: {_one_line(error)}; nothing was left behind") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Delete workspaces of killed processes of this machine; another machine's may still be in use."""
    prefix = f".{path.name}.{socket.gethostname()}."
    for work in path.parent.glob(f"{prefix}*"):
        process = work.name.removeprefix(prefix).split(".")[0]
        if process.isdigit() and int(process) != os.getpid() and not Path("/proc", process).exists():
            shutil.rmtree(work, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(source, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _opened(path: str | Path) -> Iterator[ZipStore]:
    path = Path(path)
    if not path.is_file():
        raise LaglensError(f"{path}: no such artifact")
    try:
        zipfile.ZipFile(path).close()  # ZipStore opens late and cannot close what it failed to open
        with ZipStore(path, mode="r") as store:
            yield store
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, KeyError, ValueError) as error:
        raise LaglensError(f"{path}: damaged ({_one_line(error)}); delete it and run again") from error


def _in_written_order(tree: xr.DataTree) -> xr.DataTree:
    written = tree.attrs.pop(CHILDREN, sorted(tree.children))
    tree.children = {name: tree.children[name] for name in written}
    return tree


def _canonical(dataset: xr.Dataset) -> xr.Dataset:
    """Sorted plain attributes and object strings: the bytes then depend on the content alone."""
    dataset = dataset.copy()
    dataset.attrs = _plain(dataset.attrs)
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "UT":
            dataset[name] = variable.astype(object)
        dataset[name].attrs = _plain(variable.attrs)
        dataset[name].encoding = {}
    return dataset


def _encodings(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    compressor = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
    encodings: dict[str, dict[str, Any]] = {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind == "M":
            # xarray would count from the first date, in nanoseconds: too far for series of 300 years.
            encodings[str(name)] = {"units": "microseconds since 1970-01-01", "dtype": "int64"}
        if variable.dtype.kind in "fiub" and variable.ndim:
            encodings[str(name)] = {"compressors": (compressor,), "chunks": _chunks(variable)}
    return encodings


def _chunks(variable: xr.Variable) -> tuple[int, ...]:
    """Whole matrices, never tiles; dims before them are split by how large one matrix is."""
    if variable.dims[-2:] != ("query", "key"):
        return tuple(max(1, size) for size in variable.shape)
    matrix = variable.shape[-2:]
    n_bytes = variable.dtype.itemsize * matrix[0] * matrix[1]
    together = {"head"} if n_bytes < LARGE_MATRIX else set()
    chunks = [size if dim in together else 1 for dim, size in zip(variable.dims[:-2], variable.shape, strict=False)]
    if n_bytes < TINY_MATRIX and variable.dims[0] == "sample":
        chunks[0] = min(64, variable.shape[0])
    return (*chunks, *matrix)


def _verify(expected: xr.Dataset, written: xr.Dataset, path: str | Path) -> None:
    for name, variable in expected.variables.items():
        if not variable.equals(written.variables[name].load()):
            raise LaglensError(f"{path}: '{name}' read back differs from what was written; the disk may be faulty")


def _plain(value: Any) -> Any:
    """JSON-native copy with sorted keys."""
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
