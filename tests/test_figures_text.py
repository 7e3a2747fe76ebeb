"""Words of the figures: units, periods, dates, nulls, and text that is never clipped and never overlaps."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from figure_runs import CARD, LONG, axes_named, example_comparison, example_run, lines, pair
from matplotlib.backends.backend_agg import FigureCanvasAgg

from laglens.figures import times, truth
from laglens.figures.comparison import draw_comparison
from laglens.figures.head_sheet import draw_head_sheet
from laglens.figures.lag_strip import draw_lag_strip
from laglens.figures.run import draw_run
from laglens.figures.style import RC, fit, text_width
from laglens.figures.training import draw_training
from laglens.lags.inputs import curves_of_windows

run = pytest.fixture(example_run, scope="module")
comparison = pytest.fixture(example_comparison, scope="module")


# -- words, units, ticks ----------------------------------------------------------------------------------------------


def test_axes_have_labels_with_units(run):
    figure = draw_head_sheet(*run)
    for axes in axes_named(figure, "map"):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("key time (hours)", "query time (hours)")
    for axes in axes_named(figure, "lags"):
        assert axes.get_xlabel() == "lag (hours)" and axes.get_ylabel() == "attention / uniform attention"
    assert axes_named(draw_lag_strip(run[1]), "lag strip")[0].get_xlabel() == "lag (hours)"


def test_every_figure_says_what_it_was_measured_against(run, comparison):
    figures = [*draw_run(*run).values(), draw_comparison(*comparison)]
    for figure in figures:
        words = " ".join(text.get_text() for text in figure.texts)
        assert "20" in words and "AR(1) series" in words and "window" in words


def test_known_periods_are_named_with_their_multiples_and_whether_tokens_resolve_them(run):
    figure = draw_head_sheet(*run)
    axes = axes_named(figure, "lags")[0]
    names = {text.get_text() for text in axes.texts}
    assert {"P1", "2P1", "P2", "(P3)"} <= names
    at = {line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2}
    assert {24, 48, 12, 5} <= at and 10 not in at
    words = " ".join(text.get_text() for text in figure.texts)
    assert "P3 = 5 hours (under 2 tokens: not testable)" in words and "P2 = 12 hours (under 4 tokens" in words


def test_forecast_and_truth_are_on_both_margins(run):
    time = run[0]
    figure = draw_head_sheet(*run, {"heads": ["encoder L00 H00"], "window": 1})
    upper, side = figure.axes[2:4]
    forecast, series = time["forecast"].values[1], time["series"].values[1]
    np.testing.assert_array_equal(upper.lines[2].get_ydata()[1:], forecast)
    np.testing.assert_array_equal(side.lines[2].get_xdata()[1:], forecast)
    np.testing.assert_array_equal(upper.lines[1].get_ydata(), series[63:])
    assert upper.get_xlim() == axes_named(figure, "map")[0].get_xlim()


def test_a_horizon_beyond_the_keys_is_drawn_beside_the_map():
    figure = draw_head_sheet(*pair(horizon_tokens=False, readout="last"), {"heads": ["encoder L00 H00"]})
    upper, own = figure.axes[2], axes_named(figure, "map")[0]
    assert upper.get_xlim()[1] > own.get_xlim()[1] == 63.5
    per_inch = [axes.get_position().width / np.ptp(axes.get_xlim()) for axes in (upper, own)]
    np.testing.assert_allclose(*per_inch)


def test_dates_are_used_where_the_series_has_them(run):
    time, lags = run
    root = time.to_dataset(inherit=False)
    date = np.datetime64("2024-02-27", "ns") + np.arange(96) * np.timedelta64(1, "h")
    dates = np.tile(date, (3, 1))
    dates[:, 80:] = np.datetime64("NaT")
    dated = xr.DataTree.from_dict(
        {
            "/": root.assign_coords(date=(("sample", "time"), dates)),
            "/encoder": time["encoder"].to_dataset(inherit=False),
        }
    )
    np.testing.assert_array_equal(times.window_dates(dated, 0), date)
    axes = axes_named(draw_head_sheet(dated, lags), "map")[0]
    assert axes.get_xlabel() == "key time (2024-Mar)"
    at = dict(zip([label.get_text() for label in axes.get_xticklabels()], axes.get_xticks(), strict=True))
    assert at["Mar"] == 72


def test_ticks_lie_at_multiples_of_a_whole_known_period():
    figure = draw_lag_strip(pair(lag=12, periods=[12])[1])
    ticks = axes_named(figure, "lag strip")[0].get_xticks()
    assert (np.asarray(ticks) % 12 == 0).all() and len(ticks) >= 3


def test_numbers_are_short_and_have_a_true_minus():
    assert times.number(-62.831853) == "−62.83" and times.TimeUnit(0.5, "hours").format(48) == "24 hours"


def test_names_of_periods_and_lags():
    entries = [
        {"period": 20.0, "testable": "yes", "parts": ["horizon->history"], "signals": ["a"]},
        {"period": 37.0, "testable": "yes", "parts": []},
        {"period": 10.0, "testable": "coarse", "parts": ["horizon->history"]},
    ]
    known = truth.rhythms(entries, [{"periods": [20.0, 10.0], "lags": [37.0]}], "horizon->history")
    assert [(rhythm.name, rhythm.samples, rhythm.repeats) for rhythm in known] == [
        ("P1", 20, True), ("P2", 10, True), ("lag", 37, False),
    ]  # fmt: skip
    assert known[0].notes == ("a only",) and known[2].notes == ("outside the measured lags",)
    np.testing.assert_array_equal(known[2].multiples(100), [37])
    np.testing.assert_array_equal(known[0].multiples(70), [20, 40, 60])


def test_what_the_input_repeats_stands_under_every_profile(run):
    time, lags = run
    curves = curves_of_windows(time)
    figure = draw_head_sheet(time, lags, {"heads": ["encoder L00 H00", "encoder L01 H01"]}, curves=curves)
    profiles, strips, powers = (axes_named(figure, name) for name in ("lags", "input auto", "input power"))
    assert len(profiles) == len(strips) == len(powers) == 2
    for profile, strip, power in zip(profiles, strips, powers, strict=True):
        assert profile.get_xlim() == strip.get_xlim() == power.get_xlim()
        as_is, averaged = (lines(strip, name)[0] for name in ("autocorrelation", "token_autocorrelation"))
        np.testing.assert_array_equal(as_is.get_ydata(), curves["autocorrelation"])
        np.testing.assert_array_equal(averaged.get_xdata(), curves["token_lag"])
        (stems,) = [found for found in power.collections if found.get_gid() == "power"]
        highest = max(stems.get_segments(), key=lambda stem: stem[1, 1])
        assert 1 / highest[0, 0] == curves["frequency"][int(curves["power"].values.argmax())]
        assert strip.get_xlabel() == profile.get_xlabel() == "" and power.get_xlabel() == "lag (hours)"
    r = lags["encoder"]["acf_correlation"].sel(part="horizon->history", layer=1, head=1).item()
    assert strips[1].texts[0].get_text() == f"r = {times.number(round(r, 2))}"
    flat = curves.drop_vars(list(curves.data_vars)).assign_attrs(left_out="a straight line")
    words = " ".join(text.get_text() for text in draw_head_sheet(time, lags, curves=flat).texts)
    assert "a straight line" in words


# -- nothing clips, nothing overlaps ----------------------------------------------------------------------------------


def text_boxes(figure):
    """Bounding boxes of all visible words, in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    with matplotlib.rc_context(RC):
        figure.draw(renderer)
    words = [*figure.texts]
    for axes in figure.axes:
        words += axes.texts
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
            words += [axis.label, *(label for tick, label in labels if low <= tick <= high)]
        if axes.get_legend():
            words += axes.get_legend().get_texts()
    found = [(text.get_text(), text.get_window_extent(renderer)) for text in words if text.get_visible()]
    return [(word, box) for word, box in found if word.strip() and box.width > 0]


