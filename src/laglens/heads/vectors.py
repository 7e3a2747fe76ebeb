"""Query and key vectors of chosen heads, as they enter the scores of one window."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from laglens.attention.assembly import Batch, steps_of
from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import read_attention
from laglens.attention.coordinates import token_coordinates
from laglens.attention.streaming_pass import UNDERFLOW
from laglens.attention.weights import repeat_groups
from laglens.errors import LaglensError
from laglens.heads.scores import Chosen, head_label, score_weights
from laglens.lags.alike import stack_dataset
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.signals.windows import histories
from laglens.time.reduce import to_time

Array = NDArray[np.float32]
logger = logging.getLogger("laglens")
MAPS = ("sample", "layer", "head", "query", "key")
TOLERANCE = 0.01  # of a weight: stored maps may be float16, and half-precision models round their scores
WRITTEN_OUT = "the model writes its softmax out, so that its queries and keys are not seen"
PARTLY = "the model computes the scores of some queries only"
ABSENT = "the model has no such head"


class UnseenError(Exception):
    """Why a head has no vectors."""


@dataclass
class Operands:
    """What one call brings to the score of one head: vectors ``(token, dimension)``, scale, bias ``(query, key)``."""

    query: Array
    key: Array
    scale: float
    bias: Array | None


@dataclass
class VectorReader:
    """Keeps queries and keys of some heads; the model's own kernel runs.

    Parameters
    ----------
    wanted
        Heads by module.
    batch
        The window, and the channels beside it.
    channel
        The one of them that is looked at.

    Attributes
    ----------
    found
        By module and head the operands of each call, or why there are none.
    """

    wanted: Mapping[str, Sequence[int]]
    batch: Batch
    channel: int = 0
    found: dict[tuple[str, int], dict[int, Operands | str]] = field(default_factory=dict)

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading | None:
        """Read one call."""
        for head in self.wanted.get(call.module, ()):
            self.found.setdefault((call.module, head), {})[call.index] = self._operands(call, head)
        return None

    def _operands(self, call: AttentionCall, head: int) -> Operands | str:
        if call.query is None or call.key is None:
            return WRITTEN_OUT
        if call.selected is not None:
            return PARTLY
        lead = call.query.shape[:-2]
        n_heads = self.batch.unfold(torch.empty(lead), lead, call.module).shape[-1]
        if head >= n_heads:
            return ABSENT
        at = np.unravel_index(self.channel * n_heads + head, lead)  # heads run fastest
        query, key = call.query[at], repeat_groups(call.key, call.query).expand(*lead, *call.key.shape[-2:])[at]
        scale = 1 / math.sqrt(query.shape[-1]) if call.scale is None else float(call.scale)
        return Operands(_array(query), _array(key), scale, _bias(call, lead, at))


def head_vectors(
    model: Forecaster,
    time_tree: xr.DataTree,
    heads: Iterable[Chosen],
    *,
    window: int = 0,
    device: torch.device | str = "cpu",
    attrs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Queries and keys of chosen heads in one window, as the kernel got them: rotated, normalised, one per query head.

    Parameters
    ----------
    model
        That the maps are of.
    time_tree
        Its windows and their maps in time, ``attention (sample, layer, head, query, key)``: what the vectors must
        reproduce.
    heads
        Stack, layer and head of each.
    window
        A sample of `time_tree`.

    Returns
    -------
    xr.DataTree
        One node per stack of them: ``query_vector (chosen, query, dimension)``, ``key_vector (chosen, key, dimension)``
        in float32, ``scale (chosen)`` and, where keys are hidden or scores are biased, ``bias (chosen, query, key)``;
        the softmax of ``scale q . k + bias`` is the attention. Queries and keys are tokens, with their places in time;
        ``layer (chosen)`` and ``head (chosen)`` say which heads. Attributes: ``window``; ``certificate``, the largest
        difference of a weight to `time_tree` by head; ``left_out``, why a head has no vectors.

    Raises
    ------
    LaglensError
        No such window, or the vectors do not reproduce the maps.
    """
    count = time_tree.sizes["sample"]
    if window >= count:
        raise LaglensError(f"window {window} of {count}: count from 0 (report.window)")
    model = model.eval().to(device)
    stacks = {stack.name: stack for stack in model.stacks}
    chosen, left_out = list(dict.fromkeys(heads)), dict[str, str]()
    reader = _read(model, time_tree, stacks, chosen, window, device)
    nodes: dict[str, list[tuple[Chosen, Operands]]] = {}
    for place in chosen:
        try:
            operands = _assembled(stacks, place, reader)
        except UnseenError as reason:
            left_out[head_label(*place)] = str(reason)
        else:
            nodes.setdefault(place[0], []).append((place, operands))
    found = {name: _node(stacks[name], members) for name, members in nodes.items()}
    about = dict(attrs or {}) | {"window": window, "left_out": left_out}
    about["certificate"] = {
        label: error for name, node in found.items() for label, error in _certificate(node, time_tree, name, window)
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=about), **{f"/{name}": node for name, node in found.items()}})


