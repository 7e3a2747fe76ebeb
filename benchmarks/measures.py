"""All measures of one window of ViTime's size at the level of time, against the capture that made its maps.

python -m benchmarks.measures
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import xarray as xr

from benchmarks.measure import Cost, keep, show, show_machine
from laglens.attention.cube import attention_tree
from laglens.flow.lags import flow_lags, flow_table, rollout_lags
from laglens.flow.maximum import attention_flow
from laglens.flow.rollout import roll_out
from laglens.heads.alignment import align_heads, alignment_table
from laglens.heads.layers import layers_table, similarity_table
from laglens.heads.measure import measure_heads
from laglens.heads.similarity import compare_heads
from laglens.heads.table import heads_table
from laglens.lags.alike import stack_dataset
from laglens.lags.pairs import PairTable
from laglens.lags.profiles import lag_profile, lag_ratio
from laglens.models.forecaster import Forecaster
from laglens.models.registry import build_model
from laglens.signals.windows import windows
from laglens.time.reduce import to_time

GOAL = 2.0  # times the capture
SHARPER = 3.0  # times the queries: attention of random weights is near uniform, and nothing of it is zero


def vitime(**options: Any) -> Forecaster:
    """ViTime as published, with random weights: 12 + 6 layers of 16 heads over 2465 tokens."""
    model = build_model("vitime", {"history": 512, "horizon": 720} | options)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("attn.qkv.weight"):
                weight[: len(weight) // 3] *= SHARPER
    return model


def timed(run: Callable[[], Any]) -> tuple[Any, Cost]:
    """What a function returns, and what it took."""
    wall, cpu = perf_counter(), process_time()
    result = run()
    return result, Cost(perf_counter() - wall, process_time() - cpu)


def parts_of(tree: xr.DataTree) -> Iterator[tuple[xr.Dataset, str]]:
    """Every stack with each of its query parts."""
    for name in tree.children:
        node = stack_dataset(tree, name)
        yield from ((node, part) for part in PairTable.of(node, tree.attrs["history"]).parts)


def main(**options: Any) -> None:
    """Measure and print a table; `options` change the size of the model."""
    torch.set_num_threads(1)
    model = vitime(**options)
    time = np.arange(model.history + model.horizon)
    wave = np.sin(2 * np.pi * time / 64) + 0.2 * np.random.default_rng(0).normal(size=len(time))
    shown = windows(xr.DataArray(wave[None], dims=("sample", "time")), model.history, model.horizon, 1)
    attrs = {"signal": {"truth": {"periods": [64]}}}
    tree, capture = timed(lambda: to_time(attention_tree(model, shown, store="time", attrs=attrs)))
    costs: dict[str, Cost] = {}

    def measured(name: str, run: Callable[[], Any]) -> Any:
        result, costs[name] = timed(run)
        return result

    heads = measured("heads: rows, stripes", lambda: measure_heads(tree))
    measured("heads: table", lambda: heads_table(heads))
    alike = measured("heads against heads", lambda: compare_heads(tree))
    measured("heads against heads: tables", lambda: (similarity_table(alike), layers_table(heads, alike)))
    aligned = measured("what each forecast step reads", lambda: align_heads(tree))
    measured("what each forecast step reads: table", lambda: alignment_table(aligned))
    measured(
        "lag profiles, ratios",
        lambda: [f(*p, history=model.history) for f in (lag_profile, lag_ratio) for p in parts_of(tree)],
    )
    rollout = measured("rollout", lambda: roll_out(tree))
    flow = measured("maximum flow, widest paths, all pairs", lambda: attention_flow(tree, queries="all"))
    measured("flow: lags, table", lambda: flow_table(rollout_lags(rollout).assign(flow_lags(flow).data_vars)))
    total = sum(cost.cpu for cost in costs.values())
    layers = " + ".join(f"{node.sizes['layer']} x {node.sizes['head']}" for node in tree.children.values())
    show(
        f"One window of ViTime's size, {len(model.stacks[0].query)} tokens; {layers} maps of "
        f"{tree['encoder'].sizes['query']} times, one thread (goal: all measures {GOAL:g} times the capture)",
        ["", "CPU s", "of the capture"],
        [
            ("streaming capture", capture.cpu, "1.00x"),
            *((name, cost.cpu, f"{cost.cpu / capture.cpu:.3f}x") for name, cost in costs.items()),
            ("all measures", total, f"{total / capture.cpu:.2f}x"),
        ],
    )
    keep("measures", {"capture": capture, "measures": costs, "ratio": total / capture.cpu})


if __name__ == "__main__":
    show_machine()
    main()
