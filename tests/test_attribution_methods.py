"""Integrated gradients, deletion curves, known lags and replaced attention: closed forms and planted truth."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from captum.attr import FeatureAblation, InputXGradient, IntegratedGradients, Saliency
from models import tiny
from test_attribution import HISTORY, HORIZON, Linear, Scaled, copying, windows
from torch import Tensor, nn

from laglens.attention.calls import AttentionCall
from laglens.attention.capture import read_attention
from laglens.attention.cube import attention_tree
from laglens.attribution.comparison import compare_explanations
from laglens.attribution.explanations import blocks, cover, explanations
from laglens.attribution.faithfulness import bridged, faithfulness, ranked
from laglens.attribution.forecast import attribute_forecast
from laglens.attribution.integrated import BASELINES, of_surrogates, of_trend
from laglens.attribution.methods_table import (
    agreement_of,
    interval,
    methods_table,
    rank_explanations,
    replacement_table,
)
from laglens.attribution.norms import value_weighted_attention
from laglens.attribution.replacement import KINDS, Replace, replace_attention
from laglens.attribution.truth import area, known_lags, score_truth
from laglens.errors import LaglensError
from laglens.flow.rollout import roll_out
from laglens.time.reduce import to_time


class Square(Linear):
    """forecast = (weights x history) ** 2: the gradient changes along the way."""

    def forward(self, history: Tensor) -> Tensor:
        return super().forward(history) ** 2


@pytest.mark.parametrize("method", BASELINES)
def test_integrated_gradients_of_a_square_are_its_closed_form_and_complete(method: str) -> None:
    weights = np.random.default_rng(1).normal(size=(HORIZON, HISTORY)) / 10
    shown = windows()
    found = attribute_forecast(Square(weights), shown, methods=[method], step=2)
    history = shown["series"].values[:, :HISTORY]
    rng = np.random.default_rng([0, 0])
    expected = []
    for baseline in BASELINES[method](torch.from_numpy(history), rng).numpy():
        # The gradient of (w x) ** 2 is linear in x, so its mean along a line is that at the middle.
        middle = (history + baseline) / 2 @ weights[1]
        expected.append((history - baseline) * 2 * middle[:, None] * weights[1])
    np.testing.assert_allclose(found["attribution"][0], np.mean(expected, 0), rtol=1e-9)
    assert float(found["completeness"].max()) < 1e-9


def test_completeness_tells_an_integral_of_too_few_points() -> None:
    model = Square(np.random.default_rng(2).normal(size=(HORIZON, HISTORY)))
    model.forward = lambda history: torch.exp(Linear.forward(model, history) / 9)
    few, many = (
        attribute_forecast(model, windows(), methods=["integrated_gradients_trend", "gradient"], points=n)[
            "completeness"
        ]
        for n in (1, 32)
    )
    assert float(few[0].max()) > 1e-4 and float(many[0].max()) < 1e-8
    assert many[1].isnull().all()


def test_scaling_is_frozen_along_the_way() -> None:
    weights = np.random.default_rng(1).normal(size=(HORIZON, HISTORY))
    shown = windows()
    found = attribute_forecast(Scaled(weights), shown, methods=["integrated_gradients"], step=1)
    history = shown["series"].values[:, :HISTORY]
    centred = history - history.mean(1, keepdims=True)
    # With mean and spread frozen the forecast is linear in the history.
    np.testing.assert_allclose(found["attribution"][0], centred * weights[0], rtol=1e-4, atol=1e-5)
    assert float(found["completeness"].max()) < 1e-4


def test_baselines_keep_what_they_promise() -> None:
    rng = np.random.default_rng(0)
    line = torch.linspace(3, -1, 20, dtype=torch.float64)[None].repeat(2, 1)
    torch.testing.assert_close(of_trend(line, rng)[0], line)
    walk = torch.from_numpy(rng.normal(size=(3, 400)).cumsum(1))
    surrogates = of_surrogates(walk, rng, n=5)
    assert surrogates.shape == (5, 3, 400)
    torch.testing.assert_close(surrogates.mean(-1), walk.mean(-1).expand(5, -1))
    torch.testing.assert_close(surrogates.std(-1), walk.std(-1).expand(5, -1))
    close = [np.corrcoef(row[1:], row[:-1])[0, 1] for row in surrogates.flatten(0, 1).numpy()]
    assert min(close) > 0.8


def explained_by(values: np.ndarray, *, width: int = 4, step: int | str = 1, names: tuple = ("named",)) -> xr.Dataset:
    values = values if values.ndim == 3 else values[None]
    attrs = {"occlusion_window": width, "step": step, "target_time": HISTORY + (step if step != "mean" else 1) - 1}
    coords = {"explanation": np.array(names, object), "sample": np.arange(values.shape[1])}
    return xr.Dataset({"importance": (("explanation", "sample", "time"), values)}, coords, attrs)


def test_rankings_and_bridges() -> None:
    np.testing.assert_array_equal(ranked(np.array([[0.1, 0.5, 0.5, 0.3]])), [[2, 1, 3, 0]])
    series = np.array([[0.0, 9.0, 9.0, 3.0, 9.0]])
    np.testing.assert_allclose(bridged(series, np.array([[False, True, True, False, True]])), [[0, 1, 2, 3, 3]])
    np.testing.assert_allclose(blocks(np.arange(7.0), 3), [1, 4, 6])
    np.testing.assert_array_equal(cover(np.array([0, 2.5]), np.array([2, 4]), 5), [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]])


def test_deleting_what_a_linear_model_needs_changes_its_forecast_and_keeping_it_does_not() -> None:
    weights = np.zeros((HORIZON, HISTORY))
    weights[:, 8:12] = np.random.default_rng(0).normal(size=(HORIZON, 4)) + 2
    shown = windows()
    history = shown["series"].values[:, :HISTORY]
    right, wrong = np.zeros((2, 3, HISTORY))
    right[:, 8:12], wrong[:, 20:24] = 1, 1
    explained = explained_by(np.stack([right, wrong]), step=3, names=("right", "wrong"))
    found = faithfulness(Linear(weights), shown, explained, shares=[1 / 8])
    gone = history.copy()
    for row in gone:
        row[8:12] = np.interp(np.arange(8, 12), [7, 12], row[[7, 12]])
    expected = np.abs((gone - history) @ weights[2]) / history.std(1, ddof=1)
    np.testing.assert_allclose(found["comprehensiveness"].sel(explanation="right")[0], expected, rtol=1e-9)
    np.testing.assert_allclose(found["sufficiency"].sel(explanation="right"), 0, atol=1e-9)
    np.testing.assert_allclose(found["comprehensiveness"].sel(explanation="wrong"), 0, atol=1e-9)
    assert (found["sufficiency"].sel(explanation="wrong") > 0.05).all()
    assert list(found["explanation"].values) == ["right", "wrong", "recency", "random"]
    several = faithfulness(Linear(weights), shown, explained, shares=[0.2, 0.6])
    np.testing.assert_allclose(several["comprehensiveness_area"], several["comprehensiveness"].mean("share"))
    with pytest.raises(LaglensError, match="each is above 0 and below 1"):
        faithfulness(Linear(weights), shown, explained, shares=[0.2, 1.0])


def test_known_lags_are_those_of_the_signal_or_all_multiples_of_its_periods() -> None:
    np.testing.assert_array_equal(known_lags({"lags": [9], "periods": [5]}, 32, 2), [9])
    np.testing.assert_array_equal(known_lags({"periods": [12, 20]}, 40, 4), [12, 20, 24, 36, 40])
    assert not len(known_lags({"periods": [7]}, 32, 4)) and not len(known_lags({}, 32, 4))


def test_the_area_is_the_probability_of_ranking_true_above_other_blocks() -> None:
    rng = np.random.default_rng(0)
    values, true = rng.integers(0, 4, (5, 9)).astype(float), rng.random(9) < 0.4
    pairs = values[:, true][:, :, None] - values[:, ~true][:, None]
    np.testing.assert_allclose(area(values, true), ((pairs > 0) + 0.5 * (pairs == 0)).mean((1, 2)))
    assert np.isnan(area(values, np.zeros(9, bool))).all()


@pytest.mark.parametrize("lag", [16, 20, 24])
def test_every_method_finds_the_lag_of_a_model_that_copies_it(lag: int) -> None:
    shown = windows(6)
    methods = ("gradient", "input_x_gradient", *BASELINES, "occlusion")
    found = attribute_forecast(copying(lag), shown, methods=methods, step=1)
    tree = xr.DataTree.from_dict({"/": shown})
    scored = score_truth(explanations(found, tree), {"lags": [lag]})
    auc = scored["truth_auc"].mean("sample")
    assert (auc.sel(explanation=list(methods)) > 0.95).all(), auc.values
    assert 0 < float(auc.sel(explanation="recency")) < 0.9
    assert (
        score_truth(explanations(found, tree), {"lags": [lag + 4]})["truth_auc"].sel(explanation="gradient").max() < 0.6
    )
    mean = attribute_forecast(copying(lag), shown, methods=["gradient"])
    assert score_truth(explanations(mean, tree), {"lags": [lag]})["truth_auc"].isnull().all()


def test_an_interval_is_that_of_student() -> None:
    values = np.array([1.0, 2.0, 4.0, np.nan])
    mean, lower, upper, n = interval(values, 0.95)
    half = 4.302653 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose([mean, lower, upper, n], [7 / 3, 7 / 3 - half, 7 / 3 + half, 3], rtol=1e-6)


@pytest.fixture(scope="module")
def compared() -> xr.DataTree:
    model = tiny("numeric")
    series = np.random.default_rng(0).normal(size=(5, model.history + model.horizon)).cumsum(1)
    shown = xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(5)})
    attrs = {"history": model.history, "horizon": model.horizon, "signal": {"truth": {"periods": [12.0]}}}
    tree = to_time(attention_tree(model, shown, attrs=attrs))
    found = attribute_forecast(model, tree.to_dataset(), step=2)
    return compare_explanations(model, found, tree, roll_out(tree), by_head="uniform")


def test_everything_that_explains_is_beside_each_other(compared: xr.DataTree) -> None:
    explained = compared["explanations"].to_dataset()
    names = list(explained["explanation"].values)
    assert names[-4:] == ["value_weighted", "norms", "rollout", "relevance"] and len(names) == 9
    assert compared.attrs["left_out"] == {} and (explained["importance"] >= 0).all()
    rows = compared["relevance"]["relevance"].values[:, -1, 8, :8]  # the first horizon token has steps 1 to 4
    np.testing.assert_allclose(explained["importance"].sel(explanation="relevance"), rows.repeat(4, 1), rtol=1e-6)
    pairs = agreement_of(explained)
    assert len(pairs) == 36 and (pairs["lower"] <= pairs["spearman"]).all() and (pairs["n_windows"] == 5).all()
    table = methods_table(compared).set_index("explanation")
    assert set(table.index) == {*names, "recency", "random"} and table.loc["random", "truth_auc"] == 0.5
    assert table["comprehensiveness"].notna().all() and table.loc[names, "truth_auc"].notna().all()
    ranking = rank_explanations([table.reset_index(), table.reset_index().assign(truth_auc=np.nan)])
    assert (ranking["truth_auc_runs"].drop(ranking.index[ranking["explanation"] == "random"]) == 1).all()
    assert ranking["truth_auc"].is_monotonic_decreasing and (ranking["comprehensiveness_runs"] == 2).all()
    best = ranking.set_index("explanation")["sufficiency_rank"].idxmin()
    assert table.loc[best, "sufficiency"] == table["sufficiency"].min()


def test_curves_and_replacements_can_be_left_out() -> None:
    shown = windows()
    shown.attrs |= {"history": HISTORY, "signal": {"truth": {"lags": [16]}}}
    found = attribute_forecast(copying(16), shown, methods=["gradient"], step=1)
    tree = xr.DataTree.from_dict({"/": shown})
    few = compare_explanations(copying(16), found, tree, None, shares=[], relevance=False, replacements=[])
    assert set(few.children) == {"explanations", "truth"} and len(replacement_table(few)) == 0
    table = methods_table(few)
    assert list(table["explanation"]) == ["gradient", "recency"] and table["truth_auc"].iloc[0] == 1
    assert table["comprehensiveness"].isna().all() and (table["n_windows"] == shown.sizes["sample"]).all()


def replaced_by_hand(model: torch.nn.Module, history: Tensor, kind: str) -> Tensor:
    """The forecast with attention written out in a copy of the fused kernel."""

    def kernel(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        weights = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)
        n = weights.shape[-1]
        other = {
            "uniform": torch.full_like(weights, 1 / n),
            "identity": torch.eye(n).expand_as(weights),
            "mean": clean[len(seen)].mean(0, keepdim=True).expand_as(weights) if clean else weights,
            "frozen": clean[len(seen)].roll(1, 0) if clean else weights,
            "own": weights,
        }[kind]
        seen.append(weights)
        return other @ value

    from timm.models import eva

    before, seen, clean = eva.F.scaled_dot_product_attention, [], []
    eva.F.scaled_dot_product_attention = kernel
    try:
        with torch.no_grad():
            wanted, kind = kind, "own"
            model(history)
            clean, seen, kind = list(seen), [], wanted
            return model(history)
    finally:
        eva.F.scaled_dot_product_attention = before


@pytest.mark.parametrize("kind", ["uniform", "identity", "mean", "frozen"])
def test_replaced_attention_is_that_of_a_kernel_with_these_weights(kind: str) -> None:
    model = tiny("numeric")
    series = np.random.default_rng(0).normal(size=(4, model.history + model.horizon)).cumsum(1)
    shown = xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(4)})
    found = replace_attention(model, shown, kinds=[kind])
    history = torch.from_numpy(series[:, : model.history])
    with torch.no_grad():
        intact = model(history)
    by_hand, intact = replaced_by_hand(model, history, kind).numpy(), intact.numpy()
    sd = series[:, : model.history].std(1, ddof=1)[:, None]
    np.testing.assert_allclose(
        found["forecast_change"][0], (np.abs(by_hand - intact) / sd).mean(1), rtol=1e-3, atol=1e-5
    )
    truth = series[:, model.history :]
    loss = (np.abs(by_hand - truth) / sd).mean(1) - (np.abs(intact - truth) / sd).mean(1)
    np.testing.assert_allclose(found["error_change"][0], loss, rtol=1e-3, atol=1e-4)
    assert float(found["forecast_change"].min()) > 1e-3


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_heads_are_replaced_alone_and_the_same_weights_change_nothing(architecture: str) -> None:
    model = tiny(architecture)
    one = np.random.default_rng(0).normal(size=(1, model.history + model.horizon)).repeat(3, 0)
    same = xr.Dataset({"series": (("sample", "time"), one)}, {"sample": np.arange(3)})
    found = replace_attention(model, same, kinds=["mean", "frozen", "permuted"], by_head="uniform")
    np.testing.assert_allclose(found["forecast_change"][:2], 0, atol=1e-4)
    assert float(found["forecast_change"][2].min()) > 1e-3
    n_layers = {"encoder": 2, "encoder_decoder": 6}[architecture]
    assert found.sizes["label"] == 2 * n_layers and (found["head_change"] > 1e-6).all()
    every = replace_attention(model, same, kinds=["uniform"])["forecast_change"][0]
    assert float(found["head_change"].max()) != pytest.approx(float(every.max()))
    tree = xr.DataTree.from_dict({"/replaced": found})
    table = replacement_table(tree)
    assert list(table["kind"][:3]) == ["mean", "frozen", "permuted"] and (table["head"][3:] != "all").all()
    again = replace_attention(model, same, kinds=["mean", "frozen", "permuted"], by_head="uniform")
    pd.testing.assert_frame_equal(table, replacement_table(xr.DataTree.from_dict({"/replaced": again})))


def test_value_weighted_attention_is_weights_times_norms_and_nothing_where_values_are_zero() -> None:
    model = tiny("numeric")
    series = np.random.default_rng(0).normal(size=(3, model.history + model.horizon)).cumsum(1)
    shown = xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(3)})
    values = {}

    class Keep:
        def read(self, call: AttentionCall) -> None:
            values[call.module] = call.value

    with torch.no_grad():
        read_attention(model, torch.from_numpy(series[:, : model.history]), reader=Keep(), certify=False)
    found = value_weighted_attention(model, shown)
    weights = attention_tree(model, shown, dtype="float32", store="tokens")["encoder"]["attention"].values[:, 1]
    value = values["encoder.1.attn"].norm(dim=-1).numpy()  # (sample, head, key)
    expected = (weights * value[:, :, None]).mean(1)
    np.testing.assert_allclose(found["encoder"]["attention"].values[:, 1, 0], expected, rtol=1e-4)
    module = model.encoder[1].attn
    with torch.no_grad():
        module.qkv.weight[-16:] = 0
        if getattr(module, "v_bias", None) is not None:
            module.v_bias[:] = 0
    nothing = value_weighted_attention(model, shown)["encoder"]["attention"].values
    assert nothing[:, 1].max() < 1e-6 < nothing[:, 0].max()


def test_projected_norms_are_those_of_what_all_heads_write_together() -> None:
    model = tiny("numeric")
    series = np.random.default_rng(0).normal(size=(2, model.history + model.horizon)).cumsum(1)
    shown = xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(2)})
    kept: dict[str, AttentionCall] = {}

    class Keep:
        def read(self, call: AttentionCall) -> None:
            kept[call.module] = call

    with torch.no_grad():
        read_attention(model, torch.from_numpy(series[:, : model.history]), reader=Keep(), certify=False)
    call, projection = kept["encoder.1.attn"], model.encoder[1].attn.proj.weight.detach().double()
    weights = torch.softmax(call.query.double() @ call.key.double().mT / call.query.shape[-1] ** 0.5, -1)
    written = torch.einsum("bhqk,bhkw->bqkhw", weights, call.value.double()).flatten(3) @ projection.T
    found = value_weighted_attention(model, shown, projected=True)["encoder"]["attention"]
    np.testing.assert_allclose(found[:, 1, 0], written.norm(dim=-1), rtol=1e-4)


def test_permutations_keep_causality_and_the_sum_of_rows() -> None:
    weights = torch.randn(3, 2, 5, 5).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
    call = AttentionCall("m", 0, "softmax", weights=weights)
    for kind in KINDS:
        other = Replace(kind, {("m", 0): weights}, 3, torch.Generator().manual_seed(0))(call).weights
        torch.testing.assert_close(other.sum(-1), torch.ones(3, 2, 5))
        assert not other.triu(1).any(), kind
        if kind == "permuted":
            torch.testing.assert_close(other.sort(-1).values, weights.sort(-1).values)
            assert not torch.equal(other, weights)
    one = Replace("uniform", {("m", 0): weights}, 3, torch.Generator(), {"m": [1]})(call).weights
    torch.testing.assert_close(one[:, 0], weights[:, 0])
    torch.testing.assert_close(one[:, 1, 4], torch.full((3, 5), 0.2))


def test_wrong_replacements_are_refused() -> None:
    model = tiny("numeric")
    series = np.zeros((1, model.history + model.horizon))
    shown = xr.Dataset({"series": (("sample", "time"), series)}, {"sample": [0]})
    with pytest.raises(LaglensError, match="'shuffled' is not one of permuted"):
        replace_attention(model, shown, kinds=["shuffled"])
    with pytest.raises(LaglensError, match="two windows"):
        replace_attention(model, shown)


class Curved(nn.Module):
    """A small network of smooth functions in float64, without scaling of its own."""

    history, horizon = HISTORY, HORIZON

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(HISTORY, 24), nn.Tanh(), nn.Linear(24, HORIZON)).double()
        self.stacks = Linear(np.zeros((HORIZON, HISTORY))).stacks

    def forward(self, history: Tensor) -> Tensor:
        return self.network(history)


@pytest.mark.parametrize("step", [2, None])
def test_gradients_are_those_of_captum(step: int | None) -> None:
    model, shown, n = Curved(), windows(), 24
    methods = ["gradient", "input_x_gradient", "integrated_gradients", "integrated_gradients_trend"]
    found = attribute_forecast(model, shown, methods=methods, step=step, points=n)["attribution"].values
    history = torch.from_numpy(shown["series"].values[:, :HISTORY])

    def explained(inputs: Tensor) -> Tensor:
        forecast = model(inputs)
        return forecast.mean(1) if step is None else forecast[:, step - 1]

    level, line = history.mean(1, keepdim=True).expand_as(history), of_trend(history, np.random.default_rng(0))[0]
    slope = Saliency(explained).attribute(history.clone().requires_grad_(), abs=False)
    # Captum multiplies by the input itself, ours is centred.
    times = InputXGradient(explained).attribute(history.clone().requires_grad_()) - level * slope
    integrated = (
        IntegratedGradients(explained).attribute(history, base, n_steps=n, method="gausslegendre")
        for base in (level, line)
    )
    exact, single = 1e-9, 1e-5  # captum takes the weights of the integral in float32
    of_captum = zip((slope, times, *integrated), (exact, exact, single, single), strict=True)
    for ours, (theirs, tolerance) in zip(found, of_captum, strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), rtol=tolerance, atol=tolerance * np.abs(ours).max())


def test_occlusion_of_single_samples_is_that_of_captum_with_the_bridge_as_baseline() -> None:
    model, shown = Curved(), windows()
    found = attribute_forecast(model, shown, methods=["occlusion"], window=1, step=3)["attribution"].values[0]
    history = torch.from_numpy(shown["series"].values[:, :HISTORY])
    neighbours = (history[:, :-2] + history[:, 2:]) / 2
    between = torch.cat([history[:, 1:2], neighbours, history[:, -2:-1]], 1)
    ablated = FeatureAblation(lambda inputs: model(inputs)[:, 2]).attribute(history, between)
    np.testing.assert_allclose(found, ablated.detach(), rtol=1e-9, atol=1e-12)


def test_replaced_attention_runs_in_evaluation_mode_even_where_the_model_was_left_in_training() -> None:
    """Permutations published with the first such test ran with dropout: the change was that of the dropout too."""
    model = tiny("encoder", history=24, horizon=4)
    assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    shown = windows(4, 24, 4)
    expected = replace_attention(model.eval(), shown, kinds=["permuted", "uniform"], draws=1)
    found = replace_attention(model.train(), shown, kinds=["permuted", "uniform"], draws=1)
    assert not model.training
    xr.testing.assert_identical(expected, found)
