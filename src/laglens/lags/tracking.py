"""Whether the lag a head looks at moves with the period of its input: slope 1 tracks, slope 0 is position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import theilslopes

from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset
from laglens.lags.combs import comb_weights, log_ratio
from laglens.lags.layout import MIN_PAIRS, Layout
from laglens.lags.profiles import ratio_of_part
from laglens.lags.reach import forecasting_stacks, within_reach

Array = NDArray[np.float64]
SHORTEST = 3.0  # tokens of the shortest period looked for
CANDIDATES = 240
PERMUTATIONS = 200
SHARES = ("at_period", "chance_at_period", "at_multiple", "chance_at_multiple")
FOLLOWING = (
    "stack", "layer", "head", "part", "statistic", "p_swap", "slope", "slope_lower", "slope_upper",
    "at_period", "chance_at_period", "at_multiple", "chance_at_multiple",
    "selected", "p_selected", "smallest_p", "n_inputs",
)  # fmt: skip


def track_periods(
    probe_tree: xr.DataTree,
    noise_tree: xr.DataTree,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    min_pairs: int = MIN_PAIRS,
) -> xr.DataTree:
    """Detect the period in the lag profile of every head on every input, and compare with the true ones.

    Profiles are standardised by those on noise, per head and lag; the detected period is that of the comb with the
    largest contrast, in standard deviations of its contrasts on noise.

    Parameters
    ----------
    probe_tree
        Time maps of a model on waves of several periods; ``true_period (sample)`` at its root.
    noise_tree
        The same model on white noise: what position makes.
    confidence
        Of the slope's interval.
    seed
        Of the permutations behind the chance levels.

    Returns
    -------
    xr.DataTree
        One node per stack that reads the history for the forecast. ``detected (layer, head, sample)`` [input
        samples]; ``slope (layer, head)`` of detected on true periods (Theil-Sen) with ``slope_interval (..., bound)``;
        ``at_period`` and ``at_multiple (layer, head)``: share of inputs whose strongest lag lies within a token of P,
        and of a kP; ``chance_at_period``, ``chance_at_multiple``: the same lags scored against permuted periods, to be
        read beside them.

    Raises
    ------
    LaglensError
        No true periods, or no stack that reads the history for the forecast.
    """
    probe_tree = within_reach(probe_tree, min_pairs=min_pairs)
    if "left_out" in probe_tree.attrs:
        return xr.DataTree(xr.Dataset(attrs=probe_tree.attrs))
    true = probe_tree.to_dataset()["true_period"].values
    nodes = {}
    for name, (part, layout) in forecasting_stacks(probe_tree, min_pairs=min_pairs).items():
        node, noise = stack_dataset(probe_tree, name), stack_dataset(noise_tree, name)
        z, lag = standardised(node, noise, layout, part)
        nodes[f"/{name}"] = _tracked(z, lag, layout.table.step, true, node, confidence, seed).assign_attrs(part=part)
    root = xr.Dataset(coords={"true_period": ("sample", true, {"units": "input samples"})}, attrs=probe_tree.attrs)
    return xr.DataTree.from_dict({"/": root, **nodes})


def following_table(tested: xr.DataTree, tracked: xr.DataTree) -> pd.DataFrame:
    """One row per head: whether it follows periods, and how closely; those that follow best first.

    Parameters
    ----------
    tested, tracked
        From `laglens.lags.comb_tests.swap_test` and `track_periods`, on the same probe.
    """
    rows = []
    common = {key: tested.attrs[key] for key in ("smallest_p", "n_inputs") if key in tested.attrs}
    for name in tested.children:
        test, track = stack_dataset(tested, name), stack_dataset(tracked, name)
        for i, j in np.ndindex(test.sizes["layer"], test.sizes["head"]):
            place = {"stack": name, "layer": int(test["layer"][i]), "head": int(test["head"][j])}
            interval = track["slope_interval"].values[i, j]
            rows.append(
                place
                | common
                | {"part": test.attrs["part"], "statistic": float(test["statistic"].values[i, j])}
                | {key: float(track[key].values[i, j]) for key in ("slope", *SHARES)}
                | dict(zip(("slope_lower", "slope_upper"), interval, strict=True))
                | followed(tested, place)
            )
    table = pd.DataFrame(rows, columns=list(FOLLOWING))
    return table.sort_values(["p_swap", "statistic"], ascending=[True, False], kind="stable").reset_index(drop=True)


def followed(tested: xr.DataTree, head: Mapping[str, Any]) -> dict[str, Any]:
    """What the period swap says of a head: its p over all heads, and of the one selected on half the inputs its own.

    Parameters
    ----------
    tested
        From `laglens.lags.comb_tests.swap_test`; without stacks where no head could be tested.
    head
        With ``stack``, ``layer`` and ``head``.
    """
    place = {key: head[key] for key in ("stack", "layer", "head")}
    chosen = tested.attrs.get("selected") == place
    p_swap = np.nan
    if place["stack"] in tested.children:
        node = stack_dataset(tested, place["stack"])
        p_swap = float(node["p_family"].sel(layer=place["layer"], head=place["head"]))
    return {"p_swap": p_swap, "selected": chosen, "p_selected": tested.attrs["p_selected"] if chosen else np.nan}


def standardised(node: xr.Dataset, noise: xr.Dataset, layout: Layout, part: str) -> tuple[Array, Array]:
    """Log profiles as z scores of those on noise, past lags alone: (sample, layer, head, lag), (lag,)."""
    measured = layout.tested(part) & (layout.lag > 0)

    def logs(dataset: xr.Dataset) -> Array:
        maps = dataset["attention"].transpose("sample", "layer", "head", "query", "key")
        samples = range(maps.sizes["sample"])
        ratios = [ratio_of_part(maps.isel(sample=i).values, layout, part)[..., measured] for i in samples]
        return log_ratio(np.stack(ratios))

    return standardise(logs(node), logs(noise)), layout.lag_samples[measured]


def standardise(profiles: Array, null: Array) -> Array:
    """Log profiles as z scores of those on noise: (..., head, lag), (noise, ..., head, lag) -> (..., head, lag)."""
    spread = null.std(0, ddof=1)
    # A head may hardly vary on noise at some lag; there its typical spread counts.
    floor = np.maximum(0.1 * np.median(spread, -1, keepdims=True), 1e-9)
    return np.asarray((profiles - null.mean(0)) / np.maximum(spread, floor))


def refined_period(contrast: Array, periods: Array) -> Array:
    """Period of the largest comb, by the parabola through it and its neighbours in log period: (..., period) -> (...).

    Parameters
    ----------
    periods
        Evenly spaced in log, as from `candidate_combs`.
    """
    largest = contrast.argmax(-1)
    at = np.clip(largest, 1, max(len(periods) - 2, 1))
    if len(periods) < 3:
        return periods[largest]
    below, here, above = (np.take_along_axis(contrast, (at + i)[..., None], -1)[..., 0] for i in (-1, 0, 1))
    curvature = below - 2 * here + above
    shift = 0.5 * (below - above) / np.where(curvature < 0, curvature, -1.0)
    inside = (largest == at) & (curvature < 0)
    ratio = periods[1] / periods[0]
    return np.where(inside, periods[at] * ratio ** np.clip(shift, -0.5, 0.5), periods[largest])


def candidate_combs(lag: Array, step: float) -> tuple[Array, Array]:
    """Candidate periods and the comb weights of each: (period,), (period, lag).

    Weights have norm 1: combs of many teeth and of few then vary alike on noise.
    """
    found = []
    for period in np.geomspace(SHORTEST * step, lag[-1] / 1.5, CANDIDATES):
        try:
            found.append((period, comb_weights(lag, period)))
        except LaglensError:
            continue
    if not found:
        raise LaglensError(f"lags up to {lag[-1]:g} samples hold no comb of at least {SHORTEST:g} tokens")
    weights = np.stack([weights for _, weights in found])
    return np.array([period for period, _ in found]), weights / np.linalg.norm(weights, axis=1, keepdims=True)


def _tracked(
    z: Array, lag: Array, step: float, true: Array, node: xr.Dataset, confidence: float, seed: int
) -> xr.Dataset:
    periods, combs = candidate_combs(lag, step)
    detected = periods[(z @ combs.T).argmax(-1)]
    strongest = lag[z.argmax(-1)]
    shape = z.shape[1:3]
    slopes = np.array([_slope(column, true, confidence) for column in detected.reshape(len(true), -1).T])
    rng = np.random.default_rng(seed)
    permuted = [rng.permutation(true) for _ in range(PERMUTATIONS)]
    columns = {
        "at_period": near(strongest, true, step, multiples=False),
        "at_multiple": near(strongest, true, step, multiples=True),
        "chance_at_period": np.mean([near(strongest, p, step, multiples=False) for p in permuted], axis=0),
        "chance_at_multiple": np.mean([near(strongest, p, step, multiples=True) for p in permuted], axis=0),
        "slope": slopes[:, 0].reshape(shape),
    }
    coords = {name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords}
    found = xr.Dataset({name: (("layer", "head"), values) for name, values in columns.items()}, coords)
    found["detected"] = (("layer", "head", "sample"), np.moveaxis(detected, 0, -1), {"units": "input samples"})
    found["slope_interval"] = (("layer", "head", "bound"), slopes[:, 1:].reshape(*shape, 2))
    return found.assign_coords(bound=np.array(["lower", "upper"], dtype=object))


def _slope(detected: Array, true: Array, confidence: float) -> tuple[float, float, float]:
    """Theil-Sen slope and its interval, NaN where too many detected periods are equal for one."""
    with np.errstate(invalid="ignore"):
        slope, _, lower, upper = theilslopes(detected, true, 1 - confidence)
    return slope, lower, upper


def near(lags: Array, periods: Array, step: float, *, multiples: bool) -> Array:
    """Share of inputs whose lag lies within a token of the period, or of its nearest multiple.

    (sample, ...), (sample,) -> (...).
    """
    period = periods.reshape(-1, *(1,) * (lags.ndim - 1))
    nearest = np.maximum(1, np.round(lags / period)) if multiples else 1.0
    return (np.abs(lags - nearest * period) <= step).mean(0)
