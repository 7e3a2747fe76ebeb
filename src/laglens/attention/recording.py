"""Record the attention of a model in its own environment, for a workflow that runs elsewhere.

Needs torch (2.1 or later), numpy and Python 3.9 or later, nothing else::

    from laglens.attention.recording import Stack, TokenMap, record

    tokens = TokenMap.patches(512, 0, 8)
    layers = tuple(f"encoder.block.{i}.layer.0.SelfAttention" for i in range(12))
    record(model, windows="results/windows/moment/sunspots.npz", output="recordings/moment/sunspots.npz",
           stacks=[Stack("encoder", layers, tokens, tokens)], predict=lambda model, history: model(history.float()))
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from laglens.attention.assembly import Batch, layer_arrays, records_of
from laglens.attention.capture import read_attention
from laglens.attention.exchange import CONTROL, OF_TOKENS, RECORDING, WINDOWS, read_arrays, write_arrays
from laglens.attention.readers import time_reader
from laglens.attention.streaming import Columns
from laglens.errors import LaglensError
from laglens.models.adapt import Predict, adapt
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack, TokenMap

__all__ = ["Stack", "TokenMap", "record"]

AXES = ("query", "key")
OF_CONTROLS = ("attention", "special_mass")
Arrays = dict[str, Tensor]


def record(
    model: nn.Module,
    *,
    windows: str | Path,
    output: str | Path,
    stacks: Sequence[Stack] | None = None,
    predict: Predict | None = None,
    not_in_time: Mapping[str, str] | None = None,
    batch: int = 8,
) -> None:
    """Run a model on the windows that a workflow exported, and write what it attends to, in time.

    Maps are reduced to time columns while the model runs, as with ``attention.store: time``; those of the controls are
    averaged over the windows of each replicate. The first batch is certified.

    Parameters
    ----------
    model
        In evaluation mode, on the device on which it is to run. Its code is not changed. What
        `laglens.models.adapt.adapt` returned is taken as it is, without `stacks`, `predict` and `not_in_time`.
    windows
        File of the rule ``export_windows``.
    output
        File to write, ``{folder}/{signal}.npz`` with the ``folder`` of the model in the config.
    stacks, predict, not_in_time
        See `laglens.models.adapt.adapt`.
    batch
        Windows per forward pass.

    Raises
    ------
    LaglensError
        The windows are missing or damaged, the model does not forecast, or its attention cannot be read, or placed in
        time.
    """
    if not Path(windows).is_file():
        raise LaglensError(
            f"there is no file '{windows}'; make it with `snakemake windows`, and run from the same folder"
        )
    arrays, about = read_arrays(windows, WINDOWS)
    lengths = {"history": about["history"], "horizon": about["horizon"]}
    if isinstance(model, Forecaster):
        adapted = model
        if {"history": model.history, "horizon": model.horizon} != lengths:
            raise LaglensError(
                f"{windows} is for a model of {lengths}, not of {model.history} and {model.horizon} samples"
            )
    else:
        adapted = adapt(model, **lengths, stacks=stacks, predict=predict, not_in_time=not_in_time or {})
        adapted.training = False  # of the wrapper alone: a model in training mode is an error, and stays as it is
    runs = _Runs(adapted, tuple(about["statistics"]), batch)
    found, certificate = _observed(runs, arrays["histories"])
    found.update(_controls(runs, arrays["controls"]))
    for stack in adapted.stacks:
        for axis in AXES:
            tokens = getattr(stack, axis)
            found.update({f"{stack.name}.{axis}_{name}": getattr(tokens, name) for name in OF_TOKENS})
    names = [{"name": s.name, "layers": list(s.layers), "causal": s.causal} for s in adapted.stacks]
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    kept = {"kind": RECORDING, "windows": about["digest"], "stacks": names, "certificate": certificate}
    write_arrays(output, found, {**kept, "network": type(model).__name__, "versions": versions})


@dataclass(frozen=True)
class _Runs:
    """How a model is run and what is kept of its attention."""

    model: Forecaster
    statistics: tuple[str, ...]
    size: int

    def __call__(self, histories: np.ndarray, *, statistics: bool, certify: bool) -> Iterator[_Run]:
        """Run ``(window, history)`` batch by batch."""
        kept = self.statistics if statistics else ()
        device = next((weight.device for weight in self.model.parameters()), torch.device("cpu"))
        reader = time_reader(self.model.stacks, kept)
        for first in range(0, len(histories), self.size):
            inputs = torch.from_numpy(histories[first : first + self.size]).to(device)
            batch = Batch(slice(first, first + len(inputs)))
            proving = certify and first == 0
            reader.begin(batch, certify=proving)
            forecast, capture = read_attention(self.model, inputs, reader=reader, certify=proving)
            arrays = {stack.name: _stack_arrays(stack, capture.records, batch, kept) for stack in self.model.stacks}
            yield _Run(forecast.cpu().numpy(), arrays, capture.certificate)


@dataclass(frozen=True)
class _Run:
    """What a batch left: forecasts ``(window, step)``, and by stack arrays ``(window, layer, head, ...)``."""

    forecast: np.ndarray
    arrays: dict[str, Arrays]
    certificate: dict[str, Any]


def _stack_arrays(stack: Stack, records: Sequence[Any], batch: Batch, statistics: Sequence[str]) -> Arrays:
    """Time maps and statistics of all layers of a stack, ``(window, layer, head, ...)``."""
    columns, layers = Columns.of(stack), []
    for layer, calls in records_of(stack, records).items():
        kept = layer_arrays(stack, calls, columns=columns, dtype=torch.float32, statistics=statistics)
        if kept is None:
            raise LaglensError(f"'{layer}' left nothing to record")
        arrays, lead = kept
        layers.append({name: batch.unfold(array, lead, layer).cpu() for name, array in arrays.items()})
    return {name: torch.stack([arrays[name] for arrays in layers], 1) for name in layers[0]}


def _observed(runs: _Runs, histories: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Everything of each window, and the certificate."""
    done: list[_Run] = []
    for run in runs(histories, statistics=True, certify=True):
        done.append(run)
        _show("windows", sum(len(one.forecast) for one in done), len(histories))
    found = {"forecast": np.concatenate([run.forecast for run in done])}
    for stack, arrays in done[0].arrays.items():
        for name in arrays:
            found[f"{stack}.{name}"] = torch.cat([run.arrays[stack][name] for run in done]).numpy()
    return found, done[0].certificate


def _controls(runs: _Runs, controls: np.ndarray) -> dict[str, np.ndarray]:
    """Mean maps of each replicate: ``(replicate, window, history)`` -> ``(replicate, layer, head, ...)`` by name."""
    means: dict[str, list[Tensor]] = {}
    for replicate, histories in enumerate(controls, 1):
        sums: dict[str, Tensor] = {}
        for run in runs(histories, statistics=False, certify=False):
            for stack, arrays in run.arrays.items():
                for name in OF_CONTROLS:
                    key = f"{stack}.{CONTROL}{name}"
                    sums[key] = sums.get(key, torch.zeros(())) + arrays[name].sum(0)
        for key, total in sums.items():
            mean = total / len(histories)
            # As the workflow keeps them: there are many.
            means.setdefault(key, []).append(mean.half() if key.endswith("attention") else mean)
        _show("controls", replicate, len(controls))
    return {key: torch.stack(replicates).numpy() for key, replicates in means.items()}


def _show(what: str, done: int, total: int) -> None:
    """Show progress in a line that moves, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\rrecording {what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
