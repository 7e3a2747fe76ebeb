"""What the class token of an image model looks at: its row over the patches, and where that row peaks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from laglens.attention.coordinates import columns_of
from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset
from laglens.models.tokens import SPECIAL


def class_attention(attention_tree: xr.DataTree, *, token: int = 0) -> xr.DataTree:
    """Attention of a special query token over the patches of the picture; one node per stack that has one.

    Parameters
    ----------
    attention_tree
        Maps of tokens (``store: tokens``), from `laglens.attention.cube.attention_tree` or
        `laglens.attention.pictures.image_attention`.
    token
        Which special token, counted from 0; the first is the class token where the model has one.

    Returns
    -------
    xr.DataTree
        ``attention (sample, layer, head, row, column)``: the weights as they are; rows and columns of the picture, with
        ``column_time``, ``column_start`` and ``column_end`` in input samples. ``elsewhere (sample, layer, head)``: what
        lies on special tokens.

    Raises
    ------
    LaglensError
        No stack has such a token and all its tokens, as in a tree that was reduced to time.
    """
    nodes = {}
    for name in attention_tree.children:
        node = stack_dataset(attention_tree, name)
        special = np.flatnonzero(node["query_part"].values == SPECIAL)
        if node.attrs.get("store") != "time" and len(special) > token:
            nodes[f"/{name}"] = _class_row(node, int(special[token]))
    if not nodes:
        raise LaglensError(
            f"no stack has a special token number {token + 1} among its queries; a class token is in the tree of a "
            "model that has one, with attention.store: tokens"
        )
    return xr.DataTree.from_dict({"/": attention_tree.to_dataset(inherit=False), **nodes})


def peak_positions(class_tree: xr.DataTree, *, n: int = 5) -> pd.DataFrame:
    """The strongest patches of every head, mean over samples.

    Parameters
    ----------
    class_tree
        From `class_attention`.
    n
        Patches of each head.

    Returns
    -------
    pd.DataFrame
        ``stack``, ``layer``, ``head``, ``rank`` from 1 on, ``row``, ``column``, ``time``, ``start`` and ``end`` [input
        samples], ``weight`` and ``ratio`` to uniform attention over the patches.
    """
    rows: list[dict[str, Any]] = []
    for name in class_tree.children:
        node = stack_dataset(class_tree, name)
        mean = node["attention"].mean("sample").transpose("layer", "head", "row", "column").values
        for layer, head in np.ndindex(mean.shape[:2]):
            flat = mean[layer, head].ravel()
            strongest = np.argsort(-flat, kind="stable")[: min(n, len(flat))]
            for rank, place in enumerate(strongest):
                row, column = divmod(int(place), mean.shape[3])
                rows.append(
                    {
                        "stack": name,
                        "layer": int(node["layer"][layer]),
                        "head": int(node["head"][head]),
                        "rank": rank + 1,
                        "row": int(node["row"][row]),
                        "column": column,
                        "time": float(node["column_time"][column]),
                        "start": float(node["column_start"][column]),
                        "end": float(node["column_end"][column]),
                        "weight": float(flat[place]),
                        "ratio": float(flat[place] / flat.mean()),
                    }
                )
    return pd.DataFrame(rows)


def _class_row(node: xr.Dataset, query: int) -> xr.Dataset:
    columns = columns_of(node, "key")
    patches = columns >= 0
    rows, row_of = np.unique(node["key_row"].values[patches], return_inverse=True)
    n_columns = int(columns.max()) + 1
    weights = node["attention"].isel(query=query).transpose("sample", ..., "layer", "head", "key")
    values = weights.values.astype(np.float64)
    values = values.reshape(-1, *values.shape[-3:])  # channels are samples of their own
    picture = np.zeros((*values.shape[:-1], len(rows), n_columns))
    picture[..., row_of, columns[patches]] = values[..., patches]
    first = [int(np.flatnonzero(columns == column)[0]) for column in range(n_columns)]
    coords: dict[str, Any] = {name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords}
    coords |= {f"column_{what}": ("column", node[f"key_{what}"].values[first]) for what in ("time", "start", "end")}
    dims = ("sample", "layer", "head")
    return xr.Dataset(
        {"attention": ((*dims, "row", "column"), picture), "elsewhere": (dims, values[..., ~patches].sum(-1))},
        coords | {"row": rows},
        {"query": query},
    )
