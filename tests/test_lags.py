"""Lags: which pairs count, profiles, bands, peaks, tables and comparisons."""

import numpy as np
import pytest
import xarray as xr
from trees import control_tree, time_tree

from laglens.errors import LaglensError
from laglens.lags.bands import control_bands, leave_one_out_z, order_quantile, smallest_controls
from laglens.lags.comparison import compare_lags
from laglens.lags.layout import Layout
from laglens.lags.measure import measure_lags
from laglens.lags.pairs import PairTable, lag_steps
from laglens.lags.peaks import profile_peaks, prominence_limit
from laglens.lags.profiles import lag_profile, lag_ratio, mean_by_bin, subdiagonal_means
from laglens.lags.tables import changes_table, nearest_multiple, peaks_table
from laglens.lags.testability import testability

HISTORY = 128
ALL_PARTS = {"horizon->history", "history->history", "horizon->horizon", "history->horizon"}


def node_of(tree, name="encoder"):
    return tree.children[name].to_dataset(inherit=False)


def exact(*heads, **options):
    """One stack without noise; heads that prefer something put all their mass there."""
    return node_of(time_tree(heads=heads, noise=0, strength=np.inf, samples=1, stacks={"encoder": (0,)}, **options))


def with_maps(node, maps):
    """The node with other attention, `maps` (sample, layer, head, query, key)."""
    small = node.isel(sample=slice(maps.shape[0]), layer=slice(maps.shape[1]), head=slice(maps.shape[2]))
    return small.assign(attention=(node["attention"].dims, maps.astype("float32")))


@pytest.fixture(scope="module")
def measured():
    return measure_lags(time_tree(), control_tree())


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
    with pytest.raises(LaglensError, match="no pairs in part 'cross->history'; it has horizon->history"):
        lag_profile(node_of(time_tree(samples=1)), "cross->history", history=HISTORY)


def test_maps_are_read_one_at_a_time():
    rng = np.random.default_rng(0)
    weights, bins = rng.random((3, 2, 5, 5)), rng.integers(-1, 4, (5, 5))
    whole = mean_by_bin(weights, bins, 4)
    np.testing.assert_allclose(whole[1, 1], mean_by_bin(weights[1, 1], bins, 4))
    np.testing.assert_allclose(whole[2, 0, 3], weights[2, 0][bins == 3].mean())


# -- bands ---------------------------------------------------------------------------------------------------------


def correlated_profiles(rng, replicates, heads=1, lags=40):
    """Log-normal, correlated over heads and lags: what profiles of noise look like. (replicate, head, lag)."""
    common, head = rng.standard_normal((replicates, 1, 1)), rng.standard_normal((replicates, heads, 1))
    return np.exp(0.6 * (0.5 * common + 0.5 * head + 0.7 * rng.standard_normal((replicates, heads, lags))))


def test_leave_one_out_agrees_with_leaving_one_out():
    controls = correlated_profiles(np.random.default_rng(0), 19)[:, 0]
    z = leave_one_out_z(controls)
    for i in (0, 7, 18):
        others = np.delete(controls, i, axis=0)
        np.testing.assert_allclose(z[i], (controls[i] - others.mean(0)) / others.std(0, ddof=1))


def test_order_quantile_is_the_five_percent_test():
    values = np.arange(99.0)[::-1]
    assert order_quantile(values, 0.95) == 94  # five of a hundred values, the observation among them, lie above
    assert np.isnan(order_quantile(np.array([1.0, np.nan, 2.0]), 0.5))


@pytest.mark.parametrize(("replicates", "runs"), [(19, 1000), (99, 400)])
def test_limit_is_calibrated(replicates, runs):
    """Of null signals at most 5 % have any lag of a head above its limit; 3 standard errors are allowed."""
    rng, tested, false = np.random.default_rng(3), np.ones(40, bool), 0
    for _ in range(runs):
        profiles = correlated_profiles(rng, replicates + 1)
        false += (profiles[0] > control_bands(profiles[0], profiles[1:], tested).limit_upper).any()
    assert 0.01 < false / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(("replicates", "published"), [(19, 0.89), (99, 0.28)])
