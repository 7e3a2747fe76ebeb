"""Everything that claims to say where a forecast comes from, over the same history samples. Numpy only."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.attribution.agreement import forecasting_rows
from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset

Array = NDArray[np.float64]
FROM_FLOW = ("rollout", "max_flow", "widest_path")
DIMS = ("explanation", "sample", "time")


def explanations(
    attribution: xr.Dataset,
    time_tree: xr.DataTree,
    flow: xr.Dataset | None = None,
    relevance: xr.Dataset | None = None,
    weighted: xr.DataTree | None = None,
    norms: xr.DataTree | None = None,
) -> xr.Dataset:
    """Attributions, and what attention reads for the same forecast, as one array over history samples.

    Parameters
    ----------
    attribution
        From `laglens.attribution.forecast.attribute_forecast`.
    time_tree
        Time maps of the same windows: ``attention`` is the mean over the layers and heads of the first stack whose
        queries forecast.
    flow
        ``rollout`` and, if it is there, ``max_flow`` and ``widest_path`` (see `laglens.flow`), through all layers. A
        flow of mean maps is the same for all windows.
    relevance
        ``relevance`` (see `laglens.flow.relevance.gradient_relevance`).
    weighted, norms
        ``value_weighted`` and ``norms`` (see `laglens.attribution.norms.value_weighted_attention`, as it is and
        ``projected``), read as ``attention`` is.

    Returns
    -------
    xr.Dataset
        ``importance (explanation, sample, time)``, 0 or above: absolute attribution, or the mean of the rows that make
        the forecast (of the explained step, where it has its own). Every sample of a token has the token's value;
        samples without a token have 0. Attributes as `attribution`.

    Raises
    ------
    LaglensError
        The windows are not the same, or no query of any stack forecasts.
    """
    found = {
        str(name): np.abs(attribution["attribution"].sel(attribution_method=name).values)
        for name in attribution["attribution_method"].values
    }
    if not np.array_equal(attribution["sample"], time_tree["sample"]):
        raise LaglensError("the attribution and the time maps have different windows; take the same")
    maps: dict[str, tuple[xr.Dataset, NDArray]] = {}
    for name, tree in (("attention", time_tree), ("value_weighted", weighted), ("norms", norms)):
        stack = None if tree is None else _forecasting_stack(attribution, tree)
        if stack is not None:
            maps[name] = stack, stack["attention"].mean(("layer", "head")).transpose("sample", ...).values
    for name in FROM_FLOW:
        map_ = None if flow is None else _through_all_layers(flow, name)
        if flow is not None and map_ is not None:
            maps[name] = flow, map_
    if relevance is not None:
        maps["relevance"] = relevance, relevance["relevance"].isel(layer=-1).transpose("sample", ...).values
    n = attribution.sizes["sample"]
    for name, (node, values) in maps.items():
        read = _read(node, values, attribution)
        if read is not None:
            found[name] = np.broadcast_to(read, (n, attribution.sizes["time"]))
    coords = {"sample": attribution["sample"].variable, "time": attribution["time"].variable}
    coords["explanation"] = xr.Variable("explanation", np.array(list(found), object))
    values = np.stack([value.astype(np.float64) for value in found.values()])
    return xr.Dataset({"importance": (DIMS, values)}, coords, attribution.attrs)


def _forecasting_stack(attribution: xr.Dataset, time_tree: xr.DataTree) -> xr.Dataset | None:
    for name in time_tree.children:
        node = stack_dataset(time_tree, name)
        if forecasting_rows(node, attribution) is not None:
            return node
    return None


def _through_all_layers(flow: xr.Dataset, name: str) -> NDArray | None:
    """``(sample, query, key)``, one sample where it is the same for all."""
    if name == "rollout":
        return flow["rollout"].isel(layer=-1).transpose("sample", "query", "key").values
    if f"{name}_windows" in flow:
        return flow[f"{name}_windows"].transpose("sample", "query", "key").values
    return flow[name].values[None] if name in flow else None


def _read(node: xr.Dataset, maps: NDArray, attribution: xr.Dataset) -> Array | None:
    """Mean of the forecasting rows over history samples, ``(sample, query, key) -> (sample, time)``."""
    chosen = forecasting_rows(node, attribution)
    if chosen is None:
        return None
    rows, keys = chosen
    tokens = maps[:, rows][..., keys].mean(1, dtype=np.float64)
    covered = cover(node["key_start"].values[keys], node["key_end"].values[keys], attribution.sizes["time"])
    count = covered.sum(0)
    return np.divide(tokens @ covered, count, out=np.zeros((len(tokens), len(count))), where=count > 0)


def cover(start: Array, end: Array, length: int) -> Array:
    """Which samples each token covers, wholly or in part: (token,) -> (token, time)."""
    time = np.arange(length)
    return ((time >= np.floor(start)[:, None]) & (time < np.ceil(end)[:, None])).astype(np.float64)


def blocks(values: Array, width: int) -> Array:
    """Mean over blocks of `width` samples, the last one shorter if need be: (..., time) -> (..., block)."""
    edges = np.arange(0, values.shape[-1], width)
    sums = np.add.reduceat(values, edges, -1)
    return sums / np.diff(np.append(edges, values.shape[-1]))
