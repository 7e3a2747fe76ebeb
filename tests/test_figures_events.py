"""Figure of event-locked attention: planted excess is where it is drawn, and words stay readable."""

import numpy as np
import pandas as pd
import pytest
from figure_runs import LONG, axes_named, lines
from test_figures_evidence import words
from test_figures_text import assert_readable
from test_heads_events import tree_with_events
from trees import time_tree

from laglens.errors import LaglensError
from laglens.figures.events import draw_events
from laglens.heads.events import events_table, lock_to_events
from laglens.heads.nothing import NothingToMeasureError, empty_result

EVENTS = [70, 85, 111, 132, 150, 171, 193, 214, 230]


@pytest.fixture(scope="module")
def locked():
    tree = lock_to_events(tree_with_events(EVENTS))
    return events_table(tree), tree


def test_a_planted_excess_is_filled_and_its_course_lies_above_the_matched_tokens(locked):
    table, tree = locked
    figure = draw_events(table, tree, {"part": "history->history"})
    rows = table[(table["part"] == "history->history") & table["since_from"].isna()]
    (axes,) = axes_named(figure, "excess jumps")
    beyond, within = (lines(axes, gid)[0] for gid in ("beyond", "within"))
    np.testing.assert_allclose(beyond.get_xdata(), rows["excess"])
    assert list(beyond.get_ydata()) == [0, 1] and not len(within.get_xdata())
    for axes in axes_named(figure, "course"):
        received, matched = (lines(axes, gid)[0].get_ydata() for gid in ("received", "matched"))
        assert (received > 1.5 * matched).all()
    assert "9 jumps" in words(figure) and "in the windows that have no event near" in words(figure)


def test_an_interval_that_holds_zero_is_not_filled(locked):
    table, tree = locked
    figure = draw_events(table.assign(low=-0.1, high=0.1), tree)
    drawn = [len(line.get_xdata()) for axes in figure.axes for line in lines(axes, "beyond")]
    assert drawn and not any(drawn)


def test_a_dot_is_where_the_interval_of_the_table_leaves_zero_out(locked):
    table, tree = locked
    part = table[table["part"] == "readout->history"]
    figure = draw_events(table, tree)
    axes = axes_named(figure, "course encoder L00 H01")[0]
    course = part[(part["head"] == 1) & part["since_from"].notna()].sort_values("since_from")
    expected = np.flatnonzero((course["low"] > 0) | (course["high"] < 0))
    np.testing.assert_array_equal(lines(axes, "beyond")[0].get_xdata(), expected)
    edges = [label.get_text() for label in axes.get_xticklabels()]
    assert edges[: len(course)] == [f"{value:g}" for value in course["since_from"]]


def test_a_signal_without_events_says_so():
    tree = time_tree()
    with pytest.raises(NothingToMeasureError) as reason:
        lock_to_events(tree)
    empty = empty_result(tree, reason.value)
    assert "no known events" in words(draw_events(events_table(empty), empty))


def test_a_table_without_a_column_is_named(locked):
    with pytest.raises(LaglensError, match="table of events has no 'matched'"):
        draw_events(locked[0].drop(columns="matched"), locked[1])


@pytest.mark.parametrize(("heads", "kinds"), [(1, 1), (144, 1), (6, 5)])
def test_text_is_never_clipped_and_never_overlaps(locked, heads, kinds):
    table, tree = locked
    one = table[table["head"] == 0]
    copies = [one.assign(layer=i // 12, head=i % 12, excess=one["excess"] * (i % 7 - 3)) for i in range(heads)]
    copies = [copy.assign(event=f"a_kind_of_event_{kind}") for copy in copies for kind in range(kinds)]
    many = pd.concat(copies)
    assert_readable(draw_events(many, tree, title=LONG, subtitle=f"{LONG} {LONG}"))
