"""Figure of the class token: planted patches lie where they are drawn, in both orientations of the picture."""

import numpy as np
import pytest
import xarray as xr
from figure_runs import LONG, axes_named, lines
from test_figures_evidence import words
from test_figures_text import assert_readable

from laglens.errors import LaglensError
from laglens.figures.class_token import draw_class_token
from laglens.figures.settings import FigureSettings

ROWS, COLUMNS, SIDE = 4, 6, 8  # patches, and pixels of one
HISTORY = 60


def class_tree(origin="upper", layers=2, heads=4, planted=(0, 4), stack="encoder"):
    """Two windows; head 1 of the first layer looks at one patch, the others at all alike."""
    weights = np.full((2, layers, heads, ROWS, COLUMNS), 1 / (ROWS * COLUMNS + 1))
    weights[:, 0, min(1, heads - 1)] = 0.01
    weights[:, 0, min(1, heads - 1), *planted] = 0.5
    times = (np.arange(COLUMNS) + 0.5) * HISTORY / COLUMNS - 0.5
    node = xr.Dataset(
        {
            "attention": (("sample", "layer", "head", "row", "column"), weights),
            "in_time": (("sample", "layer", "head", "span"), weights.sum(3)),
            "elsewhere": (("sample", "layer", "head"), 1 - weights.sum((3, 4))),
        },
        {
            "layer": np.arange(layers),
            "head": np.arange(heads),
            "span_time": ("span", times),
            "row_pixel": ("row", (np.arange(ROWS) + 0.5) * SIDE - 0.5),
            "column_pixel": ("column", (np.arange(COLUMNS) + 0.5) * SIDE - 0.5),
        },
    )
    picture = np.random.default_rng(0).random((2, ROWS * SIDE, COLUMNS * SIDE))
    series = np.sin(np.arange(HISTORY) / 3)[None].repeat(2, 0)
    root = xr.Dataset(
        {
            "picture": (("sample", "pixel_y", "pixel_x"), picture, {"origin": origin}),
            "series": (("sample", "time"), series),
        },
        attrs={"history": HISTORY, "horizon": 0, "signal": {"time_unit": "hours"}},
    )
    return xr.DataTree.from_dict({"/": root, f"/{stack}": node})


@pytest.mark.parametrize("origin", ["upper", "lower"])
def test_a_planted_patch_is_circled_on_the_picture_and_marked_in_time(origin):
    figure = draw_class_token(class_tree(origin))
    axes = axes_named(figure, "picture 1")[0]  # below the mean of the last layer: the head with the sharpest peak
    (circles,) = lines(axes, "strongest patches")
    assert (circles.get_xdata()[0], circles.get_ydata()[0]) == (4.5 * SIDE, 0.5 * SIDE)
    # Row 0 of the patches is at the top where the picture's first row is, and else at the bottom.
    assert (axes.get_ylim()[0] > axes.get_ylim()[1]) == (origin == "upper")
    picture, over = axes.images
    assert picture.get_extent() == over.get_extent()
    shown = np.asarray(over.get_array())
    assert np.unravel_index(shown.argmax(), shown.shape) == (0, 4) and shown.sum() == pytest.approx(100)
    (marks,) = lines(axes_named(figure, "series 1")[0], "strongest times")
    assert marks.get_xdata()[0] == 44.5
    band = np.asarray(axes_named(figure, "in time 1")[0].images[0].get_array())[0]
    assert band.argmax() == 4
    assert "b  encoder L00 H01" in words(figure) and "on no patch" in words(figure)


def test_heads_that_are_asked_for_are_drawn():
    figure = draw_class_token(class_tree(), {"heads": ["encoder L01 H02"]})
    assert "b  encoder L01 H02" in words(figure) and len(axes_named(figure, "picture")) == 2


def test_what_is_missing_is_named():
    with pytest.raises(LaglensError, match=r"figures.window is 2, but there are 2 windows"):
        draw_class_token(class_tree(), FigureSettings(window=2))
    empty = xr.DataTree(xr.Dataset(attrs={"left_out": "the model draws no picture"}))
    assert "Not read: the model draws no picture." in words(draw_class_token(empty))


@pytest.mark.parametrize("options", [{"layers": 12, "heads": 12}, {"layers": 1, "heads": 1}], ids=str)
def test_text_is_never_clipped_and_never_overlaps(options):
    assert_readable(draw_class_token(class_tree(stack="a_long_name_of_a_stack", **options), title=LONG, subtitle=LONG))
