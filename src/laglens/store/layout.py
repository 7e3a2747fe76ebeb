"""How arrays lie in a zarr store: the same bytes for the same content, chunks by what is read together."""

from __future__ import annotations

import math
from typing import Any

import xarray as xr
from zarr.codecs import BloscCodec

from laglens.store.files import plain

TINY_MATRIX = 64 << 10  # bytes; below this, a chunk holds the matrices of several samples
TOGETHER = 4 << 20  # bytes of samples that one chunk may hold, those of all heads of a layer together
CHILDREN = "children"  # attribute that keeps the order of the nodes: zarr lists them in the order of a set
# By bits, not bytes: a quarter smaller on time cubes in float32, a tenth on weights in float16, at half the time.
CODEC: dict[str, Any] = {"cname": "lz4", "clevel": 1, "shuffle": "bitshuffle"}


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
    return {"compressors": (BloscCodec(**CODEC),), "chunks": chunk}


def chunks(dims: tuple[Any, ...], shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Shape of the chunks of a variable.

    Matrices ``(..., query, key)`` stay whole, never tiles, and each layer and head has its own, so that reading one
    reads no other; only tiny ones share their chunk with those of other samples. What begins with ``sample`` is cut
    along it, so that no chunk grows with the number of samples.
    """
    chunk = [max(1, size) for size in shape]
    samples, heads = dims[:1] == ("sample",), 1
    if dims[-2:] == ("query", "key"):
        heads = max(1, shape[dims.index("head")]) if "head" in dims else 1
        chunk[:-2] = [1] * len(chunk[:-2])
        samples &= itemsize * math.prod(shape[-2:]) < TINY_MATRIX
    if samples:
        one = itemsize * math.prod(chunk[1:]) * heads  # a piece brings all heads, and waits for a chunk to be full
        chunk[0] = max(1, min(shape[0], TOGETHER // one))
    return tuple(chunk)
