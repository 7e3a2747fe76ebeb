"""How alike heads are: to each other, and to themselves on other windows; which form groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from laglens.errors import LaglensError
from laglens.heads.rows import Array, Mask, entropy, share_of_keys
from laglens.lags.alike import stack_dataset
from laglens.lags.pairs import PairTable

MOST_CLUSTERS = 6
PAIRWISE = {
    "cosine": "mean cosine of the maps of two heads",
    "js": "mean Jensen-Shannon divergence of their rows, of the most there can be",
    "euclidean": "mean Euclidean distance of their maps (pdist)",
}


def compare_heads(time_tree: xr.DataTree) -> xr.DataTree:
    """How alike the heads of a stack are, by query part; one node per attention stack.

    Rows are taken over the keys of a part, as in `laglens.heads.measure.measure_heads`. Values are means over windows,
    and those of rows over the rows of the part: they do not grow with the number of either.

    Parameters
    ----------
    time_tree
        Time maps (see `laglens.time.reduce.to_time`).

    Returns
    -------
    xr.DataTree
        Between all heads of the stack ``cosine``, ``js`` and ``euclidean (part, unit, other)``; a ``unit`` is one head
        of one layer, with the coordinates ``layer_of (unit)`` and ``head_of (unit)``.
        ``cluster (part, unit)`` counts from 1 on in the order of size; ``leaf (part, unit)`` is the place in the tree
        of the clusters; ``position (part, unit, axis)`` a map of the heads on which distances are about sqrt(js)
        (classical scaling). ``diversity_{measure} (part, layer)``: mean over the pairs of heads of a layer, 1 - cosine
        for the cosine. ``sample_cosine`` and ``sample_js (part, unit)``: the maps of one head on all windows.

    Raises
    ------
    LaglensError
        The tree holds no attention stack, or no query part has a pair.

    References
    ----------
    Clark et al. 2019 (arXiv 1906.04341), who sum the divergence over tokens; here it is averaged. Cosine: Li et al.
    2018 (arXiv 1810.10183).
    """
    if not time_tree.children:
        raise LaglensError("the time tree has no attention stack, so there are no heads to compare")
    history = time_tree.attrs["history"]
    nodes = {f"/{name}": _compare_stack(stack_dataset(time_tree, name), history) for name in time_tree.children}
    root = time_tree.to_dataset(inherit=False).drop_dims(["time", "step"], errors="ignore")
    return xr.DataTree.from_dict({"/": root, **nodes})


def js_divergence(first: Array, second: Array) -> Array:
    """Jensen-Shannon divergence of rows that sum to 1, over ln 2: (..., key), (..., key) -> (...), 0 to 1."""
    return (entropy((first + second) / 2) - (entropy(first) + entropy(second)) / 2) / np.log(2)


def pairwise(rows: Array) -> dict[str, Array]:
    """Compare the maps of all heads: (unit, query, key) -> (unit, other) each; rows that sum to 1."""
    n = len(rows)
    flat = rows.reshape(n, -1)
    products = flat @ flat.T
    square = np.diag(products)
    length = np.sqrt(square)
    own = entropy(rows)
    js = np.zeros((n, n))
    for i in range(n - 1):  # one head against all later ones: no (unit, other, query, key)
        middle = entropy((rows[i] + rows[i + 1 :]) / 2)
        js[i, i + 1 :] = np.maximum(middle - (own[i] + own[i + 1 :]) / 2, 0).mean(-1) / np.log(2)
    euclidean = np.sqrt(np.maximum(square[:, None] + square - 2 * products, 0))
    np.fill_diagonal(euclidean, 0)
    return {"cosine": products / np.outer(length, length), "js": js + js.T, "euclidean": euclidean}


def cluster_heads(js: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group heads by sqrt(js): (unit, other) -> cluster (unit,), from 1 on by size, and place in the tree (unit,).

    Average linkage; as many groups, up to 6, as give the largest mean silhouette (Rousseeuw 1987); fewer than 4 heads,
    or heads that are all alike, are one group.
    """
    n = len(js)
    distance = np.sqrt(np.maximum(js, 0))
    if n < 2:
        return np.ones(n, np.int64), np.arange(n)
    condensed = squareform(distance, checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
    leaf = np.argsort(leaves_list(tree))
    best, found = 0.0, np.ones(n, np.int64)
    for groups in range(2, min(MOST_CLUSTERS, n - 1) + 1 if n >= 4 else 2):
        labels = fcluster(tree, groups, "maxclust")
        score = silhouette(distance, labels)
        if score > best + 1e-9:
            best, found = score, labels
    sizes = np.bincount(found)
    order = sorted(np.unique(found), key=lambda label: (-sizes[label], int(np.flatnonzero(found == label)[0])))
    number = {label: i + 1 for i, label in enumerate(order)}
    return np.array([number[label] for label in found]), leaf


def silhouette(distance: Array, labels: NDArray[np.int64]) -> float:
    """Mean silhouette (Rousseeuw 1987) of groups, -1 to 1: (unit, other), (unit,) -> (); a group of one counts 0."""
    groups = np.unique(labels)
    if len(groups) < 2:
        return 0.0
    member = labels == groups[:, None]
    sizes = member.sum(1)
    sums = distance @ member.T  # (unit, group)
    own = np.searchsorted(groups, labels)
    at = np.arange(len(labels))
    within = sums[at, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[at, own] = np.inf
    nearest = means.min(1)
    widest = np.maximum(within, nearest)
    score = np.divide(nearest - within, widest, out=np.zeros_like(widest), where=(sizes[own] > 1) & (widest > 0))
    return float(score.mean())


def classical_scaling(distance: Array, axes: int = 2) -> Array:
    """Places whose distances come near `distance` (Torgerson 1952): (unit, other) -> (unit, axis).

    The sign of an axis is that in which its largest coordinate is positive.
    """
    n = len(distance)
    centring = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centring @ distance**2 @ centring)
    top = np.argsort(values)[::-1][:axes]
    places = np.zeros((n, axes))
    places[:, : len(top)] = vectors[:, top] * np.sqrt(np.maximum(values[top], 0))
    strongest = np.abs(places).argmax(0)
    return places * np.where(places[strongest, np.arange(axes)] < 0, -1.0, 1.0) + 0.0  # no minus zero


def _compare_stack(node: xr.Dataset, history: float) -> xr.Dataset:
    table = PairTable.of(node, history)
    n_layer, n_head = node.sizes["layer"], node.sizes["head"]
    columns: dict[str, list[NDArray[Any]]] = {}
    for counts in table.parts.values():
        compared: dict[str, NDArray[Any]] = _compare_part(
            node["attention"].transpose("sample", "layer", "head", "query", "key"), counts
        )
        cluster, leaf = cluster_heads(compared["js"])
        compared |= {"cluster": cluster, "leaf": leaf}
        compared["position"] = classical_scaling(np.sqrt(np.maximum(compared["js"], 0)))
        for name in PAIRWISE:
            apart = 1 - compared[name] if name == "cosine" else compared[name]
            compared[f"diversity_{name}"] = _within_layers(apart, n_layer, n_head)
        for name, values in compared.items():
            columns.setdefault(name, []).append(values)
    coords: dict[str, Any] = {
        "part": np.array(list(table.parts), dtype=object),
        "layer_of": ("unit", np.repeat(node["layer"].values, n_head)),
        "head_of": ("unit", np.tile(node["head"].values, n_layer)),
        "layer": node["layer"].values,
    }
    return xr.Dataset({name: (_dims(name), np.stack(values)) for name, values in columns.items()}, coords)


def _dims(name: str) -> tuple[str, ...]:
    if name in PAIRWISE:
        return ("part", "unit", "other")
    if name.startswith("diversity"):
        return ("part", "layer")
    return ("part", "unit", "axis") if name == "position" else ("part", "unit")


def _compare_part(attention: xr.DataArray, counts: Mask) -> dict[str, NDArray[Any]]:
    queries = counts.any(1)
    keys = counts.any(0)
    counted = counts[queries][:, keys]
    uniform = counted / counted.sum(1, keepdims=True)
    n = attention.sizes["sample"]
    totals: dict[str, Array | float] = dict.fromkeys(PAIRWISE, 0.0)
    mean, units, spread = np.zeros(1), np.zeros(1), np.zeros(1)
    for i in range(n):
        weights = attention.isel(sample=i).values[..., queries, :][..., keys].astype(np.float64)
        rows = share_of_keys(weights.reshape(-1, *counted.shape), counted)
        rows = np.where(np.isfinite(rows), rows, uniform)  # a row without mass has no preference
        for name, values in pairwise(rows).items():
            totals[name] = totals[name] + values / n
        flat = rows.reshape(len(rows), -1)
        mean, spread = mean + rows / n, spread + entropy(rows).mean(-1) / n
        units = units + flat / np.linalg.norm(flat, axis=1, keepdims=True)
    found: dict[str, NDArray[Any]] = {name: np.asarray(values) for name, values in totals.items()}
    if n == 1:
        nothing = np.full(len(found["js"]), np.nan)
        return found | {"sample_cosine": nothing, "sample_js": nothing}
    found["sample_cosine"] = ((units**2).sum(-1) - n) / (n * (n - 1))
    found["sample_js"] = np.maximum(entropy(mean).mean(-1) - spread, 0) / np.log(n)
    return found


def _within_layers(apart: Array, n_layer: int, n_head: int) -> Array:
    """Mean over the pairs of heads of each layer; NaN for a single head."""
    if n_head < 2:
        return np.full(n_layer, np.nan)
    above = np.triu_indices(n_head, 1)
    blocks = apart.reshape(n_layer, n_head, n_layer, n_head)
    return np.array([blocks[layer, :, layer, :][above].mean() for layer in range(n_layer)])
