"""Many windows: what the controls of a signal cost, and whether cost and memory per sample stay the same.

``python -m benchmarks.scale``. One thread, CPU time; each figure from a process of its own, whose peak memory is told
beside what the model and the packages took before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
import xarray as xr

from benchmarks.measure import ROOT, keep, show, show_machine
from laglens.attention.cube import attention_into, attention_tree
from laglens.models.forecaster import Forecaster
from laglens.models.registry import build_model, restore_model
from laglens.signals.windows import windows
from laglens.store import opened_tree, read_card, read_weights, tree_writer
from laglens.time.controls import control_time_tree
from laglens.time.reduce import time_into, to_time

SHIPPED = ROOT / "src" / "laglens" / "weights"
MODELS = ("image_small", "numeric_small", "forecaster")
SERIES, WINDOWS, LENGTH = 99, 16, 512
SAMPLES = (250, 1000, 4000, 10000)
REPEATS = 3


def model_named(name: str) -> Forecaster:
    """A shipped model, or the encoder forecaster of the default study with random weights."""
    if name == "forecaster":
        return build_model("encoder")
    return restore_model(read_card(SHIPPED / name), read_weights(SHIPPED / f"{name}.safetensors"))


def controls(name: str, way: str) -> dict[str, float]:
    """Run the controls of one signal: ``streamed``, or ``weights`` first and then reduced."""
    model, rng = model_named(name), np.random.default_rng(0)
    value = xr.DataArray(rng.standard_normal((SERIES, 1, LENGTH)), dims=("replicate", "sample", "time"))
    cut = partial(windows, history=model.history, horizon=model.horizon, n=WINDOWS)
    history = torch.from_numpy(rng.standard_normal((64, model.history)))
    with torch.no_grad():
        model(history)
        start = process_time()
        for _ in range(5):
            model(history)
    forward = (process_time() - start) / (5 * len(history))
    before, start = peak(), process_time()
    if way == "streamed":
        control_time_tree(model, xr.Dataset({"value": value}), cut)
    else:
        for first in range(0, SERIES, 4):
            shown = [cut(value.isel(replicate=r)) for r in range(first, min(first + 4, SERIES))]
            together = xr.concat(shown, "sample", coords="minimal", compat="override")
            tree = to_time(attention_tree(model, together, store="tokens", dtype="float32", statistics=()))
            _ = [node["attention"].mean("sample") for node in tree.children.values()]
    each = (process_time() - start) / (SERIES * WINDOWS)
    return {"ms": 1e3 * each, "ratio": each / forward, "mb": peak() - before}


def many(n: int) -> dict[str, float]:
    """Capture `n` windows reduced to time onto disk, and pass them on to the time tree."""
    model, rng = model_named("image_small"), np.random.default_rng(0)
    value = xr.DataArray(rng.standard_normal((1, n + model.history)), dims=("sample", "time"))
    shown = windows(value, model.history, model.horizon, n)
    names = [stack.name for stack in model.stacks]
    with torch.no_grad():
        model(torch.from_numpy(shown["series"].values[:64, : model.history]))
    with tempfile.TemporaryDirectory() as folder:
        attention, time = (Path(folder) / f"{name}.zarr.zip" for name in ("attention", "time"))
        before, start = peak(), process_time()
        with tree_writer(attention, names) as writer:
            attention_into(writer, model, shown, store="time")
        captured, memory, start = process_time() - start, peak() - before, process_time()
        with opened_tree(attention) as tree, tree_writer(time, names) as writer:
            time_into(writer, tree)
        reduced = process_time() - start
    return {
        "capture ms": 1e3 * captured / n,
        "reduce ms": 1e3 * reduced / n,
        "capture mb": memory,
        "mb": peak() - before,
    }


def peak() -> float:
    """Largest memory that this process has had [10^6 bytes]."""
    return getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measured(*arguments: object) -> dict[str, float]:
    """The figures of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", *map(str, arguments)]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return json.loads(subprocess.run(command, cwd=ROOT, env=settings, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    """Measure, print and keep."""
    result: dict[str, Any] = {"controls": {}, "samples": {}}
    rows = []
    for name in MODELS:
        for way in ("streamed", "weights"):
            runs = [measured("controls", name, way) for _ in range(REPEATS)]
            found = {key: median(run[key] for run in runs) for key in runs[0]}
            result["controls"][f"{name}, {way}"] = found
            rows.append((f"{name}, {way}", *found.values()))
    title = f"Controls: {SERIES} series of {WINDOWS} windows, per window"
    show(title, ("", "CPU ms", "of a forward pass", "MB"), rows)
    for n in SAMPLES:
        result["samples"][n] = measured("samples", n)
    header = ("windows", "capture, ms each", "reduce, ms each", "MB of the capture", "MB of both")
    show("image_small, store: time", header, [(f"{n:,}", *row.values()) for n, row in result["samples"].items()])
    keep("scale", result)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        _, kind, *arguments = sys.argv
        print(json.dumps(controls(*arguments) if kind == "controls" else many(int(arguments[0]))))
    else:
        show_machine()
        main()
