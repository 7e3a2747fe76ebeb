"""From tokens to time: sum over the keys of a time column, mean over its queries. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.attention.coordinates import LABELS, column_coordinates, columns_of, samples_per_token
from laglens.attention.sinks import InMemory, Sink
from laglens.errors import LaglensError
from laglens.models.tokens import SPECIAL
from laglens.store.stream import Awaited

NORMALISATIONS = ("mass", "mean")
PIECE = 16 << 20  # bytes of weights that are in memory at once, in float32
FOLDED = ("sample", "channel")

Region = dict[str, Any]  # an index or a slice of each dimension that is not whole


def to_time(tree: xr.DataTree, *, normalisation: str = "mass") -> xr.DataTree:
    """Reduce every cube of an attention tree to time columns, in memory.

    Parameters
    ----------
    tree
        Attention tree: nodes with ``attention (sample, [channel,] layer, head, query, key)``, over tokens, or over time
        columns already (``store: time``).
    normalisation
        ``mass``: sum over the tokens of a key column, mean over the tokens of a query column, so that a row and
        its special mass sum to 1. ``mean``: mean over both, as published with the ViTime attention demo; rows
        then sum to about one over the tokens per column.

    Returns
    -------
    xr.DataTree
        The same dims in time: ``attention`` float32 without special tokens, ``special_mass (sample, layer, head,
        query)``, and the row statistics of the full token rows over ``token``. Channels are samples of their own, with
        the coordinate ``channel (sample)``; those of a window follow each other.

    Raises
    ------
    LaglensError
        Unknown normalisation, or a cube without any token in time.
    """
    sink = InMemory()
    time_into(sink, tree, normalisation=normalisation)
    return sink.tree


def time_into(sink: Sink, tree: xr.DataTree, *, normalisation: str = "mass") -> None:
    """Reduce an attention tree piece by piece, such as one opened on disk into a `laglens.store.TreeWriter`.

    A few matrices at a time are in memory, whatever the size of the cube.

    Parameters
    ----------
    sink
        Takes the tree that `to_time` returns.
    tree, normalisation
        See `to_time`.

    Raises
    ------
    LaglensError
        As `to_time`.
    """
    if normalisation not in NORMALISATIONS:
        raise LaglensError(f"normalisation '{normalisation}' is not one of {', '.join(NORMALISATIONS)}")
    sink.add("/", channels_as_samples(tree.to_dataset(inherit=False)))
    for name, node in tree.children.items():
        cube = node.to_dataset(inherit=False)
        labels = time_labels(cube, normalisation)
        sink.add(name, labels, _awaited(cube, labels))
        pieces = _passed_on if cube.attrs.get("store") == "time" else _reduced
        for region, arrays in pieces(cube, labels):
            sink.write(name, region, arrays)


def channels_as_samples(windows: xr.Dataset) -> xr.Dataset:
    """Give every channel of a window a sample of its own, those of a window one after the other.

    ``(sample, channel, ...) -> (sample, ...)`` with the coordinate ``channel (sample)``; without channels nothing
    changes.
    """
    if "channel" not in windows.dims:
        return windows
    n, channels = windows.sizes["sample"], windows.sizes["channel"]
    place = {"sample": np.repeat(np.arange(n), channels), "channel": np.tile(np.arange(channels), n)}
    points = {dim: xr.Variable("sample", index) for dim, index in place.items()}
    numbered = windows.assign_coords(sample=np.arange(n), channel=np.arange(channels))
    stacked = numbered.isel({dim: points[dim] for dim in FOLDED})
    return stacked.assign_coords(sample=np.arange(n * channels)).transpose("sample", ...)


def time_labels(cube: xr.Dataset, normalisation: str) -> xr.Dataset:
    """Coordinates and attributes of a node of the time tree, from those of the attention tree.

    Raises
    ------
    LaglensError
        No token lies in time.
    """
    attrs = {name: value for name, value in cube.attrs.items() if name != "store"}
    own = {str(name): c.variable for name, c in cube.coords.items() if not {*c.dims, name} & {*FOLDED}}
    if cube.attrs.get("store") != "time":
        kept = {name: variable for name, variable in own.items() if name in ("layer", "head", "layer_name")}
        own = kept | column_coordinates(cube)
        attrs["samples_per_token"] = samples_per_token(own)
    return xr.Dataset(coords=own, attrs=attrs | {"normalisation": normalisation})


def _dims_in_time(cube: xr.Dataset, name: str) -> tuple[str, ...]:
    """Dims of a variable of the attention tree once it is in time; statistics of rows stay on their tokens."""
    dims = tuple(str(dim).removesuffix("_column") for dim in cube[name].dims if dim != "channel")
    over_tokens = cube.attrs.get("store") != "time" and name not in ("attention", "rollout", "rollout_special")
    return tuple("token" if over_tokens and dim == "query" else dim for dim in dims)


def _awaited(cube: xr.Dataset, labels: xr.Dataset) -> dict[str, Awaited]:
    """The variables of a node of the time tree."""
    sizes = {str(dim): size for dim, size in labels.sizes.items()}
    sizes["sample"] = cube.sizes["sample"] * cube.sizes.get("channel", 1)
    kinds = {str(name): (_dims_in_time(cube, str(name)), str(v.dtype), v.attrs) for name, v in cube.data_vars.items()}
    maps = ("sample", "layer", "head", "query", "key")
    made = {"attention": maps, "special_mass": maps[:-1]}
    kinds |= {name: (dims, "float32", LABELS[name]) for name, dims in made.items()}
    return {
        name: Awaited(dims, tuple(sizes[dim] for dim in dims), dtype, attrs)
        for name, (dims, dtype, attrs) in kinds.items()
    }


def _reduced(cube: xr.Dataset, labels: xr.Dataset) -> Iterator[tuple[Region, dict[str, NDArray]]]:
    """Pieces of a cube over tokens, reduced to its columns."""
    query, key = columns_of(cube, "query"), columns_of(cube, "key")
    special = cube["key_part"].values == SPECIAL
    mean, tokens = labels.attrs["normalisation"] == "mean", labels["key_tokens"].values.astype(np.float32)
    for region in _regions(cube):
        weights = _loaded(cube["attention"], region).astype(np.float32)
        maps = _mean_groups(_sum_groups(weights, key, axis=-1), query, axis=-2)
        yield (
            _placed(cube, region),
            {
                "attention": maps / tokens if mean else maps,
                "special_mass": _mean_groups(weights[..., special].sum(-1), query, axis=-1),
            },
        )
    yield from _rows(cube, [str(name) for name in cube.data_vars if name != "attention"])


def _passed_on(cube: xr.Dataset, labels: xr.Dataset) -> Iterator[tuple[Region, dict[str, NDArray]]]:
    """Pieces of a cube that was reduced while the model ran."""
    mean, tokens = labels.attrs["normalisation"] == "mean", labels["key_tokens"].values.astype(np.float32)
    for region in _regions(cube):
        maps = _loaded(cube["attention"], region).astype(np.float32)
        yield _placed(cube, region), {"attention": maps / tokens if mean else maps}
    yield from _rows(cube, [str(name) for name in cube.data_vars if name != "attention"])


def _rows(cube: xr.Dataset, names: Sequence[str]) -> Iterator[tuple[Region, dict[str, NDArray]]]:
    """Pieces of the variables without a matrix of tokens, all layers of some samples at a time."""
    for start, stop in _sample_steps(cube):
        region: Region = {"sample": slice(start, stop)}
        yield _placed(cube, region), {name: _loaded(cube[name], region) for name in names}


def _regions(cube: xr.Dataset) -> Iterator[Region]:
    """Samples, layer and heads of pieces that fit in memory and follow the chunks on disk."""
    for start, stop in _sample_steps(cube):
        for layer in range(cube.sizes["layer"]):
            heads = max(1, min(cube.sizes["head"], PIECE // _matrix_bytes(cube)))
            for head in range(0, cube.sizes["head"], heads):
                yield {"sample": slice(start, stop), "layer": layer, "head": slice(head, head + heads)}


def _sample_steps(cube: xr.Dataset) -> Iterator[tuple[int, int]]:
    n = max(1, PIECE // (_matrix_bytes(cube) * cube.sizes["head"]))
    chunk = (cube["attention"].encoding.get("chunks") or (1,))[0]
    n -= n % chunk if n > chunk else 0
    for start in range(0, cube.sizes["sample"], n):
        yield start, min(start + n, cube.sizes["sample"])


def _matrix_bytes(cube: xr.Dataset) -> int:
    return 4 * cube.sizes["query"] * cube.sizes["key"] * cube.sizes.get("channel", 1)


def _loaded(variable: xr.DataArray, region: Region) -> NDArray:
    """Part of a variable, ``(sample, [channel,] any...)``, with the channels as samples: ``(sample, any...)``."""
    part = variable.isel({dim: index for dim, index in region.items() if dim in variable.dims})
    part = part.transpose(*(dim for dim in FOLDED if dim in part.dims), ...)
    values = part.values
    return values.reshape(-1, *values.shape[2:]) if "channel" in part.dims else values


def _placed(cube: xr.Dataset, region: Region) -> Region:
    """Where a part of the cube lies in the time tree."""
    samples, channels = region["sample"], cube.sizes.get("channel", 1)
    return {**region, "sample": slice(samples.start * channels, samples.stop * channels)}


def _group_sizes(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(columns[columns >= 0])


def _sum_groups(array: NDArray, columns: NDArray[np.int64], axis: int) -> NDArray:
    order = np.argsort(columns, kind="stable")[np.count_nonzero(columns < 0) :]
    sizes = _group_sizes(columns)
    taken = array if np.array_equal(order, np.arange(len(columns))) else np.take(array, order, axis)
    if (sizes == 1).all():
        return taken
    return np.add.reduceat(taken, np.concatenate([[0], np.cumsum(sizes)[:-1]]), axis)


def _mean_groups(array: NDArray, columns: NDArray[np.int64], axis: int) -> NDArray:
    sizes = _group_sizes(columns).astype(np.float32)
    sums = _sum_groups(array, columns, axis)
    return sums if (sizes == 1).all() else sums / sizes.reshape((-1,) + (1,) * (-1 - axis))
