"""Lag knock-out: cuts what it says, spares emptied rows, and finds a lag that a model is built to copy."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from models import tiny
from torch import nn

from laglens.attention.capture import read_attention
from laglens.attribution.causal import knock_out_table, measure_knock_outs, relative_lag_curve
from laglens.attribution.cuts import Cut, CutEdges, comb, matched_cuts, single_lags, token_lags
from laglens.attribution.effects import MEASURES, paired_effect
from laglens.attribution.knock_out import causal_lag_curve, knock_out, knock_out_heads, token_step
from laglens.attribution.ranking import rank_heads
from laglens.errors import LaglensError
from laglens.figures.knock_out import draw_knock_out
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack, TokenMap


class Copier(Forecaster):
    """One head that copies the sample one period back: attention from each horizon token to lag `period` alone."""

    def __init__(self, period: int = 12, history: int = 48, horizon: int = 12) -> None:
        super().__init__()
        self.period, self.history, self.horizon = period, history, horizon
        self.attention = CopyingAttention(period)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        tokens = TokenMap.patches(self.history, self.horizon, 1)
        return (Stack("encoder", ("attention",), tokens, tokens),)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        series = torch.nn.functional.pad(history, (0, self.horizon))
        return self.attention(series.double())[:, self.history :]


class CopyingAttention(nn.Module):
    """Scores of 30 at one lag and 0 elsewhere."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        n = series.shape[1]
        score = 30.0 * torch.eye(n, dtype=series.dtype)
        key = torch.eye(n, dtype=series.dtype)
        query = score.roll(-self.period, 1)  # query i scores key i - period
        query, key = (x.expand(len(series), 1, n, n) * n**0.25 for x in (query, key))
        value = series[:, None, :, None]
        return nn.functional.scaled_dot_product_attention(query, key, value)[:, 0, :, 0]


def windows(series: np.ndarray) -> xr.Dataset:
    return xr.Dataset({"series": (("sample", "time"), series)}, coords={"sample": np.arange(len(series))})


@pytest.fixture
def waves() -> xr.Dataset:
    phase = np.arange(5)[:, None]
    return windows(np.sin(2 * np.pi * np.arange(60) / 12 + phase))


def test_cutting_the_copied_lag_ruins_the_forecast_and_nothing_else_does(waves):
    effects = knock_out(Copier(), waves, matched_cuts([12.0] * 5, 48, 1.0, np.random.default_rng(0)))
    change = effects["error_change"].mean("sample").to_series()
    assert change["comb"] > 0.5
    assert change["band"] > 0.5
    others = change.drop(["comb", "band"])
    assert others.abs().max() < 1e-6
    found = paired_effect(effects, "comb")
    assert found.win == 1.0
    assert found.lower > 0.4
    assert found.n == 5
    assert abs(found.control) < 1e-6


def test_causal_lag_curve_peaks_at_the_copied_lag(waves):
    curve = causal_lag_curve(Copier(), waves)["forecast_change"]
    assert (curve["lag"].values[curve.argmax("lag")] == 12).all()
    others = curve.sel(lag=curve["lag"] != 12)
    assert float(others.max()) < 1e-6


def test_no_cut_changes_nothing_and_truth_is_optional(waves):
    unknown = waves.copy(deep=True)
    unknown["series"][:, 48:] = np.nan
    effects = knock_out(
        Copier(), unknown, [Cut("comb", (np.array([]),) * 5), Cut("comb + far", (np.array([500.0]),) * 5)]
    )
    assert float(effects["forecast_change"].max()) == 0
    assert effects["error_change"].isnull().all()
    with pytest.raises(LaglensError, match="0 samples have a known error_change"):
        paired_effect(effects, "comb")