def test_limit_from_nulls_standardised_by_themselves_would_not_be(replicates, published):
    """Over 32 heads x 40 lags, as tabulated for both; the limit in use stays calibrated there too."""
    rng, runs, tested = np.random.default_rng(4), 100, np.ones(32 * 40, bool)
    naive_false, false = 0, 0
    for _ in range(runs):
        profiles = correlated_profiles(rng, replicates + 1, heads=32).reshape(replicates + 1, -1)
        observed, controls = profiles[0], profiles[1:]
        mean, sd = controls.mean(0), controls.std(0, ddof=1)
        naive = order_quantile(((controls - mean) / sd).max(1), 0.95)
        naive_false += ((observed - mean) / sd).max() > naive
        false += (observed > control_bands(observed, controls, tested).limit_upper).any()
    assert naive_false / runs == pytest.approx(published, abs=0.15)
    assert false / runs < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_band_holds_its_share_at_each_lag():
    profiles = correlated_profiles(np.random.default_rng(1), 1099, lags=200)[:, 0]
    bands = control_bands(profiles[0], profiles[100:], np.ones(200, bool))
    inside = (profiles[:100] >= bands.lower) & (profiles[:100] <= bands.upper)
    assert inside.mean() == pytest.approx(0.95, abs=0.02)


def test_a_head_that_ignores_its_input_is_never_above():
    """Its maps never change, and the observed ones may be rounded to float16."""
    decay = np.exp(-np.arange(40) / 10)[None].repeat(99, 0)
    observed = decay[0].astype(np.float16).astype(float)
    bands = control_bands(observed, decay, np.ones(40, bool))
    assert (observed <= bands.limit_upper).all() and (np.abs(bands.z) <= 1).all()


@pytest.mark.parametrize(("n", "found"), [(0, "no controls"), (1, "1 control;"), (18, "18 controls")])
def test_too_few_controls_are_refused(n, found):
    assert smallest_controls(0.95) == 19
    with pytest.raises(LaglensError, match=f"0.95 needs at least 19 controls, found {found}"):
        control_bands(np.ones(4), np.ones((n, 4)), np.ones(4, bool))
    with pytest.raises(LaglensError, match="confidence is 95; it must lie between 0 and 1"):
        control_bands(np.ones(4), np.ones((99, 4)), np.ones(4, bool), confidence=95)


# -- peaks ---------------------------------------------------------------------------------------------------------


def test_peak_location_is_refined_between_tokens():
    lag = np.arange(-30, 31) * 4.0
    profile = np.maximum(0, 1 - ((lag - 33.3) / 12) ** 2) + np.maximum(0, 0.5 - ((lag + 50.5) / 12) ** 2)
    profile[30] = 9  # lag 0 leans on neither side
    peaks = profile_peaks(profile, lag)
    np.testing.assert_allclose(peaks.lag, [-50.5, 33.3], atol=1e-6)
    np.testing.assert_allclose(peaks.prominence, profile[peaks.index])


def test_ends_and_missing_lags_are_no_peaks():
    lag = np.arange(1, 9) * 1.0
    assert len(profile_peaks(np.array([9, 1, 1.5, 2, 3, 4, 5, 6]), lag).index) == 0
    assert profile_peaks(np.array([np.nan, 0, 1, 0, 2, 0, np.nan, np.nan]), lag).index.tolist() == [2, 4]


def test_prominence_limit_is_calibrated():
    rng, lag = np.random.default_rng(5), np.arange(1, 41) * 1.0
    false = 0
    for _ in range(150):
        profiles = correlated_profiles(rng, 40)[:, 0]
        limit = prominence_limit(profiles[1:], lag, 0.95)
        false += profile_peaks(profiles[0] - profiles[1:].mean(0), lag).prominence.max() > limit
    assert 0.003 < false / 150 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


