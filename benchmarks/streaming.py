"""Attention reduced while the model runs: what it costs beside the fused kernel, in time, memory and rounding.

``python -m benchmarks.streaming``. One thread; times are CPU times, every ratio within one run, what is compared
takes turns. Memory is the peak of a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from benchmarks.measure import ROOT, Cost, alternately, keep, show, show_machine
from laglens.attention import streaming_products
from laglens.attention.capture import read_attention
from laglens.attention.streaming import Columns, StreamReader, rollout_start, stream_attention
from laglens.attention.weights import attention_weights

# ViTime (Yang et al. 2024): pictures of 32 x 77 tokens and CLS; width and number of its encoder and decoder layers.
ROWS, COLUMNS, HEADS = 32, 77, 16
SIZES = {"encoder": (1024, 12), "decoder": (512, 6)}
GOALS = {"maps": 1.20, "maps, entropy": 1.30}
MEMORY_GOAL = 60
FUSED, NAIVE, TORCH_ONLY = "fused kernel", "all weights, then maps and entropy", ", no oneDNN"
ROLLOUT = "maps, entropy, rollout"
STATISTICS: dict[str, tuple[str, ...]] = {
    "maps": (),
    "maps, entropy": ("entropy",),
    "maps, entropy, effective keys": ("entropy", "effective_keys"),
    "maps, entropy, effective keys, top key": ("entropy", "effective_keys", "top_key"),
}
Run = Callable[[], object]


def image(rows: int = ROWS, columns: int = COLUMNS) -> Columns:
    """A picture row by row, behind a CLS token."""
    tokens = np.concatenate([[-1], np.tile(np.arange(columns), rows)])
    return Columns(tokens, tokens)


def costs(repeats: int, runs: dict[str, Run]) -> dict[str, Cost]:
    """Median cost of each run, after one round to warm up."""

    def measured(run: Run) -> Callable[[], Cost]:
        def once() -> Cost:
            wall, cpu = perf_counter(), process_time()
            run()
            return Cost(perf_counter() - wall, process_time() - cpu)

        return once

    commands = {name: measured(run) for name, run in runs.items()}
    alternately(1, **commands)
    return alternately(repeats, **commands)


def with_torch_only(run: Run) -> Run:
    """The same with products by torch's default library, as where oneDNN is missing or no faster."""

    def slower() -> None:
        linear = streaming_products._linear
        streaming_products._linear = lambda: None  # type: ignore[assignment]
        try:
            run()
        finally:
            streaming_products._linear = linear

    return slower