@pytest.mark.parametrize("architecture", ["image", "numeric", "encoder"])
def test_mass_on_a_cut_is_zero_and_rows_still_sum_to_one(architecture):
    model = tiny(architecture)
    stack = model.stacks[0]
    part = "readout->history" if architecture == "encoder" else "horizon->history"
    lags = torch.from_numpy(token_lags(stack, model.history, part))
    step = token_step(model)
    cut = CutEdges({(name, 0): lags for name in stack.layers}, torch.tensor([[3 * step], [5 * step]]), 0.5 * step)
    history = torch.randn(2, model.history, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, capture = read_attention(model, history, edit=cut)
    _, intact = read_attention(model, history)
    found = {r.module: r.weights for r in capture.records}
    before = {r.module: r.weights for r in intact.records}
    assert cut.spared == 0
    for sample, lag in enumerate((3 * step, 5 * step)):
        on_cut = (lags - lag).abs() <= 0.5 * step
        for name in stack.layers:
            assert found[name][sample][:, on_cut].abs().max() == 0
            assert before[name][sample][:, on_cut].max() > 0
            torch.testing.assert_close(found[name].sum(-1), torch.ones_like(found[name].sum(-1)))


def test_one_head_alone_can_be_cut():
    model = tiny("numeric")
    stack, step = model.stacks[0], token_step(model)
    lags = torch.from_numpy(token_lags(stack, model.history, "horizon->history"))
    cut = CutEdges({(stack.layers[0], 0): lags}, torch.tensor([[3 * step]]), 0.5 * step, heads={stack.layers[0]: [1]})
    history = torch.randn(1, model.history, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, capture = read_attention(model, history, edit=cut)
    weights = next(r.weights for r in capture.records if r.module == stack.layers[0])[0]
    on_cut = (lags - 3 * step).abs() <= 0.5 * step
    assert weights[1][on_cut].max() == 0
    assert weights[0][on_cut].min() > 0


def test_a_row_that_would_lose_every_key_keeps_them_and_is_counted(waves):
    model, history = Copier().eval(), torch.from_numpy(waves["series"].values[:, :48])
    lags = {
        ("attention", 0): torch.ones(60, 60, dtype=torch.float64)
    }  # all pairs at one lag: each row would be emptied
    edit = CutEdges(lags, torch.ones(5, 1), 0.5)
    output, _ = read_attention(model, history, edit=edit)
    assert edit.spared == 5 * 60
    torch.testing.assert_close(output, model(history))


def test_the_head_that_copies_is_the_one_that_is_needed():
    """Two heads, of which the second alone is wired to the output."""

    class TwoHeads(Copier):
        def forward(self, history):
            series = torch.nn.functional.pad(history, (0, self.horizon)).double()
            return self.attention(series)[:, self.history :]

    model = TwoHeads()
    model.attention = TwoHeadedAttention(12)
    phase = np.arange(5)[:, None]
    effects = knock_out_heads(
        model, windows(np.sin(2 * np.pi * np.arange(60) / 12 + phase)), Cut("P", (np.array([12.0]),) * 5)
    )
    change = effects["encoder"]["error_change"].mean("sample")
    assert float(change.sel(layer=0, head=1)) > 0.5
    assert abs(float(change.sel(layer=0, head=0))) < 1e-9
    assert effects["encoder"]["layer_name"].item() == "attention"


class TwoHeadedAttention(CopyingAttention):
    """The copying head behind one whose output is thrown away."""

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        n = series.shape[1]
        eye = torch.eye(n, dtype=series.dtype).expand(len(series), 2, n, n) * n**0.25
        query = 30.0 * eye.roll(-self.period, -1)
        value = series[:, None, :, None].expand(-1, 2, -1, -1)
        return nn.functional.scaled_dot_product_attention(query, eye, value)[:, 1, :, 0]


def test_combs_and_their_controls_have_teeth_where_they_should():
    assert comb([10.0], 45)[0].tolist() == [10, 20, 30, 40]
    assert comb([10.0], 45, -0.5)[0].tolist() == [5, 15, 25, 35]
    cuts = {cut.name: cut.lags[0] for cut in matched_cuts([20.0], 100, 2.0, np.random.default_rng(0))}
    combs = [name for name in cuts if name.startswith("comb")]
    assert combs == ["comb", "comb - 0.5 P", "comb - 0.25 P", "comb + 0.25 P"]
    assert {len(cuts[name]) for name in combs} == {5}
    assert cuts["comb - 0.25 P"].tolist() == [15, 35, 55, 75, 95]
    assert cuts["band"].tolist() == [20]
    assert cuts["band at 1.5 P"].tolist() == [30]
    random = float(cuts["band at a random lag"][0])
    assert abs(random - 20 * round(random / 20)) > 3
    assert [cut.name for cut in single_lags(1, 10, 2.0)] == ["4", "6", "8", "10"]


def test_paired_effect_against_hand_computation():
    effects = xr.Dataset(
        {
            "error_change": (("cut", "sample"), [[3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, 7.0], [1.0, 2.0, 0.0, 7.0]]),
            "error": ("sample", [2.0, 2.0, 2.0, 2.0]),
        },
        coords={"cut": np.array(["comb", "comb + 0.5 P", "comb + 0.25 P"], dtype=object)},
    )
    found = paired_effect(effects)
    difference = np.array([2.0, 3.0, 4.0, -1.0])
    assert (found.effect, found.control, found.share, found.win) == (4.5, 2.5, 2.25, 0.75)
    assert found.size == pytest.approx(difference.mean() / difference.std())
    assert found.lower < difference.mean() < found.upper
    assert not math.isnan(found.lower)


def test_all_knock_outs_of_a_signal_in_one_table(waves):
    tree = measure_knock_outs(Copier(), waves, [12.0, 1.5])
    table = knock_out_table(tree)
    comb = table[(table["cut"] == "comb") & (table["measure"] == "error_change")].iloc[0]
    assert (comb["period"], comb["matters"], comb["head"]) == (12.0, "yes", "encoder L00 H00")
    assert comb["head_effect"] == pytest.approx(comb["effect"])
    refused = table[table["period"] == 1.5].iloc[0]
    assert refused["matters"] == "not testable"
    assert set(table["cut"].dropna()) == {"comb", "band"}
    assert tree["curve"]["forecast_change"].dims == ("lag", "sample")
    beyond = knock_out_table(measure_knock_outs(Copier(), waves, [1000.0]))
    assert beyond["matters"].tolist() == ["not testable"]
    assert beyond["reason"].str.startswith("no multiple of the period 1000 lies on the lags of the history of 48").all()
    still = knock_out_table(measure_knock_outs(Copier(), waves, [17.0]))
    assert set(still["matters"]) == {"no"}


def test_a_flat_window_is_left_out_and_two_are_too_few(waves, caplog):
    waves["series"][3] = 7.0
    tree = measure_knock_outs(Copier(), waves, [12.0])
    table = knock_out_table(tree)
    comb = table[(table["cut"] == "comb") & (table["measure"] == "error_change")].iloc[0]
    rest = knock_out_table(measure_knock_outs(Copier(), waves.isel(sample=[0, 1, 2, 4]), [12.0]))
    alone = rest[(rest["cut"] == "comb") & (rest["measure"] == "error_change")].iloc[0]
    assert comb["n"] == 4 and comb[["effect", "head_effect"]].tolist() == pytest.approx([alone["effect"]] * 2)
    assert tree.attrs["flat_windows"] == 1 and "1 of 5 windows are left out" in caplog.text
    assert np.isnan(tree["curve"]["forecast_change"].sel(sample=3)).all()
    assert len(draw_knock_out(tree, table).axes) == 3
    few = measure_knock_outs(Copier(), waves.isel(sample=[0, 3, 4]), [12.0])
    table = knock_out_table(few)
    assert table[["period", "matters", "reason"]].values.tolist() == [
        [12.0, "not testable", "2 windows; 3 are needed"],
    ]
    assert "2 windows; 3 are needed" in "".join(text.get_text() for text in draw_knock_out(few, table).texts)


def test_a_model_of_one_token_has_an_empty_curve(waves):
    curve = causal_lag_curve(Copier(), waves, longest=1.0)
    assert curve["forecast_change"].shape == (0, 5)
    tree = xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs=curve.attrs | {"not_testable": {"12.0": "why"}}), "/curve": curve}
    )
    said = draw_knock_out(tree, knock_out_table(tree))
    assert "no lag of 2 tokens" in "".join(text.get_text() for text in said.texts)


