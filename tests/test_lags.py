"""Lags: which pairs count for which lag, and the profiles made from them."""

import numpy as np
import pytest
import xarray as xr
from trees import node_of, time_tree, with_maps

from laglens.errors import LaglensError
from laglens.lags.layout import Layout
from laglens.lags.pairs import PairTable, lag_steps
from laglens.lags.peaks import profile_peaks
from laglens.lags.profiles import lag_profile, lag_ratio, mean_by_bin, subdiagonal_means

HISTORY = 128
ALL_PARTS = {"horizon->history", "history->history", "horizon->horizon", "history->horizon"}


def exact(*heads, **options):
    """One stack without noise; heads that prefer something put all their mass there."""
    return node_of(time_tree(heads=heads, noise=0, strength=np.inf, samples=1, stacks={"encoder": (0,)}, **options))


# -- pairs ---------------------------------------------------------------------------------------------------------


def test_lags_are_signed_and_in_whole_tokens():
    time = np.arange(6) * 2.5
    assert (lag_steps(time, time, 2.5) == np.subtract.outer(np.arange(6), np.arange(6))).all()


def test_axes_half_a_token_apart_give_every_lag_its_share():
    steps = lag_steps(np.arange(20) * 4.0 + 2, np.arange(20) * 4.0, 4)
    assert (np.diff(steps, axis=1) == -1).all() and steps[0, 0] == 1


def test_every_pair_is_in_one_part_and_straddling_tokens_in_none():
    tree = time_tree(history=130, horizon=62, step=4, samples=1, stacks={"encoder": (0,)})
    table = PairTable.of(node_of(tree), 130)
    assert set(table.parts) == ALL_PARTS
    times_counted = np.sum(list(table.parts.values()), axis=0)
    straddles = 130 // 4
    inside = np.arange(len(times_counted)) != straddles
    assert (times_counted[np.ix_(inside, inside)] == 1).all()
    assert (times_counted[straddles] == 0).all() and (times_counted[:, straddles] == 0).all()


def test_parts_are_never_mixed():
    """Mass that horizon queries put on the horizon moves no other part."""
    node = exact("uniform")
    maps = node["attention"].values.astype(float)
    horizon = node["query_part"].values == 1
    changed = maps.copy()
    changed[..., horizon, :] *= np.where(node["key_part"].values == 1, 3.0, 1.0)
    for part in ALL_PARTS:
        before, after = (lag_profile(with_maps(node, m), part, history=HISTORY) for m in (maps, changed))
        factor = 3.0 if part == "horizon->horizon" else 1.0
        np.testing.assert_allclose(after, factor * before, rtol=1e-6)


def test_queries_of_a_window_have_every_lag_of_it():
    node = node_of(time_tree(samples=1))
    layout = Layout.of(node, HISTORY)
    for part, sides in layout.windows.items():
        for sign, window in sides.items():
            reach = np.where(layout.table.parts[part], sign * layout.table.lags, -1)
            for query in np.flatnonzero(window.queries):
                assert set(range(window.shortest, window.longest + 1)) - {0} <= set(reach[query])


def test_auto_reaches_three_quarters_of_a_part_and_the_whole_history_from_the_horizon():
    layout = Layout.of(node_of(time_tree(samples=1)), HISTORY)
    ends = {part: {s: (w.shortest, w.longest) for s, w in sides.items()} for part, sides in layout.windows.items()}
    assert ends["history->history"] == {1: (0, 24), -1: (1, 24)}
    assert ends["horizon->history"] == {1: (3, 32)}
    assert ends["history->horizon"] == {-1: (3, 16)}


def test_max_lag_in_samples_narrows_and_gains_queries():
    node = node_of(time_tree(samples=1))
    ratio = lag_ratio(node, "history->history", history=HISTORY, max_lag=42)
    assert ratio["lag"].min() == -40 and ratio["lag"].max() == 40
    assert ratio.attrs["n_queries"] == [22, 22]


def test_causal_stack_has_no_future_lags():
    node = node_of(time_tree(samples=1, causal=True))
    layout = Layout.of(node, HISTORY)
    assert (layout.lag >= 0).all() and "history->horizon" not in layout.table.parts


@pytest.mark.parametrize("max_lag", [3, 0, -8, "all", float("nan")])
def test_wrong_max_lag_is_named(max_lag):
    with pytest.raises(LaglensError, match=f"max_lag is {max_lag!r}.*4 samples"):
        Layout.of(node_of(time_tree(samples=1)), HISTORY, max_lag=max_lag)


