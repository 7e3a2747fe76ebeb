"""Write a tree while its values are still being computed: piece by piece, in one background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from zarr.storage import MemoryStore

from laglens.errors import LaglensError
from laglens.store.archive import OrderedArchive
from laglens.store.chunked import ChunkedArray
from laglens.store.files import move, plain, workspace
from laglens.store.layout import CHILDREN, canonical, chunks, encoding, encodings

if TYPE_CHECKING:
    from zarr.abc.buffer import Buffer

NUMBERS = "fiub"  # kinds of the dtypes that may be awaited
WAITING = 3  # times the largest piece so far; the caller stops for the disk beyond that, so memory stays bounded


@dataclass(frozen=True)
class Awaited:
    """A variable whose values arrive in pieces: its dims, shape, dtype (float, integer or boolean) and attributes."""

    dims: tuple[Any, ...]
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
        writer = TreeWriter(path, work, children)
        try:
            yield writer
            move(writer.finish(), path)
        finally:
            writer.stop()


class TreeWriter:
    """Takes the nodes and the pieces of one tree; made by `tree_writer`."""

    def __init__(self, path: Path, work: Path, children: Sequence[str]) -> None:
        self.path, self.children = path, list(children)
        self._known: dict[str, Buffer] = {}  # entries of the store without the chunks of what is awaited
        self._part, waiting = work / "part", work / "waiting"
        waiting.mkdir()
        self._archive = OrderedArchive(self._part, waiting, self._order())
        self._nodes: dict[str, xr.Dataset] = {}
        self._arrays: dict[str, dict[str, ChunkedArray]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tree-writer")
        self._pending: deque[tuple[int, Future[None]]] = deque()  # with the bytes of the piece
        self._largest = 0

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
        ready = {str(n): v for n, v in dataset.data_vars.items() if v.dtype.kind in NUMBERS and v.ndim}
        awaited = {**(awaited or {}), **{n: Awaited(v.dims, v.shape, str(v.dtype), v.attrs) for n, v in ready.items()}}
        self._refuse_misfits(name, awaited, dict(dataset.sizes))
        dataset = canonical(dataset.drop_vars(list(ready)))
        if not name and self.children:
            dataset.attrs[CHILDREN] = list(dict.fromkeys(child.split("/")[0] for child in self.children))
        self._nodes[name] = dataset
        _write(dataset, self._known, name, encodings(dataset))
        self._arrays[name] = self._await(name, awaited) if awaited else {}
        self.write(name, {}, {n: v.values for n, v in ready.items() if v.size})

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
            slices, piece = known[name].fit(where, np.asarray(values))
            self._largest = max(self._largest, piece.nbytes)
            self._catch_up(WAITING * self._largest - piece.nbytes)
            self._pending.append((piece.nbytes, self._thread.submit(known[name].put, slices, piece)))

    def finish(self) -> Path:
        """Wait for the last piece and check that nothing is missing; the complete file."""
        self._catch_up(0)
        absent = [name for name in ("", *self.children) if name not in self._nodes]
        if absent:
            raise LaglensError(f"{self.path}: node '{absent[0] or '/'}' was never added")
        for arrays in self._arrays.values():
            for array in arrays.values():
                array.check_complete()
        # The annotation omits zarr stores.
        store: Any = MemoryStore(self._known)
        with xr.open_datatree(store, engine="zarr", consolidated=False, chunks=None) as written:
            back = {node.path.strip("/"): node.to_dataset() for node in written.subtree}
            for name, dataset in self._nodes.items():
                _verify(dataset, back[name], self.path)
        self._archive.finish({name: entry.to_bytes() for name, entry in self._known.items()})
        return self._part

    def stop(self) -> None:
        """Drop what still waits, and end the thread."""
        self._thread.shutdown(cancel_futures=True)
        self._archive.close()

    def _catch_up(self, n_bytes: int) -> None:
        """Wait until no more than `n_bytes` of pieces wait; what went wrong with those before is raised.

        Bytes and not pieces: the statistics of a layer would else wait for its weights.
        """
        while self._pending and (self._pending[0][1].done() or sum(size for size, _ in self._pending) > n_bytes):
            self._pending.popleft()[1].result()

    def _order(self) -> Iterator[str | None]:
        """Names of all chunks, sample by sample, as a model gives them; None while a node is not known."""
        sample, samples = 0, 1
        while sample < samples:
            for child in self.children:
                while child not in self._arrays:
                    yield None
                for array in self._arrays[child].values():
                    if sample < array.samples:
                        samples = max(samples, array.samples)
                        yield from array.ending(sample)
            sample += 1
        for node in (*self.children, ""):
            while node not in self._arrays:
                yield None
            for array in self._arrays[node].values():
                if not (node and array.samples):
                    yield from array.all()

    def _await(self, node: str, awaited: Mapping[str, Awaited]) -> dict[str, ChunkedArray]:
        """Write the metadata of awaited variables as xarray would, without values.

        Which coordinates a variable names depends on the whole node, so all of it is written with dimensions of size
        0, apart from the store; a larger shape is then only metadata.
        """
        known = self._nodes[node]
        variables = {str(n): _without_values(v) for n, v in known.data_vars.items()}
        variables |= {n: _without_values(v) for n, v in awaited.items()}
        empty = xr.Dataset(variables, {n: _without_values(v) for n, v in known.coords.items()}, known.attrs)
        chunk = {n: chunks(v.dims, v.shape, np.dtype(v.dtype).itemsize) for n, v in awaited.items()}
        entries: dict[str, Buffer] = {}
        _write(empty, entries, node, {n: encoding(c) for n, c in chunk.items()})
        arrays = {}
        for name, variable in sorted(awaited.items()):
            whole = _join(node, name)
            array = zarr.open_array(MemoryStore(entries), path=whole)
            array.resize(variable.shape)
            arrays[name] = ChunkedArray(array, whole, variable.dims, self.path, self._archive.put)
        for name in (node, *(_join(node, name) for name in awaited)):
            self._known[_join(name, "zarr.json")] = entries[_join(name, "zarr.json")]
        return arrays

    def _refuse_misfits(self, node: str, awaited: Mapping[str, Awaited], sizes: dict[Any, int]) -> None:
        for name, variable in awaited.items():
            place = f"{self.path}: '{_join(node, name)}' cannot be awaited"
            if not variable.dims or np.dtype(variable.dtype).kind not in NUMBERS:
                raise LaglensError(f"{place}: only numbers with dims are, not {variable.dtype} {variable.shape}")
            for dim, size in zip(variable.dims, variable.shape, strict=True):
                if sizes.setdefault(dim, size) != size:
                    raise LaglensError(f"{place}: its {dim} has {size} values, that of its node {sizes[dim]}")


def _write(dataset: xr.Dataset, entries: dict[str, Buffer], node: str, encoding: dict[str, Any]) -> None:
    """Write a group that may exist: zarr makes those above a child."""
    options: dict[str, Any] = {"group": node, "mode": "a", "zarr_format": 3, "consolidated": False}
    dataset.to_zarr(MemoryStore(entries), **options, encoding=encoding)


def _join(node: str, name: str) -> str:
    return f"{node}/{name}" if node else name


def _without_values(variable: xr.DataArray | Awaited) -> xr.Variable:
    values = np.empty([0] * len(variable.dims), variable.dtype if isinstance(variable, Awaited) else np.int8)
    return xr.Variable(variable.dims, values, plain(variable.attrs))


def _verify(expected: xr.Dataset, written: xr.Dataset, path: Path) -> None:
    for name, variable in expected.variables.items():
        if not variable.equals(written.variables[name].load()):
            raise LaglensError(f"{path}: '{name}' read back differs from what was written; the disk may be faulty")
