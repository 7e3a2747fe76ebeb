"""Comb contrasts of all heads of a model, and where a head stands among those of all stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.lags.combs import comb_contrast
from laglens.lags.headlines import Headline
from laglens.lags.layout import Layout
from laglens.lags.profiles import ratio_of_part

Array = NDArray[np.float64]


def comb_contrasts(node: xr.Dataset, layout: Layout, part: str, periods: Sequence[float] | Array) -> xr.DataArray:
    """Comb contrast of every sample of a node of a time tree, on its own: -> (sample, layer, head, period).

    A head without any mass in time has no preference.
    """
    maps = node["attention"].transpose("sample", "layer", "head", "query", "key")
    measured = layout.measured(part)
    ratios = [ratio_of_part(maps.isel(sample=i).values, layout, part)[..., measured] for i in range(len(maps))]
    coords = {name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords}
    labelled = xr.DataArray(
        np.nan_to_num(np.stack(ratios), nan=1.0),
        dims=("sample", "layer", "head", "lag"),
        coords={**coords, "lag": layout.lag_samples[measured]},
    )
    return comb_contrast(labelled, [float(p) for p in periods], step=layout.table.step)


def headline_contrasts(
    line: Headline, ratio: Array, periods: Sequence[float], first: str | None = None
) -> xr.DataArray:
    """Comb contrast of ratios on the lags of a headline: ([first,] layer, head, lag) -> (..., period)."""
    dims = ((first,) if first else ()) + ("layer", "head", "lag")
    labelled = xr.DataArray(ratio, dims=dims, coords={**line.labels, "lag": line.lag})
    return comb_contrast(labelled, [float(p) for p in periods], step=line.step)


def split_by_stack(
    columns: Mapping[str, Array], like: Mapping[str, xr.DataArray]
) -> dict[str, dict[str, xr.DataArray]]:
    """Cut columns over all heads back into stacks with the shape of `like`."""
    found, start = {}, 0
    for name, array in like.items():
        stop = start + array.size
        mine = {key: values[start:stop].reshape(array.shape) for key, values in columns.items()}
        found[name] = {key: xr.DataArray(values, dims=array.dims) for key, values in mine.items()}
        start = stop
    return found


def place_of(index: int, heads: Mapping[str, xr.DataArray]) -> dict[str, Any]:
    """Stack, layer and head of a position among all heads."""
    for name, array in heads.items():
        if index < array.size:
            layer, head = np.unravel_index(index, array.shape)
            return {"stack": name, "layer": int(array["layer"][layer]), "head": int(array["head"][head])}
        index -= array.size
    raise IndexError(index)