def test_heads_are_ranked_by_what_they_cost_alone():
    series = np.sin(2 * np.pi * np.arange(60) / 12 + np.arange(5)[:, None])
    table = rank_heads(measure_knock_outs(Copier(), windows(series), [12.0, 1.5]))
    assert table["period"].unique().tolist() == [12.0]
    assert set(table["measure"]) == set(MEASURES)
    assert (table["causal"] == "yes").all()
    assert table["share_of_all"].to_numpy() == pytest.approx(1)
    # Two made-up heads: one that matters, one that does not.
    dims = ("layer", "head", "sample")
    effect = np.array([[[0.001, -0.002, 0.001, 0.0], [0.3, 0.4, 0.5, 0.2]]])
    heads = xr.Dataset(
        dict.fromkeys(("error_change", "forecast_change"), (dims, effect)), {"layer": [2], "head": [0, 1]}
    )
    whole = xr.Dataset({m: (("cut", "sample"), np.full((1, 4), 0.7)) for m in ("error_change", "forecast_change")})
    whole = whole.assign_coords(cut=np.array(["comb"], object)).assign_attrs(period=9.0)
    ranked = rank_heads(xr.DataTree.from_dict({"/period_0": whole, "/period_0/decoder": heads}))
    first, second = ranked[ranked["measure"] == "error_change"].to_dict("records")
    assert (first["head"], first["rank"], first["causal"], first["win"]) == ("decoder L02 H01", 1, "yes", 1.0)
    assert (second["head"], second["rank"], second["causal"]) == ("decoder L02 H00", 2, "no")
    assert (first["effect"], first["share_of_all"]) == pytest.approx((0.35, 0.5))
    assert 0.2 <= first["lower"] < 0.35 < first["upper"] <= 0.5


