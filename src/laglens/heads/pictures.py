"""What the class token of an image model looks at: its row over the patches, and where that row peaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.attention.coordinates import columns_of
from laglens.errors import LaglensError
from laglens.heads.rows import Array
from laglens.lags.alike import stack_dataset
from laglens.models.tokens import SPECIAL

COLUMNS = [
    *("stack", "layer", "head", "of", "rank", "row", "column", "pixel_y", "pixel_x", "time", "start", "end"),
    *("weight", "ratio", "share_first", "elsewhere", "n_windows"),
]


def class_attention(attention_tree: xr.DataTree, *, token: int = 0) -> xr.DataTree:
    """Attention of a special query token over the patches of the picture; one node per stack that has one.

    Parameters
    ----------
    attention_tree
        Maps of tokens (``store: tokens``), from `laglens.attention.cube.attention_tree` or
        `laglens.attention.pictures.image_attention`. Without them: `laglens.heads.class_token.read_class_attention`.
    token
        Which special token, counted from 0; the first is the class token where the model has one.

    Returns
    -------
    xr.DataTree
        As `on_picture`. Channels are samples of their own.

    Raises
    ------
    LaglensError
        No stack has such a token and all its tokens, as in a tree that was reduced to time; the tokens of one are no
        picture.
    """
    nodes = {}
    for name in attention_tree.children:
        node = stack_dataset(attention_tree, name)
        special = np.flatnonzero(node["query_part"].values == SPECIAL)
        if node.attrs.get("store") != "time" and len(special) > token:
            row = node["attention"].isel(query=int(special[token])).transpose("sample", ..., "layer", "head", "key")
            values = row.values.reshape(-1, *row.shape[-3:])
            nodes[f"/{name}"] = on_picture(values, node.coords).assign_attrs(query=int(special[token]))
    if not nodes:
        raise LaglensError(
            f"no stack has a special token number {token + 1} among its queries; a class token is in the tree of a "
            "model that has one, with attention.store: tokens"
        )
    return xr.DataTree.from_dict({"/": attention_tree.to_dataset(inherit=False), **nodes})


def on_picture(weights: NDArray[np.floating], coords: Mapping[Any, Any]) -> xr.Dataset:
    """Lay weights of tokens on the picture that the tokens are patches of.

    Parameters
    ----------
    weights
        ``(sample, layer, head, key)``.
    coords
        Coordinates of the keys, and of layers and heads where they have any.

    Returns
    -------
    xr.Dataset
        ``attention (sample, layer, head, row, column)``, the weights as they are, over rows and columns of patches,
        with ``patch_time``, ``patch_start`` and ``patch_end (row, column)`` in input samples (NaN: no sample lies
        there). ``in_time (sample, layer, head, span)``: the sum over all patches with the same span, with
        ``span_time``, ``span_start``, ``span_end`` and ``span_patches``. ``elsewhere (sample, layer, head)``: what lies
        on tokens that are no patch.

    Raises
    ------
    LaglensError
        The keys are not the patches of a picture row by row, after the special tokens.
    """
    prefix, rows, columns = picture_grid(coords)
    values = weights.astype(np.float64)
    span = columns_of(coords, "key")
    _, first, n_patches = np.unique(span[span >= 0], return_index=True, return_counts=True)
    first = np.flatnonzero(span >= 0)[first]
    in_time = values @ (span[:, None] == np.arange(len(first))).astype(np.float64)
    dims = ("sample", "layer", "head")
    found: dict[Any, Any] = {name: coords[name] for name in ("layer", "layer_name", "head") if name in coords}
    for name in ("time", "start", "end"):
        times = np.asarray(coords[f"key_{name}"].values)
        found[f"patch_{name}"] = (("row", "column"), times[prefix:].reshape(rows, columns), {"units": "input samples"})
        found[f"span_{name}"] = ("span", times[first], {"units": "input samples"})
    found |= {"row": np.arange(rows), "column": np.arange(columns), "span_patches": ("span", n_patches)}
    picture = values[..., prefix:].reshape(*values.shape[:-1], rows, columns).astype(np.float32)
    variables = {
        "attention": ((*dims, "row", "column"), picture, {"units": "1"}),
        "in_time": ((*dims, "span"), in_time.astype(np.float32), {"units": "1"}),
        "elsewhere": (dims, values[..., :prefix].sum(-1).astype(np.float32), {"units": "1"}),
    }
    return xr.Dataset(variables, found)


def picture_grid(coords: Mapping[Any, Any]) -> tuple[int, int, int]:
    """Special tokens before the patches, rows and columns of the patches among the keys.

    Raises
    ------
    LaglensError
        The keys are no picture row by row, of two rows or more.
    """
    row, special = np.asarray(coords["key_row"].values), np.asarray(coords["key_part"].values) == SPECIAL
    leading = len(special) if special.all() else int(np.argmin(special))
    rows = int(row.max()) + 1
    # Patches without a sample of the series are special too, and may come first: rows tell where the picture begins.
    for prefix in range(leading + 1):
        columns, rest = divmod(len(row) - prefix, rows)
        if rows > 1 and columns and not rest and np.array_equal(row[prefix:], np.repeat(np.arange(rows), columns)):
            return prefix, rows, columns
    raise LaglensError(f"the {len(row)} tokens are no picture of patches, row by row after the special tokens")


def peak_positions(class_tree: xr.DataTree, *, n: int = 5) -> pd.DataFrame:
    """The strongest patches and the strongest times of every head, mean over samples.

    Parameters
    ----------
    class_tree
        From `class_attention` or `laglens.heads.class_token.read_class_attention`.
    n
        Patches, and times, of each head.

    Returns
    -------
    pd.DataFrame
        ``stack``, ``layer``, ``head``; ``of``: ``patch``, or ``time`` for the patches of one time together; ``rank``
        from 1 on; ``row`` and ``column`` of the patch, and its centre ``pixel_y``, ``pixel_x`` where the picture is in
        the tree; ``time``, ``start`` and ``end`` [input samples]; ``weight`` and its ``ratio`` to uniform attention
        over the patches; ``share_first``: of the samples, in which it is the strongest; ``elsewhere``: mass of the head
        on tokens that are no patch; ``n_windows``.
    """
    rows: list[dict[str, Any]] = []
    for name in class_tree.children:
        node = stack_dataset(class_tree, name)
        for layer, head in np.ndindex(node.sizes["layer"], node.sizes["head"]):
            one = node.isel(layer=layer, head=head)
            common = {"stack": name, "layer": int(node["layer"][layer]), "head": int(node["head"][head])}
            common |= {"elsewhere": float(one["elsewhere"].mean()), "n_windows": node.sizes["sample"]}
            rows += [common | row for row in (*_patches(one, n), *_times(one, n))]
    return pd.DataFrame(rows, columns=COLUMNS)


def _patches(one: xr.Dataset, n: int) -> Iterator[dict[str, Any]]:
    weights = one["attention"].transpose("sample", "row", "column").values.astype(np.float64)
    n_columns = weights.shape[2]
    even = np.full(weights[0].size, weights.mean())
    for place, row in _strongest(weights.reshape(len(weights), -1), even, n):
        at = divmod(place, n_columns)
        row |= {"of": "patch", "row": at[0], "column": at[1]}
        row |= {name: float(one[f"patch_{name}"].values[at]) for name in ("time", "start", "end")}
        if "row_pixel" in one.coords:
            row |= {"pixel_y": float(one["row_pixel"][at[0]]), "pixel_x": float(one["column_pixel"][at[1]])}
        yield row


def _times(one: xr.Dataset, n: int) -> Iterator[dict[str, Any]]:
    weights = one["in_time"].transpose("sample", "span").values.astype(np.float64)
    even = float(one["attention"].mean()) * one["span_patches"].values
    for place, row in _strongest(weights, even, n):
        yield row | {"of": "time"} | {name: float(one[f"span_{name}"][place]) for name in ("time", "start", "end")}


def _strongest(weights: Array, even: Array, n: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Places with the largest mean over samples: (sample, place), uniform attention (place)."""
    mean, firsts = weights.mean(0), weights.argmax(1)
    for rank, place in enumerate(np.argsort(-mean, kind="stable")[:n]):
        found = {"rank": rank + 1, "weight": mean[place], "share_first": (firsts == place).mean()}
        yield int(place), {**found, "ratio": mean[place] / even[place] if even[place] > 0 else np.nan}
