"""Stretching in time: closed forms, planted periods between tokens, and a shipped model."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import laglens
from laglens.attribution.stretch import stretch_or_say_why, stretch_probe
from laglens.errors import LaglensError
from laglens.lags.precision import resample_windows
from laglens.lags.stretch import StretchCombs, calibrate_heads, stretched_periods
from laglens.signals.stretch import FACTORS, stretch, stretch_windows

WEIGHTS = Path(laglens.__file__).parent / "weights"
STEP, LAG = 8.0, np.arange(24.0, 257.0, 8.0)


def series(values) -> xr.DataArray:
    return xr.DataArray(np.atleast_2d(values), dims=("sample", "time"))


@pytest.mark.parametrize("factor", FACTORS)
def test_a_stretched_wave_has_the_stretched_period_and_ends_at_the_same_instant(factor):
    time, length = np.arange(400.0), 256
    found = stretch(np.sin(2 * np.pi * time / 24), factor, length)
    at = time[-1] - np.arange(length)[::-1] / factor
    np.testing.assert_allclose(found, np.sin(2 * np.pi * at / 24), atol=1e-4)
    assert found[-1] == np.sin(2 * np.pi * time[-1] / 24)


def test_windows_of_all_factors_end_together_and_know_where_they_come_from():
    values = np.random.default_rng(0).normal(size=(2, 400))
    found = stretch_windows(series(values), 256, 6)
    assert dict(found.sizes) == {"factor": 9, "sample": 6, "time": 256}
    ends = found["start"].values + 342 - 1  # ceil(255 / 0.75) + 1 = 341 samples are needed
    last = found["series"].isel(time=-1)
    for i, end in enumerate(ends - 1):
        assert last.isel(sample=i).values == pytest.approx(values[found["signal_sample"].values[i], end])
    np.testing.assert_allclose(found["series"].sel(factor=1.0)[0], values[0, 341 - 256 : 341])


def test_a_shorter_series_has_fewer_factors_and_a_short_one_is_refused():
    assert stretch_windows(series(np.zeros(309)), 256, 2)["factor"].values.min() == 0.875
    with pytest.raises(LaglensError, match="250 samples are too few to stretch windows of 256"):
        stretch_windows(series(np.zeros(250)), 256, 2)


def planted(periods, strength: float, rng, offset: float = 0.0) -> xr.Dataset:
    """Ratios of one sample per period; head 0 has a soft comb, `offset` tokens beside the period, head 1 has none."""
    factors = np.array(FACTORS)
    true_lag = (LAG - offset * STEP) / factors[:, None]
    comb = strength * np.cos(2 * np.pi * true_lag[:, None] / np.asarray(periods)[:, None])
    logs = 1 + 0.1 * rng.normal(size=(len(factors), len(periods), 1, 2, len(LAG)))
    logs[:, :, 0, 0] += comb
    coords = {"factor": factors, "layer": [0], "head": [0, 1], "lag": LAG}
    dims = ("factor", "sample", "layer", "head", "lag")
    return xr.Dataset({"ratio": (dims, np.expm1(logs))}, coords, {"samples_per_token": STEP, "part": "p"})


def tree(node: xr.Dataset, true=None) -> xr.DataTree:
    root = xr.Dataset() if true is None else xr.Dataset(coords={"true_period": ("sample", np.asarray(true))})
    return xr.DataTree.from_dict({"/": root, "/decoder": node})


@pytest.fixture(scope="module")
def probe():
    """Calibrated on waves of a head that looks a quarter of a token beside the period."""
    rng = np.random.default_rng(5)
    true = rng.uniform(36, 100, 20)
    noise = tree(planted([40.0] * 40, 0.0, rng))
    return calibrate_heads(noise, tree(planted(true, 0.3, rng, offset=0.25), true))


def test_the_offset_of_a_head_is_learnt_and_so_is_how_far_it_is_off(probe):
    node = probe["decoder"]
    assert float(node["offset"].sel(head=0)[0]) == pytest.approx(0.25, abs=0.125)
    assert float(node["error"].sel(head=0)[0]) < 0.08 * STEP
    assert float(node["error"].sel(head=1)[0]) > STEP


@pytest.mark.parametrize("period", [37.3, 44.9, 61.1, 83.7])
def test_a_period_between_tokens_is_found_to_a_tenth_of_a_token(period, probe):
    profiles = tree(planted([period] * 8, 0.3, np.random.default_rng(1), offset=0.25))
    apart = xr.Dataset(coords={"sample": np.arange(8)})
    tested = stretched_periods(profiles, probe, resample_windows(apart, 100))
    found = tested["decoder"]
    assert tested.attrs["best"] == {"stack": "decoder", "layer": 0, "head": 0}
    assert float(found["period"].sel(head=0)[0]) == pytest.approx(period, abs=0.1 * STEP)
    lower, upper = found["period_interval"].sel(head=0).values[0]
    assert lower <= float(found["period"].sel(head=0)[0]) <= upper
    assert upper - lower < 0.2 * STEP
    assert np.diff(found["period_interval"].sel(head=1).values[0]) > STEP


def test_combs_have_no_contrast_on_a_trend_and_are_refined_with_the_same_teeth():
    grid = np.arange(30.0, 320.0)
    combs = StretchCombs.of(grid, LAG, np.array(FACTORS), STEP)
    assert combs.weights.shape == (len(combs.periods), len(grid))
    np.testing.assert_allclose(combs.weights @ (2 + grid), 0, atol=1e-9)
    np.testing.assert_allclose(combs.finer @ (2 + grid), 0, atol=1e-9)
    periods = np.linspace(26, 95, 40)
    found = combs.period(np.cos(2 * np.pi * grid / periods[:, None]))
    np.testing.assert_allclose(found, periods, atol=0.02)
    with pytest.raises(LaglensError, match="hold no two multiples of a period of 3 tokens, 24 samples"):
        StretchCombs.of(grid, LAG[:5], np.array([1.0]), STEP)


def shipped(name: str):
    path = WEIGHTS / f"{name}.safetensors"
    return laglens.restore_model(laglens.read_card(path), laglens.read_weights(path))


def test_the_shipped_model_gives_periods_finer_than_its_tokens():
    model, rng = shipped("image_small"), np.random.default_rng(2)
    periods = np.array([52.3, 84.2])
    time = np.arange(345)
    probe = stretch_probe(model, noises=20, waves=8)
    errors = []
    for period in periods:
        phase = rng.uniform(0, 2 * np.pi, (2, 1))
        waves = np.sin(2 * np.pi * time / period + phase) + 0.05 * rng.normal(size=(2, 345))
        found = laglens.stretch_period(model, series(waves), n=2, probe=probe)
        best = found.attrs["best"]
        errors.append(abs(float(found[best["stack"]]["period"][best["layer"], best["head"]]) - period))
    assert max(errors) < model.patch / 4


def test_why_nothing_is_stretched_is_said():
    model = shipped("numeric_small")
    empty = xr.DataTree()
    assert "too few to stretch" in stretch_or_say_why(model, series(np.zeros(250)), probe=empty).attrs["left_out"]
    said = xr.DataTree(xr.Dataset(attrs={"left_out": "tokens are as fine as the series"}))
    found = stretch_or_say_why(model, series(np.zeros(400)), probe=said)
    assert found.attrs["left_out"] == "tokens are as fine as the series"
