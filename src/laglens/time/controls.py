"""Run a model on control signals and keep only the averaged maps in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from laglens.attention.assembly import layer_arrays, records_of
from laglens.attention.batches import Ran, run_batches
from laglens.attention.coordinates import LABELS
from laglens.attention.cube import GIGABYTE
from laglens.attention.nodes import node_dataset
from laglens.attention.readers import time_reader
from laglens.attention.sinks import InMemory, Sink
from laglens.attention.streaming import Columns
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.signals.windows import histories
from laglens.store.stream import Awaited
from laglens.time.reduce import time_labels

KEPT = {"attention": ("sample", "layer", "head", "query", "key"), "special_mass": ("sample", "layer", "head", "query")}


def control_time_tree(
    model: Forecaster,
    control: xr.Dataset,
    cut: Callable[[xr.DataArray], xr.Dataset],
    *,
    normalisation: str = "mass",
    memory_gb: float = 2.0,
    device: torch.device | str = "cpu",
    attrs: dict[str, Any] | None = None,
) -> xr.DataTree:
    """Time maps of control replicates, each averaged over its windows.

    A lag profile is linear in the map, so the mean map of a replicate has the mean profile of its windows: what
    an observed signal is compared with. Maps are reduced to time while the model runs and averaged as they come, so
    that memory holds those of one batch of windows.

    Parameters
    ----------
    control
        ``value (replicate, sample, time)``, each replicate as large as the observed signal.
    cut
        Cuts the windows of one replicate, ``value (sample, time) -> series (sample, [channel,] time)``; use the same
        cut as for the observed signal.
    memory_gb
        What one batch of windows may take beside the model [10^9 bytes].

    Returns
    -------
    xr.DataTree
        A time tree whose ``sample`` is the replicate; maps in float16, as they are many.

    Raises
    ------
    LaglensError
        As `attention_into` and `to_time`.
    """
    n = control.sizes["replicate"]
    cuts = (cut(control["value"].isel(replicate=r)) for r in range(n))
    shown = np.concatenate([histories(windows, model.history, model.channels) for windows in cuts])
    model = model.eval().to(device)
    sink, n_windows = InMemory(), len(shown) // n
    sink.add("/", xr.Dataset())
    means = ReplicateMeans(sink, model.stacks, n, n_windows, normalisation)
    certificate: dict[str, Any] = {}
    options: dict[str, Any] = {"memory": memory_gb * GIGABYTE, "device": device, "what": "running on controls"}
    for ran in run_batches(model, shown, time_reader(model.stacks, ()), **options):
        means.add(ran)
        certificate = certificate or ran.capture.certificate
        del ran
    about = {"history": model.history, "horizon": model.horizon, "certificate": certificate} | (attrs or {})
    about |= {"n_windows": n_windows * model.channels, "control": control.attrs.get("control", "")}
    tree = sink.tree
    tree.attrs = about
    return tree


class ReplicateMeans:
    """Averages time maps over the windows of each replicate, and over their channels, as batches of windows come.

    Parameters
    ----------
    sink
        Takes the means: ``attention (sample, layer, head, query, key)`` in float16 and ``special_mass``, a replicate
        being a sample.
    n, n_windows
        Replicates, and windows of each.
    """

    def __init__(self, sink: Sink, stacks: Sequence[Stack], n: int, n_windows: int, normalisation: str) -> None:
        self.sink, self.stacks, self.n, self.n_windows = sink, stacks, n, n_windows
        self.columns = {stack.name: Columns.of(stack) for stack in stacks}
        self.labels = {stack.name: time_labels(node_dataset(stack, "time"), normalisation) for stack in stacks}
        self._begun: dict[tuple[str, int, str], Tensor] = {}
        self._declared: set[str] = set()

    def add(self, ran: Ran) -> None:
        """Take the next batch of windows, those of a replicate one after the other."""
        for stack in self.stacks:
            for layer, records in enumerate(records_of(stack, ran.capture.records).values()):
                columns = self.columns[stack.name]
                read = layer_arrays(stack, records, columns=columns, dtype=torch.float32, statistics=())
                arrays, lead = read or ({}, ())
                for name in KEPT:
                    found = ran.batch.unfold(arrays[name], lead, stack.layers[layer])
                    self._average(stack.name, layer, name, ran, found if ran.batch.channels is None else found.mean(1))

    def _average(self, stack: str, layer: int, name: str, ran: Ran, found: Tensor) -> None:
        """Add ``(window, head, ...)`` to the sums of their replicates, and hand on those that are complete."""
        start, stop = ran.batch.samples.start, ran.batch.samples.stop
        for replicate in range(start // self.n_windows, -(-stop // self.n_windows)):
            ends = (replicate + 1) * self.n_windows
            part = found[max(replicate * self.n_windows - start, 0) : ends - start].sum(0)
            total = self._begun.pop((stack, layer, name), 0) + part
            if ends <= stop:
                self._hand_on(stack, {"sample": replicate, "layer": layer}, name, total / self.n_windows)
            else:
                self._begun[stack, layer, name] = total

    def _hand_on(self, stack: str, where: dict[str, int], name: str, mean: Tensor) -> None:
        labels = self.labels[stack]
        if stack not in self._declared:
            heads = np.arange(len(mean))
            sizes = {**labels.sizes, "sample": self.n, "head": len(heads)}
            kinds = {"attention": "float16", "special_mass": "float32"}
            shapes = {name: tuple(sizes[dim] for dim in dims) for name, dims in KEPT.items()}
            awaited = {v: Awaited(dims, shapes[v], kinds[v], LABELS[v]) for v, dims in KEPT.items()}
            self.sink.add(stack, labels.assign_coords(head=heads), awaited)
            self._declared.add(stack)
        if name == "attention":
            if labels.attrs["normalisation"] == "mean":
                mean = mean / torch.from_numpy(labels["key_tokens"].values).to(mean)
            mean = mean.half()  # numpy casts small weights many times slower
        self.sink.write(stack, where, {name: mean.cpu().numpy()})
