"""Figures: fixed bytes, true orientation, dots only where the table has them, one scale where one is promised."""

import io
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from figure_runs import (
    CARD,
    axes_named,
    example_comparison,
    example_run,
    lines,
    pair,
    pixels_of,
    set_maps,
)
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image

from laglens.errors import LaglensError
from laglens.figures import lag_strip, reading
from laglens.figures.comparison import beyond_limits, draw_comparison
from laglens.figures.head_sheet import draw_head_sheet
from laglens.figures.lag_strip import draw_lag_strip
from laglens.figures.mosaic import Grid, draw_mosaic, pool_max, shade, tile
from laglens.figures.pixels import encode_png
from laglens.figures.style import METADATA, look, render, render_files
from laglens.figures.training import draw_training

run = pytest.fixture(example_run, scope="module")
comparison = pytest.fixture(example_comparison, scope="module")


# -- bytes and state --------------------------------------------------------------------------------------------------

SCRIPT = """
import hashlib, sys
import matplotlib
def settings():  # asking for the backend would choose one, and import pyplot for it
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
before = settings()
import pandas as pd
from trees import control_tree, time_tree
from laglens.figures.comparison import draw_comparison
from laglens.figures.run import draw_run
from laglens.figures.style import METADATA, look, render, render_files
from laglens.figures.training import draw_training
from laglens.lags.comparison import compare_lags
from laglens.lags.measure import measure_lags
options = {"history": 64, "horizon": 32, "lag": 24, "stacks": {"encoder": (0, 1)}}
time, control = time_tree(samples=4, **options), control_tree(replicates=20, **options)
control.attrs.pop("n_windows", None)
figures = draw_run(time, measure_lags(time, control), {"top_overlay_percent": 2}, title="t")
figures["training"] = draw_training(pd.DataFrame({"step": [1, 2, 3], "loss": [3.0, 2.0, 1.5]}), {})
figures["comparison"] = draw_comparison(compare_lags(time, control, time, control, names=("a", "b")), time, time)
for name, figure in figures.items():
    for kind in ("png", "svg", "pdf") if name in ("comparison", "mosaic") else ("svg",):
        print(name, kind, hashlib.sha256(render(figure, kind)).hexdigest())
loaded = [name for name in ("torch", "matplotlib.pyplot", "seaborn") if name in sys.modules]
assert not loaded, loaded
assert settings() == before, "global settings changed"
"""


def python(code, **environment):
    here = Path(__file__).parent
    path = f"{here}:{here.parent / 'src'}"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": path} | environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_same_bytes_in_two_processes_without_torch_pyplot_or_a_changed_global_setting():
    first, second = (python(SCRIPT, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert first == second
    assert len({line.split()[-1] for line in first.splitlines()}) == 9


def test_svg_embeds_the_map_as_an_image_and_text_as_outlines(run):
    svg = render(draw_head_sheet(*run), "svg").decode()
    assert svg.count("<image") >= 3 and "<dc:date>" not in svg
    assert len(svg) < 1_500_000


def test_a_png_is_the_pixels_that_were_drawn_and_says_its_resolution():
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels, 200))) as picture:
        picture.load()
        assert picture.mode == "RGB" and picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_a_png_has_the_size_of_the_figure_and_leaves_it_as_it_was(run):
    figure = draw_lag_strip(run[1])
    before = figure.dpi, figure.canvas, vars(fontManager).copy()
    with Image.open(io.BytesIO(render(figure, "png", 130))) as picture:
        assert picture.size == tuple((figure.get_size_inches() * 130).astype(int))
    assert (figure.dpi, figure.canvas, vars(fontManager)) == before


