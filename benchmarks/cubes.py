"""A token cube of several gigabytes: written while the model runs, read one matrix at a time, reduced in little memory.

One window of ViTime's own size (random weights with peaked attention): 18 layers, 16 heads, 2465 x 2465 tokens; 7 GB
in float32, stored as float16. Each way runs in a process of its own, with one thread for the model; the writer has a
thread of its own, so two cores are needed to hide it. ``python -m benchmarks.cubes [REPEATS]``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, thread_time
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from benchmarks.measure import in_own_process, keep, peak_mb, show, show_machine
from laglens.attention.assembly import Batch
from laglens.attention.capture import read_attention
from laglens.attention.cube import attention_into, attention_tree, token_reader
from laglens.attention.nodes import Nodes
from laglens.attention.sinks import Sink
from laglens.models.vitime import ViTimeForecaster
from laglens.store import Awaited, opened_tree, tree_writer, write_tree
from laglens.time.reduce import time_into

GOAL = 1.3
STATISTICS = ("entropy", "effective_keys", "top_key")


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, CPU seconds of the model's thread and of all, peak memory above the model, bytes stored."""

    wall: float
    model_cpu: float
    cpu: float
    peak_mb: float
    stored_mb: float


class Dropped:
    """Takes a tree and keeps the first piece of each node."""

    def __init__(self) -> None:
        self.nodes: dict[str, tuple[xr.Dataset, Mapping[str, Awaited]]] = {}
        self.pieces: dict[str, Mapping[str, Any]] = {}

    def add(self, node: str, dataset: xr.Dataset, awaited: Mapping[str, Awaited] | None = None) -> None:
        """See `laglens.attention.sinks.Sink`."""
        self.nodes[node] = dataset, awaited or {}

    def write(self, node: str, where: Mapping[str, int | slice], arrays: Mapping[str, Any]) -> None:
        """See `laglens.attention.sinks.Sink`."""
        self.pieces.setdefault(node, arrays)


class Window:
    """The model, and one window of a noisy wave."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = ViTimeForecaster().eval()
        for name, weights in self.model.named_parameters():
            if name.endswith("qkv.weight"):  # fresh weights give nearly uniform attention
                weights.data[: 2 * len(weights) // 3] *= 4
        time = np.arange(self.model.history)
        self.history = np.sin(time / 9) + 0.3 * np.random.default_rng(0).standard_normal(len(time))
        self.children = [stack.name for stack in self.model.stacks]

    def forward(self) -> None:
        """Run the model."""
        with torch.no_grad():
            self.model(self.input)

    def read(self, sink: Sink, statistics: Sequence[str] = ()) -> None:
        """Run the model and hand all weights on, as for every window after the certified first batch."""
        nodes = Nodes(sink, 1, None, "tokens")
        reader = token_reader(self.model.stacks, nodes, torch.float16, statistics, rollout=False)
        reader.begin(Batch(slice(0, 1)), certify=False)
        read_attention(self.model, self.input, certify=False, reader=reader)

    def written(self, path: Path, statistics: Sequence[str] = ()) -> None:
        """Run the model and write its cube meanwhile."""
        with tree_writer(path, self.children) as writer:
            self.read(writer, statistics)
            writer.add("/", xr.Dataset())

    def certified(self, path: Path) -> None:
        """The same for a first batch, whose output is compared with that of the model's own kernels."""
        with tree_writer(path, self.children) as writer:
            attention_into(writer, self.model, self.windows, store="tokens", statistics=())

    def afterwards(self, path: Path) -> None:
        """Keep the cube in memory and write it once the model has run."""
        write_tree(attention_tree(self.model, self.windows, store="tokens", statistics=()), path)

    @property
    def input(self) -> Tensor:
        """``(sample, time)``."""
        return torch.from_numpy(self.history[None])

    @property
    def windows(self) -> xr.Dataset:
        """``series (sample, time)``, the horizon unknown."""
        series = np.full((1, self.model.history + self.model.horizon), np.nan)
        series[:, : self.model.history] = self.history
        return xr.Dataset({"series": (("sample", "time"), series)}, {"time": np.arange(series.shape[1])})


def without_model(first: Dropped, path: Path) -> None:
    """Write a cube from pieces that are there: the first layer of each node again and again."""
    with tree_writer(path, list(first.nodes)) as writer:
        for name, (dataset, awaited) in first.nodes.items():
            writer.add(name, dataset, awaited)
            for layer in range(dataset.sizes["layer"]):
                writer.write(name, {"sample": slice(0, 1), "layer": layer}, first.pieces[name])
        writer.add("/", xr.Dataset())


def bare_file(size: int, path: Path) -> None:
    """Write as many random bytes and make them durable: what the disk takes."""
    block = os.urandom(2**26)
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())


def reduced(source: Path, path: Path) -> None:
    """Reduce a cube on disk to time, piece by piece."""
    with opened_tree(source) as tree, tree_writer(path, list(tree.children)) as writer:
        time_into(writer, tree)


