"""Run a model on windows of a signal and keep its attention as labelled cubes, over tokens or over time columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from laglens.attention.assembly import Place, layer_arrays, records_of
from laglens.attention.batches import Ran, choose_store, run_batches
from laglens.attention.calls import Reader
from laglens.attention.coordinates import SAMPLES
from laglens.attention.nodes import Nodes
from laglens.attention.readers import StackReader, StepReader, TokenReader, chain_reader, chains, is_square, time_reader
from laglens.attention.sinks import InMemory, Sink
from laglens.attention.streaming import Columns
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.signals.windows import histories

DTYPES = {"float16": torch.float16, "float32": torch.float32}
STORES = ("tokens", "time", "auto")
STATISTICS = ("entropy", "effective_keys", "top_key")
GIGABYTE = 1e9


def attention_tree(model: Forecaster, windows: xr.Dataset, **options: Any) -> xr.DataTree:
    """Capture the attention of `model` on every window, in memory.

    Parameters
    ----------
    model, windows, options
        See `attention_into`.

    Returns
    -------
    xr.DataTree
        Root: the windows, ``forecast (sample, step)`` and the capture certificate. One node per attention stack:
        ``attention (sample, layer, head, query, key)``, rows summing to 1 over the visible keys, and per row
        ``entropy`` (nats), ``effective_keys`` (1 / sum of squares), ``top_key`` (index of the strongest key).

        A node with the attribute ``store: time`` has time columns on both axes; rows and their ``special_mass`` sum to
        1, and the statistics of all token rows run over ``token``.

        With `rollout`, ``rollout (sample, layer, query, key)`` over time columns, up to and including each layer, and
        ``rollout_special``, what of it rests on special tokens, in nodes whose queries and keys are the same tokens.
        ``selected`` marks the queries of a sparse attention whose rows the model computed; the others are even.
        With several channels all variables have a dim ``channel`` after ``sample``.

    Raises
    ------
    LaglensError
        As `attention_into`.
    """
    sink = InMemory()
    attention_into(sink, model, windows, **options)
    return sink.tree


def attention_into(
    sink: Sink,
    model: Forecaster,
    windows: xr.Dataset,
    *,
    store: str = "auto",
    dtype: str = "float16",
    memory_gb: float = 2.0,
    batch: int | None = None,
    statistics: Sequence[str] = STATISTICS,
    rollout: bool = False,
    device: torch.device | str = "cpu",
    attrs: dict[str, Any] | None = None,
) -> None:
    """Capture the attention of `model` on every window, piece by piece, such as into a `laglens.store.TreeWriter`.

    Parameters
    ----------
    sink
        Takes the tree that `attention_tree` returns: the nodes as they come, the root at the end.
    model
        In evaluation mode, with ``history``, ``horizon`` and ``stacks`` (see `laglens.models.registry`).
    windows
        ``series (sample, [channel,] time)``: history, then horizon (NaN where it is not known).
    store
        ``tokens``: whole cubes. ``time``: reduced to time columns while the model runs, so that no map of all tokens
        ever exists. ``auto``: tokens where the whole cube fits in `memory_gb` in float32.
    dtype
        Of the stored weights of tokens, ``float16`` or ``float32``. Time columns and statistics are float32 from
        float32.
    memory_gb
        What one batch may take beside the model [10^9 bytes]; decides how many windows run at once.
    batch
        Windows per forward pass, if not as many as fit.
    statistics
        Row statistics to keep: ``entropy``, ``effective_keys``, ``top_key``.
    rollout
        Whether to follow the attention through all layers, token by token.

    Raises
    ------
    LaglensError
        An unknown setting, a history with NaN, an incomplete capture (see `laglens.attention.capture.read_attention`),
        token maps that do not fit, or a single window that does not fit in memory.
    """
    asked = [("store", store, STORES), ("dtype", dtype, DTYPES), *(("statistic", s, STATISTICS) for s in statistics)]
    for what, value, known in asked:
        if value not in known:
            raise LaglensError(f"{what} '{value}' is not one of {', '.join(known)}")
    history, memory = histories(windows, model.history, model.channels), memory_gb * GIGABYTE
    model = model.eval().to(device)
    store = choose_store(store, model, history, memory=memory, device=device)
    nodes = Nodes(sink, len(history), model.channels if model.channels > 1 else None, store)
    if store == "time":
        reader = time_reader(model.stacks, statistics, rollout=rollout)
    else:
        reader = token_reader(model.stacks, nodes, DTYPES[dtype], statistics, rollout=rollout)
    columns = {stack.name: Columns.of(stack) for stack in model.stacks} if store == "time" else {}
    forecasts, certificate = [], dict[str, Any]()
    for ran in run_batches(model, history, reader, memory=memory, size=batch, device=device):
        for stack in model.stacks:
            options = {"columns": columns.get(stack.name), "dtype": DTYPES[dtype], "statistics": statistics}
            write_stack(nodes, ran, stack, **options)
        forecasts.append(ran.output.cpu().numpy())
        certificate = certificate or ran.capture.certificate
        del ran
    about = {"history": model.history, "horizon": model.horizon, "certificate": certificate}
    sink.add("/", root_dataset(windows, np.concatenate(forecasts), model.history, about | (attrs or {})))


def token_reader(
    stacks: Sequence[Stack], nodes: Nodes, dtype: torch.dtype, statistics: Sequence[str], *, rollout: bool
) -> StackReader:
    """Reads all weights, and hands those of each layer to `nodes` while the model runs."""
    readers: dict[str, Reader] = {}
    reader = StackReader(stacks, readers)

    def keep(place: Place, arrays: Any, lead: Any) -> None:
        nodes.write(reader.batch, place, arrays, lead)

    for chain in chains(stacks):
        follow = chain_reader(chain, (), rollout=True) if rollout and is_square(chain[0]) else None
        for stack in chain:
            step = StepReader() if stack.steps else TokenReader(stack, dtype, statistics, keep, follow)
            readers[stack.name] = step
    return reader


def write_stack(nodes: Nodes, ran: Ran, stack: Stack, **options: Any) -> None:
    """Write what a batch left of the layers of a stack (see `laglens.attention.assembly.layer_arrays`)."""
    for layer, records in enumerate(records_of(stack, ran.capture.records).values()):
        found = layer_arrays(stack, records, **options)
        if found is not None:
            nodes.write(ran.batch, Place(stack, layer), *found)


def root_dataset(windows: xr.Dataset, forecast: Any, history: int, attrs: dict[str, Any]) -> xr.Dataset:
    """The windows and what the model forecast of them, ``(sample, [channel,] step)``."""
    dims = ("sample", "step") if forecast.ndim == 2 else ("sample", "channel", "step")
    about = {"long_name": "forecast", "units": windows["series"].attrs.get("units", "")}
    root = windows.assign(forecast=(dims, forecast, about))
    root = root.assign_coords(step=("step", np.arange(history, history + forecast.shape[-1]), {"units": SAMPLES}))
    return root.assign_attrs(attrs)