def everything():
    """A figure with every kind of thing that is drawn: lines, markers, dots, bands, maps, images, words."""
    figure = Figure(figsize=(4, 3))
    axes = figure.add_axes((0.15, 0.15, 0.5, 0.7))
    axes.plot([0, 1, 2], [0, 3, 1], "o--", color="tab:blue", markersize=7, linewidth=2)
    axes.fill_between([0, 1, 2], [0, 1, 0], [1, 2, 5], color="0.8", alpha=0.5)
    axes.scatter([0.2, 1.2, 1.8], [1, 2, 0.5], s=[20, 60, 9], color="tab:red", linewidths=0)
    axes.set(xlabel="lag", ylabel="ratio – µ", xlim=(0, 2), ylim=(0, 4))
    axes.text(0.1, 3.5, "held", rotation=30, clip_on=True, alpha=0.7)
    figure.add_axes((0.7, 0.1, 0.25, 0.35)).imshow([[0, 1], [2, 3]])
    last = figure.add_axes((0.7, 0.55, 0.25, 0.35))
    last.pcolormesh([[0, 1], [2, 3]], rasterized=True)
    last.add_collection(LineCollection([[(0, 0), (2, 2)], [(0, 2), (2, 0)]], linewidths=0.7))
    return figure


def shapes(svg):
    """Tags of an SVG in order, and all numbers of where they are; names of its parts differ, and so do images."""
    found = []
    for element in ElementTree.fromstring(svg).iter():
        names = [name for name in ("d", "x", "y", "width", "height", "transform", "style") if name in element.attrib]
        words = " ".join(re.sub("#[0-9a-f]{6}", "", element.attrib[name]) for name in names)
        found.append((element.tag, [float(number) for number in re.findall(r"-?\d*\.?\d+", words)]))
    return found


def test_vectors_are_where_matplotlib_draws_them():
    figure, file = everything(), io.BytesIO()
    with look(), matplotlib.rc_context({"image.composite_image": False}):
        figure.savefig(file, format="svg", dpi=200, metadata=METADATA["svg"])
    ours, reference = shapes(render(figure, "svg", 200)), shapes(file.getvalue())
    assert [tag for tag, _ in ours] == [tag for tag, _ in reference]
    for (tag, numbers), (_, expected) in zip(ours, reference, strict=True):
        np.testing.assert_allclose(numbers, expected, atol=0.5, err_msg=tag)  # points; pixels are 0.36
    assert len(ours) > 100


def test_words_in_pixels_look_as_matplotlib_draws_them():
    figure = everything()
    with Image.open(io.BytesIO(render(figure, "png", 200))) as picture:
        ours = np.asarray(picture.convert("L"), dtype=float)
    file = io.BytesIO()
    with look():
        figure.savefig(file, format="png", dpi=200)
    with Image.open(file) as picture:
        reference = np.asarray(picture.convert("L"), dtype=float)
    ink = reference < 128
    assert (np.abs(ours - reference) > 100).sum() < 0.01 * ink.sum() and np.abs(ours - reference).mean() < 0.3


def test_formats_drawn_together_have_the_bytes_of_those_drawn_alone(run):
    figure = draw_head_sheet(*run)
    together = render_files(figure, ["a.b/sheet.svg", "sheet.png"], 90)
    assert together == {"a.b/sheet.svg": render(figure, "svg", 90), "sheet.png": render(figure, "png", 90)}


def test_unknown_format_is_named(run):
    with pytest.raises(LaglensError, match="no figure format 'jpeg'; choose one of png, svg, pdf"):
        render(draw_lag_strip(run[1]), "jpeg")


# -- orientation and truth --------------------------------------------------------------------------------------------


def test_a_head_on_the_first_key_has_a_bright_left_column(run):
    time, lags = run
    size = time["encoder"].sizes["key"]
    first_key = np.full((size, size), 0.01)
    first_key[:, 0] = 1
    figure = draw_head_sheet(set_maps(time, first_key), lags, {"heads": ["encoder L00 H00"], "powermap": False})
    inside = pixels_of(figure, axes_named(figure, "map")[0])
    cell = inside.shape[1] // size
    assert inside[:, 1 : cell - 1].min() > 200 > inside[:, 2 * cell :].mean() + 100


def test_a_head_on_a_past_lag_rises_to_the_right_above_the_diagonal(run):
    time, lags = run
    query, key = time["encoder"]["query_time"].values, time["encoder"]["key_time"].values
    planted = (np.subtract.outer(query, key) == 24).astype(float) + 0.001
    figure = draw_head_sheet(set_maps(time, planted), lags, {"heads": ["encoder L00 H00"], "powermap": False})
    axes = axes_named(figure, "map")[0]
    inside = pixels_of(figure, axes)
    span = 96 / inside.shape[0]  # samples per pixel
    history = int(63 / span)  # the lines at the horizon are bright too
    row, column = np.nonzero(inside[:history, :history] > 200)
    assert np.corrcoef(row, column)[0, 1] > 0.9
    np.testing.assert_allclose(np.mean((row - column) * span), 24, atol=3)


