"""A measure that does not apply: an error in a notebook, an empty result with its reason in a study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr

from laglens.errors import LaglensError


class NothingToMeasureError(LaglensError):
    """The model or the signal has not what the measure is about."""


def empty_result(tree: xr.DataTree, reason: object) -> xr.DataTree:
    """A tree without stacks, with the attributes of `tree` and the attribute ``left_out``, the reason."""
    return xr.DataTree(xr.Dataset(attrs={**tree.attrs, "left_out": str(reason)}))


def measure_or_empty(tree: xr.DataTree, measure: Callable[..., xr.DataTree], *args: Any, **options: Any) -> xr.DataTree:
    """``measure(*args, **options)``; where there is nothing to measure, `empty_result` of `tree` with the reason."""
    try:
        return measure(*args, **options)
    except NothingToMeasureError as reason:
        return empty_result(tree, reason)