# -- profiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", sorted(ALL_PARTS - {"history->horizon"}))
@pytest.mark.parametrize("options", [{}, {"special_mass": 0.4}, {"causal": True}], ids=["plain", "special", "causal"])
def test_uniform_attention_has_ratio_one(part, options):
    ratio = lag_ratio(exact("uniform", **options), part, history=HISTORY)
    np.testing.assert_allclose(ratio.dropna("lag"), 1, rtol=1e-6)
    assert ratio.sizes["lag"] >= 9


def test_identity_attention_is_all_at_lag_zero():
    profile = lag_profile(exact("same"), "history->history", history=HISTORY).squeeze()
    assert profile.sel(lag=0) == 1
    assert (profile.where(profile["lag"] != 0, drop=True) == 0).all()


@pytest.mark.parametrize("lag", [20, 32, 96])
@pytest.mark.parametrize("part", ["history->history", "horizon->history"])
def test_planted_lag_is_found_in_samples(lag, part):
    ratio = lag_ratio(exact("planted", lag=lag), part, history=HISTORY).squeeze()
    assert ratio["lag"][int(ratio.argmax("lag"))] == lag
    assert float(ratio.max()) == pytest.approx(48)  # all mass on one of 48 keys


def test_causal_uniform_profile_falls_as_computed_by_hand():
    tree = time_tree(history=77, horizon=0, step=1, heads=("uniform",), noise=0, causal=True, samples=1)
    profile = lag_profile(node_of(tree), "history->history", history=77, min_pairs=1).isel(layer=0).squeeze()
    beyond = 1 / np.arange(1, 78)
    for lag in profile["lag"].values.astype(int):
        assert float(profile.sel(lag=lag)) == pytest.approx(beyond[lag:].mean(), rel=1e-6)
    table = {1: 0.0517, 10: 0.0298, 38: 0.0179}
    assert [round(float(profile.sel(lag=lag)), 4) for lag in table] == list(table.values())
    assert beyond[70:].mean().round(4) == 0.0135


@pytest.mark.parametrize("part", sorted(ALL_PARTS))
def test_profiles_agree_with_a_double_loop(part):
    node = node_of(time_tree(samples=1, stacks={"encoder": (0,)}, heads=("planted", "decay"), special_mass=0.2))
    layout = Layout.of(node, HISTORY, parts=(part,))
    weights = node["attention"].values.astype(float)[0, 0]
    wanted = tuple({"history": 0, "horizon": 1}[name] for name in part.split("->"))
    query_part, key_part = node["query_part"].values, node["key_part"].values
    in_window = {s: set(np.flatnonzero(w.queries)) for s, w in layout.windows[part].items()}
    sums = {lag: [] for lag in layout.lag}
    ratios = {lag: [] for lag in layout.lag}
    for q in range(weights.shape[-2]):
        for k in range(weights.shape[-1]):
            if (query_part[q], key_part[k]) == wanted and q - k in sums:
                sums[q - k].append(weights[:, q, k])
                if q in in_window.get(1 if q >= k else -1, ()):
                    ratios[q - k].append(weights[:, q, k] / weights[:, q].mean(-1))
    fewest = layout.table.fewest_pairs(part, 8)
    profile, ratio = (f(node, part, history=HISTORY).squeeze().values for f in (lag_profile, lag_ratio))
    for i, lag in enumerate(layout.lag):
        expected = np.mean(sums[lag], axis=0) if len(sums[lag]) >= fewest else np.nan
        np.testing.assert_allclose(profile[:, i], expected, rtol=1e-6)
        if not np.isnan(ratio[:, i]).any():
            np.testing.assert_allclose(ratio[:, i], np.mean(ratios[lag], axis=0), rtol=1e-6)


def test_profiles_follow_a_permutation_of_heads_and_samples():
    node = node_of(time_tree())
    order = [2, 0, 3, 1]
    ratio = lag_ratio(node, "history->history", history=HISTORY)
    permuted = lag_ratio(node.isel(head=order, sample=order), "history->history", history=HISTORY)
    xr.testing.assert_equal(permuted, ratio.isel(head=order, sample=order))


def test_ratio_does_not_depend_on_the_sum_of_the_rows():
    node = node_of(time_tree(samples=1))
    scaled = node.assign(attention=node["attention"] * 0.25)
    ratio, again = (lag_ratio(n, "horizon->history", history=HISTORY) for n in (node, scaled))
    xr.testing.assert_allclose(ratio, again, rtol=1e-6)


