"""The lag profiles that verdicts are about: how the forecast reads the history, on a signal and on its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.lags.alike import stack_dataset
from laglens.lags.layout import Layout
from laglens.lags.precision import window_ratios
from laglens.lags.profiles import mass_on_special, ratio_of_part

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Headline:
    """What the heads of one stack show in its headline part, on the past lags of at least one token.

    Attributes
    ----------
    part
        ``horizon->history`` or ``readout->history``.
    step
        Input samples per token.
    lag
        [input samples], ``(lag,)``.
    windows
        Ratio to uniform of every window, ``(sample, layer, head, lag)``; their mean is the ratio of the mean map.
    controls
        Ratio of every control, ``(replicate, layer, head, lag)``.
    labels
        Coordinates of layers and heads.
    special_mass
        Mean mass that the queries of the part give to special tokens, ``(layer, head)``.
    """

    part: str
    step: float
    lag: Array
    windows: Array
    controls: Array
    labels: Mapping[str, xr.DataArray]
    special_mass: Array

    @property
    def ratio(self) -> Array:
        """Ratio of the mean map, ``(layer, head, lag)``."""
        return np.asarray(self.windows.mean(0))


def read_headlines(
    time_tree: xr.DataTree, control_tree: xr.DataTree, stacks: Mapping[str, tuple[str, Layout]]
) -> dict[str, Headline]:
    """Headline profiles of every stack of a model, from the time maps of a signal and of its controls.

    Parameters
    ----------
    stacks
        From `laglens.lags.reach.sort_stacks`.
    """
    found = {}
    for name, (part, layout) in stacks.items():
        node, control = stack_dataset(time_tree, name), stack_dataset(control_tree, name)
        past = layout.measured(part) & (layout.lag > 0)
        maps = control["attention"].transpose("sample", "layer", "head", "query", "key")
        theirs = [ratio_of_part(maps.isel(sample=i).values, layout, part)[..., past] for i in range(len(maps))]
        found[name] = Headline(
            part=part,
            step=layout.table.step,
            lag=layout.lag_samples[past],
            # A query whose keys have no mass at all says nothing about any lag.
            windows=np.nan_to_num(window_ratios(node, layout, [part])[part][..., past], nan=1.0),
            controls=np.nan_to_num(np.stack(theirs), nan=1.0),
            labels={label: node[label] for label in ("layer", "layer_name", "head") if label in node.coords},
            special_mass=mass_on_special(node, layout, part),
        )
    return found
