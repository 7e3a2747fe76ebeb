"""Figures of the evidence: verdict table, period tracking, knock-out and causal lag curve."""

import numpy as np
import pytest
import xarray as xr
from evidence_runs import knock_out, tracking, verdicts
from figure_runs import LONG, axes_named, lines
from test_figures_text import assert_readable

from laglens.errors import LaglensError
from laglens.figures.knock_out import draw_knock_out
from laglens.figures.style import render
from laglens.figures.tracking import draw_tracking
from laglens.figures.verdicts import conditions_met, draw_verdicts, shown_heads

BIG = {"encoder": (12, 12)}
GRID = tuple(np.geomspace(200, 20, 12))


def words(figure):
    return " ".join([text.get_text() for text in figure.texts] + [t.get_text() for a in figure.axes for t in a.texts])


# -- verdict table ----------------------------------------------------------------------------------------------------


def test_every_cell_says_the_verdict_its_number_and_the_tests_it_passed():
    table = verdicts(supported=[("encoder", 0, 1, 60.0), ("decoder", 1, 3, 30.0)])
    axes = axes_named(draw_verdicts(table, {"time_unit": "hours"}), "verdicts")[0]
    said = [text.get_text() for text in axes.texts]
    assert said.count("supported   z 7.2") == 2 and said.count("not testable") == 20
    assert sum(text.startswith("not supported") for text in said) == 20 * 2 - 2
    rows = {text.get_position()[1] for text in axes.texts if text.get_text() == "supported   z 7.2"}
    names = [text for text in axes.texts if text.get_text() in ("encoder L00 H01", "decoder L01 H03")]
    assert rows == {text.get_position()[1] for text in names}
    filled = {}
    for mark in axes.lines:
        for at, row in zip(*mark.get_data(), strict=True):
            filled.setdefault(row, []).append((at, mark.get_gid() == "passed"))
    assert sum(map(len, filled.values())) == 3 * 40
    assert all(sum(passed for _, passed in filled[row]) >= 3 for row in rows)
    first_row = [passed for _, passed in sorted(filled[min(filled)])]
    assert first_row == [False, True, True] * 2  # encoder L00 H00 fails the first condition at both periods


def test_conditions_of_a_verdict():
    passed = {"p_family": 0.01, "p_swap": 0.05, "contrast": 0.3, "untrained": 0.2}
    assert conditions_met(passed, 0.95) == (True, True, True)
    assert conditions_met(passed | {"p_swap": np.nan}, 0.95) == (True, False, True)
    assert conditions_met(passed | {"p_family": 0.06, "untrained": 0.3}, 0.95) == (False, True, False)


def test_of_many_heads_the_supported_are_shown_and_the_others_counted():
    supported = [("encoder", layer, 7, GRID[3]) for layer in range(12)]
    table = verdicts(BIG, GRID, 4.0, supported)
    labelled = table.assign(
        label=[f"{s} L{i:02d} H{j:02d}" for s, i, j in zip(table["stack"], table["layer"], table["head"], strict=True)]
    )
    shown = shown_heads(labelled)
    assert len(shown) == 24 and {f"encoder L{layer:02d} H07" for layer in range(12)} <= set(shown)
    assert shown == sorted(shown)
    said = words(draw_verdicts(table))
    assert "the best 24 of 144 heads; of the others 0 have a supported period" in said and "12/144" in said


def test_coarse_and_refused_periods_are_told_with_their_reason():
    said = words(draw_verdicts(verdicts(), {"time_unit": "hours"}))
    assert "period 6 is 0.75 tokens, under 2" in said and "Under 4 tokens long, read with care: 30 hours" in said
    assert "99 AR(1) series" in said and "3 models of random weights" in said and "16 windows" in said


def test_a_table_without_a_column_is_named():
    with pytest.raises(LaglensError, match="table of verdicts has no 'p_swap'"):
        draw_verdicts(verdicts().drop(columns="p_swap"))


# -- period tracking --------------------------------------------------------------------------------------------------


def test_a_head_that_follows_lies_on_the_line_and_one_that_does_not_is_flat():
    figure = draw_tracking(*tracking())
    first, second = axes_named(figure, "tracking")[:2]
    assert first.get_label() == "tracking encoder L00 H01"
    dots = np.asarray(first.collections[0].get_offsets())
    np.testing.assert_allclose(dots[:, 0], dots[:, 1])
    assert sorted(set(dots[:, 0])) == [24, 36, 50, 70]
    fit, identity = lines(first, "fit")[0], lines(first, "P")[0]
    assert np.ptp(fit.get_ydata()) == pytest.approx(np.ptp(fit.get_xdata()))
    np.testing.assert_array_equal(identity.get_xdata(), identity.get_ydata())
    assert set(np.asarray(second.collections[0].get_offsets())[:, 1]) == {40}
    assert np.ptp(lines(second, "fit")[0].get_ydata()) == 0
    assert "slope 1.00 [0.90, 1.10]" in words(figure)