# -- testability ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "answer", "apparent"),
    [(62.83, "coarse", 62.83), (31.42, "no", 32.6), (6.28, "no", 35.38), (64, "yes", 64), (100, "yes", 100)],
)
def test_testability_of_the_published_periods(period, answer, apparent):
    result = testability(period, 16)
    assert result.testable == answer and result.apparent == pytest.approx(apparent, rel=2e-3)
    assert str(result).startswith(f"period {period:.4g} is {period / 16:.3g} tokens")


def test_a_period_of_one_token_never_shows():
    assert testability(16, 16).apparent == np.inf and testability(16, 16).testable == "no"
    with pytest.raises(LaglensError, match="true period of 0 samples"):
        testability(0, 16)


# -- the measured tree ---------------------------------------------------------------------------------------------


def test_tree_has_the_promised_shape(measured):
    node = node_of(measured)
    assert list(measured.children) == ["encoder", "decoder"] and set(node["part"].values) == ALL_PARTS
    for name in ("profile", "ratio", "control_mean", "limit", "z"):
        assert node[name].dims == ("part", "layer", "head", "lag")
    assert node["band"].dims == ("part", "layer", "head", "lag", "bound") and list(node["bound"]) == ["lower", "upper"]
    assert node["n_pairs"].dims == node["n_queries"].dims == ("part", "lag")
    assert node["limit"].sel(lag=0).isnull().all() and node["ratio"].sel(lag=0, part="history->history").notnull().all()
    attrs = {k: node.attrs[k] for k in ("null", "n_controls", "n_windows", "confidence", "samples_per_token")}
    assert attrs == {"null": "ar1", "n_controls": 99, "n_windows": 4, "confidence": 0.95, "samples_per_token": 4.0}
    assert node.attrs["periods"][0]["testable"] == "yes" and measured.attrs["model"]["name"] == "planted"
    missing = node["ratio"].isnull()
    assert (missing == (node["n_queries"] == 0)).all()
    for name in ("control_mean", "z"):
        assert (node[name].isnull() == missing).all()


def test_ratio_is_that_of_the_mean_map(measured):
    node = node_of(time_tree())
    mean = node["attention"].mean("sample", dtype="float64").values[None]
    alone = lag_ratio(with_maps(node, mean), "horizon->history", history=HISTORY).squeeze().dropna("lag")
    together = node_of(measured)["ratio"].sel(part="horizon->history").dropna("lag")
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_planted_peaks_stand_out_and_noise_does_not(measured):
    table = peaks_table(measured)
    above = table[table["above"]]
    planted = (above["head"] == 0) & above["part"].str.endswith("->history") & above["part"].str.startswith("h")
    forecasting = above[planted & (np.abs(above["offset"]) < 1) & (above["multiple"] == 1)]
    found = set(zip(forecasting["stack"], forecasting["layer"], forecasting["part"], strict=True))
    places = [("encoder", 0), ("encoder", 1), ("decoder", 2)]
    assert found == {(*place, part) for place in places for part in ("horizon->history", "history->history")}
    # 3 noise heads x 3 layers x 4 parts at 5 %: two are expected, six would be a fault
    assert len(above[above["head"] != 0].groupby(["stack", "layer", "head", "part"])) <= 5


def test_table_reads_like_the_tree(measured):
    table = peaks_table(measured)
    row = table.iloc[0]
    here = node_of(measured, row["stack"]).sel(
        layer=row["layer"], head=row["head"], part=row["part"], lag=row["axis_lag"]
    )
    assert row["ratio"] == here["ratio"] and row["limit"] == here["limit"] and row["z"] == here["z"]
    assert bool((table["above"] == (table["above_limit"] & table["above_prominence"])).all())
    assert bool((table["above_limit"] == (table["ratio"] > table["limit"])).all())
    assert (np.abs(table["lag"] - table["axis_lag"]) <= 2).all() and (table["axis_lag"] != 0).all()


