"""Every stage takes models whose attention has several stacks, axes that differ, channels, or no forecast."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from models import tiny
from stage_models import Channels, Decoding, Image, Small, TwoPasses, small
from test_figures_text import assert_readable
from torch import Tensor

from laglens.attention.cube import attention_tree
from laglens.attribution.agreement import agree_with_attention
from laglens.attribution.forecast import attribute_forecast
from laglens.attribution.table import attribution_table
from laglens.config.study import Figures
from laglens.errors import LaglensError
from laglens.figures.agreement import draw_agreement
from laglens.figures.alignment import draw_alignment
from laglens.figures.density import draw_density
from laglens.figures.forecasts import draw_forecasts
from laglens.figures.layers import draw_layers
from laglens.figures.reading import all_heads
from laglens.figures.run import draw_run
from laglens.flow.lags import flow_table, rollout_lags
from laglens.flow.rollout import roll_out
from laglens.heads.measure import measure_heads
from laglens.heads.table import heads_table
from laglens.lags.measure import measure_lags
from laglens.lags.tables import peaks_table
from laglens.signals.windows import windows
from laglens.time.controls import control_time_tree
from laglens.time.reduce import to_time

SIGNAL = {"truth": {"periods": [8.0]}, "time_step": 1.0, "time_unit": "samples", "unit": ""}


def longer(kind: type[Small], **options: Any) -> Small:
    """A model with enough tokens for lags."""
    return small(type(kind.__name__, (kind,), {"history": 40, "horizon": kind.horizon and 8}), **options)


MODELS = {
    "encoder_decoder": lambda: tiny("encoder_decoder", history=40, horizon=16),
    "passes": lambda: longer(TwoPasses),
    "channels": lambda: longer(Channels),
    "image": lambda: longer(Image),
}
PARTS = {
    "encoder_decoder": {
        "encoder": {"history->history"},
        "decoder": {"horizon->horizon"},
        "cross": {"horizon->history"},
    },
    "passes": {name: {"readout->history", "history->history"} for name in ("encoder", "encoder_flipped")},
    "channels": {"encoder": {"readout->history", "history->history"}},
    "image": {"encoder": {"readout->history", "history->history"}},
}


def run(model: Any, name: str = "model", **options: Any) -> tuple[xr.DataTree, xr.DataTree]:
    """Time maps of a noisy wave, and of noise."""
    rng = np.random.default_rng(0)
    card = {"name": name, "architecture": name, "history": model.history, "horizon": model.horizon}
    shape = (model.channels, 160)
    wave = np.sin(2 * np.pi * np.arange(160) / 8) + 0.3 * rng.standard_normal(shape)
    value = xr.DataArray(wave, dims=("sample", "time"))
    noise = xr.Dataset({"value": (("replicate", "sample", "time"), rng.standard_normal((19, *shape)))})
    noise.attrs["control"] = "ar1"
    cut = partial(windows, history=model.history, horizon=model.horizon, n=3, channels=model.channels)
    attrs = {"model": card, "signal": SIGNAL}
    time = to_time(attention_tree(model, cut(value), attrs=attrs, **options))
    return time, control_time_tree(model, noise, cut, attrs=attrs)


@pytest.mark.parametrize("name", MODELS)
def test_every_stage_measures_every_stack(name: str) -> None:
    model, parts = MODELS[name](), PARTS[name]
    time, controls = run(model, name)
    lags = measure_lags(time, controls, confidence=0.9)
    assert {stack: set(node["part"].values) for stack, node in lags.children.items()} == parts
    assert lags.attrs["left_out"] == {}
    assert set(peaks_table(lags)["stack"]) == set(parts)
    heads = heads_table(measure_heads(time))
    assert {stack: set(rows["part"]) for stack, rows in heads.groupby("stack")} == parts
    followed = roll_out(time)
    assert set(followed.attrs["followed"]) | set(followed.attrs["left_out"]) == set(parts)
    assert len(flow_table(rollout_lags(followed, min_pairs=4)))
    labels = [head.label for head in all_heads({stack: node.to_dataset() for stack, node in lags.children.items()})]
    assert Figures(heads=labels[-1:]).heads == labels[-1:]
    drawn = draw_run(time, lags, {}, flow=followed, title="a wave", subtitle=name)
    assert list(drawn) == ["lag_strip", "mosaic", "head_sheet", "flow", "arcs"]
    for figure in (drawn["flow"], drawn["arcs"], draw_layers({"wave": heads})):
        assert_readable(figure)
    if model.horizon == 0:
        with pytest.raises(LaglensError, match="does not forecast"):
            attribute_forecast(model, time.to_dataset())
        return
    attribution = attribute_forecast(model, time.to_dataset(), methods=("gradient", "occlusion"))
    agreement = agree_with_attention(attribution, time)
    for figure in (draw_agreement(agreement), draw_density(agreement, time), draw_forecasts(time, agreement)):
        assert_readable(figure)
    table = attribution_table(agreement)
    forecasting = {stack for stack, found in parts.items() if {"horizon->history", "readout->history"} & found}
    assert set(table["stack"]) == forecasting
    assert np.isfinite(table["spearman"]).all()


def test_a_decoder_too_short_for_lags_is_left_out_with_the_reason() -> None:
    time, controls = run(longer(Decoding))
    lags = measure_lags(time, controls, confidence=0.9)
    assert set(lags.children) == {"encoder", "cross"}
    assert lags.attrs["left_out"].keys() == {"decoder"}
    assert (
        "horizon->horizon: no lag of a token or more is shared by 8 of its 6 queries"
        in lags.attrs["left_out"]["decoder"]
    )
    draw_run(time, lags, {}, flow=roll_out(time), title="a wave", subtitle="decoding")
    draw_alignment(time, title="a wave", subtitle="decoding")
    draw_forecasts(time)
    alone = [
        xr.DataTree.from_dict({"/": t.to_dataset(), "/decoder": t["decoder"].to_dataset(inherit=False)})
        for t in (time, controls)
    ]
    with pytest.raises(LaglensError, match=r"^stack 'decoder': horizon->horizon: no lag"):
        measure_lags(*alone, confidence=0.9)


class Mixing(Channels):
    """Forecasts of a channel also depend on the others."""

    history = 40

    def forward(self, history: Tensor) -> Tensor:
        x = torch.tanh(history)
        mixed = x + 0.5 * x.roll(1, 1) * x
        return mixed.mean(-1, keepdim=True).expand(-1, -1, self.horizon) + 0 * super().forward(history)


def test_the_forecast_of_a_channel_is_attributed_to_its_own_history_with_the_others_as_they_are() -> None:
    model = small(Mixing)
    time, _ = run(model)
    found = attribute_forecast(model, time.to_dataset(), methods=("gradient", "occlusion"), window=4, batch=5)
    series = torch.from_numpy(time["series"].values[:, : model.history]).unflatten(0, (-1, 3))
    gradients = []
    for channel in range(3):
        shown = series.clone().requires_grad_()
        model(shown)[:, channel].mean(-1).sum().backward()
        gradients.append(shown.grad[:, channel])
    expected = torch.stack(gradients, 1).flatten(0, 1)
    np.testing.assert_allclose(found["attribution"].sel(attribution_method="gradient"), expected, atol=1e-12)
    without = series.clone()
    without[1, 2, :4] = series[1, 2, 4]
    with torch.no_grad():
        change = (model(series) - model(without))[1, 2].mean()
    occluded = found["attribution"].sel(attribution_method="occlusion")[5, :4]
    np.testing.assert_allclose(occluded, change, atol=1e-12)
    assert change.abs() > 1e-3
    with pytest.raises(LaglensError, match="takes 3 channels together"):
        attribute_forecast(model, time.to_dataset().drop_vars("channel"))