def _read(
    model: Forecaster,
    time_tree: xr.DataTree,
    stacks: Mapping[str, Stack],
    chosen: Sequence[Chosen],
    window: int,
    device: torch.device | str,
) -> VectorReader:
    """Run the model on one window with all its channels, and read the modules of the chosen heads."""
    wanted: dict[str, list[int]] = {}
    for name, layer, head in chosen:
        if name in stacks and layer < len(stacks[name].layers):
            wanted.setdefault(stacks[name].layers[layer], []).append(head)
    first = window - window % model.channels
    shown = histories(time_tree.to_dataset().isel(sample=slice(first, first + model.channels)), model.history)
    inputs = torch.from_numpy(shown).to(device)
    batch = Batch(slice(0, 1), None if model.channels == 1 else model.channels)
    reader = VectorReader(wanted, batch, window - first)
    read_attention(model, inputs if model.channels == 1 else inputs[None], reader=reader, certify=False)
    return reader


def _assembled(stacks: Mapping[str, Stack], place: Chosen, reader: VectorReader) -> Operands:
    """Operands of a head over all tokens of its stack.

    Raises
    ------
    UnseenError
        There are none, and why.
    """
    name, layer, head = place
    if name not in stacks or layer >= len(stacks[name].layers):
        raise UnseenError(ABSENT)
    stack = stacks[name]
    calls = reader.found.get((stack.layers[layer], head), {})
    used = [calls[index] for index in sorted(calls) if stack.steps or index == stack.call]
    seen = [call for call in used if isinstance(call, Operands)]
    if len(seen) < len(used) or not used:
        raise UnseenError(next((call for call in used if isinstance(call, str)), ABSENT))
    whole = _joined(stack, seen) if stack.steps else seen[0]
    if (len(whole.query), len(whole.key)) != (len(stack.query), len(stack.key)):
        raise UnseenError(PARTLY)
    return whole


def _joined(stack: Stack, steps: Sequence[Operands]) -> Operands:
    """Decoding steps as one call: the new queries of each; keys that did not exist yet are hidden."""
    last, bias = steps[-1], np.full((len(stack.query), len(stack.key)), -np.inf, np.float32)
    query = np.empty((len(stack.query), last.query.shape[1]), np.float32)
    for place, step in zip(steps_of(stack, len(steps)), steps, strict=True):
        n = place.stop - place.start
        query[place] = step.query[-n:]
        bias[place, : len(step.key)] = 0.0 if step.bias is None else step.bias[-n:]
    return replace(last, query=query, bias=bias)


