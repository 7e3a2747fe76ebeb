"""What a figure needs from the time and lags trees, or a message that names what is missing."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from laglens.errors import LaglensError
from laglens.figures.settings import nearest

HEADLINE = ("horizon->history", "readout->history", "history->history", "horizon->horizon", "history->horizon")
STACKS = ("encoder", "decoder", "cross")
AUTO_HEADS = 3
Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)
NULLS = {"ar1": "AR(1) series", "ar1 - ar1": "pairs of AR(1) series, one like A and one like B,"}


@dataclass(frozen=True)
class Head:
    """One head of one attention stack, by the labels of the trees."""

    node: str
    layer: int
    head: int

    @property
    def label(self) -> str:
        """Zero-padded name for people: ``encoder L00 H03``."""
        return f"{self.node} L{self.layer:02d} H{self.head:02d}"

    def of(self, labelled: Labelled) -> Labelled:
        """The part of an array or dataset with ``layer`` and ``head`` that belongs to the head."""
        return labelled.sel(layer=self.layer, head=self.head)


def stacks(tree: xr.DataTree, variable: str, what: str) -> dict[str, xr.Dataset]:
    """Nodes of a tree that hold `variable`, by name, in the order of `STACKS`.

    Raises
    ------
    LaglensError
        No node holds it.
    """
    names = sorted(tree.children, key=stack_order)
    nodes = {name: tree[name].to_dataset() for name in names if variable in tree[name].data_vars}
    if not nodes:
        found = ", ".join(tree.children) or "none"
        raise LaglensError(f"the {what} has no node with {variable!r} (nodes: {found}); is it the right file?")
    return nodes


def stack_order(name: str) -> int:
    """Place of a stack among others: that of `STACKS`, then those of other names."""
    return STACKS.index(name) if name in STACKS else len(STACKS)


def require(dataset: Container[Any], names: Iterable[str], what: str) -> None:
    """Raise a `LaglensError` naming the first of `names` that a dataset, tree or table lacks."""
    for name in names:
        if name not in dataset:
            raise LaglensError(f"the {what} has no {name!r}; compute that stage again before drawing")


def headline_part(nodes: dict[str, xr.Dataset], part: str = "auto") -> str:
    """The query part to draw: the one asked for, else the first of `HEADLINE` that a node has.

    Raises
    ------
    LaglensError
        The part asked for is in no node.
    """
    return headline_of((name for node in nodes.values() for name in node["part"].values), part)


def headline_of(parts: Iterable[object], part: str = "auto") -> str:
    """As `headline_part`, of the names of parts alone."""
    found = {str(name) for name in parts}
    if part == "auto":
        return next(name for name in (*HEADLINE, *sorted(found)) if name in found)
    if part not in found:
        raise LaglensError(f"figures.part {part!r} is not in the lags; there are {', '.join(sorted(found))}")
    return part


def with_part(nodes: dict[str, xr.Dataset], part: str, variable: str = "ratio") -> dict[str, xr.Dataset]:
    """The nodes that have `part`, reduced to it and to the lags at which it has `variable`."""
    chosen = {name: node.sel(part=part) for name, node in nodes.items() if part in node["part"].values}
    return {name: node.isel(lag=_has_lag(node[variable])) for name, node in chosen.items()}


def _has_lag(values: xr.DataArray) -> np.ndarray:
    return np.asarray(values.notnull().any([dim for dim in values.dims if dim != "lag"]).values)


def excess(lags: xr.Dataset) -> xr.DataArray:
    """Ratio divided by its simultaneous limit, ``(layer, head, lag)``; above 1 = evidence. Lag 0 is left out."""
    require(lags, ("limit",), "lags tree")
    return (lags["ratio"] / lags["limit"]).where(lags["lag"] != 0).transpose("layer", "head", "lag")


def beyond_limit(lags: xr.Dataset) -> xr.DataArray:
    """How far the ratio lies above its limit, ``(..., lag)``, in shares of uniform attention. Lag 0 is left out.

    Unlike `excess` it is no division: where a head never looks its limit is near 0, and a weight of next to nothing is
    many times that.
    """
    require(lags, ("limit",), "lags tree")
    return (lags["ratio"] - lags["limit"]).where(lags["lag"] != 0).transpose(..., "lag")


def null_sentence(attrs: Mapping[str, Any]) -> str:
    """What profiles were measured against, such as ``99 AR(1) series through the same model, 16 windows each``."""
    require_attrs(attrs)
    windows = f", {attrs['n_windows']} windows each" if attrs["n_windows"] > 1 else ""
    return (
        f"{attrs['n_controls']} {NULLS.get(attrs['null'], attrs['null'] + ' series')} through the same model{windows}"
    )


def require_attrs(attrs: Mapping[str, Any]) -> None:
    """Raise a `LaglensError` where a node of a lags tree does not say what it was measured against."""
    for name in ("n_controls", "null", "n_windows", "confidence"):
        if name not in attrs:
            raise LaglensError(f"the lags tree does not say its {name!r}; compute the lags stage again before drawing")


def all_heads(nodes: Mapping[str, Labelled]) -> list[Head]:
    """Every head of the nodes, sorted by node, layer, head."""
    return [
        Head(name, int(layer), int(head))
        for name, node in nodes.items()
        for layer in node["layer"].values
        for head in node["head"].values
    ]


def choose_heads(
    beyond: Mapping[str, xr.DataArray], wanted: str | Sequence[str] = "auto", most: int = AUTO_HEADS
) -> list[Head]:
    """Heads to draw: those named that exist, or those that go furthest beyond their limit.

    Parameters
    ----------
    beyond
        Of each node, ``(layer, head, lag)``: how far a lag lies beyond the limit.
    wanted
        ``"auto"`` or labels.
    most
        Heads drawn where they are not named.

    Raises
    ------
    LaglensError
        None of the named heads exists; the message gives the nearest to the first.
    """
    heads = all_heads(beyond)
    if wanted != "auto":
        by_label = {head.label: head for head in heads}
        return [by_label[label] for label in wanted if label in by_label] or [_find(wanted[0], heads)]
    furthest = [values.transpose("layer", "head", "lag").fillna(-np.inf).max("lag") for values in beyond.values()]
    order = np.argsort(-np.concatenate([values.values.ravel() for values in furthest]), kind="stable")
    return [heads[index] for index in order[:most]]


def _find(label: str, heads: list[Head]) -> Head:
    by_label = {head.label: head for head in heads}
    if label in by_label:
        return by_label[label]
    raise LaglensError(
        f"figures.heads: no head {label!r} among {len(heads)}; the nearest is {nearest(label, by_label)!r}"
    )


def strongest_lags(beyond: xr.DataArray) -> np.ndarray:
    """The lag furthest beyond the limit, None where all are within: ``(..., lag) -> (...)`` in samples."""
    values = beyond.transpose(..., "lag").fillna(-np.inf).values
    found = np.array(beyond["lag"].values[values.argmax(-1)], dtype=object)
    found[values.max(-1) <= 0] = None
    return found


def attention_map(node: xr.Dataset, window: int) -> xr.DataArray:
    """Maps of one window, ``(layer, head, query, key)``.

    Raises
    ------
    LaglensError
        The tree has fewer windows.
    """
    attention = node["attention"]
    if window >= attention.sizes["sample"]:
        count = attention.sizes["sample"]
        raise LaglensError(f"figures.window is {window}, but there are {count} windows (0 to {count - 1})")
    return attention.isel(sample=window).transpose("layer", "head", "query", "key")


def weight_label(tree: xr.DataTree) -> str:
    """What 100 times a weight of the tree is."""
    norms = {node.attrs.get("normalisation", "mass") for node in tree.children.values()}
    return "attention, % of the query" if norms == {"mass"} else "mean weight per token pair, %"


def token_edges(weights: xr.DataArray, axis: str) -> np.ndarray:
    """Borders between the tokens of one axis of a map, in samples; a token alone has those of what it stands for."""
    centres = weights[f"{axis}_time"].values
    if centres.size > 1:
        return edges(centres)
    return np.array([weights[f"{axis}_start"].item(), weights[f"{axis}_end"].item()]) - 0.5


def edges(centres: np.ndarray) -> np.ndarray:
    """Borders between neighbouring times, in samples: ``(n,) -> (n + 1,)``."""
    centres = np.asarray(centres, dtype=float)
    if centres.size == 1:
        return centres + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
