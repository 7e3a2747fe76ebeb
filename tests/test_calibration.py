"""Detection of periods in series that are tested one by one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from models import tiny

import laglens
from laglens.calibration.ablation import pair_series, remove_periods, unrelated_pairs
from laglens.calibration.detection import detect, excess, log_profiles, near_multiple
from laglens.calibration.heads import choose_heads
from laglens.calibration.knock_outs import knock_out_series
from laglens.calibration.series import NOISES, WAVES, drawn, noise_series, wave_series
from laglens.calibration.summary import rate, resampled, summarise_calibration
from laglens.errors import LaglensError
from laglens.figures.calibration import draw_knock_outs, draw_rates
from laglens.figures.style import render
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
    assert found["period"].tolist() == periods[:, 0].tolist()
    # The lags of the other two series, scored against this one's period.
    lag = found["lag"].to_numpy()
    others = [near_multiple(np.delete(lag, i), periods[i][None], 8.0).mean() for i in range(3)]
    assert found["chance_at_multiple"].tolist() == pytest.approx(others)
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


def test_in_an_empty_set_of_heads_nothing_is_detected(model):
    series = noise_series("white", 2, 384, np.random.default_rng(0))
    heads = {"none": np.zeros(20, bool), "one": np.arange(20) == 3}
    found = detect(model, series, heads=heads, controls=19)
    assert found["heads"].tolist() == ["none", "one", "none", "one"]
    assert (found.loc[found["heads"] == "none", "p"] == 1).all()
    assert found.loc[found["heads"] == "one", "head"].tolist() == [0, 0]


def test_single_heads_are_chosen_apart_from_what_is_tested(model):
    heads, white = choose_heads(model, seed=0)
    assert white.shape[1] == 20
    assert heads["all"].sum() == 20
    assert 1 <= heads["following"].sum() < 20
    assert heads["at_multiple"].sum() == heads["at_period"].sum() == 1
    assert heads["following"][heads["at_multiple"]].all()
    assert not np.array_equal(
        drawn(0, "harmonic", "choosing").normal(size=9), drawn(0, "harmonic", "testing").normal(size=9)
    )


def test_a_history_too_short_for_combs_has_heads_chosen_by_their_lag():
    heads, white = choose_heads(tiny("numeric"), seed=0)
    assert heads["at_multiple"].sum() == heads["at_period"].sum() == 1
    assert white.shape[1] == len(heads["all"])


def test_excess_is_in_standard_deviations_of_the_null():
    null = np.array([[[0.0, 1.0]], [[2.0, 1.0]]])
    found = excess(np.array([[3.0, 1.0]]), null)
    assert found[0] == pytest.approx([2 / np.sqrt(2), 0])


def test_knocking_out_the_period_of_waves_costs_and_of_noise_does_not(model):
    waves = knock_out_series(model, "harmonic", 6, seed=0)
    noise = knock_out_series(model, "ar1_0.9", 6, seed=0)
    assert waves["period"].tolist() == noise["period"].tolist()
    assert (waves["comb"] - waves["comb_control"]).mean() > 0.2
    assert abs(noise["comb"].mean()) < 0.2 * waves["comb"].mean()
    assert waves["curve_at_multiple"].mean() > 0.5
    assert "curve_lag" not in noise


def test_summary_of_made_up_series():
    noise = pd.DataFrame({"weights": "trained", "kind": "white", "heads": "all", "p": [0.05, 0.5, 0.5, 1.0]})
    cut = pd.DataFrame({"comb": [1.0, 3.0] * 8, "comb_control": 0.5, "error": 1.0})
    cut = cut.assign(weights="trained", kind="ar1_0.9", band=0.0, band_control=[1.5, -0.5] * 8)
    found = summarise_calibration({"m": {"noise": noise, "knock_out": cut}})
    value = found.set_index(["quantity", "kind"])["value"]
    assert value["false alarms", "white"] == value["false alarms", "every noise"] == 0.25
    assert value["comb effect", "ar1_0.9"] == 2
    assert value["comb effect / controls", "ar1_0.9"] == 4
    assert value["comb share of the error", "ar1_0.9"] == 2
    assert value["comb size", "ar1_0.9"] == pytest.approx(1.5)
    assert (value["comb win", "ar1_0.9"], value["band win", "ar1_0.9"]) == (1.0, 0.5)
    assert found["value"].between(found["lower"], found["upper"])[found["lower"].notna()].all()


def test_period_errors_are_folded_by_the_multiple_that_was_found():
    n, columns = 4, {"weights": "trained", "kind": "sine", "heads": "all", "p": 0.01, "lag": 30.0, "period": 30.0}
    waves = pd.DataFrame(columns | {"detected": [30.0, 61.0, 31.0, 62.0]}, index=range(n))
    waves = waves.assign(**{f"{a}_at_{b}": 1.0 for a in ("lag", "chance") for b in ("period", "multiple")})
    value = summarise_calibration({"m": {"waves": waves}}).set_index("quantity")["value"]
    assert value["period error"] == pytest.approx(16)
    assert value["period error, folded"] == pytest.approx(0.75)
    assert value["period at a multiple"] == 0.5
    assert value["top lag at P, 24-32"] == 1


def test_resampled_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(size=(400, 1))
    _, lower, upper = resampled(lambda x: x[..., 0].mean(-1), values)
    assert upper - lower == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_pairs_are_unrelated_and_what_is_removed_is_gone():
    periods = unrelated_pairs(30, np.random.default_rng(0))
    a, b = periods.T
    assert (np.abs(a - b * np.round(a / b)) >= 16).all()
    time = np.arange(6000)

    def power(series, period):
        return np.abs((series * np.exp(-2j * np.pi * time / period[:, None])).mean(1)) ** 2

    for strength in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0)):
        series = pair_series(periods, strength, 6000, np.random.default_rng(1))
        assert power(series, a) == pytest.approx(np.full(30, strength[0] / 2), abs=0.06)
        assert power(series, b) == pytest.approx(np.full(30, strength[1] / 2), abs=0.06)


def test_removing_a_period_removes_what_a_head_shows_at_it(model):
    found = remove_periods(model, 12, seed=0)
    share = found.groupby(["heads", "condition"])["at_a"].mean()["at_period"]
    assert share["a removed"] <= 0.1
    assert share["b removed"] >= 0.5
    assert set(found["condition"]) == {"both", "a removed", "b removed", "sham"}


def test_pictures_of_a_calibration_have_the_same_bytes_twice():
    noise = pd.DataFrame({"kind": "white", "p": [0.01, 0.5, 0.6, 0.7]})
    waves = pd.DataFrame({"kind": "sine", "p": [0.01, 0.01, 0.5], "lag": 30.0, "period": 30.0, "detected": 30.0})
    waves = waves.assign(**{f"{a}_at_{b}": 1.0 for a in ("lag", "chance") for b in ("period", "multiple")})
    cut = pd.DataFrame({"kind": "harmonic", "comb": [1.0, 3.0], "comb_control": [0.5, 0.4], "error": 1.0})
    cut = cut.assign(band=0.1, band_control=0.0, curve_lag=30.0, curve_chance=0.3, curve_at_period=True)
    cut = cut.assign(curve_at_multiple=True)
    both = {"trained": "following", "random": "all"}

    def doubled(table):
        return pd.concat([table.assign(weights=weights, heads=heads) for weights, heads in both.items()])

    summary = summarise_calibration(
        {"m": {"noise": doubled(noise), "waves": doubled(waves), "knock_out": doubled(cut)}}
    )
    for draw in (draw_rates, draw_knock_outs):
        first, second = (render(draw(summary), dpi=60) for _ in range(2))
        assert first == second
        with pytest.raises(LaglensError, match="run the rule"):
            draw(summary[summary["quantity"] == "size"])
