"""Norms of what heads write (Kobayashi et al. 2020): a large weight on a small value is little.

What head h makes of key j is f_j^h, its value times its part of the output projection. A Gram matrix over heads for
each key replaces every array of queries, keys and widths.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from laglens.attention.assembly import scattered
from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture
from laglens.attention.weights import repeat_groups, weights_of
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.signals.windows import histories

Array = NDArray[np.float64]
Norms = tuple[int, dict[str, Array]]  # of one call: its number of queries, and (sample, head) of each measure
NORMS = {
    "weighted_norm": "mean over queries of sum over keys of A |f| (Kobayashi et al. 2020)",
    "output_norm": "mean over queries of |sum over keys of A f|",
}
PROJECTIONS = ("out_proj", "o_proj", "proj", "to_out", "c_proj", "out_projection", "dense", "o", "wo")


def summed_norms(attention: Array, transformed: Array) -> Array:
    r"""Norm of what all heads together write from each key, :math:`|\sum_h A^h_{ij} f^h_j|`.

    (head, query, key), (head, key, width) -> (query, key). By :math:`a_{ij}^T G_j a_{ij}` with the Gram matrix
    :math:`G_j` of the heads at key j. Kobayashi et al. 2020 (arXiv 2004.10102).

    Parameters
    ----------
    attention
        Weights of one layer.
    transformed
        Values times the output projection of each head.
    """
    return np.sqrt(_quadratic(attention, transformed))


def value_zeroing_residual(attention: Array, transformed: Array, stream: Array) -> Array:
    r"""Cosine distance of each query's output, with its residual, to what it is without the value of one key.

    (head, query, key), (head, key, width), (query, width) -> (query, key). Exact for attention and residual alone;
    what follows in the layer is left out, so it is not the whole value zeroing of Mohebbi et al. 2023 (arXiv
    2301.12971).

    Parameters
    ----------
    attention, transformed
        As `summed_norms`.
    stream
        What the layer adds its attention to, with the bias of the output projection.
    """
    whole = np.einsum("hqk,hkw->qw", attention, transformed) + stream
    square = (whole**2).sum(-1)[:, None]
    along = np.einsum("hqk,hqk->qk", attention, np.einsum("qw,hkw->hqk", whole, transformed))
    left = np.sqrt(np.maximum(square - 2 * along + _quadratic(attention, transformed), 0))
    size = np.sqrt(square) * left
    return 1 - np.divide(square - along, size, out=np.zeros_like(size), where=size > 0)


def head_norms(
    model: Forecaster, windows: xr.Dataset, *, batch: int | None = None, device: torch.device | str = "cpu"
) -> xr.DataTree:
    """How much every head writes into the stream of its layer; one node per attention stack.

    Parameters
    ----------
    model
        In evaluation mode. Layers whose output projection cannot be told have NaN.
    windows
        ``series (sample, time)``.

    Returns
    -------
    xr.DataTree
        ``weighted_norm`` and ``output_norm (sample, layer, head)``: `NORMS`. Means over the queries of a stack.

    Raises
    ------
    LaglensError
        The history of a window holds NaN.
    """
    model = model.eval().to(device)
    shown = histories(windows, model.history)
    found: dict[str, list[list[Norms]]] = {}
    step = max((batch or 4) // model.channels, 1) * model.channels
    for start in range(0, len(shown), step):
        history = torch.from_numpy(shown[start : start + step]).to(device)
        reader = _NormReader(dict(model.named_modules()), len(history), causal_layers(model))
        with torch.no_grad(), AttentionCapture(model, certify=False, reader=reader):
            model(history if model.channels == 1 else history.unflatten(0, (-1, model.channels)))
        for module, calls in reader.norms.items():
            found.setdefault(module, []).append(calls)
    nodes = {}
    for stack in model.stacks:
        missing = [layer for layer in stack.layers if layer not in found]
        if missing:
            raise LaglensError(f"stack '{stack.name}': no attention call in {missing[0]}")
        layers = [_mean_norms(found[layer], stack) for layer in stack.layers]
        dims = ("sample", "layer", "head")
        variables = {
            name: (dims, np.stack([layer[name] for layer in layers], 1), {"long_name": label, "units": "1"})
            for name, label in NORMS.items()
        }
        coords: dict[str, Any] = {"layer_name": ("layer", np.array(stack.layers, dtype=object))}
        nodes[f"/{stack.name}"] = xr.Dataset(variables, coords)
    return xr.DataTree.from_dict(nodes)


def _mean_norms(batches: list[list[Norms]], stack: Stack) -> dict[str, Array]:
    """Means over the queries of the calls that belong to the stack: ``(sample, head)`` each."""
    means = []
    for calls in batches:
        mine = calls if stack.steps else [calls[stack.call]]
        n = sum(count for count, _ in mine)
        means.append({name: np.sum([count * norms[name] for count, norms in mine], axis=0) / n for name in NORMS})
    return {name: np.concatenate([part[name] for part in means]) for name in NORMS}


def causal_layers(model: Forecaster) -> frozenset[str]:
    """Names of the attention modules whose queries see no later key."""
    return frozenset(layer for stack in model.stacks if stack.causal for layer in stack.layers)


def weights_and_values(call: AttentionCall, samples: int, *, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Weights ``(sample, head, query, key)`` and values ``(sample, head, key, width)`` of a call, heads apart.

    Where a model computes selected queries only, the others have the weights with which it gives them what stands in
    for their attention: the mean of all values, or under `causal` the sum of those so far.

    Raises
    ------
    LaglensError
        The values are not seen, or heads cannot be told apart.
    """
    if call.value is None:
        raise LaglensError(f"the values of '{call.module}' are not seen beside the softmax that it writes out")
    weights, value = weights_of(call), call.value
    value = value if call.query is None else repeat_groups(value, call.query)
    if call.selected is not None:
        n = weights.shape[-1]
        weights, marked = scattered(weights, call.selected, n, causal=causal)
        sums = weights * torch.arange(1, n + 1, device=weights.device)[:, None] if causal else weights
        weights = torch.where(marked[..., None], weights, sums)
    if weights.dim() == 3:  # samples and heads in one
        weights, value = (tensor.unflatten(0, (samples, -1)) for tensor in (weights, value))
    if weights.dim() != 4 or value.dim() != 4:
        raise LaglensError(f"the heads of '{call.module}' cannot be told apart")
    return weights.expand(*value.shape[:2], *weights.shape[2:]), value  # all heads may share one map


