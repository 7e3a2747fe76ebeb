"""Scores of chosen heads from their stored query and key vectors, and what each dimension adds. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from laglens.errors import LaglensError

AUTO = 3  # heads that "auto" takes
LABEL = re.compile(r"(\w+) L(\d+) H(\d+)")
SUPPORTED = "supported"
FORECASTING = ("horizon->history", "readout->history")  # parts that are about the forecast
Chosen = tuple[str, int, int]  # stack, layer, head


def head_label(stack: str, layer: int, head: int) -> str:
    """Name of a head as figures and settings write it."""
    return f"{stack} L{layer:02} H{head:02}"


def parse_head(label: str) -> Chosen:
    """Stack, layer and head of a label such as ``encoder L00 H03``.

    Raises
    ------
    LaglensError
        It is no such label.
    """
    found = LABEL.fullmatch(label)
    if found is None:
        raise LaglensError(f"'{label}' names no head; write it as the figures do, such as 'encoder L00 H03'")
    return found[1], int(found[2]), int(found[3])


def chosen_heads(heads: str | Sequence[str], peaks: pd.DataFrame, verdicts: pd.DataFrame | None = None) -> list[Chosen]:
    """The heads whose vectors are kept.

    Parameters
    ----------
    heads
        Labels such as ``encoder L00 H03``, or ``auto``: three, first those with a supported verdict, then those whose
        peaks go furthest beyond their limit where the forecast reads the history. The explorer begins with the first.
    peaks, verdicts
        Tables of the stage `lags`, where there are any.
    """
    if heads != "auto":
        return list(dict.fromkeys(parse_head(label) for label in heads))
    beyond = peaks.assign(beyond=peaks["ratio"] - peaks["limit"]).sort_values("beyond", ascending=False, kind="stable")
    ranked = [beyond[beyond["part"].isin(FORECASTING)], beyond]
    if verdicts is not None:
        ranked.insert(0, verdicts[verdicts["verdict"] == SUPPORTED])
    rows = (row for table in ranked for row in zip(table["stack"], table["layer"], table["head"], strict=True))
    return list(dict.fromkeys((str(stack), int(layer), int(head)) for stack, layer, head in rows))[:AUTO]


def pair_products(vectors: xr.Dataset, query: int, key: int) -> xr.DataArray:
    """What each dimension adds to the score of one pair of tokens: scale q_d k_d, ``(chosen, dimension)``.

    The score is their sum, and ``bias`` where the node has one: masks, position biases.

    Parameters
    ----------
    vectors
        A node of the tree of `laglens.heads.vectors.head_vectors`.
    query, key
        Tokens, by index.
    """
    of_query = vectors["query_vector"].isel(query=query, drop=True).astype(np.float64)
    return (of_query * vectors["key_vector"].isel(key=key, drop=True) * vectors["scale"]).rename("product")


def pair_scores(vectors: xr.Dataset) -> xr.DataArray:
    """Scores before the softmax, ``(chosen, query, key)``: scale q . k + bias, -inf where a key is hidden."""
    query, key = (vectors[f"{axis}_vector"].astype(np.float64) for axis in ("query", "key"))
    scores = xr.dot(query, key, dim="dimension") * vectors["scale"]
    return (scores + vectors["bias"] if "bias" in vectors else scores).rename("score")


def score_weights(vectors: xr.Dataset) -> xr.DataArray:
    """Attention weights ``(chosen, query, key)`` that the vectors give; rows that see no key are 0."""
    scores = pair_scores(vectors)
    largest = scores.max("key")
    shares = xr.apply_ufunc(np.exp, scores - largest.where(np.isfinite(largest), 0.0))
    total = shares.sum("key")
    return (shares / total.where(total > 0, 1.0)).rename("attention")
