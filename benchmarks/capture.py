"""What reading attention costs: laglens and other tools, each against the plain forward pass of the same model.

Every method runs in a process of its own, so that its peak memory is its own: plain passes first, then plain and
reading in turns. ``python -m benchmarks.capture [TOKENS]`` measures one size.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from time import process_time
from typing import Any

import torch

from benchmarks.measure import in_own_process, keep, peak_mb, show, show_machine
from benchmarks.peers import METHODS, SIZES

REPEATS = {"197": 9, "2465": 3}
OF_OTHERS = ("timm", "transformers", "nnsight", "transformer-lens")


@dataclass(frozen=True)
class Cost:
    """CPU seconds (medians) of the plain forward and of reading, memory above the plain forward, and what was read."""

    plain: float
    read: float
    peak_mb: float
    kept_mb: float
    layers: int

    @property
    def ratio(self) -> float:
        """Reading over plain forward."""
        return self.read / self.plain


def measure(method: str, size: str) -> Cost:
    """Measure one method in this process."""
    torch.set_num_threads(1)
    with torch.no_grad():
        way = METHODS[method](SIZES[size])
        for _ in range(2):
            way.plain()
        before = peak_mb()
        maps = way.read()
        above, kept = peak_mb() - before, sum(m.numel() * m.element_size() for m in maps) / 1e6
        n_layers = len(maps)
        del maps
        plain, read = [], []
        for _ in range(REPEATS[size]):
            plain.append(seconds(way.plain))
            read.append(seconds(way.read))
    return Cost(median(plain), median(read), above, kept, n_layers)


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of all threads, without letting go of what the call returns."""
    start = process_time()
    result = call()
    taken = process_time() - start
    del result
    return taken


def cost(method: str, size: str) -> Cost | str:
    """Cost of a method in a process of its own, or why it was not measured."""
    try:
        return Cost(**in_own_process("benchmarks.capture", "--one", method, size))
    except subprocess.CalledProcessError as error:
        return (error.stderr.strip().splitlines() or [str(error)])[-1]


def versions() -> dict[str, str]:
    """Versions of the tools that are compared."""
    found: dict[str, str] = {}
    for name in OF_OTHERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main(sizes: tuple[str, ...] = tuple(SIZES)) -> None:
    """Measure every method at every size; methods whose package is missing are named."""
    results: dict[str, dict[str, Any]] = {}
    for size in sizes:
        costs = {method: cost(method, size) for method in METHODS}
        results[size] = {m: c if isinstance(c, str) else asdict(c) | {"ratio": c.ratio} for m, c in costs.items()}
        spec = SIZES[size]
        done = {method: found for method, found in costs.items() if isinstance(found, Cost)}
        show(
            f"Reading attention: {size} tokens, {spec.depth} layers, {spec.heads} heads, width {spec.width}; "
            f"CPU, one thread (medians of {REPEATS[size]})",
            ["", "plain s", "reading s", "ratio", "peak MB above", "kept MB", "layers read"],
            [
                (m, c.plain, c.read, f"{c.ratio:.2f}x", c.peak_mb, c.kept_mb, f"{c.layers} of {spec.depth}")
                for m, c in done.items()
            ],
        )
        for method, found in costs.items():
            if isinstance(found, str):
                print(f"  skipped: {method}: {found}")
    print("  " + ", ".join(f"{name} {number}" for name, number in versions().items()), flush=True)
    keep("capture", {"repeats": REPEATS, "versions": versions(), "sizes": results})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(asdict(measure(*sys.argv[2:4]))))
    else:
        show_machine()
        main(tuple(sys.argv[1:]) or tuple(SIZES))
