"""From tokens to time: sum over the keys of a time column, mean over its queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.models.tokens import SPECIAL, time_columns

NORMALISATIONS = ("mass", "mean")
ROW_STATISTICS = ("entropy", "effective_keys", "top_key")


def to_time(tree: xr.DataTree, *, normalisation: str = "mass") -> xr.DataTree:
    """Reduce every token cube of an attention tree to time columns.

    Parameters
    ----------
    tree
        Attention tree: nodes with ``attention (sample, layer, head, query, key)``.
    normalisation
        ``mass``: sum over the tokens of a key column, mean over the tokens of a query column, so that a row and
        its special mass sum to 1. ``mean``: mean over both, as published with the ViTime attention demo; rows
        then sum to about one over the tokens per column.

    Returns
    -------
    xr.DataTree
        The same dims in time: ``attention`` float32 without special tokens, ``special_mass (sample, layer, head,
        query)``, and the row statistics of the full token rows over ``token``.

    Raises
    ------
    LaglensError
        Unknown normalisation, or a cube without any token in time.
    """
    if normalisation not in NORMALISATIONS:
        raise LaglensError(f"normalisation '{normalisation}' is not one of {', '.join(NORMALISATIONS)}")
    nodes = {name: _reduce(node.to_dataset(inherit=False), normalisation) for name, node in tree.children.items()}
    return xr.DataTree.from_dict({"/": tree.to_dataset(inherit=False), **nodes})


def average_windows(tree: xr.DataTree) -> xr.DataTree:
    """Mean over ``sample`` of every map of a time tree, as one sample; per-token statistics are dropped."""
    nodes = {
        name: node.to_dataset(inherit=False).drop_dims("token").mean("sample", keepdims=True, keep_attrs=True)
        for name, node in tree.children.items()
    }
    root = xr.Dataset(attrs=tree.attrs)
    return xr.DataTree.from_dict({"/": root, **nodes})


def stack_replicates(trees: Sequence[xr.DataTree]) -> xr.DataTree:
    """Put averaged time trees, one per control replicate, behind each other along ``sample``."""
    first = trees[0]
    nodes = {
        name: xr.concat(
            [tree.children[name].to_dataset(inherit=False) for tree in trees],
            dim="sample",
            coords="minimal",
            compat="override",
            join="exact",
            combine_attrs="override",
        ).assign_coords(sample=np.arange(len(trees)))
        for name in first.children
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=first.attrs), **nodes})


def _reduce(node: xr.Dataset, normalisation: str) -> xr.Dataset:
    weights = node["attention"].values.astype(np.float32)
    query_columns, key_columns = _columns(node, "query"), _columns(node, "key")
    keys_first = _sum_groups(weights, key_columns, axis=-1)
    special = weights[..., node["key_part"].values == SPECIAL].sum(-1)
    maps = _mean_groups(keys_first, query_columns, axis=-2)
    if normalisation == "mean":
        maps = maps / _group_sizes(key_columns).astype(np.float32)
    reduced = xr.Dataset(
        {
            "attention": (("sample", "layer", "head", "query", "key"), maps),
            "special_mass": (("sample", "layer", "head", "query"), _mean_groups(special, query_columns, axis=-1)),
            **{name: _over_tokens(node[name]) for name in ROW_STATISTICS if name in node},
        },
        coords={name: node[name] for name in ("layer", "head", "layer_name")},
        attrs=node.attrs | {"normalisation": normalisation},
    )
    columns = _column_coordinates(node, "query", query_columns) | _column_coordinates(node, "key", key_columns)
    width = columns["key_end"].values - columns["key_start"].values
    reduced.attrs["samples_per_token"] = _samples_per_token(columns["key_time"].values, width)
    tokens = {"token_time": node["query_time"], "token_part": node["query_part"]}
    return reduced.assign_coords(columns | {name: ("token", v.values, v.attrs) for name, v in tokens.items()})


def _columns(node: xr.Dataset, axis: str) -> NDArray[np.int64]:
    """Index of the time column of each token, -1 for special ones: ``(token,)``."""
    columns = time_columns(*(node[f"{axis}_{name}"].values for name in ("start", "end", "part")))
    if (columns < 0).all():
        raise LaglensError(f"the {axis} axis has no token in time, so lags have no meaning for this model")
    return columns


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


def _over_tokens(statistic: xr.DataArray) -> xr.Variable:
    return xr.Variable(("sample", "layer", "head", "token"), statistic.values, statistic.attrs)


def _column_coordinates(node: xr.Dataset, axis: str, columns: NDArray[np.int64]) -> dict[str, xr.Variable]:
    """Coordinates of the time columns, taken from the first token of each."""
    first = np.unique(columns, return_index=True)[1][-len(_group_sizes(columns)) :]
    coords = {axis: xr.Variable(axis, np.arange(len(first)))}
    for name in ("time", "start", "end", "part", "readout"):
        source = node[f"{axis}_{name}"]
        coords[f"{axis}_{name}"] = xr.Variable(axis, source.values[first], source.attrs)
    return coords


def _samples_per_token(key_time: NDArray[np.float64], key_width: NDArray[np.float64]) -> float:
    """The usual distance of neighbouring key columns; of a single one its width."""
    centres = np.unique(key_time)
    return float(np.median(np.diff(centres))) if len(centres) > 1 else float(key_width[0])
