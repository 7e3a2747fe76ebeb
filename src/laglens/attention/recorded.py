"""What was recorded in another environment, as the tree that a model of this one gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.attention.coordinates import LABELS
from laglens.attention.cube import root_dataset
from laglens.attention.exchange import CONTROL, OF_TOKENS, RECORDING, digest, read_arrays
from laglens.attention.nodes import dims_of, node_dataset
from laglens.errors import LaglensError
from laglens.models.tokens import Stack, TokenMap
from laglens.signals.windows import histories

AXES = ("query", "key")


def shown_histories(observed: xr.Dataset, controls: xr.Dataset, history: int) -> dict[str, NDArray[np.float64]]:
    """What a model in another environment is shown.

    Parameters
    ----------
    observed
        Windows of the signal, ``series (sample, time)``.
    controls
        Windows of its controls, ``series (replicate, sample, time)``, cut alike.

    Returns
    -------
    dict
        ``histories (sample, time)`` and ``controls (replicate, sample, time)``.

    Raises
    ------
    LaglensError
        As `laglens.signals.windows.histories`.
    """
    replicates = [controls.isel(replicate=r) for r in range(controls.sizes["replicate"])]
    return {
        "histories": histories(observed, history),
        "controls": np.stack([histories(windows, history) for windows in replicates]),
    }


@dataclass(frozen=True)
class Recording:
    """A file of `laglens.attention.recording.record`.

    Attributes
    ----------
    arrays
        ``forecast (sample, step)``, and of each stack, after its name and a dot, its token axes, maps and statistics.
    about
        Stacks, certificate, versions, and the digest of the windows that were shown.
    """

    arrays: Mapping[str, NDArray]
    about: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path, shown: Mapping[str, NDArray]) -> Self:
        """Read a recording of the windows `shown` (see `shown_histories`).

        Raises
        ------
        LaglensError
            The file is damaged, or was made with other windows.
        """
        arrays, about = read_arrays(path, RECORDING)
        if about["windows"] != digest(shown):
            raise LaglensError(
                f"{path} was recorded with other windows than those of the study: its signal, attention.windows, "
                "lags.controls, seed, or the model's history have changed since; make the windows with `snakemake "
                "windows` and record again"
            )
        return cls(arrays, about)

    @property
    def stacks(self) -> list[Stack]:
        """The stacks, by what was told of them when they were recorded."""
        found = []
        for told in self.about["stacks"]:
            query, key = (self._tokens(told["name"], axis) for axis in AXES)
            found.append(Stack(told["name"], tuple(told["layers"]), query, key, causal=told["causal"]))
        return found

    def _tokens(self, stack: str, axis: str) -> TokenMap:
        return TokenMap(**{name: self.arrays[f"{stack}.{axis}_{name}"] for name in OF_TOKENS})

    def run_attrs(self, windows: xr.Dataset) -> dict[str, Any]:
        """Attributes of a tree that any run of a model on windows has."""
        horizon = self.arrays["forecast"].shape[1]
        history = windows.sizes["time"] - horizon
        return {"history": history, "horizon": horizon, "certificate": self.about["certificate"]}

    def node(self, stack: Stack, *, controls: bool = False) -> xr.Dataset:
        """A node of the attention tree, ``store: time``; of the windows, or of the means of the controls."""
        own = {name.partition(".")[2]: a for name, a in self.arrays.items() if name.startswith(f"{stack.name}.")}
        axes = {f"{axis}_{name}" for axis in AXES for name in OF_TOKENS}
        found = {
            name.removeprefix(CONTROL): array
            for name, array in own.items()
            if name.startswith(CONTROL) == controls and name not in axes
        }
        labels = node_dataset(stack, "time").assign_coords(head=np.arange(found["attention"].shape[2]))
        return labels.assign(
            {name: (dims_of(name, "time"), array, LABELS.get(name, {})) for name, array in found.items()}
        )


def recorded_card(recording: Recording, name: str) -> dict[str, Any]:
    """What is known of a model that ran elsewhere, as a card."""
    known = {key: recording.about[key] for key in ("network", "versions")}
    return {"name": name, "architecture": "recording", "trained_on": "recorded in another environment"} | known


def recorded_tree(recording: Recording, observed: xr.Dataset, attrs: Mapping[str, Any]) -> xr.DataTree:
    """Attention tree of the windows that were shown.

    Parameters
    ----------
    observed
        The windows, ``series (sample, time)``.

    Returns
    -------
    xr.DataTree
        As `laglens.attention.cube.attention_tree`, with ``store: time``.
    """
    about = recording.run_attrs(observed)
    root = root_dataset(observed, recording.arrays["forecast"], about["history"], about | dict(attrs))
    return xr.DataTree.from_dict({"/": root, **{stack.name: recording.node(stack) for stack in recording.stacks}})