def naive(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, maps and entropy by way of all weights."""
    weights = attention_weights(query, key)
    keys = weights[..., 1:].unflatten(-1, (ROWS, COLUMNS)).sum(-2)
    maps = keys[..., 1:, :].unflatten(-2, (ROWS, COLUMNS)).mean(-3)
    return weights @ value, maps, -torch.special.xlogy(weights, weights).sum(-1)


def layer(width: int, repeats: int, heads: int = 4) -> dict[str, Cost]:
    """Attention of one layer alone, some of its heads."""
    columns = image()
    query, key, value = torch.randn(1, columns.tokens[0], 3, heads, width).permute(2, 0, 3, 1, 4)

    def stream(*statistics: str, rollout: Tensor | None = None) -> Run:
        return lambda: stream_attention(query, key, value, columns, statistics=statistics, rollout=rollout)

    runs: dict[str, Run] = {FUSED: lambda: F.scaled_dot_product_attention(query, key, value)}
    runs |= {name: stream(*statistics) for name, statistics in STATISTICS.items()}
    runs[ROLLOUT] = stream("entropy", rollout=rollout_start(columns)[None])
    runs |= {name + TORCH_ONLY: with_torch_only(runs[name]) for name in GOALS}
    return costs(repeats, runs | {NAIVE: lambda: naive(query, key, value)})


def model_of(size: str) -> tuple[nn.Module, Tensor]:
    """One block of timm's vision transformer, and tokens for it."""
    width, _ = SIZES[size]
    return Block(width, HEADS, qkv_bias=True).eval(), torch.randn(1, ROWS * COLUMNS + 1, width)


def reading(model: nn.Module, tokens: Tensor, *statistics: str, rollout: bool = False) -> Run:
    """A forward pass that is read while it runs."""
    reader = StreamReader({"attn": image()}, statistics, rollout=rollout)
    return lambda: read_attention(model, tokens, certify=False, reader=reader)


def plain(model: nn.Module, tokens: Tensor) -> Run:
    """The forward pass itself."""
    return torch.no_grad()(lambda: model(tokens))


def block(size: str, repeats: int) -> dict[str, Cost]:
    """One block of a model of ViTime's size."""
    model, tokens = model_of(size)
    runs = {FUSED: plain(model, tokens)}
    runs |= {name: reading(model, tokens, *statistics) for name, statistics in STATISTICS.items()}
    runs[ROLLOUT] = reading(model, tokens, "entropy", rollout=True)
    runs |= {name + TORCH_ONLY: with_torch_only(runs[name]) for name in GOALS}
    return costs(repeats, runs)


def peak_mb(size: str, way: str) -> float:
    """Largest memory so far of a process that runs one block twice, in 10^6 bytes."""
    model, tokens = model_of(size)
    statistics = STATISTICS.get(way, ("entropy",))
    run = plain(model, tokens) if way == FUSED else reading(model, tokens, *statistics, rollout=way == ROLLOUT)
    for _ in range(2):
        run()
    # Not `ru_maxrss`, which begins with the size of the parent.
    status = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6


def memory(size: str) -> dict[str, float]:
    """Peak above that of the plain forward pass [10^6 bytes], each in a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    peaks = {}
    for way in (FUSED, *STATISTICS, ROLLOUT):
        command = [sys.executable, "-m", "benchmarks.streaming", "--peak", size, way]
        ran = subprocess.run(command, cwd=ROOT, env=os.environ | threads, capture_output=True, text=True, check=True)
        peaks[way] = float(ran.stdout)
    return {way: peak - peaks[FUSED] for way, peak in peaks.items()}


def errors(width: int, heads: int = 4) -> dict[str, float]:
    """Largest errors against float64, of heads from diffuse to peaked."""
    columns = image()
    query, key, value = torch.randn(3, heads, columns.tokens[0], width)
    query *= torch.linspace(0.5, 5, heads)[:, None, None]
    output, reduced = stream_attention(query, key, value, columns, statistics=("entropy", "effective_keys"))
    found: dict[str, float] = {}
    for head in range(heads):  # in float64 all heads at once take 200 MB each
        exact_output, maps, entropy = naive(*(tensor[head].double() for tensor in (query, key, value)))
        pairs = {
            "output": (output, exact_output),
            "maps": (reduced["attention"], maps),
            "entropy": (reduced["entropy"], entropy),
        }
        for name, (ours, exact) in pairs.items():
            found[name] = max(found.get(name, 0.0), (ours[head] - exact).abs().max().item())
    return found


def main(repeats: int = 5) -> None:
    """Measure and print four tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = {width: layer(width, repeats) for width in (64, 32)}
    blocks = {size: block(size, repeats) for size in SIZES}
    peaks, rounding = memory("encoder"), {width: errors(width) for width in (64, 32)}
    depth = {size: n for size, (_, n) in SIZES.items()}
    whole = {name: sum(blocks[size][name].cpu * depth[size] for size in SIZES) for name in blocks["encoder"]}
    tokens = ROWS * COLUMNS + 1
    show(
        f"Attention of one layer, {tokens} tokens: CPU time over that of the fused kernel (medians of {repeats})",
        ["", "width 64", "width 32"],
        [(name, *(f"{layers[w][name].cpu / layers[w][FUSED].cpu:.2f}x" for w in layers)) for name in layers[64]],
    )
    show(
        f"Forward pass of ViTime's size, 12 + 6 blocks of {HEADS} heads: CPU time over the plain one "
        f"(medians of {repeats}; goals: {', '.join(f'{name} {goal}x' for name, goal in GOALS.items())})",
        ["", "12 of width 1024", "6 of width 512", "whole", "whole s"],
        [
            (
                name,
                *(f"{blocks[size][name].cpu / blocks[size][FUSED].cpu:.2f}x" for size in SIZES),
                f"{seconds / whole[FUSED]:.2f}x",
                seconds,
            )
            for name, seconds in whole.items()
        ],
    )
    show(
        f"Peak memory of one block of width 1024 above its plain forward pass (goal: {MEMORY_GOAL} MB)",
        ["", "MB"],
        list(peaks.items()),
    )
    show(
        "Largest error against float64",
        ["", *rounding[64]],
        [(f"width {width}", *(f"{error:.0e}" for error in found.values())) for width, found in rounding.items()],
    )
    keep(
        "streaming",
        {"repeats": repeats, "layer": layers, "block": blocks, "whole": whole, "memory_mb": peaks, "errors": rounding},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        torch.set_num_threads(1)
        print(peak_mb(*sys.argv[2:4]))
    else:
        show_machine()
        main()