def test_mosaic_keeps_orientation_and_order(run):
    time, lags = run
    size = time["encoder"].sizes["key"]
    corner = np.full((size, size), 0.001)
    corner[-3:, :3] = 1  # the last queries on the first keys: upper left
    figure = draw_mosaic(set_maps(time, corner), lags)
    image = axes_named(figure, "mosaic")[0].images[0].get_array()
    tiles = tile([shade(np.stack([corner] * 4))] * 2, Grid.fit([(2, 4, size, size)], 200).gap)
    np.testing.assert_array_equal(image, tiles.image)
    assert image[tiles.bottom[0] + size - 1, tiles.left[0]] == 254
    zoom = Grid.fit([(2, 4, size, size)], 200).zoom
    first_head = pixels_of(figure, axes_named(figure, "mosaic")[0], dpi=200)[2 - size * zoom :, : size * zoom - 2]
    dark = [first_head[: -4 * zoom], first_head[-zoom:, 4 * zoom :]]  # below the corner, and to its right
    assert first_head[-zoom:, :zoom].min() > 200 and max(part.max() for part in dark) < 100
    assert tiles.bottom[0] > tiles.bottom[-1] and tiles.left[1] > tiles.left[0]


def test_maps_of_other_shapes_take_no_more_room_than_they_need():
    rows = [np.full((2, *shape), value, np.uint8) for value, shape in enumerate([(20, 20), (5, 5), (5, 20)])]
    tiles = tile(rows, (3, 1))
    assert tiles.image.shape == (20 + 5 + 5 + 3 * 3, 20 + 1 + 20)
    np.testing.assert_array_equal(tiles.bottom, np.repeat([19, 11, 3], 2))
    np.testing.assert_array_equal(tiles.left, [0, 21] * 3)
    middle = tiles.image[11:16]
    assert (middle[:, [*range(7, 12), *range(28, 33)]] == 1).all() and (middle == 1).sum() == 2 * 25


def test_a_token_alone_covers_the_samples_it_stands_for():
    """The one query of a decoder that forecasts the whole horizon at once."""
    coords = {
        "key_time": ("key", [3.5, 11.5]),
        "query_time": ("query", [27.5]),
        "query_start": ("query", [16.0]),
        "query_end": ("query", [40.0]),
    }
    weights = xr.DataArray(np.ones((1, 2)), dims=("query", "key"), coords=coords)
    np.testing.assert_array_equal(reading.token_edges(weights, "query"), [15.5, 39.5])
    np.testing.assert_array_equal(reading.token_edges(weights, "key"), [-0.5, 7.5, 15.5])


def test_mosaic_is_one_image_for_144_heads():
    time, lags = pair(samples=1, heads=("planted", "uniform", "first", "decay") * 3, stacks={"encoder": range(12)})
    figure = draw_mosaic(time, lags)
    assert len(figure.axes) == 1 and len(figure.axes[0].images) == 1


def test_dots_are_exactly_where_the_table_is_above_the_limit(run):
    time, lags = run
    heads = [f"encoder L01 H{head:02d}" for head in range(4)]
    for part in ("horizon->history", "history->history"):
        figure = draw_head_sheet(time, lags, {"heads": heads, "part": part})
        drawn = axes_named(figure, "lags")
        assert len(drawn) == len(heads)
        for axes, label in zip(drawn, heads, strict=True):
            layer, head = int(label[9:11]), int(label[13:])
            node = lags["encoder"].to_dataset().sel(part=part, layer=layer, head=head)
            above = (node["ratio"] > node["limit"]) & (node["lag"] != 0)
            dots = np.concatenate([line.get_xdata() for line in lines(axes, "above the limit")])
            np.testing.assert_array_equal(np.sort(dots), node["lag"].values[above.values])
    assert 24 in dots or above.sum() == 0


def test_both_signs_of_lag_are_drawn_apart_without_lag_0(run):
    figure = draw_head_sheet(*run, {"part": "history->history", "heads": ["encoder L00 H00"]})
    future, past = (line.get_xdata() for line in lines(axes_named(figure, "lags")[0], "ratio"))
    assert (future < 0).all() and (past > 0).all()
    assert any("lag 0:" in text.get_text() for text in figure.texts)


