"""The layers that a signal passes on its way through a model, as steps over one axis of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.flow.layers import Array, Mask, Mixing
from laglens.lags.alike import stack_dataset
from laglens.models.tokens import SPECIAL

ORDER = ("encoder", "decoder")  # of the stacks a signal passes; a tree read from disk has them in another
CROSS = "cross"
AXIS = ("time", "start", "end", "row", "part", "readout")
MAP = ("sample", "layer", "head", "query", "key")


@dataclass(frozen=True)
class Path:
    """The stacks of a tree that follow each other, over the tokens of all of them.

    A decoder with the tokens of the encoder goes on where the encoder ended. A decoder with tokens of its own, which
    reads the encoder through cross-attention, adds its tokens to the axis: those of the encoder first.

    Attributes
    ----------
    stacks
        The square stacks in the order a signal passes them.
    cross
        Cross-attention, layer by layer after the self-attention of the decoder with tokens of its own.
    left_out
        Why the other stacks of the tree are not followed.
    """

    stacks: dict[str, xr.Dataset]
    cross: xr.Dataset | None
    left_out: dict[str, str]

    @classmethod
    def of(cls, tree: xr.DataTree) -> Path:
        """Find the path through a time tree, or an attention tree of tokens.

        Raises
        ------
        LaglensError
            No stack can be followed, or the maps have channels.
        """
        stacks: dict[str, xr.Dataset] = {}
        left_out: dict[str, str] = {}
        cross: xr.Dataset | None = None
        for name in (name for name in ORDER if name in tree.children):
            node = stack_dataset(tree, name)
            first = next(iter(stacks.values()), node)
            if not _same_axis(node, "key", node, "query"):
                left_out[name] = "its queries and keys are not the same tokens"
            elif _same_axis(node, "query", first, "query") or (cross := _between(tree, node, first)) is not None:
                stacks[name] = node
            else:
                left_out[name] = (
                    f"its tokens are not those of '{next(iter(stacks))}', and no cross-attention joins them"
                )
        followed = {*stacks, *left_out} | ({CROSS} if cross is not None else set())
        left_out |= {name: f"the path is {' and then '.join(ORDER)}" for name in tree.children if name not in followed}
        if not stacks:
            reasons = "; ".join(f"'{name}': {why}" for name, why in left_out.items()) or "it has no stack at all"
            raise LaglensError(f"there is nothing to roll out in this tree: {reasons}")
        if any("channel" in node.dims for node in stacks.values()):
            raise LaglensError("these maps have channels; reduce the tree to time first, where each is a sample")
        return cls(stacks, cross, left_out)

    @property
    def n_samples(self) -> int:
        """Windows."""
        return next(iter(self.stacks.values())).sizes["sample"]

    @property
    def n_layers(self) -> int:
        """Layers of all stacks; cross-attention belongs to the layer of the decoder that it follows."""
        return sum(node.sizes["layer"] for node in self.stacks.values())

    @property
    def n_tokens(self) -> int:
        """Tokens of the axis."""
        return sum(place.stop - place.start for place in {id(p): p for p in self._places().values()}.values())

    @property
    def special(self) -> Mask:
        """Tokens that lie in no time (CLS, REG, padding), ``(token,)``."""
        return np.asarray(self.coords["query_part"].values == SPECIAL)

    def place(self, stack: str) -> slice:
        """Where the tokens of a stack lie on the axis."""
        return self._places()[stack]

    def layers(self, sample: int | None, mixing: Mixing) -> Iterator[list[Array]]:
        """Steps of each layer, lowest first, ``(token, token)`` each: one, or two where cross-attention follows.

        Parameters
        ----------
        sample
            Index of a window; None: the mean of the maps over all windows.
        """
        if mixing.start >= self.n_layers:
            raise LaglensError(f"start is {mixing.start}; the path has {self.n_layers} layers, counted from 0")
        skipped, places = mixing.start, self._places()
        for name, node in self.stacks.items():
            own = places[name]
            for layer in range(node.sizes["layer"]):
                if skipped:
                    skipped -= 1
                    continue
                steps = [self._step(node, layer, sample, mixing, own, own)]
                if self.cross is not None and own.start:
                    steps.append(self._step(self.cross, layer, sample, mixing, own, slice(0, own.start)))
                yield steps

    def _step(
        self, node: xr.Dataset, layer: int, sample: int | None, mixing: Mixing, queries: slice, keys: slice
    ) -> Array:
        maps = node["attention"].isel(layer=layer).transpose("sample", "head", "query", "key")
        heads = maps.values.mean(0, dtype=np.float64) if sample is None else maps[sample].values
        special = np.asarray(node["key_part"].values == SPECIAL)
        return mixing.placed(mixing.rows(heads, special), self.n_tokens, queries, keys)

    def _places(self) -> dict[str, slice]:
        """Where the tokens of each stack lie on the axis."""
        places: dict[str, slice] = {}
        first: xr.Dataset | None = None
        for name, node in self.stacks.items():
            if first is None or _same_axis(node, "query", first, "query"):
                places[name] = next(iter(places.values()), slice(0, node.sizes["query"]))
            else:
                end = first.sizes["query"]
                places[name] = slice(end, end + node.sizes["query"])
            first = node if first is None else first
        return places

    @property
    def coords(self) -> dict[str, xr.Variable]:
        """Coordinates of the layers, ``stack``, ``stack_layer`` and ``layer_name``, and of both token axes."""
        depth = {name: node.sizes["layer"] for name, node in self.stacks.items()}
        numbers = np.concatenate([node["layer"].values for node in self.stacks.values()])
        names = np.concatenate([node["layer_name"].values for node in self.stacks.values()])
        coords = {
            "layer": xr.Variable("layer", np.arange(self.n_layers)),
            "stack": xr.Variable("layer", np.array([name for name, n in depth.items() for _ in range(n)], object)),
            "stack_layer": xr.Variable("layer", numbers),
            "layer_name": xr.Variable("layer", names),
        }
        return coords | self._token_coords()

    def _token_coords(self) -> dict[str, xr.Variable]:
        parts = {place.start: self.stacks[name] for name, place in self._places().items()}
        nodes = [parts[start] for start in sorted(parts)]
        found: dict[str, xr.Variable] = {}
        for axis in ("query", "key"):
            found[axis] = xr.Variable(axis, np.arange(self.n_tokens))
            for name in (f"{axis}_{what}" for what in AXIS):
                if all(name in node.coords for node in nodes):
                    values = np.concatenate([node[name].values for node in nodes])
                    found[name] = xr.Variable(axis, values, nodes[0][name].attrs)
        return found

    def rows(self, name: str) -> NDArray:
        """A quantity of every query of each layer, mean over heads: ``(sample, layer, token)``.

        NaN for tokens that a layer leaves as they are.
        """
        found = []
        for stack, node in self.stacks.items():
            values = node[name].transpose(*MAP[:-1]).values.mean(2)
            whole = np.full((*values.shape[:2], self.n_tokens), np.nan, values.dtype)
            whole[..., self._places()[stack]] = values
            found.append(whole)
        return np.concatenate(found, 1)

    @property
    def visible(self) -> Mask:
        """Which tokens can reach which through all layers, ``(query, key)``, as far as causality goes."""
        reach = np.eye(self.n_tokens, dtype=bool)
        for name, node in self.stacks.items():
            own = self._places()[name]
            step = np.eye(self.n_tokens, dtype=bool)
            step[own, own] |= _may_see(node)
            reach = step @ reach
            if self.cross is not None and own.start:
                across = np.eye(self.n_tokens, dtype=bool)
                across[own, : own.start] |= _may_see(self.cross)
                reach = across @ reach
        return reach

    @property
    def attrs(self) -> dict[str, Any]:
        """What later stages ask of the node of a tree, and the stacks that are left out."""
        first = next(iter(self.stacks.values()))
        known = {name: first.attrs[name] for name in ("samples_per_token", "causal") if name in first.attrs}
        followed = [*self.stacks, *([] if self.cross is None else [CROSS])]
        return known | {"followed": followed, "left_out": self.left_out}


def _between(tree: xr.DataTree, decoder: xr.Dataset, encoder: xr.Dataset) -> xr.Dataset | None:
    """The cross-attention from the tokens of a decoder to those of an encoder, layer by layer."""
    if CROSS not in tree.children:
        return None
    cross = stack_dataset(tree, CROSS)
    fits = _same_axis(cross, "query", decoder, "query") and _same_axis(cross, "key", encoder, "query")
    return cross if fits and cross.sizes["layer"] == decoder.sizes["layer"] else None


def _same_axis(first: xr.Dataset, axis: str, second: xr.Dataset, other: str) -> bool:
    """Whether two axes have the same tokens."""
    return all(
        np.array_equal(first[f"{axis}_{what}"], second[f"{other}_{what}"], equal_nan=True)
        for what in ("start", "end", "row")
        if f"{axis}_{what}" in first.coords and f"{other}_{what}" in second.coords
    )


def _may_see(node: xr.Dataset) -> Mask:
    """Keys that queries may attend to, ``(query, key)``: all, or in a causal stack those that are not later."""
    if not node.attrs.get("causal", False):
        return np.ones((node.sizes["query"], node.sizes["key"]), bool)
    later = np.subtract.outer(node["query_time"].values, node["key_time"].values) < 0
    return ~np.asarray(later)  # a special token has no time and is seen by all
