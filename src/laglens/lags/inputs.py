"""What the input itself repeats: autocorrelation and periodogram, also as seen through tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.signal import detrend, find_peaks, get_window
from scipy.special import gammaln
from scipy.stats import rankdata
from statsmodels.tsa.stattools import acf

from laglens.errors import LaglensError
from laglens.labels import require_dims, require_finite
from laglens.lags.precision import Resamples, quantile_interval, resample_windows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PeriodEstimate:
    """The strongest period of a set of series.

    Attributes
    ----------
    period
        Of the largest peak of the mean periodogram, refined by a parabola through its log [input samples]. NaN where
        what repeats fewer than two times in the series is stronger: a trend, not a period.
    lower, upper
        Percentile bootstrap interval over series; equal to `period` for a single one, NaN for too few windows.
    fisher_p
        Fisher's exact test of the largest periodogram ordinate against white noise, median over series.
    """

    period: float
    lower: float
    upper: float
    fisher_p: float


def input_autocorrelation(series: xr.DataArray, *, n_lags: int | None = None) -> xr.DataArray:
    """Biased autocorrelation of each detrended series, averaged: (sample, time) -> (lag,).

    Raises
    ------
    LaglensError
        A series is constant or not finite, or no longer than `n_lags`.
    """
    values = _detrended(series)
    n_lags = values.shape[1] - 1 if n_lags is None else n_lags
    if not 0 <= n_lags < values.shape[1]:
        raise LaglensError(
            f"n_lags is {n_lags}; series of {values.shape[1]} samples have lags 0 to {len(values[0]) - 1}"
        )
    found = np.mean([acf(row, nlags=n_lags, fft=True) for row in values], axis=0)
    lag = xr.Variable("lag", np.arange(n_lags + 1.0), {"units": "input samples"})
    return xr.DataArray(found, dims="lag", coords={"lag": lag}, attrs={"long_name": "autocorrelation of the input"})


def input_periodogram(series: xr.DataArray) -> xr.DataArray:
    """Power of each detrended series under a Hann window, averaged: (sample, time) -> (frequency,), summing to 1."""
    values = _detrended(series)
    power = np.abs(np.fft.rfft(values * get_window("hann", values.shape[1]))) ** 2
    power = (power / power[:, 1:].sum(1, keepdims=True)).mean(0)
    frequency = np.fft.rfftfreq(values.shape[1])[1:]
    coords = {"frequency": ("frequency", frequency, {"units": "per input sample"})}
    return xr.DataArray(power[1:], dims="frequency", coords=coords, attrs={"long_name": "share of the power"})


def token_average(series: xr.DataArray, step: float) -> xr.DataArray:
    """Mean over stretches of `step` samples: what a model can resolve between its tokens. (sample, time) -> alike."""
    values = series.transpose("sample", "time").values
    n_tokens = int(values.shape[1] / step)
    token = np.minimum((np.arange(values.shape[1]) / step).astype(int), n_tokens)
    kept = token < n_tokens
    sums = np.stack([np.bincount(token[kept], row[kept], n_tokens) for row in values])
    centre = (np.arange(n_tokens) + 0.5) * step - 0.5
    return xr.DataArray(sums / np.bincount(token[kept]), dims=("sample", "time"), coords={"time": centre})


def token_autocorrelation(series: xr.DataArray, step: float, lag: Array) -> Array:
    """Autocorrelation of the series averaged in tokens, at lags of whole tokens: -> (lag,), NaN where it has none.

    Parameters
    ----------
    step
        Input samples per token.
    lag
        [input samples], of either sign.

    Raises
    ------
    LaglensError
        As `input_autocorrelation`.
    """
    return autocorrelation_at(token_average(series, step), np.asarray(lag) / step)


def autocorrelation_at(series: xr.DataArray, lag: Array) -> Array:
    """Autocorrelation of the input at the whole samples nearest to lags of either sign: -> (lag,), NaN beyond it."""
    found = input_autocorrelation(series).values
    samples = np.abs(np.round(np.asarray(lag))).astype(int)
    return np.where(samples < len(found), found[np.minimum(samples, len(found) - 1)], np.nan)


def rank_correlation(profiles: Array, curve: Array) -> Array:
    """Spearman's correlation of every profile with one curve over the same lags: (..., lag), (lag,) -> (...).

    NaN where either is constant or not known at 3 lags or more.
    """
    known = np.isfinite(curve) & np.isfinite(profiles).reshape(-1, len(curve)).all(0)
    if np.count_nonzero(known) < 3:
        return np.full(profiles.shape[:-1], np.nan)
    ranks, of_curve = rankdata(profiles[..., known], axis=-1), rankdata(curve[known])
    ranks, of_curve = ranks - ranks.mean(-1, keepdims=True), of_curve - of_curve.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((ranks @ of_curve) / np.sqrt((ranks**2).sum(-1) * (of_curve**2).sum()))


def input_curves(series: xr.DataArray, step: float) -> xr.Dataset:
    """What the input repeats, as it is and averaged in tokens: to be read beside every lag profile.

    Parameters
    ----------
    series
        What the model saw, ``(sample, time)``.
    step
        Input samples per token.

    Returns
    -------
    xr.Dataset
        ``autocorrelation (lag)``, ``power (frequency)``; of the series averaged in tokens ``token_autocorrelation
        (token_lag)`` and ``token_power (token_frequency)``. Lags in input samples, frequencies per input sample.

    Raises
    ------
    LaglensError
        A series is constant or too short, as it is or averaged.
    """
    averaged = token_average(series, step)
    of_tokens = input_autocorrelation(averaged)
    token_power = input_periodogram(averaged)
    found = {
        "autocorrelation": input_autocorrelation(series),
        "power": input_periodogram(series),
        "token_autocorrelation": of_tokens.assign_coords(lag=of_tokens["lag"] * step).rename(lag="token_lag"),
        "token_power": token_power.assign_coords(frequency=token_power["frequency"] / step).rename(
            frequency="token_frequency"
        ),
    }
    curves = xr.Dataset(found, attrs={"samples_per_token": step, "n_windows": series.sizes["sample"]})
    for name, unit in {"token_lag": "input samples", "token_frequency": "per input sample"}.items():
        curves[name].attrs["units"] = unit
    for name in ("token_autocorrelation", "token_power"):
        curves[name].attrs["long_name"] = f"{found[name.removeprefix('token_')].attrs['long_name']}, averaged in tokens"
    return curves


def curves_of_windows(time_tree: xr.DataTree) -> xr.Dataset:
    """`input_curves` of the windows of a time tree, for the finest tokens of its stacks.

    The attribute ``period`` is the strongest period of the input, with an interval over windows (None where too few are
    independent) and Fisher's p. An input without autocorrelation (a straight line, a few tokens) gives no curves, and
    ``left_out`` says why.
    """
    step = min(float(node.attrs["samples_per_token"]) for node in time_tree.children.values())
    history = int(time_tree.attrs["history"])
    windows = time_tree.to_dataset()
    shown = windows["series"].isel(time=slice(history))
    try:
        curves = input_curves(shown, step)
        found = asdict(estimate_period(shown, resamples=resample_windows(windows, history)))
        curves.attrs["period"] = {name: value if np.isfinite(value) else None for name, value in found.items()}
    except LaglensError as error:
        curves = xr.Dataset(attrs={"left_out": str(error)})
    return curves.assign_attrs({key: time_tree.attrs[key] for key in ("signal", "model") if key in time_tree.attrs})


def estimate_period(
    series: xr.DataArray,
    *,
    confidence: float = 0.95,
    n_resamples: int = 500,
    seed: int = 0,
    resamples: Resamples | None = None,
) -> PeriodEstimate:
    """The strongest period of an input, with an interval over its series.

    Parameters
    ----------
    series
        ``(sample, time)``, evenly spaced.
    resamples
        From `laglens.lags.precision.resample_windows`, for windows of one series, which depend on each other; the
        interval is NaN where they are too few. Default: all series are independent.

    Raises
    ------
    LaglensError
        A series is constant, or shorter than 8 samples.

    References
    ----------
    Fisher, R. A. (1929). Tests of significance in harmonic analysis. Proc. R. Soc. A 125, 54-59.
    """
    values = _detrended(series)
    power = np.abs(np.fft.rfft(values * get_window("hann", values.shape[1]), _padded(values.shape[1]))) ** 2
    power /= power.sum(1, keepdims=True)
    period = _peak_period(power.mean(0))
    if resamples is None:
        rng = np.random.default_rng(seed)
        means = [power[rng.integers(len(power), size=len(power))].mean(0) for _ in range(n_resamples)]
    else:
        means = [] if resamples.weights is None else list(resamples.means(power))
    drawn = [_peak_period(mean) for mean in means]
    lower, upper = quantile_interval(np.array(drawn), confidence) if drawn else (np.nan, np.nan)
    p = float(np.median([fisher_p(row) for row in values]))
    return PeriodEstimate(period, float(lower), float(upper), p)


def fisher_p(series: Array) -> float:
    r"""p-value of the largest periodogram ordinate against Gaussian white noise, (time,).

    .. math:: P(g > x) = \sum_{j=1}^{\lfloor 1/x \rfloor} (-1)^{j-1} \binom{m}{j} (1 - jx)^{m-1}

    with g the largest of the m ordinates over their sum (Fisher 1929).
    """
    power = np.abs(np.fft.rfft(series - series.mean())[1 : (len(series) - 1) // 2 + 1]) ** 2
    m, g = len(power), float(power.max() / power.sum())
    if g >= 1 - 1e-12:
        return 0.0
    j = np.arange(1, int(1 / g) + 1)
    log_term = gammaln(m + 1) - gammaln(j + 1) - gammaln(m - j + 1) + (m - 1) * np.log1p(-np.minimum(j * g, 1 - 1e-16))
    # Alternating terms cancel; beyond a few of them the sum is near 1 and its digits do not matter.
    terms = np.exp(np.minimum(log_term, 700.0)) * (-1.0) ** (j - 1)
    if np.max(log_term) > 30:
        return 1.0
    return float(np.clip(terms.sum(), 0.0, 1.0))


def acf_peaks(autocorrelation: xr.DataArray, *, height: float = 0.1) -> Array:
    """Lags of the local maxima of an autocorrelation above `height`, highest first: (lag,) -> (peak,)."""
    found, properties = find_peaks(autocorrelation.values, height=height)
    return autocorrelation["lag"].values[found[np.argsort(-properties["peak_heights"])]]


def _padded(length: int) -> int:
    """Zero padding to four times the length: the parabola through a Hann peak then errs by under 0.1 %."""
    return 4 * length


def _peak_period(power: Array) -> float:
    """Period at the peak of a power spectrum of four times the length, NaN where its slope begins below two cycles."""
    first = 8  # of the zero-padded frequencies: two cycles in the whole series; fewer are a trend
    at = first + int(np.argmax(power[first:-1]))
    if power[at - 1] > power[at]:
        return np.nan
    below, here, above = np.log(np.maximum(power[at - 1 : at + 2], 1e-300))
    curvature = below - 2 * here + above
    offset = np.clip(0.5 * (below - above) / curvature, -0.5, 0.5) if curvature < 0 else 0.0
    return 2 * (len(power) - 1) / (at + offset)


def _detrended(series: xr.DataArray) -> Array:
    require_dims(series, "sample", "time")
    require_finite(series)
    values = detrend(np.asarray(series.transpose("sample", "time").values, np.float64), axis=1)
    if values.shape[1] < 8:
        raise LaglensError(f"a series of {values.shape[1]} samples is too short to look for periods; 8 are needed")
    flat = np.flatnonzero(values.std(1) <= 1e-12 * np.maximum(np.abs(series.values).max(), 1e-300))
    if len(flat):
        raise LaglensError(f"series {flat[0]} is a straight line: it has no period and no autocorrelation")
    return values
