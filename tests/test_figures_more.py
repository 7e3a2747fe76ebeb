"""Figures of heads by layer, flow, agreement with attribution, and the worst forecasts."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from evidence_runs import knock_out, verdicts
from figure_runs import LONG, SMALL, axes_named, lines, pair
from test_figures_evidence import words
from test_figures_text import assert_readable
from trees import time_tree

from laglens.attribution.agreement import agree_with_attention
from laglens.errors import LaglensError
from laglens.figures.agreement import draw_agreement
from laglens.figures.alignment import draw_alignment, ridge
from laglens.figures.arcs import draw_arcs, strongest_arcs
from laglens.figures.bands import by_time, forecasting_rows
from laglens.figures.density import draw_density, pairs_of
from laglens.figures.evidence import draw_evidence
from laglens.figures.explanations import draw_explanations
from laglens.figures.flow import draw_flow
from laglens.figures.forecasts import draw_forecasts, window_errors
from laglens.figures.layers import draw_layers, signal_style
from laglens.figures.run import draw_run
from laglens.figures.similarity import draw_similarity
from laglens.figures.style import render
from laglens.flow.rollout import roll_out
from laglens.flow.trace import trace_back
from laglens.heads.measure import measure_heads
from laglens.heads.table import heads_table

BIG = {"heads": ("planted", "uniform", "first", "decay") * 3, "stacks": {"encoder": range(12)}}


@pytest.fixture(scope="module")
def time():
    return time_tree(samples=6, **SMALL)


def attributed(tree, of=None):
    """Attribution that is the mean forecasting row of the first head, spread over the samples of its tokens."""
    node = tree["encoder"].to_dataset()
    rows, keys = node["query_part"].values == 1, node["key_part"].values == 0
    weights = (of or node)["attention"].values[:, 0, 0][:, rows][:, :, keys].mean(1)
    history, step = int(tree.attrs["history"]), int(node.attrs["samples_per_token"])
    values = np.repeat(weights, step, axis=1)[None]
    root = tree.to_dataset(inherit=False)
    coords = {"attribution_method": np.array(["occlusion"], dtype=object), "sample": root["sample"]}
    coords["time"] = np.arange(history)
    attrs = tree.attrs | {"step": "mean", "target_time": history}
    return agree_with_attention(
        xr.Dataset({"attribution": (("attribution_method", "sample", "time"), values)}, coords, attrs), tree
    )


# -- heads by layer ---------------------------------------------------------------------------------------------------


def test_every_head_has_its_mark_and_every_layer_the_median_of_each_signal(time):
    tables = {"one": heads_table(measure_heads(time)), "two": heads_table(measure_heads(time))}
    tables["two"] = tables["two"].assign(gini=tables["two"]["gini"] / 2)
    axes = axes_named(draw_layers(tables), "layers gini")[0]
    part = tables["one"][tables["one"]["part"] == "horizon->history"]
    for signal, factor in (("one", 1), ("two", 0.5)):
        drawn = np.concatenate([line.get_ydata() for line in lines(axes, signal)])
        np.testing.assert_allclose(np.sort(drawn), np.sort(part["gini"] * factor))
    medians = [line.get_ydata()[0] for line in lines(axes, "median")]
    expected = part.groupby("layer")["gini"].median().to_numpy()
    np.testing.assert_allclose(sorted(medians), sorted([*expected, *expected / 2]))


def test_random_weights_stand_behind_and_medians_are_joined_within_a_stack(time):
    table = heads_table(measure_heads(time))
    one = table[table["part"] == "horizon->history"]
    untrained = table.assign(gini=table["gini"] / 4)
    figure = draw_layers({"one": pd.concat([table, table]), "two": table}, untrained={"one": untrained})
    axes = axes_named(figure, "layers gini")[0]
    medians = one.groupby("layer")["gini"].median()
    drawn = [line.get_ydata()[0] for line in lines(axes, "untrained")]
    np.testing.assert_allclose(drawn, medians / 4)
    joined = lines(axes, "progression")
    assert len(joined) == 2
    np.testing.assert_allclose(joined[0].get_ydata(), medians)
    assert "with random weights" in words(figure)


def test_signals_differ_in_colour_or_marker():
    assert len({(style["color"], style["marker"]) for style in map(signal_style, range(24))}) == 24


def test_a_table_without_a_measure_is_named(time):
    table = heads_table(measure_heads(time)).drop(columns="gini")
    with pytest.raises(LaglensError, match="table of heads of wave has no 'gini'"):
        draw_layers({"wave": table})


# -- flow -------------------------------------------------------------------------------------------------------------


def test_bands_are_the_rollout_of_the_queries_that_forecast(time):
    flow = roll_out(time)
    figure = draw_flow(flow, time, {"window": 2})
    image = axes_named(figure, "bands window")[0].images[0]
    horizon = flow["query_part"].values == 1
    np.testing.assert_allclose(image.get_array(), 100 * flow["rollout"].values[2][:, horizon].mean(1), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(image.get_array()).sum(1), 100, rtol=1e-5)
    mean = axes_named(figure, "bands mean")[0].images[0].get_array()
    np.testing.assert_allclose(mean[:2], 100 * flow["rollout_mean"].values[:, horizon].mean(1), rtol=1e-5)
    assert axes_named(figure, "bands window")[0].get_ylim() == (1.5, -0.5)  # the first layer on top
    assert "no null" in words(figure)


def test_a_flow_that_was_not_followed_says_so(time):
    figure = draw_flow(xr.Dataset(attrs={"left_out": "'cross': no tokens of its own"}), time)
    assert "No rollout: 'cross': no tokens of its own." in words(figure)


def test_columns_of_one_time_are_added_and_sorted():
    weights, times = by_time(np.array([[1.0, 2.0, 4.0]]), np.array([5.0, 1.0, 5.0]))
    np.testing.assert_array_equal(times, [1, 5])
    np.testing.assert_array_equal(weights, [[2, 5]])


def test_without_horizon_tokens_the_rows_read_for_the_forecast_are_taken():
    node = time_tree(samples=1, readout="last", **SMALL | {"horizon_tokens": False})["encoder"].to_dataset()
    np.testing.assert_array_equal(np.flatnonzero(forecasting_rows(node)), [node.sizes["query"] - 1])


# -- arcs -------------------------------------------------------------------------------------------------------------


def test_a_planted_lag_is_the_arc_of_the_layer(time):
    # Of the first head alone: its queries look 24 samples, 6 tokens, back.
    node = time["encoder"].to_dataset(inherit=False)
    one = xr.DataTree.from_dict({"/": time.to_dataset(inherit=False), "/encoder": node.isel(head=[0])})
    trace = trace_back(one, sample=1)
    assert trace.attrs["token"] == 23 and trace.attrs["time"] == node["query_time"].values[-1]
    last = strongest_arcs(trace, 5)[-1]
    assert (last["query"][0], last["key"][0]) == (23, 17)
    figure = draw_arcs(trace, one, {"window": 1})
    (axes,) = axes_named(figure, "arcs")
    (arcs,) = [found for found in axes.collections if found.get_gid() == "arcs"]
    strong = max(arcs.get_linewidths())
    ends = [(line[0], line[-1]) for line, width in zip(arcs.get_segments(), arcs.get_linewidths(), strict=True)]
    assert ([trace["key_time"][17], 1], [trace["key_time"][23], 2]) in [(list(a), list(b)) for a, b in ends]
    assert strong == pytest.approx(6 * float(np.sqrt(trace["passed"].max())), rel=1e-3)
    assert "no null" in words(figure)


def test_arcs_start_at_the_chosen_time_and_without_such_a_token_the_reason_is_drawn():
    tree, lags = pair()
    flow = roll_out(tree)
    chosen = draw_run(tree, lags, {"traced_time": 30}, flow=flow)["arcs"]
    (mark,) = lines(axes_named(chosen, "arcs")[0], "chosen")
    assert mark.get_xdata()[0] == 29.5
    assert "no token covers time 500" in words(draw_run(tree, lags, {"traced_time": 500}, flow=flow)["arcs"])


# -- agreement --------------------------------------------------------------------------------------------------------


def test_a_head_that_looks_where_the_forecast_comes_from_is_at_one(time):
    agreement = attributed(time)
    axes = axes_named(draw_agreement(agreement), "agreement occlusion")[0]
    beyond, within = (lines(axes, gid)[0] for gid in ("beyond", "within"))
    means = dict(
        zip(np.r_[beyond.get_ydata(), within.get_ydata()], np.r_[beyond.get_xdata(), within.get_xdata()], strict=True)
    )
    assert sorted(means) == list(range(8)) and means[0] == pytest.approx(1)
    assert max(mean for row, mean in means.items() if row > 0) < 0.999
    null = agreement["encoder"]["mismatched"].values.ravel()
    np.testing.assert_allclose(lines(axes, "mismatched")[0].get_xdata(), null)
    lower = np.percentile(agreement["encoder"]["spearman"].values[0], 25, axis=0).ravel()
    np.testing.assert_array_equal(beyond.get_ydata(), np.flatnonzero(lower > null))
    assert 0 in beyond.get_ydata()
    assert "other windows" in words(draw_agreement(agreement))


def test_without_rows_that_forecast_the_reason_is_drawn():
    tree = xr.DataTree(xr.Dataset(attrs={"no_agreement": "no attention stack has rows of the horizon"}))
    assert "Not compared: no attention stack has rows" in words(draw_agreement(tree))


# -- forecasts --------------------------------------------------------------------------------------------------------


def with_errors(tree, wrong, known=None):
    """The tree with forecasts that miss the truth by `wrong` sd of the history; `known`: steps of known truth."""
    root = tree.to_dataset(inherit=False)
    history = int(tree.attrs["history"])
    series = root["series"].values.copy()
    series[:, history:] = 0.0
    sd = series[:, :history].std(1, ddof=1)
    forecast = np.broadcast_to((np.asarray(wrong) * sd)[:, None], root["forecast"].shape)
    for window, steps in (known or {}).items():
        series[window, history + steps :] = np.nan
    changed = root.assign(series=(root["series"].dims, series), forecast=(root["forecast"].dims, forecast))
    nodes = {f"/{name}": node.to_dataset(inherit=False) for name, node in tree.children.items()}
    return xr.DataTree.from_dict({"/": changed, **nodes})


def test_windows_are_ranked_by_their_error_over_a_known_horizon(time):
    tree = with_errors(time, [3, 1, 5, 2, 9, 4], known={4: 2})  # the largest error is one of two steps
    errors, share = window_errors(tree)
    np.testing.assert_allclose(errors, [3, 1, 5, 2, 9, 4])
    np.testing.assert_allclose(share, [1, 1, 1, 1, 2 / 32, 1])
    said = [text.get_text() for text in draw_forecasts(tree).texts if text.get_text().startswith("window")]
    assert said == ["window 3: error 5 sd", "window 6: error 4 sd", "window 2: error 1 sd", "window 4: error 2 sd"]


def test_bands_show_what_was_looked_at_and_used(time):
    figure = draw_forecasts(with_errors(time, [3, 1, 5, 2, 9, 4]), attributed(time))
    axes = axes_named(figure, "looked largest errors 0")[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["looked at", "used"]
    shown = np.asarray(axes.images[0].get_array())
    node = time["encoder"].to_dataset()
    rows, keys = node["query_part"].values == 1, node["key_part"].values == 0
    looked = node["attention"].values[4][:, :, rows][..., keys].mean((0, 1, 2))
    np.testing.assert_allclose(shown[0], looked / looked.max(), rtol=1e-5)
    assert shown.max(1) == pytest.approx([1, 1])


def test_without_a_known_truth_no_window_is_called_worst(time):
    tree = with_errors(time, [1] * 6, known=dict.fromkeys(range(6), 0))
    assert "Fewer than two windows have a known truth" in words(draw_forecasts(tree))


# -- density ----------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_where_attention_and_attribution_put_them(time):
    node = time["encoder"].to_dataset(inherit=False)
    one = xr.DataTree.from_dict({"/": time.to_dataset(inherit=False), "/encoder": node.isel(head=[0], layer=[0])})
    agreement = attributed(one)  # the attribution of this head is its attention
    pairs = pairs_of(agreement, one, "occlusion")
    np.testing.assert_allclose(pairs.attention, pairs.attribution, rtol=1e-6)
    assert len(pairs.attention) == 6 * 16 and pairs.attention.reshape(6, 16).mean(1) == pytest.approx(1)
    figure = draw_density(agreement, one)
    (axes,) = axes_named(figure, "density occlusion")
    counts = axes.images[0].get_array().filled(0)
    assert counts.sum() == 6 * 16
    low, high = axes.get_xlim()
    row, column = np.nonzero(counts)
    x = low + (column + 0.5) * (high - low) / counts.shape[1]
    y = np.add(axes.get_ylim()[0], (row + 0.5) * np.ptp(axes.get_ylim()) / counts.shape[0])
    assert np.abs(x - y).max() < (high - low) / counts.shape[1] * 1.5  # on the rising diagonal
    assert "r 1 [1, 1]" in words(figure)


# -- explanations -----------------------------------------------------------------------------------------------------


def explained(tree, names=("occlusion", "rollout", "max_flow", "relevance")):
    """Comparison of explanations that put all importance of window w on sample 5 w + the place of the explanation."""
    root = tree.to_dataset(inherit=False)
    values = np.zeros((len(names), root.sizes["sample"], int(tree.attrs["history"])))
    for i, w in np.ndindex(*values.shape[:2]):
        values[i, w, 5 * w + i] = -3.0 if i == 0 else 1.0
    coords = {"explanation": np.array(names, dtype=object), "time": np.arange(values.shape[2])}
    node = xr.Dataset({"importance": (("explanation", "sample", "time"), values)}, coords)
    attrs = tree.attrs | {"step": 1, "target_time": tree.attrs["history"]}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), "/explanations": node})


def test_every_explanation_is_a_band_over_the_history_of_the_window(time):
    figure = draw_explanations(explained(time), time, window=2)
    one, mean = (axes_named(figure, f"explanations {name}")[0] for name in ("window", "mean"))
    assert [label.get_text() for label in one.get_yticklabels()] == ["occlusion", "rollout", "max flow", "relevance"]
    np.testing.assert_array_equal(one.images[0].get_array().argmax(1), [10, 11, 12, 13])
    np.testing.assert_allclose(np.asarray(mean.images[0].get_array())[0, 0:30:5], 1)
    assert one.images[0].get_extent()[:2] == [-0.5, 63.5] and one.get_xlim() == (-0.5, 95.5)
    with pytest.raises(LaglensError, match="figures.window is 9, but there are 6 windows"):
        draw_explanations(explained(time), time, window=9)
    assert "Not explained" in words(draw_explanations(xr.DataTree(), time))


# -- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, BIG, {"heads": ("planted",), "stacks": {"encoder": (0,)}}], ids=str)
def test_text_is_never_clipped_and_never_overlaps(options):
    tree, lags = pair(samples=4, unit="half-hours", **options)
    tree = with_errors(tree, [3, 1, 5, 2])
    tree.attrs["signal"] = dict(lags.attrs["signal"])
    named = {"title": LONG, "subtitle": LONG}
    table = heads_table(measure_heads(tree))
    figures = [draw_layers({f"{LONG}{i}": table for i in range(9)}, **named), draw_layers({"a": table}, **named)]
    run = draw_run(tree, lags, flow=roll_out(tree), **named)
    figures += [run["flow"], run["arcs"]]
    agreement = attributed(tree)
    effects, table = knock_out(periods=(24.0,))
    compared = explained(tree, [f"explanation_number_{i}_of_many" for i in range(12)])
    evidence = draw_evidence(verdicts(), effects, table, agreement, tree, compared=compared, **named)
    assert list(evidence) == ["verdicts", "knock_out", "agreement", "density", "forecasts", "explanations"]
    figures += evidence.values()
    for figure in figures:
        assert_readable(figure)
        assert figure.get_size_inches()[1] < 9
    assert len({render(draw_agreement(agreement), "png", 50) for _ in range(2)}) == 1


# -- similarity -------------------------------------------------------------------------------------------------------


def similarity(layers=3, heads=4, groups=2, name="encoder"):
    """Heads of one group have the same map, those of different groups nothing in common."""
    unit = np.arange(layers * heads)
    apart = np.where(np.subtract.outer(unit % groups, unit % groups) == 0, 0.0, 0.9)
    variables = {"js": (("part", "unit", "other"), apart[None])}
    coords = {"part": np.array(["horizon->history"], dtype=object)}
    coords |= {"layer_of": ("unit", unit // heads), "head_of": ("unit", unit % heads)}
    return xr.DataTree.from_dict({"/": xr.Dataset(), f"/{name}": xr.Dataset(variables, coords)})


def test_heads_that_are_alike_stand_together():
    figure = draw_similarity(similarity())
    image = np.asarray(axes_named(figure, "similarity")[0].images[0].get_array())
    expected = np.where(np.subtract.outer(np.arange(12) // 6, np.arange(12) // 6) == 0, 0, 0.9)
    np.testing.assert_allclose(image, expected)
    names = [label.get_text() for label in axes_named(figure, "similarity")[0].get_yticklabels()]
    even = {int(name[-2:]) % 2 for name in names[:6]}
    assert len(even) == 1 and len(names) == 12
    layers = np.asarray(axes_named(figure, "layers")[0].images[0].get_array()).ravel()
    assert [f"L{layer:02d}" for layer in layers] == [name[:3] for name in names]
    tree = axes_named(figure, "tree")[0].collections[0].get_segments()
    assert len(tree) == 11 and max(segment[:, 0].max() for segment in tree) == pytest.approx(np.sqrt(0.9))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (12, 12)])
def test_similarity_of_few_and_of_many_heads_is_readable(shape):
    figure = draw_similarity(similarity(*shape, name="a_stack_with_a_rather_long_name"), title=LONG, subtitle=LONG)
    assert_readable(figure)
    assert figure.get_size_inches()[1] < 9


# -- alignment --------------------------------------------------------------------------------------------------------


def crossed(heads=("planted",), layers=(0, 1), **options):
    """A tree whose cross-attention is that of horizon tokens to history tokens of an encoder."""
    planted = {"lag": 40, "strength": 9, "stacks": {"encoder": layers}, "heads": heads, "samples": 2}
    tree = time_tree(**SMALL | planted | options)
    node = tree["encoder"].to_dataset(inherit=False)
    cross = node.isel(query=np.flatnonzero(node["query_part"] == 1), key=np.flatnonzero(node["key_part"] == 0))
    return xr.DataTree.from_dict({"/": tree.to_dataset(inherit=False), "/cross": cross})


def test_the_ridge_of_a_lag_rises_with_the_forecast():
    figure = draw_alignment(crossed())
    axes = axes_named(figure, "map cross")[0]
    dots = lines(axes, "read most")[0]
    reached = dots.get_ydata() - 40 <= 62  # the last history token is centred at 61.5
    np.testing.assert_allclose(dots.get_xdata()[reached], dots.get_ydata()[reached] - 40)
    assert reached.sum() >= 6
    first, second = ridge(xr.DataArray([[0.0, 1.0], [0.5, 0.5]], {"key_time": ("key", [2.0, 6.0])}, ("query", "key")))
    np.testing.assert_array_equal(first, [6, 2])
    np.testing.assert_array_equal(second, [6, 4])


def test_a_tree_without_cross_attention_is_named(time):
    with pytest.raises(LaglensError, match="time tree has no 'cross'"):
        draw_alignment(time)


@pytest.mark.parametrize("layers", [(0,), range(12)])
def test_alignment_is_readable(layers):
    figure = draw_alignment(crossed(layers=layers), title=LONG, subtitle=LONG)
    assert len(axes_named(figure, "map cross")) == min(4, len(layers))
    assert_readable(figure)
