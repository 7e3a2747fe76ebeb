"""How arrays lie in a zarr store: the same bytes for the same content, chunks by what is read together."""

from __future__ import annotations

import math
from typing import Any

import xarray as xr
from zarr.codecs import BloscCodec

from laglens.store.files import plain

LARGE_MATRIX = 2 << 20  # bytes; from here on one chunk holds one matrix, below it all heads of a layer
TINY_MATRIX = 64 << 10  # below this, several samples
TOGETHER = 4 << 20  # bytes of samples that one chunk may hold
CHILDREN = "children"  # attribute that keeps the order of the nodes: zarr lists them in the order of a set
CODEC: dict[str, Any] = {"cname": "lz4", "clevel": 5}


def canonical(dataset: xr.Dataset) -> xr.Dataset:
    """Sorted plain attributes and object strings: the bytes then depend on the content alone."""
    dataset = dataset.copy()
    dataset.attrs = plain(dataset.attrs)
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "UT":
            dataset[name] = variable.astype(object)
        dataset[name].attrs = plain(variable.attrs)
        dataset[name].encoding = {}
    return dataset


def encodings(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    """What zarr is told about each variable; dates and strings are left to xarray's own defaults."""
    found: dict[str, dict[str, Any]] = {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind == "M":
            # xarray would count from the first date, in nanoseconds: too far for series of 300 years.
            found[str(name)] = {"units": "microseconds since 1970-01-01", "dtype": "int64"}
        if variable.dtype.kind in "fiub" and variable.ndim:
            found[str(name)] = encoding(chunks(variable.dims, variable.shape, variable.dtype.itemsize))
    return found


def encoding(chunk: tuple[int, ...]) -> dict[str, Any]:
    """Encoding of a numeric variable."""
    return {"compressors": (BloscCodec(**CODEC, shuffle="shuffle"),), "chunks": chunk}


def chunks(dims: tuple[Any, ...], shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Shape of the chunks of a variable.

    Matrices ``(..., query, key)`` stay whole, never tiles; dims before them are split by how large one matrix is.
    What begins with ``sample`` is cut along it, so that no chunk grows with the number of samples.
    """
    chunk = [max(1, size) for size in shape]
    samples = dims[:1] == ("sample",)
    if dims[-2:] == ("query", "key"):
        matrix = itemsize * math.prod(shape[-2:])
        together = {"head"} if matrix < LARGE_MATRIX else set()
        chunk[:-2] = [size if dim in together else 1 for dim, size in zip(dims[:-2], chunk, strict=False)]
        samples &= matrix < TINY_MATRIX
    if samples:
        one = itemsize * math.prod(chunk[1:])
        chunk[0] = max(1, min(shape[0], TOGETHER // one))
    return tuple(chunk)
