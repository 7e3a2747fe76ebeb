"""Attention times the length of what it carries: a weight on a value vector near 0 moves nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
import xarray as xr
from torch import nn

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture
from laglens.attention.coordinates import stack_coordinates
from laglens.errors import LaglensError
from laglens.flow.relevance import Place, mean_heads, of_layer
from laglens.heads.norms import causal_layers, output_projection, weights_and_values
from laglens.models.forecaster import Forecaster
from laglens.signals.windows import histories
from laglens.time.reduce import to_time


class NormReader:
    """Reader that keeps the weights of every call times the norms of the value vectors; the model's kernel runs.

    Parameters
    ----------
    samples
        Windows that the model is shown together.
    causal
        Names of the modules whose queries see no later key.
    modules
        Of the model, by name: values go through the output projection of theirs before they are measured, those of all
        heads together. None: values as they enter the attention, mean over heads.
    """

    def __init__(
        self, samples: int, causal: Collection[str] = (), modules: Mapping[str, nn.Module] | None = None
    ) -> None:
        self.norms: dict[Place, torch.Tensor] = {}
        self.samples, self.causal, self.modules = samples, causal, modules

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading | None:
        """Weigh one call."""
        weights, value = weights_and_values(call, self.samples, causal=call.module in self.causal)
        if self.modules is None:
            self.norms[call.module, call.index] = weights * value.norm(dim=-1)[..., None, :]
            return None
        heads, width = value.shape[-3], value.shape[-1]
        layer = output_projection(self.modules[call.module], heads * width)
        if layer is None:
            raise LaglensError(f"the output projection of '{call.module}' cannot be told")
        made = torch.einsum("bhkw,ohw->bhko", value.double(), layer.weight.double().unflatten(1, (heads, width)))
        gram = torch.einsum("bhko,bgko->bkhg", made, made)
        across = torch.einsum("bhqk,bkhg->bgqk", weights.double(), gram)
        self.norms[call.module, call.index] = (across * weights).sum(1, keepdim=True).clamp_min(0).sqrt()
        return None


def value_weighted_attention(
    model: Forecaster,
    windows: xr.Dataset,
    *,
    projected: bool = False,
    batch: int = 8,
    device: torch.device | str = "cpu",
) -> xr.DataTree:
    r"""Mean over heads of the attention times the norm of each value vector, in time; or the norms of Kobayashi.

    .. math:: N_{ij} = \mathrm{mean}_h A^h_{ij} \lVert v^h_j \rVert, \qquad
        N'_{ij} = \lVert \textstyle\sum_h A^h_{ij} W_O^h v^h_j \rVert

    The first takes values as they enter the attention, the second (`projected`) what all heads together write of a key
    (Kobayashi et al. 2020, arXiv 2004.10102), by Gram matrices of the heads.

    Parameters
    ----------
    model
        In evaluation mode, one channel.
    windows
        ``series (sample, time)``, the history first.
    projected
        Measure values behind the output projection, all heads together.
    batch
        Windows per pass; their weights of all layers are in memory at once.

    Returns
    -------
    xr.DataTree
        A time tree (see `laglens.time.reduce.to_time`) with one head per layer; rows do not sum to 1.

    Raises
    ------
    LaglensError
        The model has several channels; it writes its softmax out in a way that does not show which values belong to
        the weights; `projected`: an output projection cannot be told by its name and width.
    """
    if getattr(model, "channels", 1) > 1:
        raise LaglensError("value-weighted attention needs a model of one channel")
    shown = torch.from_numpy(histories(windows, model.history)).to(device)
    model = model.eval().to(device)
    parts = []
    for part in shown.split(batch):
        modules = dict(model.named_modules()) if projected else None
        reader = NormReader(len(part), causal_layers(model), modules)
        with torch.no_grad(), AttentionCapture(model, certify=False, reader=reader) as capture:
            model(part)
        capture.check()
        found = {place: mean_heads(norms, len(part)) for place, norms in reader.norms.items()}
        parts.append({s.name: np.stack([of_layer(s, name, found) for name in s.layers], 1) for s in model.stacks})
    nodes = {
        f"/{stack.name}": xr.Dataset(
            {
                "attention": (
                    ("sample", "layer", "head", "query", "key"),
                    np.concatenate([part[stack.name] for part in parts])[:, :, None],
                )
            },
            stack_coordinates(stack) | {"head": [0], "sample": windows["sample"].variable},
            {"causal": stack.causal},
        )
        for stack in model.stacks
    }
    return to_time(xr.DataTree.from_dict({"/": windows, **nodes}))
