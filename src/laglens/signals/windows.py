"""Cut a signal into the windows that a model is shown."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.labels import require_dims


def windows(
    value: xr.DataArray, history: int, horizon: int, n: int, *, per_series: int = 0, channels: int = 1
) -> xr.Dataset:
    """Cut up to `n` different windows, spread evenly over samples and over time.

    Window i comes from sample i modulo the number of samples, and the starts rise evenly from the first to the
    last at which the whole history exists. The horizon may run past the end of the series and is NaN there. With
    several `channels` every window holds all samples side by side.

    Parameters
    ----------
    value
        ``(sample, time)``; dimensions before these are kept.
    history, horizon
        Samples in time that the model sees, and that it forecasts.
    n
        Windows wanted; fewer are returned where there are no more.
    per_series
        Of a panel, whose samples have a ``series_name`` each: at least so many of every one, even if these are more
        than `n`. Pieces of one series share a name; of them `n` is enough.
    channels
        Series that enter the model together: the samples of the signal.

    Returns
    -------
    xr.Dataset
        ``series (sample, time)``, or ``(sample, channel, time)``, with `history` + `horizon` samples in time; for every
        window the sample of the signal it comes from, ``signal_sample`` (of all of them ``signal_sample (channel)``),
        its ``series_name`` where it has one, and where it begins there, ``start``. Where the signal has dates,
        ``date (sample, time)``, NaT past its end.

    Raises
    ------
    LaglensError
        The series is shorter than the history, or the signal has not one sample for every channel.
    """
    require_dims(value, "sample", "time")
    n_samples, length = value.sizes["sample"], value.sizes["time"]
    if min(history, n) < 1 or horizon < 0:
        raise LaglensError(f"history {history}, horizon {horizon} and {n} windows: at least 1, 0 and 1 are needed")
    if length < history:
        raise LaglensError(
            f"signal '{value.attrs.get('long_name', 'series')}': {length} samples are fewer than the history of "
            f"{history} that the model needs; use a longer series or a model with a shorter history"
        )
    if channels > 1 and n_samples != channels:
        raise LaglensError(
            f"signal '{value.attrs.get('long_name', 'series')}' has {n_samples} samples, the model takes {channels} "
            f"channels together; give a signal with as many samples, one for each channel"
        )
    n_starts = length - history + 1
    together = channels > 1
    if "series_name" in value.coords and len({str(name) for name in value["series_name"].values}) == n_samples:
        n = max(n, per_series * (1 if together else n_samples))
    i = np.arange(min(n, n_starts if together else n_samples * n_starts))
    # Each start is used by at most n_samples neighbouring windows, so that no window comes twice.
    start, sample = i * n_starts // len(i), np.arange(n_samples) if together else i % n_samples
    within = xr.DataArray(start[:, None] + np.arange(history + horizon), dims=("sample", "time"))
    across = "channel" if together else "sample"
    bare = value.drop_vars([c for c in value.coords if {"sample", "time"} & set(value[c].dims)])
    cut = bare.pad(time=(0, horizon), constant_values=np.nan)
    cut = cut.isel(sample=xr.DataArray(sample, dims=across), time=within)
    cut = cut.transpose(..., *dict.fromkeys(("sample", across, "time")))
    coords = {
        "sample": i,
        "time": ("time", np.arange(history + horizon), {"units": "input samples from the start of the window"}),
        "signal_sample": (across, value["sample"].values[sample] if "sample" in value.coords else sample),
        "start": ("sample", start, {"long_name": "first sample of the window"}),
    }
    if "series_name" in value.coords:
        coords["series_name"] = (across, value["series_name"].values[sample])
    if "date" in value.coords:
        dates = np.concatenate([value["date"].values, np.full(horizon, np.datetime64("NaT"), "datetime64[ns]")])
        coords["date"] = (("sample", "time"), dates[within.values])
    return xr.Dataset({"series": cut}, coords=coords)


def histories(windows: xr.Dataset, history: int, channels: int = 1) -> NDArray[np.float64]:
    """What a model sees of its windows: ``series (sample, time) -> (sample, history)``.

    With several `channels` ``(sample, channel, time) -> (sample, channel, history)``.

    Raises
    ------
    LaglensError
        The windows are shorter than `history`, have other channels, or hold NaN there.
    """
    together = ("channel",) if channels > 1 else ()
    dims, n_channels = ("sample", *together, "time"), windows["series"].sizes.get("channel", 1)
    if n_channels != channels:
        raise LaglensError(f"the model takes {channels} series at once, the windows hold {n_channels}")
    series = windows["series"].transpose(*dims).values
    if series.shape[-1] < history:
        raise LaglensError(f"the model needs {history} samples of history, the windows have {series.shape[-1]}")
    shown = np.ascontiguousarray(series[..., :history], dtype=np.float64)
    if not np.isfinite(shown).all():
        raise LaglensError("the history of a window holds NaN or infinite values; fill the gaps of the signal first")
    return shown
