"""Gradient relevance: an explicit softmax, the published loop, and models that do not use their attention."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from models import tiny
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from laglens.errors import LaglensError
from laglens.flow.lags import rollout_lags
from laglens.flow.relevance import gradient_relevance
from laglens.models.tokens import Stack, TokenMap

HISTORY, HORIZON, WIDTH, HEADS = 8, 3, 8, 2


class Projected(nn.Module):
    """Attention between two sets of tokens: fused, or written out with the weights kept."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, WIDTH, WIDTH, dtype=torch.float64) / 4)
        self.kept: Tensor | None = None
        self.explicit = False

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        q, k, v = (
            (x @ w).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for x, w in zip((query, key, key), self.weights, strict=True)
        )
        if self.explicit:
            self.kept = (q @ k.transpose(-2, -1) / math.sqrt(WIDTH / HEADS)).softmax(-1)
            self.kept.retain_grad()
            out = self.kept @ v
        else:
            out = scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).flatten(2)


class Reading(nn.Module):
    """An encoder of two layers, and a decoder with tokens of its own that reads it."""

    history, horizon, channels, differentiable = HISTORY, HORIZON, 1, True

    def __init__(self, uses: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = nn.Parameter(torch.randn(WIDTH, dtype=torch.float64))
            self.place = nn.Parameter(torch.randn(HISTORY + HORIZON, WIDTH, dtype=torch.float64))
            self.first_attn, self.second_attn, self.own_attn, self.cross_attn = (Projected() for _ in range(4))
        self.uses = uses

    @property
    def stacks(self) -> tuple[Stack, ...]:
        past, ahead = TokenMap.patches(HISTORY, 0, 1), TokenMap.patches(HISTORY, HORIZON, 1).taken(range(8, 11))
        return (
            Stack("encoder", ("first_attn", "second_attn"), past, past),
            Stack("decoder", ("own_attn",), ahead, ahead),
            Stack("cross", ("cross_attn",), ahead, past),
        )

    def forward(self, history: Tensor) -> Tensor:
        x = history[..., None] * self.embed + self.place[:HISTORY]
        for layer in (self.first_attn, self.second_attn):
            x = x + self.uses * layer(x, x)
        y = self.place[HISTORY:].expand(len(x), -1, -1)
        y = y + self.uses * self.own_attn(y, y)
        y = y + self.uses * self.cross_attn(y, x)
        return torch.sin(y).sum(-1) + 0 * history.sum(1, keepdim=True)


def windows(n: int = 3, history: int = HISTORY, horizon: int = HORIZON) -> xr.Dataset:
    series = np.random.default_rng(0).normal(size=(n, history + horizon))
    return xr.Dataset({"series": (("sample", "time"), series)}, {"sample": np.arange(n)})


def published(model: Reading, history: Tensor, step: int | None) -> np.ndarray:
    """The loop of the paper on weights that the model wrote out, one window at a time."""
    layers = (model.first_attn, model.second_attn, model.own_attn, model.cross_attn)
    for layer in layers:
        layer.explicit = True
    forecast = model(history[None])
    ((forecast.mean() if step is None else forecast[0, step - 1]) / history.std()).backward()
    first, second, own, cross = ((layer.kept * layer.kept.grad)[0].clamp_min(0).mean(0).detach() for layer in layers)
    r_kk = torch.eye(HISTORY, dtype=torch.float64)
    for map_ in (first, second):
        r_kk = r_kk + map_ @ r_kk
    r_qq = torch.eye(HORIZON, dtype=torch.float64)
    r_qk = torch.zeros(HORIZON, HISTORY, dtype=torch.float64)
    r_qk = r_qk + own @ r_qk
    r_qq = r_qq + own @ r_qq

    def normalised(r: Tensor) -> Tensor:
        rest = r - torch.eye(len(r))
        return torch.nan_to_num(rest / rest.sum(-1, keepdim=True)) + torch.eye(len(r))

    r_qk = r_qk + normalised(r_qq).T @ cross @ normalised(r_kk)
    for layer in layers:
        layer.explicit = False
    top = torch.cat([r_qk, r_qq], 1)
    below = torch.cat([r_kk, torch.zeros(HISTORY, HORIZON)], 1)
    return torch.cat([below, top]).numpy()


@pytest.mark.parametrize("step", [None, 2])
def test_it_is_the_published_loop_on_written_out_attention_with_cross_attention(step: int | None) -> None:
    model, shown = Reading(), windows()
    found = gradient_relevance(model, shown, step=step, batch=2)
    for i, series in enumerate(shown["series"].values[:, :HISTORY]):
        expected = published(model, torch.from_numpy(series), step)
        np.testing.assert_allclose(found["relevance"][i, -1], expected, atol=1e-6)
    assert np.abs(expected[HISTORY:, :HISTORY]).max() > 0.01
    assert found.attrs["followed"] == ["encoder", "decoder", "cross"]
    assert set(rollout_lags(found, min_pairs=2)["part"].values) >= {"horizon->history"}


def test_two_calls_agree_and_leave_nothing_behind() -> None:
    model = tiny("numeric")
    shown = windows(2, model.history, model.horizon)
    first, second = (gradient_relevance(model, shown, step=3) for _ in range(2))
    xr.testing.assert_identical(first, second)
    assert all(parameter.grad is None for parameter in model.parameters())
    relevance = first["relevance"].values
    assert relevance.shape == (2, 3, 12, 12) and (relevance >= 0).all()
    assert (np.diff(relevance, axis=1) >= -1e-6).all()  # every layer adds


def test_a_forecast_without_attention_has_the_identity_as_relevance() -> None:
    found = gradient_relevance(Reading(uses=0.0), windows())
    np.testing.assert_array_equal(found["relevance"], np.broadcast_to(np.eye(11), (3, 3, 11, 11)))


def test_decoding_steps_give_one_row_each() -> None:
    model = tiny("encoder_decoder")
    shown = windows(2, model.history, model.horizon)
    first = gradient_relevance(model, shown, step=1)["relevance"].values[:, -1]
    n = model.history
    assert (first[:, n, :n] > 0).any() and (first[:, n + 1 :, :n] == 0).all()  # later steps do not make the first
    last = gradient_relevance(model, shown, step=model.horizon)["relevance"].values[:, -1]
    assert (last[:, -1, :n] > 0).any()


class Louder(Reading):
    """The same model for series in another unit, whose forecast is in that unit too."""

    unit = 1000.0

    def forward(self, history: Tensor) -> Tensor:
        return super().forward(history / self.unit) * self.unit


def test_the_unit_of_the_series_changes_nothing() -> None:
    shown = windows()
    found = gradient_relevance(Louder(), shown.assign(series=1000 * shown["series"]))
    np.testing.assert_allclose(found["relevance"], gradient_relevance(Reading(), shown)["relevance"], rtol=1e-5)


def test_relevance_without_bounds_is_refused_and_not_infinite() -> None:
    model = Louder()
    model.unit = 1e200
    shown = windows()
    with pytest.raises(LaglensError, match="beyond what float32 holds"):
        gradient_relevance(model, shown)


def test_models_that_it_cannot_follow_are_refused() -> None:
    with pytest.raises(LaglensError, match="step is 4; this model forecasts 3"):
        gradient_relevance(Reading(), windows(), step=4)
    model = Reading()
    model.differentiable = False
    with pytest.raises(LaglensError, match="a gradient, which Reading has not"):
        gradient_relevance(model, windows())
