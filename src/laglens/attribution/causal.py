"""All knock-outs of one model on one signal: its periods, one lag after the other, one head after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from laglens.attribution.cuts import HALF_WIDTH, Cut, comb, matched_cuts, token_lags
from laglens.attribution.effects import MEASURES, paired_effect
from laglens.attribution.knock_out import causal_lag_curve, forecasting_part, knock_out, knock_out_heads, token_step
from laglens.errors import LaglensError
from laglens.lags.testability import testability
from laglens.models.forecaster import Forecaster
from laglens.progress import logger

FEWEST_WINDOWS = 3
SMALLEST_EFFECT = 0.05  # standard deviations of the history; random weights stay below 0.02
NOTHING_TO_CUT = "no attention stack of the model reads the history for the forecast; nothing to cut"
YES, NO, UNKNOWN = "yes", "no", "not testable"
COLUMNS = (
    "period", "tokens", "cut", "measure", "effect", "control", "share", "lower", "upper", "win", "size", "n", "spared",
    "matters", "head", "head_effect", "reason",
)  # fmt: skip


def measure_knock_outs(
    model: Forecaster,
    windows: xr.Dataset,
    periods: Sequence[float],
    *,
    half_width: float = HALF_WIDTH,
    seed: int = 0,
    **options: Any,
) -> xr.DataTree:
    """Knock out the attention at every testable period, at single lags, and in single heads.

    Parameters
    ----------
    windows
        ``series (sample, time)``; the horizon may hold NaN.
    periods
        [input samples]; those under 2 tokens or without a multiple on the lags are left out, with the reason in the
        attribute ``not_testable``.
    half_width
        Of a band on either side of its lag [tokens].
    seed
        Of the random control lags.
    options
        ``batch`` and ``device``, as in `knock_out`.

    Returns
    -------
    xr.DataTree
        ``curve``: `causal_lag_curve`. ``period_0`` and so on: `knock_out` of the matched cuts of each testable period
        (attribute ``period``), and below it per stack the comb cut in one head after the other (`knock_out_heads`). No
        node where no stack reads the history for the forecast; the attribute ``left_out`` says so.

    Raises
    ------
    LaglensError
        As `knock_out`.
    """
    step, n = token_step(model), windows.sizes["sample"]
    judged = {float(period): why_not(model, period, half_width) for period in periods}
    about = windows.attrs | {"half_width": half_width, "samples_per_token": step}
    if not any(forecasting_part(stack, model.history) for stack in model.stacks):
        refused = {repr(period): NOTHING_TO_CUT for period in judged}
        return xr.DataTree(xr.Dataset(attrs=about | {"not_testable": refused, "left_out": NOTHING_TO_CUT}))
    nodes: dict[str, Any] = {"/curve": causal_lag_curve(model, windows, **options)}
    if flat := nodes["/curve"].attrs.get("flat_windows", 0):
        about |= {"flat_windows": flat}
        logger.warning("%d of %d windows are left out of the effects: their history is constant", flat, n)
    rng = np.random.default_rng(seed)
    for i, period in enumerate(period for period, why in judged.items() if not why):
        cuts = matched_cuts([period] * n, model.history, step, rng)
        effects = knock_out(model, windows, cuts, half_width=half_width, **options)
        nodes[f"/period_{i}"] = effects.assign_attrs(effects.attrs | {"period": period, "tokens": period / step})
        whole = Cut("comb", comb([period] * n, model.history))
        heads = knock_out_heads(model, windows, whole, half_width=half_width, **options)
        nodes |= {f"/period_{i}/{name}": node.to_dataset(inherit=False) for name, node in heads.children.items()}
    refused = {repr(period): why for period, why in judged.items() if why}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=about | {"not_testable": refused}), **nodes})


def why_not(model: Forecaster, period: float, half_width: float = HALF_WIDTH) -> str:
    """Why a period cannot be knocked out of a model: its tokens or its lags cannot show it; empty text where it can.

    Parameters
    ----------
    period
        [input samples].
    half_width
        Of a band on either side of its lag [tokens].

    Raises
    ------
    LaglensError
        The period is not positive and finite.
    """
    step = token_step(model)
    judged = testability(period, step)
    if judged.testable == "no":
        return str(judged)
    teeth = comb([period], model.history)[0]
    for stack in model.stacks:
        part = forecasting_part(stack, model.history)
        lags = token_lags(stack, model.history, part)[..., None] if part else np.empty((0, 1))
        if (np.abs(lags - teeth) <= half_width * step).any():
            return ""
    return (
        f"no multiple of the period {period:.4g} lies on the lags of the history of {model.history} samples; give the "
        "model a longer history, or ask for a shorter period"
    )


def relative_lag_curve(curve: xr.DataArray, baseline: xr.DataArray | None = None) -> xr.DataArray:
    """Log of a causal lag curve relative to those of other inputs: ``(lag, sample) -> (lag, sample)``.

    A model needs some lags whatever it is shown, the most recent past above all. The geometric mean over inputs of
    other periods is what a lag is worth to it anyhow; what exceeds it is about this input.

    Parameters
    ----------
    curve
        ``forecast_change (lag, sample)`` from `laglens.attribution.knock_out.causal_lag_curve`.
    baseline
        The same of other inputs; default: for every sample the other samples of `curve`.

    Returns
    -------
    xr.DataArray
        Natural log of curve / baseline; 0 = as much as on the others.

    Raises
    ------
    LaglensError
        Without a baseline, fewer than two samples.
    """
    log = _log(curve)
    if baseline is not None:
        return log - _log(baseline).mean("sample")
    n = log.count("sample")  # a window of a constant history has no effect
    if curve.sizes["sample"] < 2:
        raise LaglensError("one sample has no others to be compared with; give a baseline of other inputs")
    return (log - log.mean("sample")) * (n / (n - 1))


def _log(curve: xr.DataArray) -> xr.DataArray:
    """Natural log, finite also at a lag that changes nothing at all."""
    return curve.copy(data=np.log(np.maximum(curve.values, np.finfo(np.float64).tiny)))


def knock_out_table(tree: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """What each period is worth to the forecast: one row per period, cut (comb or band) and measure.

    ``matters`` is yes where the interval of the difference from the controls lies above 0 and the effect is at least
    0.05 standard deviations of the history; ``head`` is the one whose comb costs most, with its effect. Periods that
    could not be cut, or in fewer than 3 windows, have a row that says ``not testable``, with the ``reason``.

    Parameters
    ----------
    tree
        From `measure_knock_outs`.
    """
    rows = [
        row
        for name, node in tree.children.items()
        if name.startswith("period_")
        for row in _rows(node, confidence, seed)
    ]
    step = tree.attrs["samples_per_token"]
    for period, reason in tree.attrs["not_testable"].items():
        rows.append({"period": float(period), "tokens": float(period) / step, "matters": UNKNOWN, "reason": reason})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(node: xr.DataTree, confidence: float, seed: int) -> list[dict[str, Any]]:
    effects, rows = node.to_dataset(inherit=False), []
    of_period = {"period": effects.attrs["period"], "tokens": effects.attrs["tokens"]}
    known = {name: np.count_nonzero(np.isfinite(effects[name].sel(cut="comb").values)) for name in MEASURES}
    if max(known.values()) < FEWEST_WINDOWS:
        reason = f"{max(known.values())} windows; {FEWEST_WINDOWS} are needed"
        return [of_period | {"matters": UNKNOWN, "reason": reason}]
    for measure in MEASURES:
        if known[measure] < FEWEST_WINDOWS:
            continue  # no truth to compare with
        head, worth = _needed_head(node, measure)
        for cut in ("comb", "band"):
            found = paired_effect(effects, cut, measure=measure, confidence=confidence, seed=seed)
            matters = found.lower > 0 and found.effect >= SMALLEST_EFFECT
            of_cut: dict[str, Any] = {"cut": cut, "measure": measure, "matters": YES if matters else NO, "reason": ""}
            of_cut |= {"spared": int(effects["spared"].sel(cut=cut)), "head": head, "head_effect": worth}
            rows.append(of_period | asdict(found) | of_cut)
    return rows


def _needed_head(node: xr.DataTree, measure: str) -> tuple[str, float]:
    """The head whose comb, cut alone, costs most on average over samples."""
    best = ("", -np.inf)
    for name, child in node.children.items():
        worth = child.to_dataset(inherit=False)[measure].mean("sample")
        layer, head = np.unravel_index(int(np.argmax(worth.values)), worth.shape)
        value = float(worth.values[layer, head])
        best = max(
            best, (f"{name} L{int(worth['layer'][layer]):02} H{int(worth['head'][head]):02}", value), key=lambda x: x[1]
        )
    return best