def test_lag_in_time_units_and_nothing_known_about_periods():
    tree, control = time_tree(periods=[]), control_tree(replicates=19)
    tree.attrs["signal"] |= {"time_step": 0.5, "time_unit": "hours"}
    table = peaks_table(measure_lags(tree, control))
    np.testing.assert_allclose(table["lag_time"], table["lag"] / 2)
    assert set(table["time_unit"]) == {"hours"} and table["period"].isna().all() and (table["multiple"] == 0).all()


def test_nearest_multiple_prefers_the_simplest_and_skips_what_is_aliased():
    periods = [vars(testability(p, 8)) for p in (62.83, 31.42, 6.28)]
    assert nearest_multiple(64, periods, 8)["period"] == 62.83
    assert nearest_multiple(-30, periods, 8) == {
        "period": 31.42, "multiple": 1, "offset": pytest.approx(-1.42), "testable": "coarse",
    }  # fmt: skip
    assert nearest_multiple(126, periods, 8)["multiple"] == 2


def test_special_mass_is_reported_and_changes_no_ratio(measured):
    sink = node_of(measure_lags(time_tree(special_mass=0.9), control_tree(special_mass=0.9, replicates=19)))
    np.testing.assert_allclose(sink["special_mass"], 0.9, rtol=1e-6)
    xr.testing.assert_allclose(sink["ratio"], node_of(measured)["ratio"], rtol=1e-5)
    assert (node_of(measured)["special_mass"] == 0).all()


def test_encoder_that_forecasts_from_its_last_token():
    options = {"history": 100, "horizon": 20, "step": 1, "horizon_tokens": False, "readout": "last", "lag": 12}
    options |= {"stacks": {"encoder": (0,)}, "heads": ("planted", "uniform")}
    tree = measure_lags(time_tree(**options), control_tree(replicates=39, **options))
    assert list(tree["encoder"]["part"].values) == ["readout->history", "history->history"]
    table = peaks_table(tree)
    best = table[(table["part"] == "readout->history") & table["above"]].iloc[0]
    assert best["head"] == 0 and best["lag"] == pytest.approx(12, abs=0.6)


def test_parts_too_small_are_left_out_with_the_reason():
    options = {"horizon": 16, "stacks": {"encoder": (0,)}}
    node = node_of(measure_lags(time_tree(**options), control_tree(replicates=19, **options)))
    assert "horizon->horizon" not in node["part"]
    assert "shared by 8 of its 4 queries" in node.attrs["left_out"]["horizon->horizon"]


def test_head_without_mass_on_the_keys_is_not_measurable_and_breaks_nothing():
    tree, control = time_tree(), control_tree(replicates=19)
    tree["encoder"]["attention"][:, 0, 0] = 0
    measured = measure_lags(tree, control)
    assert measured["encoder"]["ratio"].sel(layer=0, head=0).isnull().all()
    assert measured["encoder"]["z"].sel(layer=0, head=1, part="horizon->history").notnull().any()
    assert ((t := peaks_table(measured))["ratio"].notna()).all() and len(t)


# -- loud errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": 124}, "'history' differs: 128 in the signal, 124 in the control"),
        ({"stacks": {"encoder": (0, 1)}}, "list of attention stacks differs"),
        ({"stacks": {"encoder": (0, 1), "decoder": (3,)}}, "stack 'decoder': layer differs"),
        ({"heads": ("planted", "uniform", "first")}, "stack 'encoder': head differs: 4 values.* 3 values"),
        ({"step": 8}, r"samples_per_token differs: 4.0 in the signal, 8.0 in the control"),
        ({"readout": "last"}, "stack 'encoder': query_readout differs"),
        ({"replicates": 9}, "needs at least 19 controls, found 9 controls"),
        ({"replicates": 0}, "found no controls"),
        ({"windows": 2}, "controls average 2 windows each, the signal 4"),
    ],
)
def test_controls_that_do_not_fit_are_named(change, message):
    with pytest.raises(LaglensError, match=message):
        measure_lags(time_tree(), control_tree(**({"replicates": 19} | change)))


