"""One zarr array filled in any order, each chunk encoded once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs.blosc import Blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.store.layout import CODEC

WHOLE = ("query", "key")  # dims that a piece never divides
Index = tuple[int, ...]
Keep = Callable[[str, bytes | None], None]


class ChunkedArray:
    """Chunks of a zarr array whose metadata exist, with zarr's own bytes.

    zarr itself would read, merge and compare a chunk on every write, at more than twice the time.

    Parameters
    ----------
    array
        Its metadata.
    name
        Of the array in the store.
    dims
        Names of its dimensions.
    path
        Of the artifact, for messages.
    keep
        Takes the name and the content of each chunk; None where the chunk holds nothing but the fill value, which, as
        in zarr, need not be stored.
    """

    def __init__(self, array: zarr.Array, name: str, dims: tuple[str, ...], path: Path, keep: Keep) -> None:
        self.name, self.dims, self.place, self._keep = name, dims, f"{path}: '{name}'", keep
        self.shape, self.chunk, self.dtype = array.shape, array.chunks, array.dtype
        self.fill = np.asarray(array.fill_value, array.dtype)
        self._codec = Blosc(CODEC["cname"], CODEC["clevel"], getattr(Blosc, CODEC["shuffle"].upper()))
        self._done: set[Index] = set()
        self._begun: dict[Index, tuple[NDArray, NDArray[np.bool_]]] = {}

    @property
    def samples(self) -> int:
        """Length of the first dimension, if that is the samples, else 0."""
        return self.shape[0] if self.dims[0] == "sample" else 0

    def ending(self, sample: int) -> Iterator[str]:
        """Names of the chunks whose last sample is this one."""
        if (sample + 1) % self.chunk[0] == 0 or sample + 1 == self.shape[0]:
            first = range(sample // self.chunk[0], sample // self.chunk[0] + 1)
            yield from map(self._chunk_name, product(first, *map(range, self._grid()[1:])))

    def all(self) -> Iterator[str]:
        """Names of all chunks."""
        return map(self._chunk_name, self._indices())

    def fit(self, where: Mapping[str, int | slice], values: NDArray) -> tuple[tuple[slice, ...], NDArray]:
        """Slices of a piece along every dimension, and its values with all dimensions; a misfit raises."""
        unknown = [dim for dim in where if dim not in self.dims or dim in WHOLE]
        if unknown:
            raise LaglensError(f"{self.place}: a piece cannot be placed along '{unknown[0]}'; dims {self.dims}")
        places = [where.get(dim, slice(None)) for dim in self.dims]
        for dim, place, size in zip(self.dims, places, self.shape, strict=True):
            if not isinstance(place, slice) and not 0 <= place < size:
                raise LaglensError(f"{self.place}: there is no {dim} {place}; it has {size}")
        slices = [
            slice(*place.indices(size)[:2]) if isinstance(place, slice) else slice(place, place + 1)
            for place, size in zip(places, self.shape, strict=True)
        ]
        expected = [s.stop - s.start for s in slices]
        kept = tuple(n for n, place in zip(expected, places, strict=True) if isinstance(place, slice))
        if values.shape != kept or values.dtype != self.dtype or min(expected) < 1:
            wanted = f"{self.dtype} {kept}"
            raise LaglensError(
                f"{self.place}: a piece is {values.dtype} {values.shape}, not {wanted}, at {dict(where)}"
            )
        return tuple(slices), values.reshape(expected)

    def put(self, where: tuple[slice, ...], values: NDArray) -> None:
        """Take one piece: whole chunks are stored, parts wait for the rest of their chunk."""
        reach = [range(s.start // c, -(-s.stop // c)) for s, c in zip(where, self.chunk, strict=True)]
        for index in product(*reach):
            if index in self._done:
                raise LaglensError(f"{self.place}: {self._at(index)} was handed in twice")
            block = self._block(index, where, values)
            if block is not None:
                self._store(index, block)

    def check_complete(self) -> None:
        """Raise `LaglensError` if a value is missing."""
        missing = next((index for index in self._indices() if index not in self._done), None)
        if missing is not None:
            n = math.prod(self._grid()) - len(self._done)
            state = "only in part" if missing in self._begun else "not at all"
            raise LaglensError(f"{self.place} is incomplete: {n} chunks are missing; {self._at(missing)} came {state}")

    def _block(self, index: Index, where: tuple[slice, ...], values: NDArray) -> NDArray | None:
        """The whole chunk if it is complete with this piece: a view where the piece covers it."""
        low = [i * c for i, c in zip(index, self.chunk, strict=True)]
        high = [min(first + c, size) for first, c, size in zip(low, self.chunk, self.shape, strict=True)]
        start = [max(s.start, first) for s, first in zip(where, low, strict=True)]
        stop = [min(s.stop, last) for s, last in zip(where, high, strict=True)]
        part = values[tuple(slice(a - s.start, b - s.start) for a, b, s in zip(start, stop, where, strict=True))]
        if part.shape == self.chunk:
            return part
        if index not in self._begun:
            size = [last - first for first, last in zip(low, high, strict=True)]
            self._begun[index] = (np.full(self.chunk, self.fill), np.zeros(size, bool))
        block, filled = self._begun[index]
        target = tuple(slice(a - first, b - first) for a, b, first in zip(start, stop, low, strict=True))
        if filled[target].any():
            raise LaglensError(f"{self.place}: part of {self._at(index)} was handed in twice")
        block[target], filled[target] = part, True
        return block if filled.all() else None

    def _store(self, index: Index, block: NDArray) -> None:
        self._begun.pop(index, None)
        self._done.add(index)
        if _all_fill(block, self.fill):
            self._keep(self._chunk_name(index), None)
            return
        block = np.ascontiguousarray(block)
        encoded = self._codec.encode(block)
        if not np.array_equal(np.frombuffer(self._codec.decode(encoded), np.uint8), block.reshape(-1).view(np.uint8)):
            raise LaglensError(f"{self.place}: {self._at(index)} is not what was handed in once it is decoded")
        self._keep(self._chunk_name(index), encoded)

    def _chunk_name(self, index: Index) -> str:
        return "/".join([self.name, "c", *map(str, index)])

    def _grid(self) -> list[int]:
        return [-(-size // c) for size, c in zip(self.shape, self.chunk, strict=True)]

    def _indices(self) -> Iterator[Index]:
        return product(*map(range, self._grid()))

    def _at(self, index: Index) -> str:
        cut = [(dim, i * c, n) for dim, i, c, n in zip(self.dims, index, self.chunk, self._grid(), strict=True)]
        return ", ".join(f"{dim} {first}" for dim, first, n in cut if n > 1) or "it"


def _all_fill(block: NDArray, fill: NDArray) -> bool:
    def same(values: NDArray) -> Any:
        return np.isnan(values) if np.isnan(fill) else values == fill

    return bool(same(block.flat[0])) and bool(same(block).all())
