"""Detection of periods in series that are tested one by one."""

from pathlib import Path

import numpy as np
import pytest

import laglens
from laglens.calibration.detection import detect, log_profiles, rate
from laglens.calibration.series import NOISES, WAVES, noise_series, wave_series
from laglens.errors import LaglensError
from laglens.models.registry import restore_model
from laglens.store import read_card, read_weights

WEIGHTS = Path(laglens.__file__).parent / "weights" / "image_small.safetensors"


@pytest.fixture(scope="module")
def model():
    return restore_model(read_card(WEIGHTS), read_weights(WEIGHTS))


@pytest.mark.parametrize("kind", NOISES)
def test_noises_have_the_memory_of_their_name(kind):
    series = noise_series(kind, 60, 384, np.random.default_rng(0))
    assert series.shape == (60, 384)
    centred = series - series.mean(1, keepdims=True)
    lag_one = (centred[:, 1:] * centred[:, :-1]).sum() / (centred**2).sum()
    expected = {"white": 0.0, "shuffled": 0.0, "random_walk": 0.98}.get(kind)
    assert lag_one == pytest.approx(float(kind[4:]) if expected is None else expected, abs=0.04)


@pytest.mark.parametrize("kind", WAVES)
def test_waves_repeat_at_their_periods(kind):
    series, periods = wave_series(kind, 20, 800, np.random.default_rng(0))
    assert periods.shape == (20, 2 if kind == "two_periods" else 1)
    power = np.abs(np.fft.rfft(series)[:, 1:]) ** 2
    strongest = 800 / (1 + power.argmax(1))
    nearest = np.abs(strongest[:, None] / periods - 1).min(1)
    assert np.median(nearest) < 0.05


def test_unknown_noise_is_refused():
    with pytest.raises(LaglensError, match="noise 'pink' is not one of white"):
        noise_series("pink", 1, 10, np.random.default_rng(0))


def test_a_wave_is_detected_and_noise_is_not(model):
    series, periods = wave_series("sine", 3, 384, np.random.default_rng(1))
    found = detect(model, series, periods, controls=39)
    assert (found["p"] <= 0.05).all()
    assert found["lag_at_multiple"].all()
    assert set(found.columns) >= {"detected", "chance", "lag_at_period", "period_at_multiple"}
    noise = detect(model, noise_series("ar1_0.9", 4, 384, np.random.default_rng(1)), controls=19)
    assert (noise["p"] > 0.05).sum() >= 3


def test_profiles_hold_all_heads_at_lags_that_all_stacks_have(model):
    profiles, lag, step = log_profiles(model, noise_series("white", 2, 384, np.random.default_rng(0)))
    assert profiles.shape == (2, 20, len(lag))
    assert step == 8
    assert lag[0] == 3 * step


def test_rate_has_the_exact_interval():
    share, lower, upper = rate([True] * 3 + [False] * 7)
    assert (share, lower, upper) == pytest.approx((0.3, 0.0667, 0.6525), abs=1e-4)
