"""Head similarity: how far apart the maps of all heads are, in the order of their clusters."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from scipy.cluster.hierarchy import dendrogram, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from laglens.figures.heatmap import draw_colour_bar
from laglens.figures.reading import Head, headline_part, stacks
from laglens.figures.rows import NAMED, fit_names
from laglens.figures.style import (
    LABEL,
    MUTED,
    SMALL,
    WIDTH,
    look,
    page,
    place,
    write,
)

TOP, GAP, LARGEST, THICKEST = 0.8, 0.5, 4.2, 0.17  # inches: first panel, between panels, a matrix, a row of it
TREE, STRIP = 1.0, 0.12  # inches of the tree and of the strip of layers
LAYERS = "cividis"


def draw_similarity(similarity: xr.DataTree, *, part: str = "auto", title: str = "", subtitle: str = "") -> Figure:
    """Jensen-Shannon divergence of every two heads of a stack, rows and columns in the order of the clusters.

    Parameters
    ----------
    similarity
        From `laglens.heads.similarity.compare_heads`: nodes with ``js (part, unit, other)``, 0 to 1, and the labels
        ``layer_of`` and ``head_of (unit)``.
    part
        Query part; ``auto``: the headline.
    title, subtitle
        What was compared: signal and model.

    Raises
    ------
    LaglensError
        The tree has no divergences, or not of this part.
    """
    nodes = stacks(similarity, "js", "similarity tree")
    part = headline_part(nodes, part)
    shown = {name: node.sel(part=part) for name, node in nodes.items() if part in node["part"].values}
    note = _note(part)
    with look():
        sizes = {name: min(LARGEST, THICKEST * node.sizes["unit"]) for name, node in shown.items()}
        bottom = TOP + sum(sizes.values()) + GAP * len(sizes)
        figure = page(bottom - 0.1, note, title, subtitle, room=5.0)
        norm = Normalize(0, max(float(node["js"].max()) for node in shown.values()) or 1.0)
        draw_colour_bar(figure, norm, WIDTH - 1.72, 0.28, 1.5, "Jensen-Shannon divergence", cut=False)
        top = TOP
        for name, node in shown.items():
            _draw_stack(figure, top, sizes[name], name, node, norm)
            top += sizes[name] + GAP
    return figure


def cluster_order(js: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average linkage of heads by sqrt(js), a distance, and its order of leaves: (unit, other) -> links, order.

    Leaves are ordered so that neighbours are as alike as the tree allows (Bar-Joseph et al. 2001).
    """
    distance = np.sqrt(np.maximum((js + js.T) / 2, 0))
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance, checks=False)
    links = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
    return links, np.array(dendrogram(links, no_plot=True)["leaves"])


def _draw_stack(figure: Figure, top: float, size: float, name: str, node: xr.Dataset, norm: Normalize) -> None:
    js = node["js"].transpose("unit", "other").values
    heads = [Head(name, int(i), int(j)) for i, j in zip(node["layer_of"].values, node["head_of"].values, strict=True)]
    write(figure, 0.2, top - 0.1, name, fontsize=LABEL + 0.5, fontweight="bold")
    left = 0.2 + TREE + 0.05
    order = np.arange(len(heads))
    if len(heads) > 1:
        links, order = cluster_order(js)
        _draw_tree(place(figure, 0.2, top, TREE, size, label=f"tree {name}"), links)
    layers = np.array([heads[i].layer for i in order])
    strip = place(figure, left, top, STRIP, size, label=f"layers {name}")
    strip.imshow(layers[:, None], cmap=_layer_colours(layers), aspect="auto", origin="upper", interpolation="nearest")
    strip.set_axis_off()
    matrix = place(figure, left + STRIP + 0.04, top, size, size, label=f"similarity {name}")
    matrix.imshow(js[np.ix_(order, order)], norm=norm, cmap="magma", aspect="auto", origin="upper")
    _name_heads(matrix, [heads[i] for i in order], size / len(heads))


def _layer_colours(layers: np.ndarray) -> ListedColormap:
    return ListedColormap(matplotlib.colormaps[LAYERS](np.linspace(0, 1, int(layers.max()) + 1)), name="layers")


def _draw_tree(axes: Axes, links: np.ndarray) -> None:
    """The tree of the clusters, leaves at the rows of the matrix, its root on the left."""
    drawn = dendrogram(links, no_plot=True)
    segments = [
        list(zip(depth, (np.asarray(at) - 5) / 10, strict=True))
        for at, depth in zip(drawn["icoord"], drawn["dcoord"], strict=True)
    ]
    axes.add_collection(LineCollection(segments, colors=MUTED, linewidths=0.7), autolim=False)
    deepest = float(links[:, 2].max()) or 1.0
    axes.set_xlim(1.03 * deepest, 0)
    axes.set_ylim(len(links) + 0.5, -0.5)
    axes.set_axis_off()


def _name_heads(axes: Axes, heads: Sequence[Head], row: float) -> None:
    axes.xaxis.set_major_locator(NullLocator())
    axes.yaxis.tick_right()
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    if row < NAMED:
        axes.yaxis.set_major_locator(NullLocator())
        return
    names, size = fit_names([head.label.split(" ", 1)[1] for head in heads])
    axes.yaxis.set_major_locator(FixedLocator(list(range(len(heads)))))
    axes.set_yticklabels(names, fontsize=min(size, SMALL))


def _note(part: str) -> str:
    return (
        f"{part.replace('->', ' to ')}. Jensen-Shannon divergence between the rows of two heads, mean over rows and "
        "windows, over the most there can be: 0 (dark) is the same map. Rows and columns stand in the order of the "
        "tree (average linkage of the square root, neighbours as alike as it allows). Strip: the layer, dark to bright "
        "from the first to the last. Alike is no evidence of what a head does; heads that only know position are alike "
        "on any input."
    )