def test_strip_is_dark_up_to_the_limit_and_rows_follow_node_layer_head(run):
    nodes = reading.with_part(reading.stacks(run[1], "ratio", "lags tree"), "horizon->history")
    image = lag_strip.strip(nodes)
    node = nodes["encoder"]
    ratio = (node["ratio"] / node["limit"]).transpose("layer", "head", "lag").values.reshape(8, -1)
    np.testing.assert_array_equal(image.values > 0, ratio > 1)
    axes = axes_named(draw_lag_strip(run[1]), "lag strip")[0]
    shown = axes.images[0]
    assert tuple(shown.cmap(shown.norm(-0.1))[:3]) == (0, 0, 0) and max(shown.cmap(shown.norm(0.01))[:3]) > 0.2
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["encoder L00 H00", "encoder L00 H01"]


def test_stacks_are_shown_encoder_first_even_if_the_file_sorts_them(run):
    node = run[1]["encoder"].to_dataset()
    tree = xr.DataTree.from_dict({"/decoder": node, "/encoder": node})
    assert list(reading.stacks(tree, "ratio", "lags tree")) == ["encoder", "decoder"]


def test_a_weight_of_zero_is_measured_and_dark(run):
    node = reading.with_part({"encoder": run[1]["encoder"].to_dataset()}, "horizon->history")["encoder"]
    zero = node.assign(ratio=node["ratio"].copy(data=np.zeros_like(node["ratio"])))
    assert np.isfinite(lag_strip.strip({"encoder": zero})).all()


def test_auto_heads_are_the_strongest_and_the_number_is_their_lag(run):
    nodes = reading.with_part(reading.stacks(run[1], "ratio", "lags tree"), "horizon->history")
    beyond = {name: reading.beyond_limit(node) for name, node in nodes.items()}
    chosen = reading.choose_heads(beyond)
    assert {head.label for head in chosen[:2]} == {"encoder L00 H00", "encoder L01 H00"}
    lags_of = reading.strongest_lags(beyond["encoder"])
    assert lags_of[0, 0] == lags_of[1, 0] == 24


def test_a_lag_that_gets_next_to_nothing_is_not_the_strongest_however_small_its_limit():
    lag = np.array([4.0, 8.0, 12.0])
    ratio = xr.Dataset({"ratio": ("lag", [2.0, 0.1, 0.2]), "limit": ("lag", [1.5, 0.001, 1.0])}, coords={"lag": lag})
    assert reading.strongest_lags(reading.beyond_limit(ratio)).item() == 4
    assert reading.strongest_lags(reading.beyond_limit(ratio.sel(lag=[12.0]))).item() is None


# -- scales and pooling -----------------------------------------------------------------------------------------------


def test_rows_of_a_sheet_share_one_colour_scale_and_one_ratio_axis(run):
    figure = draw_head_sheet(*run)
    norms = [axes.images[0].norm for axes in axes_named(figure, "map")]
    assert len(norms) == 3 and len({(norm.vmin, norm.vmax) for norm in norms}) == 1
    assert len({axes.get_ylim() for axes in axes_named(figure, "lags")}) == 1


def test_maps_of_a_comparison_share_their_scale_and_the_difference_is_symmetric(comparison):
    figure = draw_comparison(*comparison)
    a, b, difference = (axes_named(figure, f"map {which}")[0].images[0] for which in "ABD")
    assert (a.norm.vmin, a.norm.vmax) == (b.norm.vmin, b.norm.vmax)
    assert difference.norm.vmin == -difference.norm.vmax
    np.testing.assert_allclose(difference.get_array(), a.get_array() - b.get_array())


def test_dots_of_a_difference_lie_beyond_its_limits(comparison):
    tree = comparison[0]
    figure = draw_comparison(*comparison, {"heads": ["encoder L01 H00"]})
    axes = axes_named(figure, "difference")[0]
    node = tree["encoder"].to_dataset().sel(part="horizon->history", layer=1, head=0)
    limit = node["limit"]
    beyond = (node["difference"] > limit.sel(bound="upper")) | (node["difference"] < limit.sel(bound="lower"))
    dots = np.concatenate([line.get_xdata() for line in lines(axes, "beyond the limit")])
    np.testing.assert_array_equal(np.sort(dots), node["lag"].values[(beyond & (node["lag"] != 0)).values])
    outside = beyond_limits(tree["encoder"].to_dataset().sel(part="horizon->history"))
    np.testing.assert_array_equal((outside.sel(layer=1, head=0) > 0).values, beyond.values & (node["lag"] != 0).values)


