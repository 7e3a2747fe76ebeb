"""Write a tree while its values are still being computed: piece by piece, in one background thread."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from laglens.errors import LaglensError
from laglens.store.chunked import ChunkedArray
from laglens.store.files import move, pack, plain, workspace
from laglens.store.layout import canonical, chunks, encoding, encodings
from laglens.store.trees import CHILDREN, verify

WAITING = 2  # pieces; the caller stops for the disk beyond them, so memory stays bounded


@dataclass(frozen=True)
class Awaited:
    """A variable whose values arrive in pieces: its dims, shape, dtype (float, integer or boolean) and attributes."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attrs: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def tree_writer(path: str | Path, children: Sequence[str]) -> Iterator[TreeWriter]:
    """Write a tree as one ``.zarr.zip`` piece by piece; the same bytes as `laglens.store.write_tree` of the whole.

    Parameters
    ----------
    children
        Names of the nodes below the root, in the order in which they are read back.

    Raises
    ------
    LaglensError
        A node or a piece is missing at the end, a piece does not fit or came twice, the disk is full, or what was
        read back differs from what was handed in. Then, and after any other exception, nothing is left behind.
    """
    path = Path(path)
    with workspace(path) as work:
        writer = TreeWriter(path, work / "store", children)
        try:
            yield writer
            writer.finish()
        finally:
            writer.stop()
        pack(work / "store", work / "part")
        move(work / "part", path)


class TreeWriter:
    """Takes the nodes and the pieces of one tree; made by `tree_writer`."""

    def __init__(self, path: Path, folder: Path, children: Sequence[str]) -> None:
        self.path, self.folder, self.children = path, folder, list(children)
        self._nodes: dict[str, xr.Dataset] = {}
        self._arrays: dict[str, dict[str, ChunkedArray]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tree-writer")
        self._pending: deque[Future[None]] = deque()

    def add(self, node: str, dataset: xr.Dataset, awaited: Mapping[str, Awaited] | None = None) -> None:
        """Declare a node, ``"/"`` or a child, before its first piece.

        Parameters
        ----------
        dataset
            Coordinates, attributes and the variables that are known already.
        awaited
            Variables that arrive by `write`.
        """
        name = node.strip("/")
        if name in self._nodes or name not in ("", *self.children):
            known = ", ".join(self.children)
            raise LaglensError(f"{self.path}: node '{node}' was added twice, or is not one of: /, {known}")
        dataset = canonical(dataset)
        if not name and self.children:
            dataset.attrs[CHILDREN] = self.children
        self._nodes[name], self._arrays[name] = dataset, {}
        # Mode "a": zarr has made the groups above a child already.
        dataset.to_zarr(
            self.folder, group=name, mode="a", zarr_format=3, consolidated=False, encoding=encodings(dataset)
        )
        if awaited:
            self._arrays[name] = self._await(name, awaited)

    def write(self, node: str, where: Mapping[str, int | slice], arrays: Mapping[str, Any]) -> None:
        """Hand in one piece; returns at once, or when the disk has caught up.

        Parameters
        ----------
        where
            Place of the piece: an index removes the dimension from its arrays, a slice keeps it, dimensions that
            are not named are whole. ``query`` and ``key`` are always whole.
        arrays
            Values by variable, numpy arrays or CPU tensors of the declared dtype. They are not copied, so they must
            not change any more.
        """
        known = self._arrays.get(node.strip("/"), {})
        for name, values in arrays.items():
            if name not in known:
                raise LaglensError(f"{self.path}: '{node}/{name}' is not awaited; add its node first")
            piece = known[name].fit(where, np.asarray(values))
            if len(self._pending) > WAITING:
                self._pending.popleft().result()
            self._pending.append(self._thread.submit(known[name].put, *piece))

    def finish(self) -> None:
        """Wait for the last piece and check that nothing is missing."""
        while self._pending:
            self._pending.popleft().result()
        absent = [name for name in ("", *self.children) if name not in self._nodes]
        if absent:
            raise LaglensError(f"{self.path}: node '{absent[0] or '/'}' was never added")
        for arrays in self._arrays.values():
            for array in arrays.values():
                array.check_complete()
        with xr.open_datatree(self.folder, engine="zarr", consolidated=False, chunks=None) as written:
            back = {"": written, **written.children}
            for name, dataset in self._nodes.items():
                verify(dataset, back[name].to_dataset(), self.path)

    def stop(self) -> None:
        """Drop what still waits, and end the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _await(self, node: str, awaited: Mapping[str, Awaited]) -> dict[str, ChunkedArray]:
        """Write the metadata of awaited variables as xarray would, without values.

        Which coordinates a variable names depends on the whole node, so all of it is written with dimensions of size
        0, beside the store; a larger shape is then only metadata.
        """
        known = self._nodes[node]
        place, beside = self.folder / node, self.folder.with_name("without_values")
        for name, variable in awaited.items():
            self._refuse(f"{node}/{name}".strip("/"), variable, known.sizes)
        variables = {str(n): _without_values(v) for n, v in known.data_vars.items()}
        variables |= {n: _without_values(v) for n, v in awaited.items()}
        empty = xr.Dataset(variables, {n: _without_values(v) for n, v in known.coords.items()}, known.attrs)
        chunk = {n: chunks(v.dims, v.shape, np.dtype(v.dtype).itemsize) for n, v in awaited.items()}
        empty.to_zarr(
            beside, group=node, zarr_format=3, consolidated=False, encoding={n: encoding(c) for n, c in chunk.items()}
        )
        shutil.copy(beside / node / "zarr.json", place)
        arrays = {}
        for name, variable in awaited.items():
            zarr.open_array(beside / node / name, mode="r+").resize(variable.shape)
            shutil.move(beside / node / name, place)
            arrays[name] = ChunkedArray(f"{self.path}: '{f'{node}/{name}'.strip('/')}'", place / name, variable.dims)
        shutil.rmtree(beside)
        return arrays

    def _refuse(self, name: str, awaited: Awaited, sizes: Mapping[Any, int]) -> None:
        different = [dim for dim, n in zip(awaited.dims, awaited.shape, strict=True) if sizes.get(dim, n) != n]
        if different or not awaited.dims or np.dtype(awaited.dtype).kind not in "fiub":
            reason = f"other sizes of {', '.join(different)} than its node" if different else f"shape {awaited.shape}"
            raise LaglensError(f"{self.path}: '{name}' cannot be awaited: {reason}, {awaited.dtype}")


def _without_values(variable: xr.DataArray | Awaited) -> xr.Variable:
    values = np.empty([0] * len(variable.dims), variable.dtype if isinstance(variable, Awaited) else np.int8)
    return xr.Variable(variable.dims, values, plain(variable.attrs))
