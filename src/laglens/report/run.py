"""What the page shows of one run: one model on one signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.attention.coordinates import columns_of
from laglens.errors import LaglensError
from laglens.figures.reading import attention_map, edges, headline_part, null_sentence, require, stacks
from laglens.figures.times import TimeUnit, window_dates
from laglens.figures.truth import rhythms
from laglens.report.packing import Code, Pack
from laglens.report.pooling import pool, pool_edges, pooling

PROFILE = ("ratio", "lower", "upper", "limit", "control_mean")
VERDICT = (
    "stack", "layer", "head", "part", "period", "tokens", "testable", "verdict", "reason", "contrast", "control_mean",
    "p_family", "p_swap", "untrained", "period_of",
)  # fmt: skip
MEASURES = ("stack", "layer", "head", "part", "relative_entropy", "effective_keys", "gini", "distance", "locality")
CUT = (
    "period", "tokens", "cut", "measure", "effect", "control", "share", "lower", "upper", "win", "matters", "head",
    "head_effect", "n",
)  # fmt: skip
LARGE = ("query", "key", "bias")  # of the vectors
SPREAD = (10, 90)  # percentiles over windows of the causal lag curve


@dataclass
class Axis:
    """Tokens of one axis of a map."""

    edges: NDArray[Any]
    start: NDArray[Any]
    end: NDArray[Any]
    part: NDArray[Any]

    @classmethod
    def of(cls, node: xr.Dataset, name: str) -> Axis:
        """Axis `name`, ``query`` or ``key``, of a node of a time tree."""
        start, end, part = (node[f"{name}_{what}"].values for what in ("start", "end", "part"))
        centres = node[f"{name}_time"].values
        borders = edges(centres) if centres.size > 1 else np.array([start[0], end[0]]) - 0.5
        return cls(np.asarray(borders, float), start, end, part)

    def pooled(self, block: int) -> Axis:
        """Blocks of tokens as one; a block that holds two parts has that of its first token."""
        at = np.arange(0, len(self.start), block)
        last = np.minimum(at + block, len(self.start)) - 1
        return Axis(pool_edges(self.edges, block), self.start[at], self.end[last], self.part[at])


@dataclass
class StackMaps:
    """Maps of one attention stack in one window: ``maps (layer, head, query, key)``."""

    maps: NDArray[np.float32]
    query: Axis
    key: Axis


@dataclass
class Run:
    """One run, ready to be packed into a page.

    Attributes
    ----------
    about
        What is no array, JSON-native.
    numbers
        Arrays by name, kept as float32.
    stacks
        Maps by attention stack.
    vectors
        Query and key vectors of some heads, by stack and name.
    """

    about: dict[str, Any]
    numbers: dict[str, NDArray[Any]] = field(default_factory=dict)
    stacks: dict[str, StackMaps] = field(default_factory=dict)
    vectors: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    def packed(self, code: Code, most: int, *, vectors: bool = True) -> tuple[dict[str, Any], str]:
        """What the page needs to know, and the text of the arrays.

        Parameters
        ----------
        code
            Of the maps.
        most
            Tokens on one axis of a map; larger maps are pooled.
        vectors
            Whether queries and keys are packed.
        """
        pack, pooled = Pack(), {}
        dropped = {"vectors": None, "too_large": True} if self.vectors and not vectors else {}
        for name, values in self.numbers.items():
            pack.add(name, values)
        for name, stack in self.stacks.items():
            blocks = [pooling(size, most) for size in stack.maps.shape[-2:]]
            pooled[name] = blocks
            pack.add(f"{name}/attention", pool(stack.maps, *blocks), code)
            for axis, tokens, block in (("query", stack.query, blocks[0]), ("key", stack.key, blocks[1])):
                for what, values in vars(tokens.pooled(block)).items():
                    pack.add(f"{name}/{axis}_{what}", values)
        for name, arrays in self.vectors.items() if vectors else ():
            for what, values in arrays.items():
                pack.add(f"{name}/vectors/{what}", values, "float16" if what in LARGE else "float32")
        return self.about | dropped | {"arrays": pack.index, "code": code, "pooled": pooled}, pack.text()


def explorer_run(
    time_tree: xr.DataTree,
    lags_tree: xr.DataTree,
    *,
    model: str,
    signal: str,
    window: int = 0,
    verdicts: pd.DataFrame | None = None,
    heads: pd.DataFrame | None = None,
    knock_out: xr.DataTree | None = None,
    cuts: pd.DataFrame | None = None,
    vectors: xr.DataTree | None = None,
) -> Run:
    """Collect what the page shows of one model on one signal.

    Parameters
    ----------
    time_tree, lags_tree
        Maps in time, ``attention (sample, layer, head, query, key)``, and lag profiles, ``ratio (part, layer, head,
        lag)``. Lazy trees are read no further than one window.
    model, signal
        Their names.
    window
        The window whose maps are shown.
    verdicts, heads, cuts
        Tables of the stages `lags`, `heads` and `attribution` (knock-out), where there are any.
    knock_out
        Effects of cuts with the node ``curve``.
    vectors
        Query and key vectors of some heads in this window (`laglens.heads.vectors.head_vectors`).

    Raises
    ------
    LaglensError
        A tree lacks something, or has fewer windows.
    """
    require(time_tree, ("series", "forecast"), "time tree")
    maps, profiles = stacks(time_tree, "attention", "time tree"), stacks(lags_tree, "ratio", "lags tree")
    series, count = time_tree.attrs.get("signal", {}), time_tree.sizes["sample"]
    if window >= count:
        raise LaglensError(f"report.window is {window}, but {model} saw {count} windows of {signal} (0 to {count - 1})")
    root = time_tree.to_dataset().isel(sample=window)
    unit, headline = TimeUnit.of(series), headline_part(profiles)
    first = next(iter(profiles.values()))
    known = rhythms(first.attrs.get("periods", ()), [series.get("truth", {})], headline)
    run = Run(
        {
            "model": model,
            "signal": signal,
            "time": {"step": unit.step, "name": unit.name},
            "unit": str(series.get("unit") or ""),
            "history": int(time_tree.attrs["history"]),
            "window": window,
            "windows": count,
            "headline": headline,
            "known": [vars(rhythm) | {"notes": list(rhythm.notes)} for rhythm in known],
            "stacks": [],
            "verdicts": columns(verdicts, VERDICT),
            "measures": columns(heads, MEASURES),
            "cuts": columns(cuts, CUT),
        }
    )
    run.numbers |= {name: root[name].values for name in ("series", "forecast", "step")}
    dates = window_dates(time_tree, window)
    run.about["dates"] = None if dates is None else dates.astype("datetime64[s]").astype("int64").tolist()
    for name, node in maps.items():
        _add_stack(run, name, node, profiles.get(name), window)
    _add_curve(run, knock_out)
    _add_vectors(run, vectors)
    return run


def _add_stack(run: Run, name: str, node: xr.Dataset, lags: xr.Dataset | None, window: int) -> None:
    weights = attention_map(node, window).values.astype(np.float32)
    run.stacks[name] = StackMaps(weights, Axis.of(node, "query"), Axis.of(node, "key"))
    about = {
        "name": name,
        "layers": node["layer"].values.tolist(),
        "heads": node["head"].values.tolist(),
        "token": float(node.attrs.get("samples_per_token", 1)),
        "normalisation": str(node.attrs.get("normalisation", "mass")),
        "causal": bool(node.attrs.get("causal", False)),
        "parts": [],
        "null": "",
    }
    if lags is not None:
        about |= {"null": null_sentence(lags.attrs), "confidence": float(lags.attrs["confidence"])}
        about["parts"] = [part for part in lags["part"].values.tolist() if _add_profiles(run, name, lags, part)]
    run.about["stacks"].append(about)


def _add_profiles(run: Run, name: str, lags: xr.Dataset, part: str) -> bool:
    """Profiles of one part at the lags that it has; False where it has none."""
    found = lags.sel(part=part)
    found = found.isel(lag=np.asarray(found["ratio"].notnull().any(["layer", "head"])))
    bounds = {bound: found["band"].sel(bound=bound) for bound in ("lower", "upper")}
    for what in PROFILE:
        values = bounds.get(what, found.get(what))
        run.numbers[f"{name}/{part}/{what}"] = values.transpose("layer", "head", "lag").values
    run.numbers[f"{name}/{part}/lag"] = found["lag"].values
    return found.sizes["lag"] > 0


def _add_curve(run: Run, knock_out: xr.DataTree | None) -> None:
    if knock_out is None or "curve" not in knock_out.children:
        return
    change = knock_out["curve"].to_dataset()["forecast_change"].transpose("sample", "lag")
    low, high = np.nanpercentile(change.values, SPREAD, axis=0)
    run.numbers |= {"curve/lag": change["lag"].values, "curve/mean": change.mean("sample").values}
    run.numbers |= {"curve/low": low, "curve/high": high}


def _add_vectors(run: Run, tree: xr.DataTree | None) -> None:
    if tree is None:
        run.about["vectors"] = None
        return
    if tree.attrs["window"] != run.about["window"]:
        raise LaglensError(f"the vectors are of window {tree.attrs['window']}, the maps of {run.about['window']}")
    found = {}
    for name, node in tree.children.items():
        one = node.to_dataset(inherit=False)
        arrays = {"query": one["query_vector"].values, "key": one["key_vector"].values, "scale": one["scale"].values}
        if "bias" in one:
            arrays["bias"] = one["bias"].values
        for axis in ("query", "key"):
            arrays |= {f"{axis}_column": columns_of(one.coords, axis), f"{axis}_row": one[f"{axis}_row"].values}
        heads = zip(one["layer"].values.tolist(), one["head"].values.tolist(), strict=True)
        found[name] = {"heads": [{"layer": layer, "head": head} for layer, head in heads], "biased": "bias" in one}
        run.vectors[name] = arrays
    run.about["vectors"] = {"left_out": tree.attrs["left_out"], "stacks": found}


def columns(table: pd.DataFrame | None, names: Sequence[str]) -> dict[str, list[Any]] | None:
    """Columns of a table as JSON-native lists, NaN as None; those it lacks are left out."""
    if table is None:
        return None
    plain: Mapping[str, pd.Series] = {name: table[name] for name in names if name in table}
    return {name: [None if pd.isna(value) else value for value in values.tolist()] for name, values in plain.items()}
