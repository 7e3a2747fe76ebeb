"""A measure that does not apply: an error in a notebook, an empty result with its reason in a study."""

from __future__ import annotations

import xarray as xr

from laglens.errors import LaglensError


class NothingToMeasureError(LaglensError):
    """The model or the signal has not what the measure is about."""


def empty_result(tree: xr.DataTree, reason: object) -> xr.DataTree:
    """A tree without stacks, with the attributes of `tree` and the attribute ``left_out``, the reason."""
    return xr.DataTree(xr.Dataset(attrs={**tree.attrs, "left_out": str(reason)}))