def test_a_lag_curve_is_read_against_those_of_other_inputs():
    curve = xr.DataArray([[2.0, 2.0, 2.0], [1.0, 1.0, 8.0]], dims=("lag", "sample"))
    relative = relative_lag_curve(curve)
    assert relative.isel(lag=0).values == pytest.approx([0, 0, 0])
    assert relative.isel(lag=1).values == pytest.approx(np.log([8**-0.5, 8**-0.5, 8]))
    against = relative_lag_curve(curve, xr.DataArray([[1.0, 4.0], [2.0, 2.0]], dims=("lag", "sample")))
    assert against.values == pytest.approx(np.log([[1, 1, 1], [0.5, 0.5, 4]]))
    with pytest.raises(LaglensError, match="one sample has no others"):
        relative_lag_curve(curve.isel(sample=[0]))


def test_wrong_asks_are_refused(waves):
    model = Copier()
    with pytest.raises(LaglensError, match="cut 'comb' has lags for another number of samples than 5"):
        knock_out(model, waves, [Cut("comb", (np.array([12.0]),))])
    with pytest.raises(LaglensError, match="every window is constant, .* choose another stretch"):
        knock_out(model, windows(np.ones((2, 60))), [Cut("comb", (np.array([12.0]),) * 2)])
    effects = knock_out(model, waves, [Cut("comb", (np.array([12.0]),) * 5)])
    with pytest.raises(LaglensError, match="no cut 'comb' with controls"):
        paired_effect(effects)
