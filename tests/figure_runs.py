"""Runs and comparisons with known heads, and what to look at in their figures, for the tests of the figures."""

import io

import numpy as np
import xarray as xr
from PIL import Image
from trees import control_tree, time_tree

from laglens.figures.style import render
from laglens.lags.comparison import compare_lags
from laglens.lags.measure import measure_lags

SMALL = {"history": 64, "horizon": 32, "step": 4, "lag": 24, "stacks": {"encoder": (0, 1)}, "noise": 0.3}
LONG = "a_signal_with_a_name_that_no_figure_has_room_for-2024-substation_17-hourly_load_of_the_northern_grid"
CARD = {"parameters": 1234, "trained_on": "a mixture", "held_out_errors": {"model": 0.2, "last_value": 0.9}}


def pair(samples=3, replicates=20, unit=None, **options):
    """Time tree and lags tree of the same run."""
    options = SMALL | options
    time = time_tree(samples=samples, **options)
    options.pop("periods", None)
    control = control_tree(replicates=replicates, windows=samples, **options)
    control.attrs["n_windows"] = samples
    lags = measure_lags(time, control)
    for tree in (time, lags):
        tree.attrs["signal"] |= {"time_unit": unit} if unit else {}
    return time, lags


def example_run():
    """Time and lags tree of a run in hours whose heads attend to 24, with a coarse and an aliased period."""
    return pair(unit="hours", periods=[24, 12, 5])


def example_comparison():
    """Comparison and time trees of two signals with different planted lags."""
    time_a, time_b = (time_tree(samples=3, seed=seed, **SMALL | {"lag": lag}) for seed, lag in ((0, 24), (5, 40)))
    controls = [control_tree(replicates=20, windows=3, seed=seed, **SMALL) for seed in (1, 2)]
    for control in controls:
        control.attrs["n_windows"] = 3
    compared = compare_lags(time_a, controls[0], time_b, controls[1], names=("with", "without"))
    return compared, time_a, time_b


def axes_named(figure, start):
    return [axes for axes in figure.axes if axes.get_label().startswith(start)]


def lines(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid]


def pixels(figure, dpi=100):
    """Brightness ``(row, column)``, first row at the bottom as in the figure."""
    image = Image.open(io.BytesIO(render(figure, "png", dpi))).convert("L")
    return np.asarray(image, dtype=float)[::-1]


def pixels_of(figure, axes, dpi=100):
    """Brightness of one axes, ``(row, column)``, first row at the bottom."""
    image, box = pixels(figure, dpi), axes.get_position()
    rows, columns = image.shape
    inside = image[round(box.y0 * rows) : round(box.y1 * rows), round(box.x0 * columns) : round(box.x1 * columns)]
    return inside[1:-1, 1:-1]


def set_maps(tree, maps):
    """A time tree whose every head of the encoder has the map ``(query, key)``."""
    node = tree["encoder"].to_dataset(inherit=False)
    changed = node.assign(attention=node["attention"].copy(data=np.broadcast_to(maps, node["attention"].shape)))
    return xr.DataTree.from_dict({"/": tree.to_dataset(inherit=False), "/encoder": changed})


def without(tree, variable, node="encoder"):
    """A tree without one variable of a node; of the root for None."""
    nodes = {"/": tree.to_dataset(inherit=False)} | {
        f"/{n}": c.to_dataset(inherit=False) for n, c in tree.children.items()
    }
    key = "/" if node is None else f"/{node}"
    return xr.DataTree.from_dict(nodes | {key: nodes[key].drop_vars(variable)})
