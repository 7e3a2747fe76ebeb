"""Read the row of the class token while an image model runs: one row of every map, whatever the number of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from laglens.attention.assembly import records_of
from laglens.attention.batches import run_batches
from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.coordinates import stack_coordinates
from laglens.attention.readers import StackReader
from laglens.attention.weights import attention_weights
from laglens.heads.nothing import NothingToMeasureError
from laglens.heads.pictures import on_picture
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import SPECIAL, Stack
from laglens.signals.windows import histories


@dataclass(frozen=True)
class RowReader:
    """Keeps the weights of one query of every call; the model's own kernel runs.

    Attributes
    ----------
    query
        Index of the query.
    """

    query: int

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading:
        """Compute one row of the weights of a call: ``(..., key)``."""
        at = slice(self.query, self.query + 1)
        if call.weights is not None:
            return Reading(reduced={"row": call.weights[..., self.query, :].detach().float().clone()})
        if call.is_causal:
            call = call.without(torch.zeros(1, 1, dtype=torch.bool, device=call.operands[0].device))
        query, key, _ = call.operands
        mask = call.mask if call.mask is None or call.mask.shape[-2] == 1 else call.mask[..., at, :]
        return Reading(reduced={"row": attention_weights(query[..., at, :], key, mask, False, call.scale)[..., 0, :]})


def read_class_attention(
    model: Forecaster,
    windows: xr.Dataset,
    *,
    token: int = 0,
    memory_gb: float = 2.0,
    device: torch.device | str = "cpu",
) -> xr.DataTree:
    """Run an image model, and keep the attention of its class token over the patches of the picture.

    Parameters
    ----------
    model
        Of an architecture that draws the series (see `laglens.models.forecaster.Forecaster.draw`).
    windows
        ``series (sample, time)``.
    token
        Which special token, counted from 0.
    memory_gb
        What a batch of windows may take [10^9 bytes].

    Returns
    -------
    xr.DataTree
        Root: the windows, and ``picture (sample, pixel_y, pixel_x)``, what the model sees, in grey; its attribute
        ``origin`` is ``lower`` where the first row is that of the lowest values. One node per stack: see
        `laglens.heads.pictures.on_picture`; ``row_pixel (row)`` and ``column_pixel (column)`` are the centres of the
        patches in pixels.

    Raises
    ------
    NothingToMeasureError
        The model draws no picture, or none of its stacks has such a token.
    LaglensError
        The history of a window holds NaN, or a single window does not fit in memory.
    """
    model = model.eval().to(device)
    queries = {stack.name: at for stack in model.stacks if (at := _special(stack, token)) is not None}
    stacks = [stack for stack in model.stacks if stack.name in queries]
    shown = histories(windows, model.history) if model.channels == 1 else None
    picture = None if shown is None else _picture(model, shown, device)
    if shown is None or picture is None:
        raise NothingToMeasureError("the model draws no picture of the series, so no token looks at one")
    if not stacks:
        raise NothingToMeasureError(
            f"no stack of the model has a special token number {token + 1}, such as a class token"
        )
    reader = StackReader(stacks, {name: RowReader(at) for name, at in queries.items()})
    rows = _rows(model, stacks, reader, shown, memory_gb * 1e9, device)
    nodes = {s.name: on_picture(rows[s.name], stack_coordinates(s)).assign_attrs(query=queries[s.name]) for s in stacks}
    size = [max(node.sizes[axis] for node in nodes.values()) for axis in ("row", "column")]
    for name, node in nodes.items():
        # A stack may hold the left part of the picture alone: a patch has the same pixels in all of them.
        for axis, pixels, n in zip(("row", "column"), picture.shape[1:], size, strict=True):
            centre = (np.arange(node.sizes[axis]) + 0.5) * pixels / n - 0.5
            nodes[name] = nodes[name].assign_coords({f"{axis}_pixel": (axis, centre)})
    root = windows.assign(picture=(("sample", "pixel_y", "pixel_x"), picture, {"origin": model.origin}))
    root = root.assign_attrs(history=model.history, horizon=model.horizon)
    return xr.DataTree.from_dict({"/": root, **{f"/{name}": node for name, node in nodes.items()}})


def _special(stack: Stack, token: int) -> int | None:
    special = np.flatnonzero(stack.query.part == SPECIAL)
    return int(special[token]) if len(special) > token else None


@torch.no_grad()
def _picture(model: Forecaster, shown: NDArray[np.float64], device: Any) -> NDArray[np.float32] | None:
    pictures = []
    for history in torch.from_numpy(shown).to(device).split(16):
        drawn = model.draw(history)
        if drawn is None:
            return None
        pictures.append(drawn.float().cpu().numpy())
    return np.concatenate(pictures)


def _rows(
    model: Forecaster, stacks: list[Stack], reader: StackReader, shown: NDArray[np.float64], memory: float, device: Any
) -> dict[str, NDArray[np.floating]]:
    """Rows of the token by stack, ``(sample, layer, head, key)``."""
    found: dict[str, list[NDArray[np.floating]]] = {stack.name: [] for stack in stacks}
    for ran in run_batches(model, shown, reader, memory=memory, device=device, what="reading the class token"):
        for stack in stacks:
            layers = []
            for layer, records in records_of(stack, ran.capture.records).items():
                (row,) = (record.reduced["row"] for record in records if record.reduced)
                layers.append(ran.batch.unfold(row, row.shape[:-1], layer).cpu().numpy())
            found[stack.name].append(np.stack(layers, 1))
        del ran
    return {name: np.concatenate(parts) for name, parts in found.items()}