def test_another_model_is_named():
    control = control_tree(replicates=19)
    control.attrs["model"] = {**control.attrs["model"], "name": "other"}
    with pytest.raises(LaglensError, match="model 'name' differs: 'planted' in the signal, 'other' in the control"):
        measure_lags(time_tree(), control)


def test_a_tree_of_another_stage_is_named(measured):
    with pytest.raises(LaglensError, match="no stack with 'ratio'"):
        peaks_table(time_tree())
    with pytest.raises(LaglensError, match="no stack with 'difference'"):
        changes_table(measured)
    with pytest.raises(LaglensError, match="stack 'encoder': max_lag is 2"):
        measure_lags(time_tree(), control_tree(replicates=19), max_lag=2)


# -- comparison ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared():
    without = ("uniform", "uniform", "first", "decay")
    a, b = time_tree(), time_tree(seed=5, heads=without, periods=[16, 6])
    return compare_lags(a, control_tree(), b, control_tree(seed=7), names=("with", "without"))


def test_a_removed_lag_is_the_largest_change(compared):
    table = changes_table(compared)
    planted = table[(table["head"] == 0) & (table["part"] == "horizon->history") & (table["at"] == "period")]
    at_32 = planted[planted["period"] == 32]
    assert at_32["beyond_limit"].all() and (at_32["difference"] > 5).all() and set(at_32["period_of"]) == {"with"}
    assert set(table["period"].dropna()) == {32.0, 16.0}  # 6 samples are under two tokens
    largest = table[table["at"] == "largest"]
    assert len(largest) == 3 * 4 * 4 and not largest.duplicated(["stack", "layer", "head", "part"]).any()
    noise = largest[largest["head"] != 0]
    assert noise["beyond_limit"].mean() < 0.2


def test_comparison_holds_both_signals_and_their_difference(compared, measured):
    node = node_of(compared)
    a, b = (node["ratio"].sel(signal=name, drop=True) for name in ("with", "without"))
    xr.testing.assert_allclose(node["difference"], a - b)
    xr.testing.assert_allclose(a, node_of(measured)["ratio"])
    xr.testing.assert_allclose(node["signal_limit"].sel(signal="with", drop=True), node_of(measured)["limit"])
    limit = node["limit"].transpose(..., "bound").values
    mean = node["control_mean"].values
    np.testing.assert_allclose(mean - limit[..., 0], limit[..., 1] - mean)
    assert node.attrs["null"] == "ar1 - ar1" and compared.attrs["names"] == ["with", "without"]


def test_a_signal_compared_with_itself_changes_nothing():
    tree, control = time_tree(stacks={"encoder": (0,)}), control_tree(replicates=19, stacks={"encoder": (0,)})
    node = node_of(compare_lags(tree, control, tree, control))
    assert (node["difference"].fillna(0) == 0).all() and (node["z"].fillna(0) == 0).all()
    assert not changes_table(compare_lags(tree, control, tree, control))["beyond_limit"].any()


def test_signals_that_cannot_be_compared_are_named():
    tree, control = time_tree(), control_tree(replicates=19)
    with pytest.raises(LaglensError, match="a has 19 controls, b has 20"):
        compare_lags(tree, control, tree, control_tree(replicates=20))
    with pytest.raises(LaglensError, match="both signals are called 'x'"):
        compare_lags(tree, control, tree, control, names=("x", "x"))
    other, other_control = time_tree(step=8), control_tree(replicates=19, step=8)
    with pytest.raises(LaglensError, match="samples_per_token differs: 4.0 in a, 8.0 in b"):
        compare_lags(tree, control, other, other_control)
