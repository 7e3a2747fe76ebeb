"""Run a model on many series, each with its own controls, and test every one as a study would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import binomtest

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
    heads: NDArray[np.bool_] | None = None,
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
        Heads to look at, over all stacks that read the history for the forecast, ``(head,)``. Default: all.
    controls
        Noise series for each; the smallest p is 1 / (controls + 1).

    Returns
    -------
    pd.DataFrame
        One row per series: ``p`` family-wise, ``detected`` period of the largest comb, ``lag`` of the largest z of
        that head, and with `periods` whether these lie within a token of a true P or of a kP: ``lag_at_period``,
        ``lag_at_multiple``, ``period_at_multiple``; ``chance``, how often the lags of all series lie at its kP.
    """
    rows = []
    for i, values in enumerate(track(series, f"testing {label}", total=len(series))):
        signal = xr.Dataset({"value": (("sample", "time"), values[None])}, attrs={"name": f"{label} {i}"})
        noise = make_control(signal, controls, seed)["value"].values[:, 0]
        profiles, lag, step = log_profiles(model, np.concatenate([values[None], noise]), device=device)
        looked_at = profiles if heads is None else profiles[:, heads]
        rows.append(_tested(looked_at, lag, step) | {"series": i})
    table = pd.DataFrame(rows)
    return table if periods is None else table.assign(**_placed(table, np.asarray(periods, float), step))


def _tested(profiles: Array, lag: Array, step: float) -> dict[str, float]:
    candidates, combs = candidate_combs(lag, step)
    contrast = profiles @ combs.T  # (series, head, candidate)
    _, p = pooled_max_test(contrast[0].ravel(), contrast[1:].reshape(len(contrast) - 1, -1))
    # The pooled z cannot exceed the root of the number of controls, so it does not tell strong from stronger.
    head, best = np.unravel_index(int(np.argmax(_excess(contrast))), contrast.shape[1:])
    strongest = int(np.argmax(_excess(profiles)[head]))
    return {"p": float(p.min()), "detected": float(candidates[best]), "lag": float(lag[strongest]), "head": float(head)}


def _excess(values: Array) -> Array:
    """The first of (series, head, ...) in standard deviations of the others, at least the head's typical one."""
    null = values[1:]
    spread = null.std(0, ddof=1)
    return (values[0] - null.mean(0)) / np.maximum(spread, np.median(spread, -1, keepdims=True) + 1e-9)


def _placed(table: pd.DataFrame, periods: Array, step: float) -> dict[str, NDArray]:
    lags, detected = table["lag"].to_numpy(), table["detected"].to_numpy()
    anywhere = _at_multiple(lags[None, :], periods[:, None], step)  # (series, lag of a series)
    return {
        "period": periods[:, 0],
        "lag_at_period": (np.abs(lags[:, None] - periods) <= step).any(-1),
        "lag_at_multiple": _at_multiple(lags, periods, step),
        "period_at_multiple": _at_multiple(detected, periods, step),
        "chance": anywhere.mean(1),
    }


def _at_multiple(values: Array, periods: Array, step: float) -> NDArray[np.bool_]:
    """Whether a value lies within a token of a multiple of any of the periods: (...), (..., period) -> (...)."""
    multiple = np.maximum(1, np.round(values[..., None] / periods))
    return np.any(np.abs(values[..., None] - multiple * periods) <= step, axis=-1)


def rate(hits: Sequence[bool] | NDArray[np.bool_], confidence: float = 0.95) -> tuple[float, float, float]:
    """Share of hits with its Clopper-Pearson interval."""
    hits = np.asarray(hits, bool)
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(confidence)
    return float(hits.mean()), float(interval.low), float(interval.high)
