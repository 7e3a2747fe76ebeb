"""Where the tokens of a vision transformer of timm lie, told from a trial run; refused where that cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from laglens.attention.calls import AttentionCall
from laglens.attention.capture import AttentionCapture
from laglens.errors import LaglensError
from laglens.models.tokens import Stack, TokenMap

POOL = "attn_pool"  # timm's name of the module that pools the tokens for a classifier
WAY_OUT = "take a plain vision transformer, such as vit_tiny_patch16_224"


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a vision transformer lie in its picture.

    Attributes
    ----------
    size
        Pixels of the picture: height, width.
    grid
        Patches: rows, columns.
    prefix
        Tokens before the patches: class, register and distillation tokens.
    layers
        Names of the attention modules, lowest first.
    pools
        Attention modules that pool the tokens for a classifier.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    prefix: int
    layers: tuple[str, ...]
    pools: tuple[str, ...]

    def stack(self, width: float) -> Stack:
        """All layers, where the picture shows `width` samples (or pixels) and the model is the module ``network``."""
        rows, columns = self.grid
        edges = np.linspace(0, width, columns + 1)
        tokens = TokenMap.grid(edges, rows, width, readout="none").with_special(before=self.prefix)
        return Stack("encoder", tuple(f"network.{name}" for name in self.layers), tokens, tokens)

    @property
    def not_in_time(self) -> dict[str, str]:
        """Attention modules of ``network`` that belong to no stack, with the reason."""
        return {f"network.{name}": "it pools the tokens for a classifier" for name in self.pools}


class _Calls:
    """Notes the attention calls and keeps no weights."""

    def __init__(self) -> None:
        self.seen: list[AttentionCall] = []
        self.batches: list[tuple[int, ...]] = []

    def read(self, call: AttentionCall) -> None:
        operand = call.weights if call.query is None else call.query
        self.seen.append(call)
        self.batches.append(tuple(operand.shape[:-2]))


def read_layout(network: nn.Module, name: str, colours: int) -> Layout:
    """Tell from a trial run where the tokens of a model of timm lie.

    Raises
    ------
    LaglensError
        It has no grid of patches; its attention is inside windows, on pooled tokens, over channels, or mixed after
        the softmax, so that its weights do not say which patch looked at which; its tokens are in another order, or
        see pixels of other patches.
    """
    patches = getattr(network, "patch_embed", None)
    grid: tuple[int, ...] = getattr(patches, "grid_size", None) or ()
    size = getattr(patches, "img_size", None)
    size = size or resolve_model_data_config(network)["input_size"][1:]
    network.eval()
    pictures = _noise(network, colours, size)
    calls = _Calls()
    try:
        with torch.no_grad(), AttentionCapture(network, certify=False, reader=calls) as capture:
            network(pictures[:1])
    except AssertionError as error:  # how timm refuses a size
        raise LaglensError(f"timm model '{name}': {error} Change img_size in its config") from error
    pools = tuple(call.module for call in calls.seen if call.module.split(".")[0] == POOL)
    own = [(call, batch) for call, batch in zip(calls.seen, calls.batches, strict=True) if call.module not in pools]
    if reason := _why_not_plain(own, capture, grid):
        raise LaglensError(f"timm model '{name}': {reason}; {WAY_OUT}")
    prefix = own[0][0].shape[0] - grid[0] * grid[1]
    layout = Layout((size[0], size[1]), (grid[0], grid[1]), prefix, tuple(call.module for call, _ in own), pools)
    _check_order(network, layout, name, pictures)
    return layout


def _why_not_plain(
    calls: Sequence[tuple[AttentionCall, tuple[int, ...]]], capture: AttentionCapture, grid: Sequence[int]
) -> str | None:
    """Why attention calls, each with its leading axes, are not those of all patches over all; None: they are."""
    captured = {call.module for call, _ in calls}
    unseen = [name for name in capture.found if not any(f"{module}.".startswith(f"{name}.") for module in captured)]
    if mixed := [name for name, _ in capture.ignored] + [name for name in unseen if name.split(".")[0] != POOL]:
        return f"what weighs the values in {mixed[0]} is no softmax of one head, so no weight is what it used"
    if not captured:
        return "it has no attention"
    n = max(max(call.shape) for call, _ in calls)
    for call, batch in calls:
        if call.index:
            return f"{call.module} attends more than once, and mixes the results"
        if len(batch) != 2 or batch[0] != 1:
            return f"{call.module} attends inside windows, not over the whole picture"
        if call.shape != (n, n):
            queries, keys = call.shape
            return f"{call.module} attends over {queries} x {keys}, not {n} x {n}: pooled patches or channels"
    if not grid or n < grid[0] * grid[1]:
        return f"its {n} tokens are no grid of patches"
    return None


class _EnoughSeen(Exception):  # noqa: N818 - it stops a run, and is no error
    """The input of the first attention layer is known."""


@torch.no_grad()
def _check_order(network: nn.Module, layout: Layout, name: str, pictures: Tensor) -> None:
    """Check that tokens are the patches row by row, each of its own pixels alone, after the prefix.

    Some patches of a picture are changed; those tokens, and no others, must change before the first attention.
    """
    (rows, columns), (height, width) = layout.grid, layout.size
    changed = sorted({(0, columns - 1), (rows - 1, 0), (rows // 2, columns // 3)})
    pictures[1] = pictures[0]
    high, wide = height // rows, width // columns
    for row, column in changed:
        pictures[1, :, row * high : (row + 1) * high, column * wide : (column + 1) * wide] *= -1
    seen: list[Tensor] = []

    def look(module: nn.Module, args: Any, options: Any) -> None:
        seen.append(args[0] if args else next(iter(options.values())))
        raise _EnoughSeen

    hook = network.get_submodule(layout.layers[0]).register_forward_pre_hook(look, with_kwargs=True)
    try:
        network(pictures)
    except _EnoughSeen:
        pass
    finally:
        hook.remove()
    difference = (seen[0][0] - seen[0][1]).abs().amax(-1)
    found = torch.nonzero(difference > 1e-3 * difference.max()).flatten().tolist()
    if found != [layout.prefix + row * columns + column for row, column in changed]:
        raise LaglensError(
            f"timm model '{name}': its tokens are not the patches row by row, each of its own pixels alone (a "
            f"convolutional stem mixes them, or they are in another order); {WAY_OUT}"
        )


def _noise(network: nn.Module, colours: int, size: tuple[int, int]) -> Tensor:
    """Two pictures of noise in the type of the weights: ``(2, colour, row, column)``."""
    noise = torch.randn(2, colours, *size, generator=torch.Generator().manual_seed(0))
    return noise.to(next(network.parameters()))
