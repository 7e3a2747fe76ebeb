"""Run a model on many windows, as many at a time as memory allows."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from laglens.attention.assembly import Batch
from laglens.attention.calls import AttentionCall, Reading, Record
from laglens.attention.capture import AttentionCapture, read_attention
from laglens.attention.readers import CHECKED, StackReader
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.progress import track

logger = logging.getLogger("laglens")

MOST_AT_ONCE = 64  # more windows in a batch save no time on a CPU
LAYERS_OF_ACTIVATIONS = 4  # a block holds about this many arrays as large as its largest
COPIES_OF_WEIGHTS = 4  # scores, weights, a temporary of their statistics, what is stored
COPIES_OF_RESULTS = 2  # what a batch leaves, and the pieces made of it
MOST_HEADS = 64  # of a layer; no published model of time series has more
NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|out of memory", re.IGNORECASE)


@dataclass(frozen=True)
class Ran:
    """One batch that went through the model."""

    batch: Batch
    output: Tensor
    capture: AttentionCapture


def run_batches(
    model: Forecaster,
    histories: NDArray[np.float64],
    reader: StackReader,
    *,
    memory: float,
    size: int | None = None,
    device: torch.device | str = "cpu",
    what: str = "capturing attention",
) -> Iterator[Ran]:
    """Run `model` on all windows, batch by batch; the first batch is certified.

    Parameters
    ----------
    histories
        ``(sample, [channel,] time)``.
    memory
        Bytes that a batch may take beside the model.
    size
        Windows per batch; None: one, and then as many as fit `memory`, by what that one took.
    what
        Is done, for the progress bar.

    Raises
    ------
    LaglensError
        A single window does not fit in memory, or the capture is incomplete.
    """
    total, channels = len(histories), model.channels if model.channels > 1 else None
    progress = track(range(total), what, total=total)
    first, at_once = 0, size or 1
    while first < total:
        batch = Batch(slice(first, min(first + at_once, total)), channels)
        reader.begin(batch, certify=first == 0)
        inputs = torch.from_numpy(histories[batch.samples])
        try:
            with largest_output(model, watch=first == 0) as largest:
                output, capture = read_attention(model, inputs.to(device), reader=reader, certify=first == 0)
        except (MemoryError, RuntimeError) as error:
            at_once = _fewer(len(inputs), error)
            continue
        if first == 0 and size is None:
            took = LAYERS_OF_ACTIVATIONS * largest[0] + bytes_of(capture.records)
            at_once = int(min(max(memory * len(inputs) // took, 1), MOST_AT_ONCE))
        ran = Ran(batch, output, capture)
        yield ran
        del ran, output, capture  # whoever takes a batch drops it too, so that no two are in memory
        for _ in zip(inputs, progress, strict=False):
            pass
        first = batch.samples.stop
    next(progress, None)


def _fewer(n: int, error: Exception) -> int:
    """Half as many windows after an error of memory; any other error, and one of a single window, is raised."""
    of_memory = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or NO_MEMORY.search(str(error))
    if isinstance(error, LaglensError) or not of_memory:
        raise error
    if n == 1:
        raise LaglensError(
            "the model and the attention of a single window do not fit in memory; set attention.store: time, shorten "
            "the model's history, or take a larger machine"
        ) from error
    logger.warning("%d windows at once do not fit in memory; going on with %d", n, n // 2)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return n // 2


@contextmanager
def largest_output(model: nn.Module, *, watch: bool = True) -> Iterator[list[int]]:
    """Bytes of the largest tensor that a module of the model puts out while it runs, as the one item of a list."""
    largest = [0]

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            largest[0] = max(largest[0], output.numel() * output.element_size())

    hooks = [module.register_forward_hook(note) for module in model.modules()] if watch else []
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def bytes_of(records: Sequence[Record]) -> int:
    """Bytes that the records of a batch hold until it ends, and those that a layer takes while it is read."""
    held = layer = 0
    for record in records:
        kept = [*(record.reduced or {}).values(), *([] if record.weights is None else [record.weights])]
        held += sum(tensor.numel() * tensor.element_size() for tensor in kept)
        rows = (record.reduced or {}).get(CHECKED)
        if rows is not None:  # all weights of the layer went through memory
            layer = max(layer, COPIES_OF_WEIGHTS * rows.numel() * rows.element_size() * record.shape[1])
    return COPIES_OF_RESULTS * held + layer


def choose_store(
    store: str, model: Forecaster, histories: NDArray[np.float64], *, memory: float, device: torch.device | str
) -> str:
    """``auto`` keeps tokens where the whole cube fits in `memory` in float32, and else time columns.

    How many heads the layers have is asked of the model, on one window, only where it matters.
    """
    if store != "auto":
        return store
    one_head = sum(_cube_bytes(stack) for stack in model.stacks) * len(histories) * model.channels
    if one_head > memory or one_head * MOST_HEADS <= memory:
        return "time" if one_head > memory else "tokens"
    heads = count_heads(model, histories[:1], device)
    cube = sum(_cube_bytes(stack) * heads.get(stack.layers[0], 1) for stack in model.stacks)
    return "tokens" if cube * len(histories) * model.channels <= memory else "time"


def _cube_bytes(stack: Stack) -> int:
    return 4 * len(stack.layers) * len(stack.query) * len(stack.key)


def count_heads(model: Forecaster, histories: NDArray[np.float64], device: torch.device | str) -> dict[str, int]:
    """Attention heads of each module, from a run that reads nothing else."""
    counter = HeadCounter(len(histories) * model.channels)
    read_attention(model, torch.from_numpy(histories).to(device), certify=False, reader=counter)
    return counter.heads


class HeadCounter:
    """Counts the heads of each module; nothing is kept of the calls.

    Parameters
    ----------
    batch
        Series that pass the model together.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.heads: dict[str, int] = {}

    def read(self, call: AttentionCall) -> Reading | None:
        """Count the heads of one call."""
        rows = call.weights if call.query is None else call.query
        if rows is not None:
            self.heads[call.module] = max(1, math.prod(rows.shape[:-2]) // self.batch)
        return None
