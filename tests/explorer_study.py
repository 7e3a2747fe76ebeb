"""A study with known heads, and the explorer of it, for the tests in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from trees import control_tree, time_tree

from laglens.attention.coordinates import token_coordinates
from laglens.lags.measure import measure_lags
from laglens.models.tokens import TokenMap
from laglens.report.explorer import explorer_page
from laglens.report.run import Run, explorer_run
from laglens.store import read_tree, write_tree

HISTORY, HORIZON, STEP, LAG = 64, 32, 4, 24
TOKENS = (HISTORY + HORIZON) // STEP
SCALE = 0.25  # of q . k
HEADS = ("planted", "uniform", "first", "decay")
OPTIONS = {"history": HISTORY, "horizon": HORIZON, "step": STEP, "lag": LAG, "heads": HEADS, "noise": 0.3}
RUNS = (("plain", "wave"), ("plain", "other"), ("crossing", "wave"))
Files = dict[tuple[str, str], tuple[Path, Path]]  # time and lags artifact of (model, signal)


def study(folder: Path) -> Files:
    """Time and lags artifacts of every run, as the workflow leaves them."""
    files = {}
    for seed, (model, signal) in enumerate(RUNS):
        options = OPTIONS | {"stacks": {"encoder": (0, 1)}, "strength": 3.0 + seed}
        time, control = time_tree(samples=3, seed=seed, **options), control_tree(replicates=20, windows=3, **options)
        control.attrs["n_windows"] = 3
        if model == "crossing":
            time, control = with_cross(time), with_cross(control)
        paths = tuple(folder / f"{model}.{signal}.{stage}.zarr.zip" for stage in ("time", "lags"))
        write_tree(time, paths[0])
        write_tree(measure_lags(time, control), paths[1])
        files[model, signal] = paths
    return files


def with_cross(tree: xr.DataTree) -> xr.DataTree:
    """The tree with a cross stack: horizon queries that look at history keys."""
    node = tree["encoder"].to_dataset(inherit=False)
    border = HISTORY // STEP
    cross = node.isel(query=slice(border, None), key=slice(0, border)).drop_dims("token")
    cross = cross.assign(attention=cross["attention"] / cross["attention"].sum("key"))
    root = tree.to_dataset(inherit=False)
    return xr.DataTree.from_dict({"/": root, "/encoder": node, "/cross": cross})


def page_runs(files: Files) -> list[Run]:
    """What the page shows of the study, with verdicts and a knock-out for the first run."""
    runs = []
    for (model, signal), (time, lags) in files.items():
        tree = read_tree(time)
        options = {"verdicts": VERDICTS, "knock_out": knock_out(), "cuts": CUTS} if not runs else {}
        if model == "plain":
            options["vectors"] = vectors(tree, rows=1 if signal == "wave" else 2)
        runs.append(explorer_run(tree, read_tree(lags), model=model, signal=signal, **options))
    return runs


def vectors(tree: xr.DataTree, rows: int) -> xr.DataTree:
    """Queries and keys of two heads whose softmax is their map; with two rows the second row of tokens sees other keys.

    Queries and keys differ, and a score has as many dimensions as there are times, of which few matter.
    """
    node = tree["encoder"].to_dataset(inherit=False)
    heads, history = [(0, 0), (1, 3)], int(tree.attrs["history"])
    length = history + int(tree.attrs["horizon"])
    maps = [node["attention"].isel(sample=0, layer=layer, head=head).values for layer, head in heads]
    scores = np.log(np.stack(maps))
    left, size, right = np.linalg.svd(scores - scores.mean(-1, keepdims=True))
    half = np.sqrt(size / SCALE)[:, None]
    query, key = left * half, right.swapaxes(1, 2) * half
    tokens = TokenMap.grid(np.arange(0, length + 1, STEP), rows, history)
    if rows == 2:
        query, key = np.concatenate([query, 0.5 * query[:, ::-1]], 1), np.concatenate([key, key - 0.3], 1)
    coords = token_coordinates("query", tokens) | token_coordinates("key", tokens)
    coords |= {"layer": ("chosen", [layer for layer, _ in heads]), "head": ("chosen", [head for _, head in heads])}
    variables = {
        "query_vector": (("chosen", "query", "dimension"), query),
        "key_vector": (("chosen", "key", "dimension"), key),
        "scale": ("chosen", np.full(len(heads), SCALE)),
    }
    if rows == 2:  # the first key is hidden from all queries but its own
        hidden = np.where((np.arange(len(tokens)) == 0) & (np.arange(len(tokens)) != 0)[:, None], -np.inf, 0.25)
        variables["bias"] = (("chosen", "query", "key"), np.stack([hidden] * len(heads)))
    root = xr.Dataset(attrs={"window": 0, "left_out": {"encoder L00 H01": "the model writes its softmax out"}})
    return xr.DataTree.from_dict({"/": root, "/encoder": xr.Dataset(variables, coords)})


def write_page(files: Files, path: Path) -> Path:
    path.write_text(explorer_page(page_runs(files)), encoding="utf-8")
    return path


def write_large(path: Path, tokens: int) -> Path:
    """A page of one run whose maps have `tokens` times on each side."""
    options: dict[str, Any] = OPTIONS | {"history": 3 * tokens, "horizon": tokens, "stacks": {"encoder": (0, 1)}}
    time, control = time_tree(samples=1, **options), control_tree(replicates=20, windows=1, **options)
    control.attrs["n_windows"] = 1
    run = explorer_run(time, measure_lags(time, control), model="plain", signal="wave")
    path.write_text(explorer_page([run]), encoding="utf-8")
    return path


VERDICTS = pd.DataFrame(
    {
        "stack": "encoder",
        "layer": [0, 0],
        "head": [0, 1],
        "part": "horizon->history",
        "period": float(LAG),
        "tokens": LAG / STEP,
        "testable": "yes",
        "verdict": ["supported", "not supported"],
        "reason": [None, "noise with the same memory shows as much"],
        "contrast": [1.5, 0.01],
        "p_family": [0.05, 0.9],
        "period_of": "truth",
    }
)
CUTS = pd.DataFrame(
    {
        "period": [float(LAG)],
        "tokens": [LAG / STEP],
        "cut": ["comb"],
        "measure": ["error_change"],
        "effect": [0.25],
        "control": [0.01],
        "lower": [0.2],
        "upper": [0.3],
        "matters": ["yes"],
        "head": ["encoder L00 H00"],
    }
)


def knock_out() -> xr.DataTree:
    lag = np.arange(8.0, HISTORY + 1, STEP)
    change = np.where(lag == LAG, 0.5, 0.05) * np.array([[0.9], [1.0], [1.1]])
    curve = xr.Dataset({"forecast_change": (("sample", "lag"), change)}, coords={"lag": lag})
    return xr.DataTree.from_dict({"/curve": curve})
