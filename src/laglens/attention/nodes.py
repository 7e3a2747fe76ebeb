"""The nodes of an attention tree: labels, and the pieces that fill them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from laglens.attention.assembly import Arrays, Batch, Lead, Place
from laglens.attention.coordinates import LABELS, column_coordinates, samples_per_token, stack_coordinates
from laglens.attention.sinks import Sink
from laglens.errors import LaglensError
from laglens.models.tokens import Stack
from laglens.store.stream import Awaited

AFTER_LAYER = {
    "attention": ("head", "query", "key"),
    "special_mass": ("head", "query"),
    "rollout": ("query", "key"),
    "rollout_special": ("query",),
}


def node_dataset(stack: Stack, store: str) -> xr.Dataset:
    """Labels and attributes of a node, with the token axes of the stack or (``time``) their time columns."""
    coords, attrs = stack_coordinates(stack), {"store": store, "causal": stack.causal}
    if store == "time":
        tokens = coords
        coords = column_coordinates(tokens) | {name: tokens[name] for name in ("layer", "layer_name")}
        attrs["samples_per_token"] = samples_per_token(coords)
    return xr.Dataset(coords=coords, attrs=attrs)


def dims_of(name: str, store: str, *, channels: bool = False) -> tuple[str, ...]:
    """Dims of a variable of a node. Statistics of rows run over query tokens, which ``time`` calls ``token``."""
    after = AFTER_LAYER.get(name, ("head", "token" if store == "time" else "query"))
    if name.startswith("rollout") and store == "tokens":  # which is over columns there too
        after = tuple(f"{axis}_column" for axis in after)
    return ("sample", *(("channel",) if channels else ()), "layer", *after)


class Nodes:
    """Writes what is read of each layer; a node is declared with its first piece, which tells the number of heads.

    Parameters
    ----------
    n_samples, channels
        Windows of the whole tree, and series of each (None: one, without an axis).
    store
        ``tokens`` or ``time``: what the axes of the arrays are.
    """

    def __init__(self, sink: Sink, n_samples: int, channels: int | None, store: str) -> None:
        self.sink, self.n_samples, self.channels, self.store = sink, n_samples, channels, store
        self._written: dict[tuple[str, int], int] = {}
        self._declared: set[str] = set()

    def write(self, batch: Batch, place: Place, arrays: Arrays, lead: Lead) -> None:
        """Write one layer of a batch: arrays ``(lead..., any...)``."""
        stack, at = place.stack, (place.stack.name, place.layer)
        if self._written.get(at, 0) >= batch.samples.stop:
            return  # handed in before the batch ran out of memory and was cut in two
        pieces = {name: self._piece(name, array, batch, place, lead) for name, array in arrays.items()}
        if stack.name not in self._declared:
            self._declare(stack, pieces)
        self.sink.write(stack.name, {"sample": batch.samples, "layer": place.layer}, pieces)
        self._written[at] = batch.samples.stop

    def _piece(self, name: str, array: Tensor, batch: Batch, place: Place, lead: Lead) -> NDArray:
        """One variable of a layer: (lead..., any...) -> (sample, [channel,] any...)."""
        array = array.float() if array.dtype == torch.float64 else array
        layer = place.stack.layers[place.layer]
        if not name.startswith("rollout"):
            return batch.unfold(array, lead, layer).cpu().numpy()
        rest = array.shape[len(lead) - 1 :]
        if array.numel() != np.prod(batch.shape + rest):
            raise LaglensError(
                f"'{layer}': rollout averages the heads of a layer, and its attention has more leading dims than "
                f"windows and heads, {tuple(lead)}; set attention.rollout: false"
            )
        return array.reshape(*batch.shape, *rest).cpu().numpy()

    def _declare(self, stack: Stack, pieces: dict[str, NDArray]) -> None:
        awaited: dict[str, Awaited] = {}
        sizes: dict[str, Any] = {"sample": self.n_samples, "channel": self.channels, "layer": len(stack.layers)}
        for name, piece in pieces.items():
            dims = dims_of(name, self.store, channels=self.channels is not None)
            sizes |= dict(zip([dim for dim in dims if dim != "layer"][-piece.ndim :], piece.shape, strict=True))
            sizes["sample"] = self.n_samples
            awaited[name] = Awaited(dims, tuple(sizes[dim] for dim in dims), str(piece.dtype), LABELS.get(name, {}))
        node = node_dataset(stack, self.store).assign_coords(head=np.arange(sizes["head"]))
        self.sink.add(stack.name, node, awaited)
        self._declared.add(stack.name)