def output_projection(module: nn.Module, width: int) -> nn.Linear | None:
    """The linear layer that an attention module puts its heads through, by its name and width; None if not told."""
    found = [
        (PROJECTIONS.index(name.split(".")[0]), layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and layer.in_features == width and name.split(".")[0] in PROJECTIONS
    ]
    return min(found, key=lambda one: one[0])[1] if found else None


@dataclass
class _NormReader:
    """Reduces every call to the norms of its heads, ``(sample, head)``, with the number of its queries."""

    modules: dict[str, nn.Module]
    samples: int
    causal: frozenset[str] = frozenset()
    norms: dict[str, list[Norms]] = field(default_factory=dict)

    def read(self, call: AttentionCall) -> Reading | None:
        """Read one call; one without its values has no norms."""
        lead = call.rows[:-1]  # batch and heads, which some models fold together
        heads = lead[-1] if len(lead) > 1 else lead[0] // self.samples
        if call.value is None or (call.query is not None and call.value.dim() != 4):
            nothing = np.full((self.samples, heads), np.nan)
            self.norms.setdefault(call.module, []).append((call.shape[0], dict.fromkeys(NORMS, nothing)))
            return None
        weights, value = weights_and_values(call, self.samples, causal=call.module in self.causal)
        if heads == 1 < value.shape[1]:  # one map for all heads: what they write together
            weights, value = weights[:, :1], value.transpose(1, 2).flatten(2)[:, None]
        norms = self._of(call.module, weights, value.to(weights.dtype))
        self.norms.setdefault(call.module, []).append((weights.shape[-2], norms))
        return None

    def _of(self, module: str, weights: Tensor, value: Tensor) -> dict[str, Array]:
        heads, width = value.shape[-3], value.shape[-1]
        layer = output_projection(self.modules[module], heads * width)
        if layer is None:
            return dict.fromkeys(NORMS, np.full(weights.shape[:2], np.nan))
        # (out, head, width) -> for each head W^T W, so that |W v|^2 = v^T (W^T W) v without the wide outputs.
        projection = layer.weight.to(value.dtype).unflatten(1, (heads, width)).transpose(0, 1)
        gram = projection.transpose(-1, -2) @ projection
        size = _norm(value, gram)
        return {
            "weighted_norm": (weights @ size[..., None])[..., 0].mean(-1).double().cpu().numpy(),
            "output_norm": _norm(weights @ value, gram).mean(-1).double().cpu().numpy(),
        }


def _norm(vectors: Tensor, gram: Tensor) -> Tensor:
    """``sqrt(v^T G v)`` of every head: (..., head, token, width), (head, width, width) -> (..., head, token)."""
    return ((vectors @ gram) * vectors).sum(-1).clamp_min(0).sqrt()


def _quadratic(attention: Array, transformed: Array) -> Array:
    """``a_ij^T G_j a_ij``: (head, query, key), (head, key, width) -> (query, key)."""
    gram = np.einsum("hkw,gkw->khg", transformed, transformed)
    return np.maximum(np.einsum("hqk,khg,gqk->qk", attention, gram, attention, optimize=True), 0)
