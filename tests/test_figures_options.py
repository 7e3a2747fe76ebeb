"""Settings of the figures: each has an effect, a wrong one is named, and so is a missing input."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from figure_runs import axes_named, example_comparison, example_run, without

from laglens.config.study import Figures
from laglens.errors import LaglensError
from laglens.figures.comparison import draw_comparison
from laglens.figures.head_sheet import draw_head_sheet
from laglens.figures.heatmap import map_norm
from laglens.figures.lag_strip import draw_lag_strip
from laglens.figures.settings import FigureSettings
from laglens.figures.style import render
from laglens.figures.training import draw_training

run = pytest.fixture(example_run, scope="module")
comparison = pytest.fixture(example_comparison, scope="module")


# -- options ----------------------------------------------------------------------------------------------------------

OPTIONS = [
    {"powermap": False}, {"gamma": 0.3}, {"robust_percentiles": [20, 90]}, {"show_log": True},
    {"top_overlay_percent": 5}, {"heads": ["encoder L01 H03"]}, {"part": "history->history"}, {"window": 2},
]  # fmt: skip


@pytest.fixture(scope="module")
def plain_sheet(run):
    return render(draw_head_sheet(*run, {"heads": ["encoder L00 H00"]}), dpi=60)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: next(iter(option)))
def test_every_option_changes_the_head_sheet(run, plain_sheet, option):
    changed = draw_head_sheet(*run, {"heads": ["encoder L00 H00"]} | option)
    assert render(changed, dpi=60) != plain_sheet


def test_norms_follow_the_settings(run):
    weights = run[0]["encoder"]["attention"].isel(sample=0, layer=0, head=3)
    low, high = np.percentile(weights.values, [10, 90])
    fixed = {"robust_percentiles": [10, 90]}
    power, linear, log = (
        map_norm([weights], FigureSettings.parse(fixed | extra))
        for extra in ({"gamma": 0.25}, {"powermap": False}, {"show_log": True})
    )
    np.testing.assert_allclose([power.vmin, power.vmax, linear.vmin, linear.vmax, log.vmax], [low, high] * 2 + [high])
    middle = (low + high) / 2
    np.testing.assert_allclose([power(middle), linear(middle)], [0.5**0.25, 0.5], rtol=1e-6)
    np.testing.assert_allclose(log(np.sqrt(log.vmin * log.vmax)), 0.5, rtol=1e-6)


@pytest.mark.parametrize("percent", [0, 1, 5, 100])
def test_the_outline_holds_the_strongest_cells(run, percent):
    figure = draw_head_sheet(*run, {"top_overlay_percent": percent, "heads": ["encoder L00 H00"]})
    axes = axes_named(figure, "map")[0]
    outlines = [found for found in axes.collections if found.get_gid() == "strongest cells"]
    assert len(outlines) == (percent > 0)
    if percent == 0:
        return
    size = run[0]["encoder"].sizes["key"]
    count = max(1, round(size**2 * percent / 100))
    segments = np.array(outlines[0].get_segments())
    # Every row of cells is crossed by its upright borders in pairs; between the two of a pair lie strong cells.
    upright = segments[segments[:, 0, 0] == segments[:, 1, 0]]
    rows = pd.DataFrame({"row": upright[:, 0, 1], "key": upright[:, 0, 0]}).sort_values(["row", "key"])
    inside = rows.groupby("row")["key"].agg(lambda keys: np.diff(keys)[::2].sum()).sum() / 4
    assert inside == count


def test_defaults_are_those_of_the_config():
    assert FigureSettings.parse(Figures().model_dump()) == FigureSettings()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gama": 1}, "figures.gama is no figure setting; the nearest is 'gamma'"),
        ({"gamma": 0}, "figures.gamma is 0; it must be above 0"),
        ({"robust_percentiles": [99, 1]}, r"figures.robust_percentiles is \[99, 1\]"),
        (
            {"heads": ["encoder L0 H00"]},
            "figures.heads: no head 'encoder L0 H00' among 8; the nearest is 'encoder L00 H00'",
        ),
        ({"part": "cross"}, "figures.part 'cross' is not in the lags; there are"),
        ({"window": 7}, r"figures.window is 7, but there are 3 windows \(0 to 2\)"),
        ({"traced_time": -1}, "figures.traced_time is -1; it must be 'auto' or a time in samples"),
        ({"formats": ["gif"]}, "figures.formats is .*; it must be some of png, svg, pdf"),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(run, settings, message):
    with pytest.raises(LaglensError, match=message):
        draw_head_sheet(*run, settings)


# -- missing input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "variable", "node"),
    [(0, "attention", "encoder"), (0, "series", None), (0, "forecast", None), (1, "ratio", "encoder"),
     (1, "band", "encoder"), (1, "limit", "encoder")],
)  # fmt: skip
def test_a_missing_input_is_named(run, which, variable, node):
    trees = list(run)
    trees[which] = without(trees[which], variable, node)
    with pytest.raises(LaglensError, match=f"{('time', 'lags')[which]} tree.*'{variable}'"):
        draw_head_sheet(*trees)


def test_a_missing_null_is_named(run):
    node = run[1]["encoder"].to_dataset(inherit=False)
    del node.attrs["null"]
    with pytest.raises(LaglensError, match="does not say its 'null'"):
        draw_lag_strip(xr.DataTree.from_dict({"/encoder": node}))


def test_a_comparison_without_a_variable_is_named(comparison):
    tree, time_a, time_b = comparison
    with pytest.raises(LaglensError, match="comparison has no 'signal_limit'"):
        draw_comparison(without(tree, "signal_limit"), time_a, time_b)


def test_a_curve_without_steps_or_losses_is_named():
    with pytest.raises(LaglensError, match="no column step or epoch; it has loss"):
        draw_training(pd.DataFrame({"loss": [1.0]}), {})
    with pytest.raises(LaglensError, match="holds no loss"):
        draw_training(pd.DataFrame({"step": [1]}), {})