def cost(run: Callable[[], Any], path: Path | None = None) -> Cost:
    """Cost of a run, and the size of the file that it leaves."""
    before = peak_mb()
    wall, model, cpu = perf_counter(), thread_time(), process_time()
    run()
    taken = perf_counter() - wall, thread_time() - model, process_time() - cpu
    return Cost(*taken, peak_mb() - before, path.stat().st_size / 1e6 if path and path.is_file() else 0.0)


def medians(costs: Sequence[Cost]) -> Cost:
    """Median of every figure."""
    return Cost(*(median(figures) for figures in zip(*(asdict(cost).values() for cost in costs), strict=True)))


def one_matrix(path: Path, repeats: int = 5) -> dict[str, float]:
    """Open a cube, read the matrix of one layer and head, and read all heads of that layer; medians."""
    opening: list[float] = []
    matrix: list[float] = []
    layer: list[float] = []
    for _ in range(repeats):
        start = perf_counter()
        with opened_tree(path) as tree:
            cube = tree["encoder"]["attention"]
            opening.append(perf_counter() - start)
            for index, times in (({"sample": 0, "layer": 3, "head": 5}, matrix), ({"sample": 0, "layer": 4}, layer)):
                start = perf_counter()
                cube.isel(index).load()
                times.append(perf_counter() - start)
    with zipfile.ZipFile(path) as archive:
        stored = archive.getinfo("encoder/attention/c/0/3/5/0/0").file_size / 1e6
    return {"open": median(opening), "matrix": median(matrix), "layer": median(layer), "stored_mb": stored}


def measure(way: str, folder: Path) -> Any:
    """Measure one way in this process."""
    torch.set_num_threads(1)
    path = folder / f"{way}.zarr.zip"
    if way == "matrix":
        return one_matrix(folder / "written.zarr.zip")
    if way == "reduced":
        return asdict(cost(lambda: reduced(folder / "written.zarr.zip", path), path))
    if way == "file":
        return asdict(cost(lambda: bare_file((folder / "written.zarr.zip").stat().st_size, path), path))
    window = Window()
    window.forward()  # packages and buffers are there
    if way == "disk":
        first = Dropped()
        window.read(first)
        return asdict(cost(lambda: without_model(first, path), path))
    ways: dict[str, Callable[[], Any]] = {
        "forward": window.forward,
        "read": lambda: window.read(Dropped()),
        "written": lambda: window.written(path),
        "statistics": lambda: window.written(path, STATISTICS),
        "certified": lambda: window.certified(path),
        "afterwards": lambda: window.afterwards(path),
    }
    return asdict(cost(ways[way], path))


WAYS = {
    "forward": "forward pass alone",
    "read": "and all weights read, none kept",
    "disk": "cube written from ready weights, no model",
    "file": "bare file of the same size",
    "written": "read and written while the model runs",
    "statistics": "the same, with all statistics of the rows",
    "certified": "the same, first batch, certified",
    "afterwards": "kept in memory, written afterwards",
    "reduced": "cube on disk reduced to time, piece by piece",
}


def main(repeats: int = 3) -> None:
    """Measure every way in turns, print and keep."""
    found: dict[str, list[Cost]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="laglens-cubes-") as folder:
        for _ in range(repeats):
            for way in ("written", *(way for way in WAYS if way != "written")):
                found[way].append(Cost(**in_own_process("benchmarks.cubes", "--one", way, folder)))
        matrix = in_own_process("benchmarks.cubes", "--one", "matrix", folder)
    costs = {
        way: Cost(*(median(v) for v in zip(*(asdict(c).values() for c in found[way]), strict=True))) for way in WAYS
    }
    longest = max(costs["forward"].wall, costs["disk"].wall)
    ratio = costs["written"].wall / longest
    show(
        f"Token cube of 7.0 GB, float16 on disk (medians of {repeats})",
        ["", "wall s", "of the longer one", "CPU s, model's thread", "all threads", "peak MB above", "stored MB"],
        [
            (what, c.wall, f"{c.wall / longest:.2f}x", c.model_cpu, c.cpu, c.peak_mb, c.stored_mb)
            for what, c in ((WAYS[way], costs[way]) for way in WAYS)
        ],
    )
    print(f"  the longer one: forward or disk alone; goal {GOAL}x, found {ratio:.2f}x", flush=True)
    show(
        "Reading from that cube (medians of 5, wall)",
        ["", "ms", "MB read"],
        [
            ("open it", 1e3 * matrix["open"], 0.0),
            ("one layer and head", 1e3 * matrix["matrix"], matrix["stored_mb"]),
            ("all heads of a layer", 1e3 * matrix["layer"], 16 * matrix["stored_mb"]),
        ],
    )
    keep("cubes", {"repeats": repeats, "goal": GOAL, "ratio": ratio, "costs": costs, "matrix": matrix})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))))
    else:
        show_machine()
        main(int(sys.argv[1]) if sys.argv[1:] else 3)
