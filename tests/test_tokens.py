"""Token maps: where every kind of token lies, and what any of them keeps on the way to time and to lags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from laglens.attention.coordinates import token_coordinates
from laglens.lags.measure import measure_lags
from laglens.lags.pairs import PairTable
from laglens.lags.profiles import lag_profile
from laglens.models.tokens import HISTORY, HORIZON, SPECIAL, TokenMap
from laglens.time.reduce import to_time

FEW = settings(max_examples=150, deadline=None)


# What each constructor means


def test_patches_may_overlap_leave_gaps_and_begin_before_the_series() -> None:
    overlapping = TokenMap.patches(16, 8, 8, stride=4)
    np.testing.assert_array_equal(overlapping.start, [0, 4, 8, 12, 16])
    np.testing.assert_array_equal(overlapping.end, [8, 12, 16, 20, 24])
    np.testing.assert_array_equal(overlapping.part, [HISTORY] * 4 + [HORIZON])  # the fourth reaches beyond the border
    np.testing.assert_array_equal(TokenMap.patches(20, 0, 4, stride=8).start, [0, 8, 16])
    padded = TokenMap.patches(20, 0, 8, first=-4).clipped(0, 20)
    np.testing.assert_array_equal(padded.start, [0, 4, 12])
    np.testing.assert_array_equal(padded.end, [4, 12, 20])


def test_tokens_of_padding_alone_become_special() -> None:
    padded = TokenMap.patches(16, 8, 8, first=-16, readout="last").clipped(0, 16)
    np.testing.assert_array_equal(padded.part, [SPECIAL, SPECIAL, HISTORY, HISTORY, SPECIAL])
    np.testing.assert_array_equal(padded.column, [-1, -1, 0, 1, -1])
    assert np.isnan(padded.start[:2]).all() and not padded.readout.any()


def test_rows_of_a_grid_share_their_columns() -> None:
    edges = np.linspace(0, 190, 21)  # resampled: 9.5 samples to a column
    image = TokenMap.grid(edges, 16, 90)
    np.testing.assert_array_equal(image.column.reshape(16, 20), np.tile(np.arange(20), (16, 1)))
    np.testing.assert_array_equal(image.row.reshape(16, 20)[:, 3], np.arange(16))
    np.testing.assert_allclose(image.time[:20], 9.5 * np.arange(20) + 4.25)
    assert image.part[9] == HISTORY and image.end[9] > 90  # straddles the border
    assert image.part[10] == HORIZON


def test_a_fold_puts_cycles_beside_and_phases_below_each_other() -> None:
    fold = TokenMap.folded(24, 6, 4, 6, 96)
    times = fold.time.reshape(4, 6)
    np.testing.assert_allclose(np.diff(times, axis=1), 24)
    np.testing.assert_allclose(np.diff(times, axis=0), 6)
    np.testing.assert_allclose(fold.end - fold.start, 6)
    np.testing.assert_array_equal(fold.part.reshape(4, 6)[0], [HISTORY] * 4 + [HORIZON] * 2)
    assert len(np.unique(fold.column)) == len(fold)


def test_a_fold_of_two_cycles_to_a_token_covers_both() -> None:
    fold = TokenMap.folded(10, 6, 2, 3, 60)
    np.testing.assert_allclose(fold.start.reshape(2, 3), [[0, 20, 40], [5, 25, 45]])
    np.testing.assert_allclose(fold.end.reshape(2, 3), [[15, 35, 55], [20, 40, 60]])


def test_a_stretched_fold_draws_its_first_and_last_cycle_out() -> None:
    fold = TokenMap.folded(10, 2, 1, 8, 20)  # four columns to a cycle
    np.testing.assert_allclose(fold.time, [4.5, 4.5, 5.75, 8.25, 10.75, 13.25, 14.5, 14.5])
    np.testing.assert_array_equal(fold.column, [0, 0, 1, 2, 3, 4, 5, 5])


def test_special_tokens_stand_at_either_end() -> None:
    tokens = TokenMap.patches(8, 4, 4, readout="last").with_special(2, 1)
    np.testing.assert_array_equal(tokens.part, [SPECIAL, SPECIAL, HISTORY, HISTORY, HORIZON, SPECIAL])
    np.testing.assert_array_equal(tokens.column, [-1, -1, 0, 1, 2, -1])
    np.testing.assert_array_equal(tokens.readout, [False, False, False, False, True, False])


def test_kept_tokens_keep_their_place_in_any_order() -> None:
    kept = TokenMap.grid(np.arange(0, 25, 4), 2, 16).with_special(1).taken([0, 9, 2, 5])
    np.testing.assert_array_equal(kept.start, [np.nan, 8, 4, 16])
    np.testing.assert_array_equal(kept.row, [0, 1, 0, 0])
    np.testing.assert_array_equal(kept.column, [-1, 1, 0, 2])


def test_distilling_halves_the_tokens_and_widens_them() -> None:
    distilled = TokenMap.patches(9, 0, 1).distilled()
    np.testing.assert_array_equal(distilled.start, [0, 1, 3, 5, 7])
    np.testing.assert_array_equal(distilled.end, [2, 4, 6, 8, 9])
    with_convolution = TokenMap.patches(8, 0, 1).distilled(kernel=5, padding=2)
    np.testing.assert_array_equal(with_convolution.start, [0, 0, 2, 4])
    np.testing.assert_array_equal(with_convolution.end, [3, 5, 7, 8])
    special = TokenMap.patches(4, 0, 1).with_special(1).distilled()
    np.testing.assert_array_equal(special.column, [-1, 0, 1])
    np.testing.assert_array_equal(special.start, [np.nan, 0, 2])


def test_rounding_of_the_geometry_parts_nothing() -> None:
    thirds = np.arange(10) / 3
    tokens = TokenMap.spans(thirds, thirds + 1 / 3, 2 + 1e-12)
    np.testing.assert_array_equal(tokens.part, [HISTORY] * 6 + [HORIZON] * 4)
    again = TokenMap.spans(np.r_[thirds, thirds + 1e-13], np.r_[thirds, thirds] + 1 / 3, 2)
    np.testing.assert_array_equal(again.column, np.r_[np.arange(10), np.arange(10)])


# What holds for every map


@dataclass(frozen=True)
class Drawn:
    """A token map, the samples of history, and the input samples from one time column to the next; None: uneven."""

    tokens: TokenMap
    history: int
    step: float | None


@st.composite
def patched(draw: st.DrawFn) -> Drawn:
    patch = draw(st.integers(1, 8))
    stride = draw(st.integers(1, 10))
    n = draw(st.integers(9, 16))
    history = patch + stride * (n - 1) + draw(st.integers(0, stride - 1))
    first = -stride * draw(st.integers(0, 2))
    tokens = TokenMap.patches(history, draw(st.integers(0, 12)), patch, stride=stride, first=first)
    return Drawn(tokens.clipped(0, np.inf), history, float(stride) if first == 0 else None)


@st.composite
def gridded(draw: st.DrawFn) -> Drawn:
    columns, step = draw(st.integers(6, 14)), draw(st.sampled_from([1.0, 4.0, 9.5, 32 / 3]))
    history = round(step * columns * draw(st.sampled_from([0.6, 0.7, 1.0])))
    return Drawn(TokenMap.grid(step * np.arange(columns + 1), draw(st.integers(1, 4)), history), history, step)


@st.composite
def folded(draw: st.DrawFn) -> Drawn:
    period, columns, across = draw(st.integers(4, 30)), draw(st.integers(4, 8)), draw(st.sampled_from([0.5, 1, 2, 1.5]))
    cycles, rows, first = columns * across, draw(st.integers(1, 4)), draw(st.integers(-3, 0))
    history = int(period * cycles) + first
    tokens = TokenMap.folded(period, cycles, rows, columns, history, first=first).clipped(0, np.inf)
    return Drawn(tokens, history, period / rows if across == 1 and first == 0 else None)


@st.composite
def flattened_variates(draw: st.DrawFn) -> Drawn:
    n, patch, variates = draw(st.integers(6, 12)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    start = np.tile(np.arange(n) * patch, variates)
    history = patch * n - patch * draw(st.integers(0, 1))
    return Drawn(TokenMap.spans(start, start + patch, history, row=np.repeat(np.arange(variates), n)), history, patch)


def distilled(drawn: Drawn) -> Drawn:
    return Drawn(drawn.tokens.distilled(), drawn.history, None)


@st.composite
def changed(draw: st.DrawFn) -> Drawn:
    """Any of the above, thinned out, in any order, and with special tokens."""
    drawn = draw(st.one_of(patched(), patched().map(distilled), gridded(), folded(), flattened_variates()))
    tokens, step = drawn.tokens, drawn.step
    if draw(st.booleans()):
        keep = draw(st.permutations(range(len(tokens))))[: len(tokens) - draw(st.integers(0, 2))]
        kept = tokens.taken(keep)
        step = step if len(np.unique(kept.column[kept.column >= 0])) == len(np.unique(tokens.column)) else None
        tokens = kept
    return Drawn(tokens.with_special(draw(st.integers(0, 2)), draw(st.integers(0, 2))), drawn.history, step)


def tree_of(weights: NDArray, query: TokenMap, key: TokenMap, history: int, horizon: int = 0) -> xr.DataTree:
    """An attention tree of weights ``(sample, layer, head, query, key)``."""
    coords = token_coordinates("query", query) | token_coordinates("key", key)
    coords |= {"layer": np.arange(weights.shape[1]), "head": np.arange(weights.shape[2])}
    coords["layer_name"] = ("layer", np.array(["a"] * weights.shape[1], dtype=object))
    node = xr.Dataset({"attention": (("sample", "layer", "head", "query", "key"), weights)}, coords)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"history": history, "horizon": horizon}), "/encoder": node})


def reduced(weights: NDArray, query: TokenMap, key: TokenMap, history: int) -> xr.Dataset:
    """One map ``(query, key)`` in time."""
    tree = to_time(tree_of(weights[None, None, None], query, key, history))
    return tree["encoder"].to_dataset(inherit=False)


def shifted(tokens: TokenMap, by: int) -> NDArray:
    """Attention of every token to the tokens `by` time columns earlier, evenly; to its own where there are none."""
    column = tokens.column
    target = np.where(column >= by, column - by, column)
    hit = (target[:, None] == column) & (column[:, None] >= 0) | np.eye(len(column), dtype=bool) & (column < 0)
    return hit / hit.sum(1, keepdims=True)


def mass_by_lag(node: xr.Dataset, history: int) -> dict[float, float]:
    """Attention on each lag [input samples] over all query parts."""
    table = PairTable.of(node, history)
    weights = node["attention"].values[0, 0, 0]
    lags = np.unique(table.lags)
    mass = {lag * table.step: weights[table.lags == lag].sum() for lag in lags}
    return {lag: value for lag, value in mass.items() if value > 1e-6}


@FEW
@given(changed(), changed(), st.integers(0, 99))
def test_mass_is_conserved(query: Drawn, key: Drawn, seed: int) -> None:
    weights = np.random.default_rng(seed).exponential(size=(len(query.tokens), len(key.tokens))) ** 3
    weights /= weights.sum(1, keepdims=True)
    node = reduced(weights, query.tokens, key.tokens, query.history)
    np.testing.assert_allclose(node["attention"].sum("key") + node["special_mass"], 1, atol=1e-5)
    of_query, of_key = query.tokens.column, key.tokens.column
    naive = [
        [weights[of_query == q][:, of_key == k].sum(1).mean() for k in node["key"].values] for q in node["query"].values
    ]
    np.testing.assert_allclose(node["attention"][0, 0, 0], naive, atol=1e-6)
    for axis, drawn in (("query", query), ("key", key)):
        assert (np.diff(node[f"{axis}_time"]) >= 0).all()
        spans = set(zip(drawn.tokens.start, drawn.tokens.end, strict=True)) - {(np.nan, np.nan)}
        found = set(zip(node[f"{axis}_start"].values, node[f"{axis}_end"].values, strict=True))
        assert found == {span for span in spans if np.isfinite(span).all()}


@FEW
@given(changed())
def test_an_identity_attention_gives_lag_0(drawn: Drawn) -> None:
    node = reduced(np.eye(len(drawn.tokens)), drawn.tokens, drawn.tokens, drawn.history)
    np.testing.assert_allclose(node["attention"][0, 0, 0], np.eye(node.sizes["key"]), atol=1e-6)
    assert set(mass_by_lag(node, drawn.history)) == {0.0}
    profile = lag_profile(node, "history->history", history=drawn.history, min_pairs=1)[0, 0, 0].dropna("lag")
    assert profile.idxmax("lag") == 0
    assert (profile.sel(lag=profile["lag"] != 0) == 0).all()


@FEW
@given(changed(), st.integers(1, 3))
def test_a_planted_shift_gives_its_lag(drawn: Drawn, by: int) -> None:
    node = reduced(shifted(drawn.tokens, by), drawn.tokens, drawn.tokens, drawn.history)
    time, table = node["query_time"].values, PairTable.of(node, drawn.history)
    lags = mass_by_lag(node, drawn.history)
    wanted = np.concatenate([np.zeros(by), time[by:] - time[:-by]])
    # The lag of a pair is known to half a token.
    mean = sum(lag * mass for lag, mass in lags.items()) / len(time)
    assert abs(mean - wanted.mean()) <= table.step / 2 + 1e-9
    assert min(lags) >= -1e-9 and max(lags) <= wanted.max() + table.step / 2 + 1e-6
    if drawn.step is not None:
        assert table.step == pytest.approx(drawn.step)
        profile = lag_profile(node, "history->history", history=drawn.history, min_pairs=1)[0, 0, 0].dropna("lag")
        past = profile.sel(lag=profile["lag"] > 0)
        if past["lag"].max() >= by * drawn.step - 1e-6:
            assert past.idxmax("lag") == pytest.approx(by * drawn.step)
            assert past.max() == pytest.approx(1)


MAPS = {
    "overlapping patches": TokenMap.patches(160, 64, 8, stride=4),
    "rows and CLS": TokenMap.grid(np.arange(0, 225, 4), 3, 160).with_special(1),
    "resampled": TokenMap.grid(np.linspace(0, 224, 57), 2, 160).with_special(0, 1),
    "padded": TokenMap.patches(160, 64, 4, first=-8).clipped(0, 224),
    "two variates": TokenMap.spans(*(np.tile(4.0 * np.arange(56) + width, 2) for width in (0, 4)), 160),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_planted_lag_is_measured_and_stands_out(name: str) -> None:
    tokens, by = MAPS[name], 5
    rng = np.random.default_rng(3)

    def maps(strength: float, samples: int, windows: int) -> xr.DataTree:
        shape = (samples, windows, 1, 2, len(tokens), len(tokens))
        logits = strength * (shifted(tokens, by) > 0) + 0.5 * rng.standard_normal(shape)
        weights = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).mean(1)
        return to_time(tree_of(weights, tokens, tokens, 160, 64))

    lags = measure_lags(maps(2, 4, 1), maps(0, 39, 4))["encoder"]
    ratio, limit = (lags[v].sel(part="horizon->history") for v in ("ratio", "limit"))
    assert (ratio.idxmax("lag") == 20).all()
    assert (ratio.sel(lag=20) > limit.sel(lag=20)).all()