def test_slopes_of_all_heads_are_filled_where_the_period_swap_says_so():
    following = [("encoder", 0, 1), ("decoder", 1, 3)]
    figure = draw_tracking(*tracking(following=following))
    slopes, shares = axes_named(figure, "slopes")[0], axes_named(figure, "shares")[0]
    filled = {line.get_ydata()[0] for line in lines(slopes, "slope") if line.get_markerfacecolor() != "white"}
    assert filled == {1, 19} and len(lines(slopes, "slope")) == 20
    assert [line.get_xdata()[0] for line in lines(slopes, "slope")][1] == 1
    assert {line.get_xdata()[0] for line in lines(shares, "chance")} == {0.25}


def test_a_model_too_coarse_to_follow_anything_gets_the_reason_instead():
    refused = xr.DataTree(xr.Dataset(attrs={"left_out": "lags of 64 samples hold no comb"}))
    figure = draw_tracking(refused, refused, title="model")
    assert "Not measured: lags of 64 samples hold no comb." in words(figure)
    assert_readable(figure)


# -- knock-out --------------------------------------------------------------------------------------------------------


def test_the_curve_names_the_lag_that_moves_the_forecast_most_and_marks_the_periods():
    axes = axes_named(draw_knock_out(*knock_out(unit="hours")), "causal")[0]
    top = lines(axes, "top lag")[0]
    assert top.get_xdata()[0] == 24 and "24 hours" in [text.get_text() for text in axes.texts]
    assert {24, 48} <= {line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2}
    assert axes.get_xlabel() == "lag (hours)"


def test_a_cut_stands_beside_its_controls_and_is_filled_where_it_matters():
    effects, table = knock_out()
    axes = axes_named(draw_knock_out(effects, table), "cuts")[0]
    rows = table[table["measure"] == "error_change"]
    for gid, column in (("effect", "effect"), ("control", "control")):
        drawn = [line.get_xdata()[0] for line in lines(axes, gid)]
        np.testing.assert_allclose(drawn, rows[column])
    interval = lines(axes, "interval")[0].get_xdata()
    np.testing.assert_allclose(interval, rows["control"].iloc[0] + rows[["lower", "upper"]].iloc[0])
    assert [line.get_markerfacecolor() != "white" for line in lines(axes, "effect")] == [True, False]


def test_heads_are_ranked_by_what_they_are_worth():
    figure = draw_knock_out(*knock_out(worst=("decoder", 1, 2)))
    axes = axes_named(figure, "heads")[0]
    assert axes.get_yticklabels()[0].get_text() == "decoder L01 H02"
    worth = [line.get_xdata()[0] for line in lines(axes, "head")]
    assert worth == sorted(worth, reverse=True) and len(worth) == 10


def test_without_truth_the_change_of_the_forecast_is_shown():
    figure = draw_knock_out(*knock_out(truth=False))
    assert axes_named(figure, "cuts")[0].get_xlabel() == "forecast moves by (sd)"
    assert "as the truth is not known" in words(figure)


def test_without_a_period_to_cut_the_curve_stands_alone():
    for periods in ((), (5.0,)):
        figure = draw_knock_out(*knock_out(periods=periods))
        assert not axes_named(figure, "cuts") and not axes_named(figure, "heads") and axes_named(figure, "causal")
        assert "There is no period to cut" in words(figure)
        assert_readable(figure)


# -- all of them ------------------------------------------------------------------------------------------------------

CASES = {
    "one head": ({"encoder": (1, 1)}, (60.0,)),
    "20 heads": ({"encoder": (3, 4), "decoder": (2, 4)}, (60.0, 30.0, 6.0)),
    "144 heads, a grid of periods": (BIG, GRID),
    "long names": ({"a_stack_with_a_long_name": (2, 4)}, (60.5123, 45.25, 30.123)),
}


@pytest.mark.parametrize(("stacks", "periods"), CASES.values(), ids=CASES.keys())
def test_text_is_never_clipped_and_never_overlaps(stacks, periods):
    stack = next(iter(stacks))
    first = (stack, 0, 0)
    supported = [(*first, period) for period in periods if period > 20]
    effects = knock_out(stacks, periods, worst=first, unit="half-hours")
    named = {"title": LONG, "subtitle": LONG}
    figures = [draw_verdicts(verdicts(stacks, periods, supported=supported), **named)]
    figures += [draw_knock_out(*effects, **named), draw_tracking(*tracking(stacks, [first]), **named)]
    for figure in figures:
        assert_readable(figure)
        assert figure.get_size_inches()[1] < 9


def test_the_same_input_gives_the_same_bytes():
    def draw():
        return [draw_verdicts(verdicts()), draw_knock_out(*knock_out()), draw_tracking(*tracking())]

    for file_format in ("png", "svg"):
        first, second = ([render(figure, file_format, 60) for figure in draw()] for _ in range(2))
        assert first == second
