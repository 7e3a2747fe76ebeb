"""Run a model on many series, each with its own controls, and test every one as a study would."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from laglens.attention.cube import attention_tree
from laglens.lags.alike import stack_dataset
from laglens.lags.combs import log_ratio
from laglens.lags.permutation import pooled_max_test
from laglens.lags.profiles import ratio_of_part
from laglens.lags.reach import forecasting_stacks
from laglens.lags.tracking import candidate_combs
from laglens.models.forecaster import Forecaster
from laglens.progress import track
from laglens.signals.controls import make_control
from laglens.time.reduce import to_time

Array = NDArray[np.float64]
AT_ONCE = 512  # windows captured together


def log_profiles(model: Forecaster, series: Array, *, device: torch.device | str = "cpu") -> tuple[Array, Array, float]:
    """Log ratio at every past lag, for every series and head of the stacks that read the history for the forecast.

    Returns
    -------
    profiles, lag, step
        ``(series, head, lag)`` over all stacks, ``(lag,)`` and the token step [input samples].

    Raises
    ------
    LaglensError
        The stacks have different lags.
    """
    found = []
    for first in range(0, len(series), AT_ONCE):
        part = xr.Dataset({"series": (("sample", "time"), series[first : first + AT_ONCE])})
        part = part.assign_coords(sample=np.arange(part.sizes["sample"]))
        tree = to_time(attention_tree(model, part, store="time", statistics=(), device=device))
        profiles, lag, step = _profiles_of(tree)
        found.append(profiles)
    return np.concatenate(found), lag, step


def _profiles_of(tree: xr.DataTree) -> tuple[Array, Array, float]:
    stacks = forecasting_stacks(tree)
    # All stacks are tested on the lags that the first of them has.
    part, layout = next(iter(stacks.values()))
    measured = layout.tested(part) & (layout.lag > 0)
    lag, rows = layout.lag_samples[measured], []
    for name, (own_part, own) in stacks.items():
        maps = stack_dataset(tree, name)["attention"].transpose("sample", "layer", "head", "query", "key")
        at = np.isin(own.lag_samples, lag)
        ratios = np.stack([ratio_of_part(maps.isel(sample=i).values, own, own_part) for i in range(len(maps))])
        rows.append(log_ratio(ratios[..., at]).reshape(len(ratios), -1, int(at.sum())))
    return np.concatenate(rows, axis=1), lag, layout.table.step


def detect(
    model: Forecaster,
    series: Array,
    periods: Array | None = None,
    *,
    heads: Mapping[str, NDArray[np.bool_]] | None = None,
    white: Array | None = None,
    controls: int = 99,
    seed: int = 0,
    device: torch.device | str = "cpu",
    label: str = "series",
) -> pd.DataFrame:
    """Look for a period in the heads of a model, for every series on its own, as if it were not known.

    For each series: AR(1) controls matched to it; comb contrasts of every head at every candidate period; the exact
    pooled maximum over heads and candidates (`pooled_max_test`).

    Parameters
    ----------
    series
        ``(series, time)``, as long as the model's window.
    periods
        True periods of each series, where there are any, ``(series, period)``.
    heads
        Sets of heads to look at by name, over all stacks that read the history for the forecast, ``(head,)`` each.
        Default: all. In an empty set nothing is ever detected: p is 1.
    white
        Profiles on white noise, ``(series, head, lag)``: what position alone makes, against which the lag and the
        period of a head are read once it was found. Default: the AR(1) controls of each series.
    controls
        Noise series for each; the smallest p is 1 / (controls + 1).

    Returns
    -------
    pd.DataFrame
        One row per series and set of heads: ``p`` family-wise, ``head`` with the largest comb, ``detected`` period and
        ``lag`` of the largest z of that head; with `periods` whether these lie within a token of a true P or of a kP:
        ``lag_at_period``, ``lag_at_multiple``, ``period_at_multiple``, and how often the lags of the other series of
        the set do: ``chance_at_period``, ``chance_at_multiple``.
    """
    rows = []
    for i, values in enumerate(track(series, f"testing {label}", total=len(series))):
        signal = xr.Dataset({"value": (("sample", "time"), values[None])}, attrs={"name": f"{label} {i}"})
        noise = make_control(signal, controls, seed)["value"].values[:, 0]
        profiles, lag, step = log_profiles(model, np.concatenate([values[None], noise]), device=device)
        for name, mask in (heads or {"all": np.ones(profiles.shape[1], bool)}).items():
            null = None if white is None else white[:, mask]
            rows.append({"series": i, "heads": name} | _tested(profiles[:, mask], null, lag, step))
    table = pd.DataFrame(rows)
    if periods is None:
        return table
    placed = [_placed(group, np.asarray(periods, float), step) for _, group in table.groupby("heads", sort=False)]
    return pd.concat(placed).sort_index()


def _tested(profiles: Array, white: Array | None, lag: Array, step: float) -> dict[str, float]:
    if not profiles.shape[1]:
        return {"p": 1.0, "detected": np.nan, "lag": np.nan, "head": np.nan}
    candidates, combs = candidate_combs(lag, step)
    contrast = profiles @ combs.T  # (series, head, candidate)
    _, p = pooled_max_test(contrast[0].ravel(), contrast[1:].reshape(len(contrast) - 1, -1))
    # The pooled z cannot exceed the root of the number of controls, so it does not tell strong from stronger.
    head = int(np.argmax(excess(contrast[0], contrast[1:]).max(-1)))
    z = excess(profiles[0], profiles[1:] if white is None else white)[head]
    found = {"detected": candidates[np.argmax(z @ combs.T)], "lag": lag[np.argmax(z)], "head": head}
    return {"p": float(p.min())} | {name: float(value) for name, value in found.items()}


def excess(values: Array, null: Array) -> Array:
    """Standard deviations of a null from its mean, at least the head's typical one: (..., head, x), (n, head, x)."""
    spread = null.std(0, ddof=1)
    return (values - null.mean(0)) / np.maximum(spread, np.median(spread, -1, keepdims=True) + 1e-9)


def _placed(table: pd.DataFrame, periods: Array, step: float) -> pd.DataFrame:
    lags, detected = table["lag"].to_numpy(), table["detected"].to_numpy()
    at_period = np.abs(lags[None, :, None] - periods[:, None]).min(-1) <= step  # (series, lag of a series)
    at_multiple = near_multiple(lags[None, :], periods[:, None], step)
    others = ~np.eye(len(lags), dtype=bool)
    return table.assign(
        period=periods[:, 0],
        second_period=periods[:, 1] if periods.shape[1] > 1 else np.nan,
        lag_at_period=at_period.diagonal(),
        lag_at_multiple=at_multiple.diagonal(),
        period_at_multiple=near_multiple(detected, periods, step),
        chance_at_period=at_period.mean(1, where=others),
        chance_at_multiple=at_multiple.mean(1, where=others),
    )


def near_multiple(values: Array, periods: Array, step: float) -> NDArray[np.bool_]:
    """Whether a value lies within a token of a multiple of any of the periods: (...), (..., period) -> (...)."""
    multiple = np.maximum(1, np.round(values[..., None] / periods))
    return np.any(np.abs(values[..., None] - multiple * periods) <= step, axis=-1)
