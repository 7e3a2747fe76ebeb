"""Run a model on control signals and keep only the averaged maps in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import xarray as xr

from laglens.attention.cube import attention_tree
from laglens.models.forecaster import Forecaster
from laglens.time.reduce import average_windows, stack_replicates, to_time

WINDOWS_AT_ONCE = 64


def control_time_tree(
    model: Forecaster,
    control: xr.Dataset,
    cut: Callable[[xr.DataArray], xr.Dataset],
    *,
    normalisation: str = "mass",
    device: torch.device | str = "cpu",
    attrs: dict[str, Any] | None = None,
) -> xr.DataTree:
    """Time maps of control replicates, each averaged over its windows.

    A lag profile is linear in the map, so the mean map of a replicate has the mean profile of its windows: what
    an observed signal is compared with.

    Parameters
    ----------
    control
        ``value (replicate, sample, time)``, each replicate as large as the observed signal.
    cut
        Cuts the windows of one replicate, ``value (sample, time) -> series (sample, time)``; use the same cut as
        for the observed signal.

    Returns
    -------
    xr.DataTree
        A time tree whose ``sample`` is the replicate; maps in float16, as they are many.

    Raises
    ------
    LaglensError
        As `attention_tree` and `to_time`.
    """
    windows = [cut(control["value"].isel(replicate=r)) for r in range(control.sizes["replicate"])]
    n_windows = windows[0].sizes["sample"]
    at_once = max(1, WINDOWS_AT_ONCE // n_windows)
    averaged = []
    for first in range(0, len(windows), at_once):
        group = windows[first : first + at_once]
        series = xr.concat(group, "sample", coords="minimal", compat="override")
        tree = attention_tree(model, series, dtype="float32", statistics=False, device=device, attrs=attrs)
        time_tree = to_time(tree, normalisation=normalisation)
        for r in range(len(group)):
            mine = slice(r * n_windows, (r + 1) * n_windows)
            averaged.append(average_windows(time_tree.isel(sample=mine)))
    stacked = stack_replicates([_half(tree) for tree in averaged])
    stacked.attrs |= {"n_windows": n_windows, "control": control.attrs.get("control", "")}
    return stacked


def _half(tree: xr.DataTree) -> xr.DataTree:
    nodes = {}
    for name, node in tree.children.items():
        maps = node["attention"]
        # numpy casts small weights to float16 many times slower than torch.
        halves = torch.from_numpy(maps.values).half().numpy()
        nodes[name] = node.to_dataset(inherit=False).assign(attention=(maps.dims, halves))
    return xr.DataTree.from_dict({"/": tree.to_dataset(inherit=False), **nodes})