def assert_readable(figure):
    boxes = text_boxes(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for word, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"clipped: {word!r}"
    ends = np.array([[box.x0, box.y0, box.x1, box.y1] for _, box in boxes])
    wide = np.minimum(ends[:, None, 2], ends[None, :, 2]) - np.maximum(ends[:, None, 0], ends[None, :, 0])
    high = np.minimum(ends[:, None, 3], ends[None, :, 3]) - np.maximum(ends[:, None, 1], ends[None, :, 1])
    collide = np.argwhere(np.triu((wide > 1) & (high > 1), 1))
    assert not len(collide), [(boxes[i][0], boxes[j][0]) for i, j in collide[:3]]


KINDS = ("planted", "uniform", "first", "decay")
CASES = {
    "8 heads, 1 sample per token, readout": {
        "history": 100, "horizon": 20, "step": 1, "lag": 12, "horizon_tokens": False,
    },
    "20 heads, 48 tokens, three periods": {
        "history": 256, "horizon": 128, "step": 8, "lag": 64, "periods": [62.83, 31.42, 6.283],
        "stacks": {"encoder": (0, 1, 2), "decoder": (0, 1)},
    },
    "144 heads": {"heads": KINDS * 3, "stacks": {"encoder": range(12)}, "periods": [24, 23, 22, 21]},
    "one head": {"heads": ("planted",), "stacks": {"encoder": (0,)}, "periods": []},
}  # fmt: skip


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_text_is_never_clipped_and_never_overlaps(options):
    readout = {"readout": "last"} if options.get("horizon_tokens") is False else {}
    time, lags = pair(samples=2, unit="hours", **options | readout)
    named = {"curves": curves_of_windows(time), "title": LONG, "subtitle": f"{LONG} {LONG}"}
    for figure in draw_run(time, lags, {"top_overlay_percent": 1}, **named).values():
        assert_readable(figure)
    if "history->history" in lags["encoder"]["part"]:
        assert_readable(draw_head_sheet(time, lags, {"part": "history->history"}, title="short"))


def test_text_of_comparison_and_training_is_readable(comparison):
    assert_readable(draw_comparison(*comparison, title=LONG, subtitle=LONG))
    curve = pd.DataFrame({"epoch": range(1, 9), "training_loss": np.geomspace(9, 0.1, 8), "validation_loss": 1.0})
    assert_readable(draw_training(curve, CARD | {"training": {"best_epoch": 3}}, title=LONG, subtitle=LONG))
    layers = {f"{stack}_L{depth:02d}_entropy": 0.5 for stack in ("encoder", "decoder", "cross") for depth in range(3)}
    assert_readable(draw_training(curve.assign(**layers), CARD, title="t", subtitle="s"))
    kinds = {"sine": 0.1, "a_kind_with_a_rather_long_name": 0.2, "two_periods": 0.3}
    errors = {"model": kinds, "seasonal_naive": kinds, "last_value": kinds, "n_series": 500}
    steps = pd.DataFrame({"step": np.arange(50, 20_001, 50), "loss": np.linspace(3.3, 2, 400)})
    assert_readable(draw_training(steps, CARD | {"held_out_errors": errors}, title="t", subtitle="s"))


def test_long_text_is_shrunk_then_cut_in_the_middle():
    assert fit("short", 3, 8) == ("short", 8)
    shrunk, size = fit(LONG, 5.2, 8)
    assert shrunk == LONG and size < 8
    cut, size = fit(LONG, 2, 8)
    assert "…" in cut and cut[:8] == LONG[:8] and cut[-8:] == LONG[-8:] and text_width(cut, size) <= 2
