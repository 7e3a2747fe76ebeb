"""Attention times the length of what it carries: a weight on a value vector near 0 moves nothing."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture
from laglens.attention.coordinates import stack_coordinates
from laglens.attention.weights import repeat_groups, weights_of
from laglens.errors import LaglensError
from laglens.flow.relevance import Place, mean_heads, of_layer
from laglens.models.forecaster import Forecaster
from laglens.signals.windows import histories
from laglens.time.reduce import to_time


class NormReader:
    """Reader that keeps the weights of every call times the norms of the value vectors; the model's kernel runs."""

    def __init__(self) -> None:
        self.norms: dict[Place, torch.Tensor] = {}

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading | None:
        """Weigh one call."""
        if call.query is None or call.value is None or call.selected is not None:
            raise LaglensError(f"the values of '{call.module}' are not seen, because it writes its softmax out")
        length = repeat_groups(call.value, call.query).norm(dim=-1)
        self.norms[call.module, call.index] = weights_of(call) * length[..., None, :]
        return None


def value_weighted_attention(
    model: Forecaster, windows: xr.Dataset, *, batch: int = 8, device: torch.device | str = "cpu"
) -> xr.DataTree:
    r"""Mean over heads of the attention times the norm of each value vector, in time.

    .. math:: N_{ij} = \mathrm{mean}_h A^h_{ij} \lVert v^h_j \rVert

    The values are those that enter the attention, before the projection that follows it; with that projection they
    would be the norms of Kobayashi et al. (2020, arXiv 2004.10102).

    Parameters
    ----------
    model
        In evaluation mode, one channel.
    windows
        ``series (sample, time)``, the history first.
    batch
        Windows per pass; their weights of all layers are in memory at once.

    Returns
    -------
    xr.DataTree
        A time tree (see `laglens.time.reduce.to_time`) with one head per layer; rows do not sum to 1.

    Raises
    ------
    LaglensError
        The model has several channels, or writes its softmax out, so that the values are not seen.
    """
    if getattr(model, "channels", 1) > 1:
        raise LaglensError("value-weighted attention needs a model of one channel")
    shown = torch.from_numpy(histories(windows, model.history)).to(device)
    model = model.eval().to(device)
    parts = []
    for part in shown.split(batch):
        reader = NormReader()
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
