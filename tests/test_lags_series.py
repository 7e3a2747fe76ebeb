"""Every series of a panel against its own noise: planted lags are found, noise is not, and memory does not grow."""

import numpy as np
import pytest
import xarray as xr
from models import tiny
from trees import node_of

from laglens.attention.cube import attention_tree
from laglens.errors import LaglensError
from laglens.lags.layout import Layout
from laglens.lags.profiles import ratio_of_part
from laglens.lags.series import SeriesRatios, judge_series, said_of_series, series_table
from laglens.signals.windows import windows
from laglens.time.reduce import to_time
from laglens.time.series import series_into

SERIES, CONTROLS, LAGS = 60, 19, 4.0 * np.arange(1, 13)


def ratios(planted: dict[int, int], *, seed: int = 0, gain: float = 1.0, controls: int = CONTROLS) -> xr.DataTree:
    """Profiles of noise, but in series k with a peak at lag number ``planted[k]`` in head 1 of the second layer.

    Each series has a level and a spread of its own, as memory gives it.
    """
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.02, 0.2, (SERIES, 1, 1, 1))
    logs = np.log(2) + spread * rng.normal(size=(1 + controls, SERIES, 2, 3, len(LAGS)))
    for series, lag in planted.items():
        logs[0, series, 1, 1, lag] += 24 * gain * spread[series, 0, 0, 0]
    coords = {"layer": [0, 1], "head": [0, 1, 2], "lag": LAGS}
    node = xr.Dataset({"ratio": (("replicate", "sample", "layer", "head", "lag"), np.expm1(logs))}, coords)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"left_out": {}}), "/encoder": node.assign_attrs(part="p")})


def panel(length: int = 64) -> xr.Dataset:
    value = np.random.default_rng(1).normal(size=(SERIES, length))
    names = np.array([f"s{k}" for k in range(SERIES)], dtype=object)
    attrs = {"time_step": 0.5, "time_unit": "hours"}
    return xr.Dataset({"value": (("sample", "time"), value)}, {"series_name": ("sample", names)}, attrs)


def test_planted_lags_are_found_in_their_series_and_head() -> None:
    planted = {k: k % 10 + 1 for k in range(12)}
    tested = judge_series(ratios(planted), list(panel().series_name.values))
    assert list(tested.to_dataset().series_name.values) == list(panel().series_name.values)
    table = series_table(tested, panel(), history=64)
    above = table[table["above"]]
    assert {f"s{k}" for k in planted} <= set(above["series"]) and len(above) <= 14
    for row in above[above["series"].isin([f"s{k}" for k in planted])].to_dict("records"):
        lag = LAGS[planted[int(row["series"][1:])]]
        found = (row["stack"], row["layer"], row["head"], row["part"], row["lag"], row["lag_time"], row["time_unit"])
        assert found == ("encoder", 1, 1, "p", lag, lag / 2, "hours")
        assert row["p"] == row["smallest_p"] == 1 / 20 and row["q"] <= 0.05 < row["ratio_to_control"]
        assert row["ratio_to_control"] == pytest.approx(row["ratio"] / row["control_mean"])
    assert said_of_series(table).startswith(f"{len(above)} of 60 series")
    assert len(table) == SERIES and table["above"].is_monotonic_decreasing