def test_a_first_key_head_prefers_no_lag():
    """Its profile is flat where P1 of all pairs would be, and holds no peak: it attends to a place, not to a lag."""
    ratio = lag_ratio(exact("first"), "history->history", history=HISTORY).squeeze().dropna("lag")
    past = ratio.sel(lag=slice(4, 92)).values
    peaks = profile_peaks(past, np.arange(1, len(past) + 1))
    assert len(peaks.index) == 0


def test_lags_with_few_pairs_are_nan():
    node = node_of(time_tree(samples=1))
    layout = Layout.of(node, HISTORY, parts=("history->history",))
    profile = lag_profile(node, "history->history", history=HISTORY, min_pairs=10, max_lag=HISTORY)
    counts = 32 - np.abs(profile["lag"].values) / 4
    assert (counts >= 10).all() and layout.n_pairs("history->history").min() == 8
    few = layout.table.fewest_pairs("history->history", 30)
    assert (few, layout.table.fewest_pairs("horizon->history", 30)) == (30, 3)


def test_readout_row_alone_has_all_its_lags():
    tree = time_tree(history=100, horizon=20, step=1, horizon_tokens=False, readout="last", samples=2)
    node = node_of(tree)
    ratio = lag_ratio(node, "readout->history", history=100)
    assert ratio.sizes["lag"] == 100 and ratio.attrs["n_queries"] == [0, 1] and not ratio.isnull().any()
    row = node["attention"].values[..., -1, ::-1].astype(float)
    np.testing.assert_allclose(ratio, row / row.mean(-1, keepdims=True), rtol=1e-6)


def test_tokens_of_a_fractional_number_of_samples():
    tree = time_tree(history=100, horizon=50, step=4, lag=20, noise=0, strength=np.inf, samples=1)
    node = node_of(tree)
    shrink = {c: node[c] * 0.625 for c in node.coords if c.endswith(("_time", "_start", "_end"))}
    node = node.assign_coords(shrink).assign_attrs(samples_per_token=2.5)
    ratio = lag_ratio(node, "history->history", history=62.5).isel(layer=0, head=0).squeeze()
    assert ratio["lag"][int(ratio.argmax("lag"))] == 12.5


def test_visible_mask_decides_what_uniform_means():
    """Attention limited to the last 16 tokens and uniform there is no preference once the mask says so."""
    node = exact("uniform")
    distance = np.subtract.outer(np.arange(48), np.arange(48))
    visible = (distance >= 0) & (distance < 16)
    local = visible / visible.sum(1, keepdims=True)
    node = with_maps(node, local[None, None, None])
    ratio = lag_ratio(node, "history->history", history=HISTORY, visible=visible)
    np.testing.assert_allclose(ratio.dropna("lag"), 1, rtol=1e-6)
    assert float(lag_ratio(node, "history->history", history=HISTORY).sel(lag=8).squeeze()) == pytest.approx(3)
    with pytest.raises(LaglensError, match=r"visible keys is \(3, 3\), the attention map is \(48, 48\)"):
        lag_ratio(node, "history->history", history=HISTORY, visible=np.ones((3, 3), bool))


def test_published_readout_is_the_mean_of_the_subdiagonals():
    node = node_of(time_tree(samples=2))
    means = subdiagonal_means(node, max_lag=40)
    for lag in (4, 16, 40):
        expected = np.diagonal(node["attention"].values, -lag // 4, axis1=-2, axis2=-1).mean(-1)
        np.testing.assert_allclose(means.sel(lag=lag), expected, rtol=1e-5)
    assert means["lag"].values.tolist() == list(range(4, 41, 4)) and "published" in means.attrs["long_name"]


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(LaglensError, match="no attribute 'samples_per_token'; take a stack of what laglens.to_time"):
        lag_profile(exact("same").drop_attrs(), "history->history", history=HISTORY)
    with pytest.raises(LaglensError, match="no pairs in part 'cross->history'; it has horizon->history"):
        lag_profile(node_of(time_tree(samples=1)), "cross->history", history=HISTORY)


def test_maps_are_read_one_at_a_time():
    rng = np.random.default_rng(0)
    weights, bins = rng.random((3, 2, 5, 5)), rng.integers(-1, 4, (5, 5))
    whole = mean_by_bin(weights, bins, 4)
    np.testing.assert_allclose(whole[1, 1], mean_by_bin(weights[1, 1], bins, 4))
    np.testing.assert_allclose(whole[2, 0, 3], weights[2, 0][bins == 3].mean())
