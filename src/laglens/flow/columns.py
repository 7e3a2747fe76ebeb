"""Maps between all tokens of a path, reduced to time columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from laglens.attention.coordinates import column_coordinates, columns_of
from laglens.flow.layers import Array, Mask


class Columns(NamedTuple):
    """Maps in time.

    Attributes
    ----------
    maps
        ``(..., query, key)``: sum over the tokens of a key column, mean over those of a query column.
    special
        What rests on special tokens, ``(..., query)``.
    visible
        ``(query, key)``.
    coords
        Of the layers and of the columns.
    """

    maps: Array
    special: Array
    visible: Mask
    coords: dict[str, xr.Variable]


def in_columns(maps: Array, coords: dict[str, xr.Variable], visible: Mask) -> Columns:
    """Reduce maps between tokens to time columns: (..., token, token) -> (..., query, key).

    Raises
    ------
    LaglensError
        No token lies in time.
    """
    columns = columns_of(coords, "query")
    member = (columns[:, None] == np.arange(columns.max() + 1)).astype(np.float64)
    mean = member / member.sum(0)
    special = np.einsum("qc,...qk->...c", mean, maps[..., columns < 0])
    labels = {name: c for name, c in column_coordinates(coords).items() if not name.startswith("token_")}
    layers = {name: c for name, c in coords.items() if c.dims == ("layer",)}
    return Columns(mean.T @ maps @ member, special, (member.T @ visible @ member) > 0, layers | labels)
