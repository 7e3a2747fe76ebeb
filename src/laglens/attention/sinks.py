"""Where the pieces of a tree go while they are being computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.store.stream import Awaited


class Sink(Protocol):
    """Takes a tree node by node and piece by piece, such as `laglens.store.TreeWriter` or `InMemory`."""

    def add(self, node: str, dataset: xr.Dataset, awaited: Mapping[str, Awaited] | None = None) -> None:
        """Declare a node, ``"/"`` or a child, with what is known of it and the variables that arrive later."""

    def write(self, node: str, where: Mapping[str, int | slice], arrays: Mapping[str, Any]) -> None:
        """Hand in values of awaited variables; an index in `where` removes its dimension, a slice keeps it."""


class InMemory:
    """Keeps a tree in memory."""

    def __init__(self) -> None:
        self._nodes: dict[str, xr.Dataset] = {}

    def add(self, node: str, dataset: xr.Dataset, awaited: Mapping[str, Awaited] | None = None) -> None:
        """See `Sink`."""
        missing = {name: (a.dims, _missing(a), a.attrs) for name, a in (awaited or {}).items()}
        self._nodes[node.strip("/")] = dataset.assign(missing)

    def write(self, node: str, where: Mapping[str, int | slice], arrays: Mapping[str, NDArray]) -> None:
        """See `Sink`."""
        variables = self._nodes[node.strip("/")].variables
        for name, values in arrays.items():
            target = variables[name]
            target.values[tuple(where.get(str(dim), slice(None)) for dim in target.dims)] = values

    @property
    def tree(self) -> xr.DataTree:
        """What was handed in: the root, and the children in the order in which they were declared."""
        return xr.DataTree.from_dict({"/": self._nodes.get(""), **{n: d for n, d in self._nodes.items() if n}})


def _missing(awaited: Awaited) -> NDArray:
    """Values that have not come yet: NaN, as in a file, or 0 in whole numbers."""
    dtype = np.dtype(awaited.dtype)
    return np.full(awaited.shape, np.nan if dtype.kind == "f" else 0, dtype)
