"""Time commands, describe the machine, print and keep what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
PACKAGES = ("snakemake", "torch", "numpy", "xarray", "zarr", "matplotlib")


@dataclass(frozen=True)
class Cost:
    """What a command took, in seconds: on the clock, and on all cores together with its child processes."""

    wall: float
    cpu: float


def timed(command: Sequence[str], folder: Path) -> Cost:
    """Run a command in `folder` and time it; its output goes to a file beside it.

    Raises
    ------
    SystemExit
        The command failed; the message holds the end of its output.
    """
    with (folder / "output.txt").open("w+b") as output:
        start = perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall = perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # the process is gone; tell its handle
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read().decode(errors='replace')[-4000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def alternately(repeats: int, **commands: Callable[[], Cost]) -> dict[str, Cost]:
    """Median cost of each command; they take turns, so that a busy moment of the machine meets all of them."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            costs[name].append(command())
    return {name: Cost(median(c.wall for c in all_), median(c.cpu for c in all_)) for name, all_ in costs.items()}


def in_own_process(module: str, *arguments: str) -> Any:
    """What a module prints last, as JSON, in a process of its own with one thread.

    Raises
    ------
    subprocess.CalledProcessError
        It failed.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", module, *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | threads, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def peak_mb() -> float:
    """Largest memory that this process has had [10^6 bytes]; `ru_maxrss` would begin with the size of its parent."""
    status = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, load before the start, and versions."""
    cpu_lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    memory = Path("/proc/meminfo").read_text("utf-8").split(maxsplit=2)[1]
    return {
        "cpu": next((line.partition(":")[2].strip() for line in cpu_lines if line.startswith("model name")), "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory) / 2**20),
        "load": round(os.getloadavg()[0], 1),
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in PACKAGES},
    }


def show(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: text to the left, numbers to the right, seconds with two or three figures."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    print(f"\n{title}")
    for first, *others in cells:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  " + "  ".join([first.ljust(widths[0]), *numbers]))
    sys.stdout.flush()


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def keep(name: str, result: Mapping[str, Any]) -> None:
    """Write a result, with the machine it was measured on, to benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), **result}
    text = json.dumps(content, indent=2, default=asdict) + "\n"
    (RESULTS / f"{name}.json").write_text(text, "utf-8")


def show_machine() -> None:
    """Print what every figure below depends on."""
    facts = machine()
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB, load {facts['load']}")
    print(f"Python {facts['python']}, {packages}", flush=True)
