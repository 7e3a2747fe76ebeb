"""Attribution: linear models, finite differences, planted lags, and agreement against scipy."""

import numpy as np
import pytest
import torch
import xarray as xr
from models import tiny
from scipy.stats import spearmanr
from scipy.stats import t as student_t
from torch import Tensor, nn

from laglens.attention.cube import attention_tree
from laglens.attribution.agreement import agree_with_attention, pool, spearman_pairs
from laglens.attribution.forecast import ALL, DEFAULT, attribute_forecast, token_width
from laglens.attribution.lags import attribution_lags
from laglens.attribution.methods import bridge, intact_scaling
from laglens.attribution.table import attribution_table
from laglens.errors import LaglensError
from laglens.models.forecaster import ScaledForecaster
from laglens.models.tokens import Stack, TokenMap
from laglens.store import read_tree, write_tree
from laglens.time.reduce import to_time

HISTORY, HORIZON, PATCH = 32, 16, 4


class Linear(nn.Module):
    """forecast = weights x history, in float64."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.horizon, self.history = weights.shape
        self.weights = torch.from_numpy(weights)
        tokens = TokenMap.patches(self.history, self.horizon, PATCH)
        self.stacks = (Stack("encoder", ("attn",), tokens, tokens),)

    def forward(self, history: Tensor) -> Tensor:
        return history @ self.weights.T


class Scaled(ScaledForecaster):
    """A linear forecast of the scaled history, in float32."""

    limit = 100.0
    stacks = property(lambda self: self.linear.stacks)
    loss = None

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.linear = Linear(weights.astype(np.float32))
        self.horizon, self.history = weights.shape

    def scaled_forecast(self, history: Tensor) -> Tensor:
        return self.linear(history)


def windows(n: int = 3, history: int = HISTORY, horizon: int = HORIZON, seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    time = np.arange(history + horizon)
    series = np.sin(2 * np.pi * (time + rng.uniform(0, 50, (n, 1))) / 9) + 0.3 * rng.normal(size=(n, len(time))) + 5
    return xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(n), "time": time})


def copying(lag: int) -> Linear:
    """y_h = x at the same place one lag before; needs lag >= horizon."""
    weights = np.zeros((HORIZON, HISTORY))
    weights[np.arange(HORIZON), HISTORY + np.arange(HORIZON) - lag] = 1
    return Linear(weights)


@pytest.mark.parametrize("step", [None, 1, HORIZON])
def test_the_gradient_of_a_linear_model_is_its_weights(step: int | None) -> None:
    weights = np.random.default_rng(1).normal(size=(HORIZON, HISTORY))
    shown = windows()
    found = attribute_forecast(Linear(weights), shown, step=step)
    by = found["attribution"].sel
    expected = weights.mean(0) if step is None else weights[step - 1]
    history = shown["series"].values[:, :HISTORY]
    np.testing.assert_allclose(by(attribution_method="gradient"), [expected] * 3, rtol=1e-12)
    centred = history - history.mean(1, keepdims=True)
    np.testing.assert_allclose(by(attribution_method="input_x_gradient"), centred * expected, rtol=1e-9)
    np.testing.assert_allclose(found["explained"], history @ expected, rtol=1e-12)
    assert found["explained"].dims == ("sample",) and found.attrs["target_time"] == HISTORY + (step or 1) - 1


@pytest.mark.parametrize("window", [1, 4, 5])
def test_occlusion_of_a_linear_model_is_the_weighted_change_of_the_series(window: int) -> None:
    weights = np.random.default_rng(1).normal(size=(HORIZON, HISTORY))
    shown = windows()
    found = attribute_forecast(Linear(weights), shown, methods=["occlusion"], window=window)
    for sample in range(3):
        history = shown["series"].values[sample, :HISTORY]
        for t in range(HISTORY):
            start = t // window * window
            kept = np.setdiff1d(np.arange(HISTORY), np.arange(start, start + window))
            bridged = np.interp(np.arange(HISTORY), kept, history[kept])
            expected = weights.mean(0) @ (history - bridged)
            np.testing.assert_allclose(found["attribution"][0, sample, t], expected, rtol=1e-9, atol=1e-12)


def rounded(differentiable: bool) -> Linear:
    """A linear forecast that loses its gradient on the way."""
    model = Linear(np.random.default_rng(1).normal(size=(HORIZON, HISTORY)))
    model.forward = lambda history: torch.round(Linear.forward(model, history), decimals=9)
    model.differentiable = differentiable
    return model


def test_a_model_without_gradient_keeps_occlusion_and_says_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "laglens"):
        found = attribute_forecast(rounded(differentiable=False), windows())
    assert list(found["attribution_method"].values) == ["occlusion"] and np.abs(found["attribution"]).max() > 0.01
    assert found.attrs["left_out"] == ["gradient", "input_x_gradient", "integrated_gradients"]
    assert "gradient and input_x_gradient and integrated_gradients left out" in caplog.text
    every = attribute_forecast(rounded(differentiable=True), windows())
    assert every.attrs["left_out"] == [] and every.sizes["attribution_method"] == len(DEFAULT)
    xr.testing.assert_identical(every["attribution"].sel(attribution_method=["occlusion"]), found["attribution"])


def test_a_model_without_gradient_and_no_method_that_does_without_is_an_error() -> None:
    with pytest.raises(LaglensError, match=r"Linear has no gradient .* which gradient need; add 'occlusion'"):
        attribute_forecast(rounded(differentiable=False), windows(), methods=["gradient"])


def test_tokens_of_less_than_a_sample_or_of_fractions_cover_the_samples_they_touch() -> None:
    values = np.arange(8.0)
    np.testing.assert_allclose(pool(values, np.array([0, 2.5, 5]), np.array([2.5, 5, 7.5])), [1, 3, 6])
    np.testing.assert_allclose(pool(values, np.array([0, 0.4, 0.8]), np.array([0.4, 0.8, 1.2])), [0, 0, 0.5])
    short = Linear(np.ones((1, 8)))
    short.stacks = (Stack("encoder", ("attn",), *[TokenMap.grid(np.linspace(0, 9, 28), 1, 8)] * 2),)
    assert token_width(short) == 1


def test_samples_that_the_forecast_does_not_use_have_no_attribution() -> None:
    weights = np.random.default_rng(2).normal(size=(HORIZON, HISTORY))
    weights[:, 8:20] = 0
    for kind in (Linear, Scaled):
        found = attribute_forecast(kind(weights), windows(), methods=["occlusion"])["attribution"]
        np.testing.assert_allclose(found[0, :, 8:20], 0, atol=1e-6)
        assert (np.abs(found[0, :, 20:]) > 1e-5).all()


def test_a_straight_line_cannot_be_occluded_and_edges_hold_the_nearest_sample() -> None:
    line = torch.arange(12, dtype=torch.float64)[None]
    assert torch.equal(bridge(line, torch.tensor([4]), 4), line)
    np.testing.assert_array_equal(bridge(line, torch.tensor([0]), 4)[0, :5], [4, 4, 4, 4, 4])
    np.testing.assert_array_equal(bridge(line, torch.tensor([8]), 4)[0, 6:], [6, 7, 7, 7, 7, 7])
    with pytest.raises(LaglensError, match="12 samples covers the whole history of 12"):
        bridge(line, torch.tensor([0]), 12)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("step", [1, 5])
def test_a_model_that_copies_one_lag_gets_that_lag(method: str, step: int) -> None:
    lag = 21
    found = attribute_forecast(copying(lag), windows(8), methods=[method], step=step, window=1)
    profile = attribution_lags(found)["profile"].sel(attribution_method=method)
    assert profile.idxmax("lag") == lag
    if method == "gradient":  # all of it, 32 times an even spread over 32 samples
        assert profile.sel(lag=lag) == HISTORY and profile.sum() == HISTORY


def test_the_lags_of_a_mean_forecast_are_counted_from_its_first_sample() -> None:
    profile = attribution_lags(attribute_forecast(copying(21), windows(), methods=["gradient"]))["profile"][0]
    assert list(profile["lag"].values[[0, -1]]) == [1, HISTORY]
    np.testing.assert_array_equal(profile["lag"][profile.values > 0], np.arange(21 - HORIZON + 1, 22))


@pytest.mark.parametrize("architecture", ["image", "numeric", "encoder"])
def test_the_gradient_equals_finite_differences(architecture: str) -> None:
    model = tiny(architecture).double()
    model.normalise = lambda series: tuple(  # the models scale in double but compute in float32
        value.double() for value in type(model).normalise(model, series)
    )
    if architecture == "image":
        model.centres, model.rotary = model.centres.double(), model.rotary.double()
    shown = windows(2, model.history, model.horizon)
    gradient = attribute_forecast(model, shown, methods=["gradient"], step=2)["attribution"].values[0]
    history = torch.from_numpy(shown["series"].values[:, : model.history].copy())
    times = [0, 7, model.history - 1]
    for t in times:
        nudge = torch.zeros_like(history)
        nudge[:, t] = 1e-3
        with torch.no_grad():
            difference = (model(history + nudge) - model(history - nudge))[:, 1] / 2e-3
        np.testing.assert_allclose(gradient[:, t], difference, rtol=0.02, atol=2e-2 * np.abs(gradient).max())


@pytest.mark.parametrize("architecture", ["numeric", "encoder"])
def test_windows_do_not_depend_on_each_other(architecture: str) -> None:
    model = tiny(architecture)
    shown = windows(4, model.history, model.horizon)
    whole = attribute_forecast(model, shown, batch=3)["attribution"]
    for i in range(4):
        alone = attribute_forecast(model, shown.isel(sample=[i]))["attribution"][:, 0]
        np.testing.assert_allclose(alone, whole[:, i], rtol=1e-3, atol=1e-5 * float(np.abs(whole).max()))


def test_occlusion_keeps_the_scaling_of_the_intact_history_and_gives_the_model_back_as_it_was() -> None:
    weights = np.random.default_rng(3).normal(size=(HORIZON, HISTORY))
    shown = windows()
    model = Scaled(weights)
    found = attribute_forecast(model, shown, methods=["occlusion"])
    history = shown["series"].values[:, :HISTORY]
    plain = attribute_forecast(Linear(weights), shown, methods=["occlusion"])
    # mean + sd weights (x - mean) / sd: with mean and sd kept, the same change as without scaling.
    np.testing.assert_allclose(found["attribution"], plain["attribution"], rtol=1e-3, atol=1e-5)
    assert (found.attrs["scaling"], plain.attrs["scaling"]) == ("of the intact history", "of the history shown")
    assert "normalise" not in vars(model)
    with pytest.raises(RuntimeError), intact_scaling(model, torch.from_numpy(history)):
        model(torch.zeros(1, 2))  # of a wrong shape
    assert "normalise" not in vars(model)


@pytest.mark.parametrize("architecture", ["image", "numeric", "encoder"])
def test_intact_scaling_by_itself_changes_nothing(architecture: str) -> None:
    model = tiny(architecture)
    history = torch.from_numpy(windows(2, model.history, 0)["series"].values.copy())
    with torch.no_grad(), intact_scaling(model, history) as kept:
        assert kept
        again = model(history)
    with torch.no_grad():
        np.testing.assert_array_equal(again, model(history))


def test_a_window_that_tells_nothing_is_not_counted() -> None:
    model = tiny("numeric")
    shown = windows(3, model.history, model.horizon)
    shown["series"][1] = 2.0  # nothing to take out of a constant history
    found = attribute_forecast(model, shown)
    assert np.isfinite(found["attribution"]).all()
    lags = attribution_lags(found)
    np.testing.assert_array_equal(lags["n_windows"], [3, 2, 2, 2])
    assert np.isfinite(lags["profile"]).all()
    model.head.bias.data[0] = np.nan
    with pytest.raises(LaglensError, match="forecast of 3 of 3 windows is not finite"):
        attribute_forecast(model, shown)


def test_wrong_requests_are_refused() -> None:
    model, shown = copying(20), windows()
    with pytest.raises(LaglensError, match="'magic' is not one of gradient, input_x_gradient, integrated_gradients, "):
        attribute_forecast(model, shown, methods=["magic"])
    with pytest.raises(LaglensError, match="step is 17; this model forecasts 16 samples, counted from 1"):
        attribute_forecast(model, shown, step=17)
    with pytest.raises(LaglensError, match="needs 32 samples of history, the windows have 20"):
        attribute_forecast(model, shown.isel(time=slice(20)))
    with pytest.raises(LaglensError, match="holds NaN"):
        attribute_forecast(model, shown.where(shown["time"] != 3))
    with pytest.raises(LaglensError, match="window is 0"):
        attribute_forecast(model, shown, window=0)
    model.forward = lambda history: (history @ model.weights.T).detach()
    with pytest.raises(LaglensError, match="no gradient.*use the method occlusion"):
        attribute_forecast(model, shown)
    assert token_width(model) == PATCH


def test_correlations_of_ranks_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, (2, 4, 12)).astype(float), rng.normal(size=(3, 5, 4, 12))
    first[1, 2] = 1.0  # constant
    found = spearman_pairs(first, second)
    assert found.shape == (2, 3, 5, 4, 4)
    for method, layer, head, i, j in [(0, 0, 0, 0, 0), (1, 2, 4, 3, 1), (0, 1, 2, 2, 3)]:
        expected = spearmanr(first[method, i], second[layer, head, j]).statistic
        np.testing.assert_allclose(found[method, layer, head, i, j], expected, rtol=1e-9, atol=1e-15)
    assert np.isnan(found[1, :, :, 2]).all() and np.isfinite(found[0]).all()
    np.testing.assert_array_equal(pool(np.arange(8.0)[None], np.array([0, 4]), np.array([4, 8])), [[1.5, 5.5]])


def attended_like(attribution: xr.Dataset, *, rolled: int = 0) -> xr.DataTree:
    """A time tree whose head 0 attends in proportion to the gradient, and whose head 1 to that of another window."""
    tokens = TokenMap.patches(HISTORY, HORIZON, PATCH)
    size = np.abs(attribution["attribution"].sel(attribution_method="gradient").values)
    rows = np.concatenate([size.reshape(len(size), -1, PATCH).mean(-1), np.full((len(size), HORIZON // PATCH), 0.1)], 1)
    heads = np.stack([rows, np.roll(rows, 1, axis=0)], 1)[:, None, :, None].repeat(len(tokens), 3)
    coords = {}
    for axis in ("query", "key"):
        for name in ("time", "start", "end", "part", "readout"):
            coords[f"{axis}_{name}"] = (axis, getattr(tokens, name))
    node = xr.Dataset({"attention": (("sample", "layer", "head", "query", "key"), heads)}, coords)
    node = node.assign_coords(sample=attribution["sample"], layer=[0], head=[0, 1])
    node.attrs["samples_per_token"] = PATCH
    root = xr.Dataset(coords={"sample": attribution["sample"]}, attrs={"history": HISTORY})
    return xr.DataTree.from_dict({"/": root, "/encoder": node})


class Content(Linear):
    """A forecast whose gradient depends on the input."""

    def forward(self, history: Tensor) -> Tensor:
        return (history**3) @ self.weights.T


def test_a_head_that_attends_like_the_gradient_agrees_and_one_of_another_window_does_not() -> None:
    model = Content(np.random.default_rng(5).normal(size=(HORIZON, HISTORY)) ** 3)
    found = attribute_forecast(model, windows(12), methods=["gradient"])
    agreed = agree_with_attention(found, attended_like(found))["encoder"]
    np.testing.assert_allclose(agreed["spearman"].sel(head=0), 1, rtol=1e-9)
    assert agreed["spearman"].sel(head=1).mean() < 0.95
    matched, mismatched = agreed["spearman"].mean("sample"), agreed["mismatched"]
    assert matched.sel(head=0).item() > mismatched.sel(head=0).item()
    table = attribution_table(agree_with_attention(found, attended_like(found)))
    assert list(table["part"].unique()) == ["horizon->history"] and table["n_windows"].eq(12).all()


@pytest.mark.parametrize("architecture", ["image", "encoder"])
def test_from_a_model_to_a_table_and_through_a_file(architecture: str, tmp_path) -> None:
    model = tiny(architecture)
    time = to_time(attention_tree(model, windows(3, model.history, model.horizon)))
    time.attrs["signal"] = {"time_step": 0.5, "time_unit": "days"}
    found = attribute_forecast(model, time.to_dataset(), step=3)
    agreed = agree_with_attention(found, time)
    write_tree(agreed, tmp_path / "attribution.zarr.zip")
    again = read_tree(tmp_path / "attribution.zarr.zip")
    xr.testing.assert_identical(again.to_dataset(), agreed.to_dataset())
    table = attribution_table(agreed)
    heads = sum(node.sizes["layer"] * node.sizes["head"] for node in time.children.values())
    assert len(table) == len(DEFAULT) * heads
    part = "readout->history" if architecture == "encoder" else "horizon->history"
    assert set(table["part"]) == {part} and set(table["step"]) == {3}
    np.testing.assert_array_equal(table["strongest_lag_time"], table["strongest_lag"] / 2)
    row = table.set_index(["method", "stack", "layer", "head"]).loc["occlusion", "encoder", 1, 1]
    node = time["encoder"]
    size = np.abs(found["attribution"].sel(attribution_method="occlusion").values)
    at = model.history + 2
    rows = [-1] if architecture == "encoder" else np.flatnonzero((node["query_start"] <= at) & (node["query_end"] > at))
    keys = node["key_part"].values == 0
    expected = [
        spearmanr(
            size[i].reshape(keys.sum(), -1).mean(1), node["attention"].values[i, 1, 1][rows][:, keys].mean(0)
        ).statistic
        for i in range(3)
    ]
    mean_and_sd = [np.mean(expected), np.std(expected, ddof=1)]
    np.testing.assert_allclose(row[["spearman", "spearman_sd"]].astype(float), mean_and_sd)
    half = student_t.ppf(0.975, 2) * mean_and_sd[1] / np.sqrt(3)  # Student, two degrees of freedom
    np.testing.assert_allclose(row[["lower", "upper"]].astype(float), [mean_and_sd[0] - half, mean_and_sd[0] + half])


def test_other_windows_are_refused() -> None:
    found = attribute_forecast(copying(20), windows(4))
    with pytest.raises(LaglensError, match="the attribution has 4 windows, the time maps 3"):
        agree_with_attention(found, attended_like(found.isel(sample=slice(3))))