def _node(stack: Stack, members: Sequence[tuple[Chosen, Operands]]) -> xr.Dataset:
    """Heads of one stack side by side; dimensions that a narrower head has not are 0."""
    width = max(operands.query.shape[1] for _, operands in members)

    def stacked(name: str) -> Array:
        arrays = [getattr(operands, name) for _, operands in members]
        return np.stack([np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays])

    variables: dict[str, Any] = {
        "query_vector": (("chosen", "query", "dimension"), stacked("query"), {"long_name": "query vector"}),
        "key_vector": (("chosen", "key", "dimension"), stacked("key"), {"long_name": "key vector"}),
        "scale": ("chosen", np.array([operands.scale for _, operands in members]), {"long_name": "factor of q . k"}),
    }
    biases = [operands.bias for _, operands in members]
    if any(bias is not None for bias in biases):
        none = np.zeros((len(stack.query), len(stack.key)), np.float32)
        rows = np.stack([none if bias is None else bias for bias in biases])
        variables["bias"] = (("chosen", "query", "key"), rows, {"long_name": "added to the score; -inf: hidden"})
    coords: dict[str, Any] = token_coordinates("query", stack.query) | token_coordinates("key", stack.key)
    coords |= {
        "dimension": ("dimension", np.arange(width), {"long_name": "dimension of the head, counted from 0"}),
        "layer": ("chosen", np.array([layer for (_, layer, _), _ in members])),
        "head": ("chosen", np.array([head for (_, _, head), _ in members])),
    }
    return xr.Dataset(variables, coords)


def _certificate(node: xr.Dataset, time_tree: xr.DataTree, name: str, window: int) -> Iterable[tuple[str, float]]:
    """Largest difference of a weight between the softmax of the vectors and the stored map, by head.

    Raises
    ------
    LaglensError
        It is more than rounding explains.
    """
    stored = stack_dataset(time_tree, name)
    normalisation = str(stored.attrs.get("normalisation", "mass"))
    axes = [str(name) for name in node.coords if str(name).startswith(("query", "key"))]
    for place in range(node.sizes["chosen"]):
        one = node.isel(chosen=place)
        layer, head = int(one["layer"]), int(one["head"])
        cube = xr.Dataset(
            {"attention": (MAPS, score_weights(one).values[None, None, None].astype(np.float32))},
            coords={"layer": [layer], "head": [head]} | {axis: one[axis].variable for axis in axes},
        )
        reduced = to_time(xr.DataTree.from_dict({f"/{name}": cube}), normalisation=normalisation)
        ours = stack_dataset(reduced, name)["attention"]
        theirs = stored["attention"].isel(sample=window).sel(layer=layer, head=head).values
        error, label = float(np.abs(ours.values[0, 0, 0] - theirs).max()), head_label(name, layer, head)
        logger.info("%s: softmax of the stored vectors against the map: largest difference %.1e", label, error)
        if not error <= TOLERANCE:
            raise LaglensError(
                f"{label}: the stored queries and keys do not give its attention (a weight differs by {error:.2g}); "
                "were the maps made with other weights of the model? run the study again from the attention stage on"
            )
        yield label, error


def _array(tensor: Tensor) -> Array:
    return tensor.float().cpu().numpy()


def _bias(call: AttentionCall, lead: torch.Size, at: tuple[Any, ...]) -> Array | None:
    """What is added to the scores of one head, ``(query, key)``: -inf where the key is hidden."""
    n_query, n_key = call.shape
    bias = None
    if call.mask is not None:
        mask = call.mask.expand(*lead, n_query, n_key)[at]
        if mask.dtype == torch.bool:
            bias = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)
        else:
            bias = mask.float()
            top = bias.amax(-1, keepdim=True)
            bias = torch.where(top < UNDERFLOW, bias - top, bias)  # a row that hides all keys alike is even
            bias = bias.masked_fill(bias < UNDERFLOW, -math.inf)
    if call.is_causal:
        future = torch.ones(n_query, n_key, dtype=torch.bool).triu(1)
        bias = torch.zeros(n_query, n_key) if bias is None else bias.cpu()
        bias = bias.masked_fill(future, -math.inf)
    return None if bias is None else _array(bias)
