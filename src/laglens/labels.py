"""What arrays from outside must have before they are worked on."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from laglens.errors import LaglensError


def require_dims(array: xr.DataArray, *dims: str, what: str = "series") -> None:
    """Raise where dimensions are missing.

    Raises
    ------
    LaglensError
        Names the dimensions that are missing, those there are, and how to add one.
    """
    missing = [dim for dim in dims if dim not in array.dims]
    if missing:
        raise LaglensError(
            f"{what} with the dimensions ({', '.join(map(str, array.dims))}) have no '{missing[0]}'; "
            f"({', '.join(dims)}) are needed: a single one has array.expand_dims('{missing[0]}'), others have rename"
        )


def require_finite(array: xr.DataArray, *, what: str = "series") -> None:
    """Raise where a value is NaN or infinite.

    Raises
    ------
    LaglensError
        Counts the values, and says where the first is.
    """
    bad = np.argwhere(~np.isfinite(array.values))
    if len(bad):
        place = ", ".join(f"{dim} {i}" for dim, i in zip(array.dims, bad[0], strict=True))
        raise LaglensError(f"{what}: {len(bad)} values are not finite, the first at {place}; fill them or cut there")


def require_attr(node: Any, name: str, what: str) -> Any:
    """Return an attribute of a dataset.

    Raises
    ------
    LaglensError
        The dataset has no such attribute; `what` says where one comes from.
    """
    if name not in node.attrs:
        raise LaglensError(f"the dataset has no attribute '{name}'; {what}")
    return node.attrs[name]
