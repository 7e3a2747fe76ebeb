"""Controls that were recorded in another environment, as the time tree that a model of this one gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from laglens.attention.coordinates import LABELS
from laglens.attention.recorded import Recording
from laglens.time.reduce import time_labels


def recorded_controls(
    recording: Recording, controls: xr.Dataset, attrs: Mapping[str, Any], *, normalisation: str
) -> xr.DataTree:
    """Time tree of the controls that were shown.

    Parameters
    ----------
    controls
        Their windows, ``series (replicate, sample, time)``, with the attribute ``control``.
    normalisation
        As `laglens.time.reduce.to_time`.

    Returns
    -------
    xr.DataTree
        As `laglens.time.controls.control_time_tree`.
    """
    nodes = {}
    for stack in recording.stacks:
        node = recording.node(stack, controls=True)
        labels = time_labels(node, normalisation)
        maps = node["attention"]
        if normalisation == "mean":
            maps = (maps.astype(np.float32) / labels["key_tokens"].astype(np.float32)).astype(maps.dtype)
        special = node["special_mass"].variable
        nodes[stack.name] = labels.assign(attention=(maps.dims, maps.values, LABELS["attention"]), special_mass=special)
    about = recording.run_attrs(controls) | {"n_windows": controls.sizes["sample"]}
    about["control"] = controls.attrs.get("control", "")
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attrs) | about), **nodes})
