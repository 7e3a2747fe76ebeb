"""Signals: closed forms, the published series number for number, planted truth, wrong settings."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.signal import find_peaks
from statsmodels.tsa.stattools import acf, pacf

from laglens.config.signals import DATASET_LENGTHS, GENERATOR_NAMES, WITH_VARIANTS, parse_signal
from laglens.errors import LaglensError
from laglens.signals.make import GENERATORS, make_signal
from laglens.store import read_dataset, write_dataset

NEEDED = {
    "harmonics": {"components": [{"period": 20}, {"period": 7, "phase": 1.0}], "noise": 0.1},
    "chirp": {"period_start": 10, "period_end": 60},
    "planted_lag": {"lag": 30},
    "random_walk_echo": {"lag": 30},
}
EVERY = [{"generator": name} | NEEDED.get(name, {}) for name in GENERATOR_NAMES]
EVERY += [{"generator": name, "variant": "published"} for name in WITH_VARIANTS]
EVERY += [{"dataset": name} for name in DATASET_LENGTHS]


def label(spec: dict) -> str:
    return spec.get("dataset") or "-".join(filter(None, [spec["generator"], spec.get("variant")]))


def values(generator: str, **spec: object) -> np.ndarray:
    return make_signal({"generator": generator, **spec}).value.values


# --- the published series -------------------------------------------------------------------------------------


def heavy_tailed_ar1(rng: np.random.RandomState) -> np.ndarray:
    x = np.zeros(1000)
    for t in range(1, 1000):
        x[t] = 0.7 * x[t - 1] + stats.t.rvs(3, random_state=rng)
    return x


def garch11(rng: np.random.RandomState) -> np.ndarray:
    r, v = np.zeros(1000), np.ones(1000)
    for t in range(1, 1000):
        v[t] = 0.1 + 0.1 * r[t - 1] ** 2 + 0.8 * v[t - 1]
        r[t] = rng.normal(0, np.sqrt(v[t]))
    return np.cumsum(r)


def jump_diffusion(rng: np.random.RandomState) -> np.ndarray:
    x = [0.0]
    for _ in range(999):
        step = rng.standard_normal()
        x.append(x[-1] + step + (5 * rng.standard_normal() if rng.uniform() < 0.05 else 0))
    return np.array(x)


def regime_switching(rng: np.random.RandomState) -> np.ndarray:
    x, state = [], rng.randint(2)
    for _ in range(1000):
        x.append([-2, 2][state] + [0.5, 2][state] * rng.standard_normal())
        u = rng.uniform()  # numpy's choice looks u up in the cumulated probabilities
        state = int(u >= (0.95, 0.05)[state])
    return np.array(x)


def trend_breaks(rng: np.random.RandomState) -> np.ndarray:
    x = 0.0
    out = []
    for t in range(1000):
        x += (0.1 if t < 300 else -0.1 if t < 700 else 0.05) + rng.normal(0, 0.5)
        out.append(x)
    return np.array(out)


def random_walk(rng: np.random.RandomState) -> np.ndarray:
    return np.cumsum(rng.standard_normal(1000))


def season_trend_outliers(rng: np.random.RandomState) -> np.ndarray:
    t = np.arange(1000)
    x = 0.01 * t + 2 * np.sin(2 * np.pi * 0.1 * t) + 0.3 * rng.standard_normal(1000)
    x[rng.uniform(size=1000) < 0.02] += 5 * rng.standard_normal(16)  # 16 outliers with seed 42
    return x


def multi_seasonality(rng: np.random.RandomState) -> np.ndarray:
    t = np.arange(1000)
    x = 3 * np.sin(2 * np.pi * t / 10) + 1.5 * np.sin(2 * np.pi * t / 20 + np.pi / 4)
    return x + 0.2 * rng.standard_normal(1000)


def one_over_f(rng: np.random.RandomState) -> np.ndarray:
    white, x = rng.standard_normal(2000), np.zeros(2000)
    for t in range(2000):
        x[t] = white[t] + (0.5 * x[t - 1] if t else 0)
    return stats.zscore(x[:1000])


PUBLISHED = (
    heavy_tailed_ar1, garch11, jump_diffusion, regime_switching, trend_breaks, random_walk, season_trend_outliers,
    multi_seasonality, one_over_f,
)  # fmt: skip


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda f: f.__name__)
def test_published_series_are_those_of_the_study(published) -> None:
    signal = make_signal({"generator": published.__name__, "variant": "published", "samples": 2}, seed=5, name="any")
    for k in range(2):
        if published is season_trend_outliers and k:
            break
        expected = published(np.random.RandomState(42 + k))
        np.testing.assert_allclose(signal.value[k], expected, rtol=1e-10, atol=1e-10)
    assert signal.attrs["seed"] == 42
    assert signal.attrs["source"] == f"{published.__name__} (published)"


def test_published_noise_is_not_pink_and_corrected_noise_is() -> None:
    def slope(x: np.ndarray, highest: float) -> float:
        frequency, power = np.fft.rfftfreq(x.shape[1])[1:], (np.abs(np.fft.rfft(x)) ** 2).mean(0)[1:]
        low = frequency < highest
        return np.polyfit(np.log(frequency[low]), np.log(power[low]), 1)[0]

    for spec, expected in (
        ({"variant": "published"}, (-0.05, -0.15, -0.70)),
        ({}, (-1, -1, -1)),
        ({"method": "arfima"}, (-0.8, -0.8, -0.72)),
    ):
        x = values("one_over_f", samples=200, **spec)
        np.testing.assert_allclose([slope(x, f) for f in (0.05, 0.1, 0.5)], expected, atol=0.05)


# --- closed forms and planted truth ---------------------------------------------------------------------------


def test_the_seed_experiments_are_exact() -> None:
    n = np.arange(512)
    waves = [{"angular": 0.1}, {"angular": 0.2, "phase": 50}, {"angular": 1, "phase": 50, "function": "cos"}]
    three = make_signal({"generator": "harmonics", "components": waves})
    np.testing.assert_array_equal(three.value[0], np.sin(n / 10) + np.sin(n / 5 + 50) + np.cos(n + 50))
    np.testing.assert_allclose(three.attrs["truth"]["periods"], [62.83185, 31.41593, 6.283185], rtol=1e-6)
    two = make_signal({"generator": "harmonics", "components": waves[1:]})
    np.testing.assert_array_equal(two.value[0], np.sin(n / 5 + 50) + np.cos(n + 50))


def test_a_wave_of_amplitude_zero_takes_out_nothing_else() -> None:
    def waves(amplitude: float) -> dict:
        parts = [{"period": 71, "amplitude": amplitude}, {"period": 44}]
        return {"generator": "harmonics", "components": parts, "noise": 0.3, "samples": 3, "seed": 4}

    both, removed = make_signal(waves(1), name="both"), make_signal(waves(0), name="removed")
    difference = (both - removed).value.values
    n = np.arange(512)
    np.testing.assert_allclose(difference[0], np.sin(2 * np.pi * n / 71), atol=1e-12)
    np.testing.assert_allclose(difference.std(1), np.sqrt(0.5), rtol=0.05)  # a sine alone, with any phase
    assert removed.attrs["truth"]["periods"] == [44]


def test_chirp_has_the_periods_it_says() -> None:
    for sweep in ("linear", "logarithmic"):
        signal = make_signal(NEEDED["chirp"] | {"generator": "chirp", "length": 1000, "sweep": sweep})
        assert float(signal.period[0, 0]) == pytest.approx(10)
        assert float(signal.period[0, -1]) == pytest.approx(60)
        peaks = find_peaks(signal.value[0])[0]
        middle = (peaks[1:] + peaks[:-1]) // 2
        np.testing.assert_allclose(np.diff(peaks), signal.period[0, middle], rtol=0.1, atol=1)


@pytest.mark.parametrize("coefficient", [0.8, -0.5])
def test_planted_lag_is_in_the_partial_autocorrelation_and_nowhere_else(coefficient: float) -> None:
    spec = {"generator": "planted_lag", "lag": 30, "coefficient": coefficient, "length": 20_000, "noise": 2}
    signal = make_signal(spec)
    partial = pacf(signal.value[0], nlags=60, method="burg")
    assert partial[30] == pytest.approx(coefficient, abs=0.03)
    assert np.abs(np.delete(partial, [0, 30])).max() < 0.04
    assert signal.attrs["truth"] == {"periods": [], "lags": [30.0], "events": {}}
    stationary = values(**(spec | {"samples": 4000, "length": 64}))
    np.testing.assert_allclose(stationary.var(0), 4 / (1 - coefficient**2), rtol=0.15)


def test_echo_is_in_the_steps_of_the_walk() -> None:
    signal = make_signal({"generator": "random_walk_echo", "lag": 25, "echo": 0.5, "length": 20_000})
    correlation = acf(np.diff(signal.value[0]), nlags=50)
    assert correlation[25] == pytest.approx(0.5 / 1.25, abs=0.03)
    assert np.abs(np.delete(correlation, [0, 25])).max() < 0.04


def test_heavy_tailed_ar1_forgets_as_its_coefficient_says() -> None:
    signal = make_signal({"generator": "heavy_tailed_ar1", "length": 100_000, "degrees_of_freedom": 5})
    np.testing.assert_allclose(acf(signal.value[0], nlags=8), 0.7 ** np.arange(9), atol=0.02)
    innovations = signal.value[0].values[1:] - 0.7 * signal.value[0].values[:-1]
    assert stats.kstest(innovations, stats.t(5).cdf).pvalue > 0.01
    spikes = np.array(signal.attrs["truth"]["events"]["spikes"][0])
    assert len(spikes) == pytest.approx(1000, rel=0.15)
    assert np.abs(innovations[spikes[spikes > 0] - 1]).min() > 4.03  # 99 % of t(5) lies within +-4.03


def test_garch_squares_remember_and_returns_do_not() -> None:
    spec = {"alpha": 0.1, "beta": 0.8, "degrees_of_freedom": None, "length": 400_000}
    signal = make_signal({"generator": "garch11", **spec})
    r, v = signal.value[0].values, signal.variance[0].values
    np.testing.assert_allclose(acf(r**2, nlags=10)[1:], 0.14 * 0.9 ** np.arange(10), atol=0.02)
    assert np.abs(acf(r, nlags=10)[1:]).max() < 0.02
    np.testing.assert_allclose(v[1:], 0.1 + 0.1 * r[:-1] ** 2 + 0.8 * v[:-1])
    assert r.var() == pytest.approx(1, rel=0.03)
    bursts = np.array(signal.attrs["truth"]["events"]["bursts"][0])
    assert (v[bursts] > 1.5).all()
    assert (v[bursts[bursts > 0] - 1] <= 1.5).all()


def test_regimes_are_as_they_are_told() -> None:
    signal = make_signal({"generator": "regime_switching", "length": 100_000})
    x, state = signal.value[0].values, signal.state[0].values
    np.testing.assert_allclose(acf(x, nlags=8)[1:], 0.653 * 0.9 ** np.arange(1, 9), atol=0.03)
    for k, (mean, sd) in enumerate([(-2, 0.5), (2, 2)]):
        assert x[state == k].mean() == pytest.approx(mean, abs=0.05)
        assert x[state == k].std() == pytest.approx(sd, rel=0.02)
    np.testing.assert_array_equal(signal.attrs["truth"]["events"]["switches"][0], 1 + np.flatnonzero(np.diff(state)))
    three = make_signal({"generator": "regime_switching", "means": [0, 5, 9], "deviations": [0, 0, 0], "length": 5000})
    assert set(np.unique(three.value)) == {0.0, 5.0, 9.0}


def test_trend_breaks_have_white_noise_around_a_broken_line() -> None:
    signal = make_signal({"generator": "trend_breaks", "samples": 50})
    line = make_signal({"generator": "trend_breaks", "noise": 0}).value[0].values
    residual = signal.value.values - line
    assert np.ptp(np.diff(line[300:700])) < 1e-9
    np.testing.assert_allclose(residual.std(0).mean(), 0.5, rtol=0.05)
    assert residual[:, 900:].std() == pytest.approx(residual[:, :100].std(), rel=0.1)
    assert signal.attrs["truth"]["events"]["breaks"] == [[300, 700]] * 50
    published = values("trend_breaks", variant="published", samples=50) - line
    assert published[:, 900:].std() > 3 * published[:, :100].std()


def test_jumps_and_outliers_are_where_they_are_told() -> None:
    for variant in ("published", "corrected"):
        signal = make_signal({"generator": "jump_diffusion", "variant": variant, "samples": 20})
        steps = np.diff(signal.value.values, prepend=0)
        at_jump = np.zeros_like(steps, dtype=bool)
        for row, times in zip(at_jump, signal.attrs["truth"]["events"]["jumps"], strict=True):
            row[times] = True
        assert at_jump.mean() == pytest.approx(0.05, abs=0.01)
        assert steps[at_jump].std() == pytest.approx(np.sqrt(26), rel=0.1)
        assert steps[~at_jump].std() == pytest.approx(1, rel=0.05)

        signal = make_signal({"generator": "season_trend_outliers", "variant": variant})
        t = np.arange(1000)
        rest = signal.value[0].values - 0.01 * t - 2 * np.sin(2 * np.pi * t / 10)
        outliers = signal.attrs["truth"]["events"]["outliers"][0]
        assert np.delete(rest, outliers).std() == pytest.approx(0.3, rel=0.1)
        assert np.abs(rest[outliers]).mean() > 2


def test_only_the_corrected_periods_can_be_told_apart() -> None:
    published, corrected = (
        make_signal({"generator": "multi_seasonality", "variant": v}) for v in ("published", "corrected")
    )
    assert acf(published.value[0], nlags=20, adjusted=True)[20] > 0.97
    assert acf(corrected.value[0], nlags=20, adjusted=True)[20] < 0.7
    assert published.attrs["truth"]["periods"] == [10, 20]
    assert corrected.attrs["truth"]["periods"] == [10, 13]


# --- random numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", EVERY, ids=label)
def test_every_signal_is_complete_repeatable_and_can_be_stored(spec: dict, tmp_path) -> None:
    parsed = parse_signal(spec, "one")
    signal = make_signal(spec, seed=3, name="one")
    assert parse_signal(parsed.model_dump(mode="json"), "one") == parsed
    assert signal.identical(make_signal(parsed.model_dump(mode="json"), seed=3, name="one"))
    assert signal.value.dims == ("sample", "time")
    assert signal.value.dtype == np.float64
    assert signal.sizes["time"] == parsed.known_length
    assert set(signal.attrs["truth"]) == {"periods", "lags", "events"}
    assert all(len(indices) == signal.sizes["sample"] for indices in signal.attrs["truth"]["events"].values())
    write_dataset(signal, tmp_path / "signal.zarr.zip")
    xr.testing.assert_identical(read_dataset(tmp_path / "signal.zarr.zip"), signal)


@pytest.mark.parametrize("spec", [s for s in EVERY if "generator" in s], ids=label)
def test_samples_are_independent_and_stay_when_more_are_asked_for(spec: dict) -> None:
    two, three = (make_signal(spec | {"samples": n}, seed=3, name="one").value.values for n in (2, 3))
    np.testing.assert_array_equal(two, three[:2])
    assert all(np.abs(three[i] - three[j]).max() > 0.01 for i, j in ((0, 1), (0, 2), (1, 2)))
    if "variant" not in spec:
        spec = {"noise": 0.1} | spec if spec["generator"] == "chirp" else spec
        first, renamed, reseeded = (
            make_signal(spec, seed=seed, name=name).value.values for seed, name in ((3, "one"), (3, "two"), (4, "one"))
        )
        assert np.abs(first - renamed).max() > 0.01
        assert np.abs(first - reseeded).max() > 0.01
        own = [make_signal(spec | {"seed": 7}, seed=seed, name=str(seed)).value.values for seed in (1, 2)]
        np.testing.assert_array_equal(*own)


def test_every_generator_of_the_config_can_be_made() -> None:
    assert set(GENERATORS) == set(GENERATOR_NAMES)


# --- loud failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"generator": "harmonic"}, r"signals\.x: unknown generator 'harmonic'; did you mean 'harmonics'\?"),
        ({"generator": "garch11", "variant": "publish"}, r"unknown variant 'publish'; did you mean 'published'\?"),
        ({"generator": "chirp", "variant": "published"}, r"generator 'chirp' has no published variant"),
        ({"generator": "garch11", "variant": "published", "alpha": 0.2}, r"signals\.x\.alpha: unknown key"),
        ({}, r"one of the keys generator, dataset, file; here: none"),
        ({"dataset": "co2", "file": "a.csv"}, r"here: dataset and file"),
        ({"dataset": "c02"}, r"'co2'.* not 'c02'"),
        ({"dataset": "macrodata", "column": "gdp"}, r"no 'gdp'; did you mean 'realgdp'\?"),
        ({"dataset": "co2", "column": "ppm"}, r"'co2' has one series only; leave out 'column'"),
        ({"generator": "random_walk", "lenght": 9}, r"signals\.x\.lenght: unknown key; did you mean 'length'\?"),
        ({"generator": "random_walk", "length": 7}, r"signals\.x\.length: must be at least 8, not 7"),
        ({"generator": "harmonics", "components": []}, r"components: must be a list of at least 1"),
        ({"generator": "harmonics", "components": [{"period": 1}]}, r"components\[0\]\.period: must be at least 2"),
        ({"generator": "harmonics", "components": [{"period": 9, "angular": 1}]}, r"either 'period' .* or 'angular'"),
        ({"generator": "harmonics", "components": [{"period": 9, "amplitude": 0}]}, r"every amplitude is 0"),
        ({"generator": "chirp", "period_start": 1.5, "period_end": 9}, r"period_start: must be at least 2"),
        ({"generator": "planted_lag", "lag": 600}, r"lag 600 is not below length 512"),
        ({"generator": "planted_lag", "lag": 9, "coefficient": 1}, r"coefficient: must be below 1"),
        ({"generator": "garch11", "alpha": 0.3}, r"alpha \+ beta is 1\.17"),
        ({"generator": "regime_switching", "means": [0, 1, 2]}, r"3 means but 2 deviations"),
        ({"generator": "trend_breaks", "breaks": [0.5]}, r"3 slopes need 2 breaks, not 1"),
        ({"generator": "trend_breaks", "breaks": [0.7, 0.3]}, r"not rising shares between 0 and 1"),
        ({"generator": "random_walk", "volatility": float("nan")}, r"volatility: must be .*finite"),
    ],
)
def test_wrong_settings_are_one_line(spec: dict, message: str) -> None:
    with pytest.raises(LaglensError, match=message) as error:
        make_signal(spec, name="x")
    assert "\n" not in str(error.value)


def test_a_series_that_comes_out_constant_is_refused() -> None:
    flat = {"generator": "trend_breaks", "slopes": [0, 0], "breaks": [0.5], "noise": 0}
    with pytest.raises(LaglensError, match=r"signal 'flat' \(trend_breaks \(corrected\)\), sample 0: every value is 0"):
        make_signal(flat, name="flat")


def test_the_config_of_signals_is_read_without_numpy() -> None:
    code = "import sys, laglens.config.signals; print({'numpy', 'pandas', 'xarray', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
