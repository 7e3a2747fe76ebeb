"""One zarr array filled in any order, each chunk encoded once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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


class ChunkedArray:
    """Chunks of a zarr array whose metadata exist, with zarr's own bytes.

    zarr itself would read, merge and compare a chunk on every write, at more than twice the time.

    Parameters
    ----------
    place
        File and name, for messages.
    folder
        Of the array in a directory store.
    dims
        Names of its dimensions.
    """

    def __init__(self, place: str, folder: Path, dims: tuple[str, ...]) -> None:
        array = zarr.open_array(folder, mode="r")
        self.place, self.folder, self.dims = place, folder, dims
        self.shape, self.chunk, self.dtype = array.shape, array.chunks, array.dtype
        self.fill = np.asarray(array.fill_value, array.dtype)
        self._codec = Blosc(**CODEC, shuffle=Blosc.SHUFFLE)
        self._done: set[Index] = set()
        self._begun: dict[Index, tuple[NDArray, NDArray[np.bool_]]] = {}

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
            return  # as zarr does: what is not there reads as the fill value
        block = np.ascontiguousarray(block)
        encoded = self._codec.encode(block)
        if not np.array_equal(np.frombuffer(self._codec.decode(encoded), np.uint8), block.reshape(-1).view(np.uint8)):
            raise LaglensError(f"{self.place}: {self._at(index)} is not what was handed in once it is decoded")
        file = self.folder.joinpath("c", *map(str, index))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded)

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
