"""From drawn numbers to a labelled signal, and the checks every signal must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from laglens.errors import LaglensError

SHORTEST = 8  # samples; below it neither a period nor a lag can be spoken of
ROUNDING = 1e-12  # of the largest value; less is not a change


@dataclass(frozen=True)
class Draw:
    """One generated series with what is known about it.

    Attributes
    ----------
    value
        ``(time,)``.
    extra
        What went on behind the series, by name, ``(time,)`` each: a state, a variance.
    events
        Sample indices at which something happened, by kind.
    periods
        Samples after which a part of the series repeats.
    lags
        Samples after which the past acts again; the immediate past is not listed.
    """

    value: NDArray[np.float64]
    extra: Mapping[str, NDArray] = field(default_factory=dict)
    events: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    periods: Sequence[float] = ()
    lags: Sequence[float] = ()


def from_draws(draws: Sequence[Draw], **attrs: Any) -> xr.Dataset:
    """Stack independent series of one generator into a signal; `attrs` as in `labelled`."""
    first = draws[0]
    return labelled(
        np.stack([draw.value for draw in draws]),
        extra={name: np.stack([draw.extra[name] for draw in draws]) for name in first.extra},
        events={kind: [draw.events[kind].tolist() for draw in draws] for kind in first.events},
        periods=first.periods,
        lags=first.lags,
        **attrs,
    )


def labelled(
    value: ArrayLike,
    *,
    source: str,
    parameters: Mapping[str, Any],
    name: str = "signal",
    seed: int | None = None,
    periods: Sequence[float] = (),
    lags: Sequence[float] = (),
    events: Mapping[str, list[list[int]]] | None = None,
    extra: Mapping[str, ArrayLike] | None = None,
    time_step: float = 1.0,
    time_unit: str = "samples",
    unit: str = "",
) -> xr.Dataset:
    """Label series as a signal.

    Parameters
    ----------
    value
        ``(sample, time)``.
    source
        Where the series comes from: a generator, a data set, a file.
    parameters
        All settings of the source, JSON-native.
    periods, lags, events
        The truth, in samples; each event has one list of indices per sample.
    extra
        Further variables by name, ``(sample, time)`` each.
    time_step, time_unit
        One sample is `time_step` times the `time_unit`.

    Returns
    -------
    xr.Dataset
        ``value (sample, time)``, the extra variables, and everything else as attributes.
    """
    value = np.asarray(value, dtype=np.float64)
    variables = {"value": value} | {key: np.asarray(array) for key, array in (extra or {}).items()}
    dataset = xr.Dataset(
        {key: (("sample", "time"), array) for key, array in variables.items()},
        coords={"sample": np.arange(value.shape[0]), "time": np.arange(value.shape[1])},
    )
    dataset["value"].attrs = {"long_name": name, "units": unit}
    dataset.attrs = {
        "name": name,
        "source": source,
        "parameters": {key: parameters[key] for key in sorted(parameters) if parameters[key] is not None},
        "truth": {
            "periods": [float(period) for period in dict.fromkeys(periods)],
            "lags": [float(lag) for lag in dict.fromkeys(lags)],
            "events": dict(events or {}),
        },
        "seed": seed,
        "time_step": float(time_step),
        "time_unit": time_unit,
        "unit": unit,
    }
    return dataset


def more(rows: NDArray[np.int64]) -> str:
    """Say how many rows beside the first have the same fault."""
    return f" (as are {len(rows) - 1} more)" if len(rows) > 1 else ""


def checked(signal: xr.Dataset) -> xr.Dataset:
    """Return the signal unchanged if a model could be run on it.

    Raises
    ------
    LaglensError
        A series is shorter than 8 samples, holds a number that is not finite, or is constant.
    """
    name, series = signal.attrs["name"], signal["value"].transpose("sample", "time")
    if series.sizes["time"] < SHORTEST:
        raise LaglensError(
            f"signal '{name}' ({signal.attrs['source']}): {series.sizes['time']} samples in time are fewer than "
            f"{SHORTEST}; give it a longer series"
        )
    for k, values in enumerate(series.values):
        which = f"signal '{name}' ({signal.attrs['source']}), {_label(signal, k)}"
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise LaglensError(
                f"{which}: the value at time {bad[0]} is {values[bad[0]]}{more(bad)}; every value must be finite"
            )
        if np.ptp(values) <= ROUNDING * np.abs(values).max():
            raise LaglensError(
                f"{which}: every value is {values[0]:g}; a constant series has no lags, choose another or a longer one"
            )
    return signal


def _label(signal: xr.Dataset, k: int) -> str:
    name = f"series '{signal['series_name'].values[k]}', " if "series_name" in signal.coords else ""
    return f"{name}sample {k}"