def test_the_statistic_is_the_largest_score_against_the_series_own_controls() -> None:
    tree = ratios({3: 5}, gain=0.3)
    logs = np.log1p(node_of(tree)["ratio"].values)
    spread = logs[1:].std(0, ddof=1)
    floor = np.median(spread, -1, keepdims=True)  # the typical spread of a head
    expected = (logs[0] - logs[1:].mean(0)) / np.maximum(spread, floor)
    tested = judge_series(tree)
    np.testing.assert_allclose(node_of(tested)["z"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tested["score"], expected.mean((1, 2)).max(-1), rtol=1e-5)
    null = np.empty((CONTROLS, SERIES))
    for r in range(CONTROLS):
        others = np.delete(logs[1:], r, 0)
        z = (logs[1 + r] - others.mean(0)) / np.maximum(others.std(0, ddof=1), floor)
        null[r] = z.mean((1, 2)).max(-1)
    own = (1 + (null >= tested["score"].values).sum(0)) / (1 + CONTROLS)
    np.testing.assert_allclose(tested["p"], own)
    pooled = [(1 + (null >= one).sum()) / (1 + null.size) for one in tested["score"].values]
    np.testing.assert_allclose(tested["p_pooled"], pooled)


def test_noise_alone_is_seldom_above() -> None:
    """At a false discovery rate of 5 % a panel of noise has any discovery in about 5 % of cases."""
    runs = [judge_series(ratios({}, seed=seed)) for seed in range(60)]
    assert sum(bool(run["above"].any()) for run in runs) <= 8  # 3 are expected; more than 8 has p < 0.01
    own = np.concatenate([run["p"].values for run in runs])
    assert 0.02 < (own <= 0.05).mean() < 0.055 and 0.4 < own.mean() < 0.6
    pooled = np.concatenate([run["p_pooled"].values for run in runs])
    assert (pooled <= 0.01).mean() < 0.013


def test_one_series_among_many_stands_out_if_there_are_controls_enough() -> None:
    few, enough = judge_series(ratios({3: 5})), judge_series(ratios({3: 5}, controls=39))
    assert not few["above"].any() and few["q"].min() > 0.05
    assert list(np.flatnonzero(enough["above"])) == [3]
    said = said_of_series(series_table(few, panel(), history=64))
    assert "q of one" not in said_of_series(series_table(few, panel(), history=64), confidence=0.9)
    assert "0 of 60" in said and "q of one series alone is 0.053 at least; raise lags.series_controls" in said
    assert said_of_series(series_table(enough, panel(), history=64)).startswith("1 of 60 series show a lag")


def with_ratio(tree: xr.DataTree, ratio: np.ndarray) -> xr.DataTree:
    node = node_of(tree)
    return xr.DataTree.from_dict({"/": tree.to_dataset(), "/encoder": node.assign(ratio=(node["ratio"].dims, ratio))})


def test_heads_that_never_look_at_a_lag_do_not_decide() -> None:
    tree = ratios({3: 5}, controls=39)
    ratio = node_of(tree)["ratio"].values.copy()
    ratio[:, :, 0, 0] = 0.0  # stored as float16, as sharp heads are
    ratio[0, 7, 0, 0, 2] = 1e-6
    tested = judge_series(with_ratio(tree, ratio))
    assert np.isfinite(tested["score"]).all() and list(np.flatnonzero(tested["above"])) == [3]
    table = series_table(judge_series(with_ratio(tree, 0 * ratio)), panel(), history=64)
    assert table["ratio_to_control"].isna().all() and not table["above"].any()


def test_pieces_of_one_series_are_told_apart() -> None:
    cut = panel().assign_coords(series_name=("sample", ["north"] * SERIES), start=("sample", 64 * np.arange(SERIES)))
    table = series_table(judge_series(ratios({3: 5}, controls=39)), cut, history=64)
    assert table["start"][0] == 3 * 64 and sorted(table["start"]) == list(64 * np.arange(SERIES))


def test_too_few_controls_and_no_stack_are_said() -> None:
    with pytest.raises(LaglensError, match=r"2 controls of each series are too few; raise lags\.series_controls"):
        judge_series(ratios({}).map_over_datasets(lambda node: node.isel(replicate=slice(3), missing_dims="ignore")))
    nothing = xr.DataTree(xr.Dataset(attrs={"left_out": {"encoder": "it has one token"}}))
    table = series_table(judge_series(nothing), panel(), history=64)
    assert set(table["reason"]) == {"stack 'encoder': it has one token"} and not table["above"].any()
    assert said_of_series(table) == "no series can be judged: stack 'encoder': it has one token"
    assert len(table) == SERIES and table[["lag", "layer", "head"]].isna().all(axis=None)


@pytest.mark.parametrize("batch", [1, 5])
def test_profiles_are_those_of_the_mean_map_of_each_series(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three series of three windows each, in batches that cut through series."""
    monkeypatch.setattr("laglens.attention.batches.MOST_AT_ONCE", batch)
    model = tiny("numeric")
    value = xr.DataArray(np.random.default_rng(0).normal(size=(2, 3, 60)), dims=("replicate", "sample", "time"))
    sink = SeriesRatios(model.history, n_series=3)
    signal, control = xr.Dataset({"value": value[0]}), xr.Dataset({"value": value[[1, 0]]})
    assert series_into(sink, model, signal, control, controls=1, per_series=3) == 3
    for replicate in range(2):
        cut = windows(value.isel(replicate=replicate), model.history, model.horizon, 9)
        time = to_time(attention_tree(model, cut, store="time"))
        assert list(sink.tree.children) == list(time.children)
        for name, found in sink.tree.children.items():
            node = time[name].to_dataset()
            layout = Layout.of(node, model.history)
            for series in range(3):
                mean = node["attention"].isel(sample=cut.signal_sample.values == series).mean("sample").values
                expected = ratio_of_part(mean, layout, found.attrs["part"])
                expected = expected[..., layout.measured(found.attrs["part"]) & (layout.lag > 0)]
                np.testing.assert_allclose(found["ratio"][replicate, series], expected, rtol=2e-3)


def test_a_model_that_takes_the_series_together_is_refused() -> None:
    model = tiny("numeric")
    model.channels = 2
    value = xr.Dataset({"value": (("replicate", "sample", "time"), np.zeros((1, 2, 60)))})
    with pytest.raises(LaglensError, match="the model takes 2 series together, so none of them has maps of its own"):
        series_into(SeriesRatios(32, 2), model, value.isel(replicate=0), value)