@pytest.mark.parametrize("size", [97, 100, 197, 250])
def test_pooled_and_unpooled_maps_have_their_maximum_at_the_same_place(size):
    rng = np.random.default_rng(size)
    maps = rng.random((5, size, size))
    pooled = pool_max(maps, 96)
    assert pooled.shape == (5, 96, 96)
    for whole, small in zip(maps, pooled, strict=True):
        assert small.max() == whole.max()
        place, found = (np.array(np.unravel_index(m.argmax(), m.shape)) for m in (whole, small))
        np.testing.assert_array_less(np.abs((found + 0.5) / 96 - (place + 0.5) / size), 1 / 96)


def test_pooling_keeps_a_diagonal_one_token_wide_and_small_maps_as_they_are():
    assert (pool_max(np.eye(197)).max(1) == 1).all()
    small = np.random.default_rng(0).random((2, 48, 48))
    assert pool_max(small) is small


@pytest.mark.parametrize(
    ("layers", "heads", "side"), [(2, 4, 100), (5, 4, 48), (5, 4, 96), (12, 12, 197), (24, 16, 512)]
)
def test_a_mosaic_fits_the_page(layers, heads, side):
    grid = Grid.fit([(layers, heads, side, side)], 200)
    drawn = min(side, grid.pixels)
    assert (heads * (drawn + grid.gap[1])) * grid.inch <= 6.05
    assert layers * (drawn + grid.gap[0]) * grid.inch <= 9.7
    assert drawn == side <= 100 or drawn <= 96


# -- training ---------------------------------------------------------------------------------------------------------


def test_training_marks_the_kept_epoch_at_its_validation_loss():
    curve = pd.DataFrame({"epoch": [1, 2, 3], "training_loss": [3.0, 2, 1], "validation_loss": [3.0, 2.5, 2.75]})
    figure = draw_training(curve, CARD | {"training": {"best_epoch": 2}})
    losses, errors = figure.axes
    kept = next(line for line in losses.lines if line.get_label() == "kept: epoch 2")
    assert (kept.get_xdata()[0], kept.get_ydata()[0]) == (2, 2.5)
    assert losses.get_xlabel() == "epoch" and "sd" in errors.get_xlabel()
    assert [label.get_text() for label in errors.get_yticklabels()] == ["model", "last value"]


def test_training_draws_the_entropy_of_each_layer_under_the_losses():
    """Of curves that have it: those of earlier versions do not."""
    curve = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2, 1]})
    assert axes_named(draw_training(curve, {}), "attention") == []
    layers = {"encoder_L00_entropy": [1.0, 0.8, 0.5], "encoder_L01_entropy": [0.9, 0.9, 0.9], "cross_L00_entropy": 0.25}
    figure = draw_training(curve.assign(**layers), {})
    losses, [attention] = figure.axes[0], axes_named(figure, "attention")
    drawn = {line.get_label(): line.get_ydata().tolist() for line in lines(attention, "entropy")}
    assert drawn == {"encoder L00": [1, 0.8, 0.5], "encoder L01": [0.9] * 3, "cross L00": [0.25] * 3}
    first, second, cross = lines(attention, "entropy")
    assert first.get_color() == cross.get_color() != second.get_color()
    assert first.get_linestyle() == second.get_linestyle() != cross.get_linestyle()
    assert attention.get_xlim() == losses.get_xlim() and attention.get_xlabel() == "epoch" and not losses.get_xlabel()
    assert [line.get_label() for line in losses.lines] == ["loss"]


def test_training_of_many_steps_has_a_logarithmic_axis_and_no_errors_panel_without_errors():
    figure = draw_training(pd.DataFrame({"step": [50, 500, 5000], "loss": [3.0, 2.5, 2.0]}), {})
    assert len(figure.axes) == 1 and figure.axes[0].get_xscale() == "log"
