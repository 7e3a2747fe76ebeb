"""Trees of labelled arrays as one ``.zarr.zip``."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr
from zarr.storage import ZipStore

from laglens.errors import LaglensError
from laglens.store.files import one_line
from laglens.store.layout import CHILDREN
from laglens.store.stream import tree_writer


def write_tree(tree: xr.DataTree, path: str | Path) -> None:
    """Write a tree of labelled arrays as one ``.zarr.zip``, the same bytes for the same content.

    Raises
    ------
    LaglensError
        The disk is full, or what was read back differs from what was written.
    """
    nodes = {node.path.strip("/"): node.to_dataset(inherit=False) for node in tree.subtree}
    with tree_writer(path, [name for name in nodes if name]) as writer:
        for name, dataset in nodes.items():
            writer.add(name, dataset)


def read_tree(path: str | Path) -> xr.DataTree:
    """Read a tree into memory.

    Raises
    ------
    LaglensError
        The file is missing, truncated or damaged.
    """
    with opened_tree(path) as tree, _damage_named(path, KeyError, ValueError):
        return tree.load()


@contextmanager
def opened_tree(path: str | Path) -> Iterator[xr.DataTree]:
    """Open a tree without reading its arrays: each access reads the chunks it needs, and nothing is kept.

    For cubes larger than memory: ``tree["encoder"]["attention"].isel(sample=slice(0, 4), layer=2).values`` reads
    the matrices of that layer alone.

    Raises
    ------
    LaglensError
        The file is missing, truncated or damaged; damage inside a chunk shows when the chunk is read.
    """
    path = Path(path)
    if not path.is_file():
        raise LaglensError(f"{path}: no such artifact")
    with _damage_named(path, KeyError, ValueError):
        zipfile.ZipFile(path).close()  # ZipStore opens late and cannot close what it failed to open
        store = ZipStore(path, mode="r")
    with store, _damage_named(path):
        with _damage_named(path, KeyError, ValueError):
            # The annotation omits zarr stores.
            tree = xr.open_datatree(store, engine="zarr", consolidated=False, chunks=None, cache=False)  # type: ignore[arg-type]
        with tree:
            yield _in_written_order(tree)


def write_dataset(dataset: xr.Dataset, path: str | Path) -> None:
    """Write one dataset as ``.zarr.zip``; see `write_tree`."""
    write_tree(xr.DataTree(dataset), path)


def read_dataset(path: str | Path) -> xr.Dataset:
    """Read one dataset into memory; see `read_tree`."""
    return read_tree(path).to_dataset()


@contextmanager
def _damage_named(path: str | Path, *more: type[Exception]) -> Iterator[None]:
    """Name the file in what zip raises on damage, and in `more` where no code of a caller runs inside."""
    kinds: tuple[type[Exception], ...] = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, *more)
    try:
        yield
    except kinds as error:
        raise LaglensError(f"{path}: damaged ({one_line(error)}); delete it and run again") from error


def _in_written_order(tree: xr.DataTree) -> xr.DataTree:
    written = tree.attrs.pop(CHILDREN, sorted(tree.children))
    tree.children = {name: tree.children[name] for name in written}
    return tree
