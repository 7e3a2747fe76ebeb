"""Whether the lag a head looks at moves with the period of its input: slope 1 tracks, slope 0 is position."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import theilslopes

from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset
from laglens.lags.comb_tests import forecasting_stacks, within_reach
from laglens.lags.combs import comb_weights, log_ratio
from laglens.lags.layout import MIN_PAIRS, Layout
from laglens.lags.profiles import ratio_of_part

Array = NDArray[np.float64]
SHORTEST = 3.0  # tokens of the shortest period looked for
CANDIDATES = 240
PERMUTATIONS = 200
FOLLOWING = (
    "stack", "layer", "head", "part", "statistic", "p_swap", "slope", "slope_lower", "slope_upper",
    "at_period", "chance_at_period", "at_multiple", "chance_at_multiple",
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
    for name in tested.children:
        test, track = stack_dataset(tested, name), stack_dataset(tracked, name)
        numbers = [test[key] for key in ("statistic", "p_family")]
        numbers += [
            track[key] for key in ("slope", "at_period", "chance_at_period", "at_multiple", "chance_at_multiple")
        ]
        for i, j in np.ndindex(test.sizes["layer"], test.sizes["head"]):
            place = {"stack": name, "layer": int(test["layer"][i]), "head": int(test["head"][j])}
            interval = track["slope_interval"].values[i, j]
            found = {str(array.name).replace("p_family", "p_swap"): float(array.values[i, j]) for array in numbers}
            rows.append(
                place
                | {"part": test.attrs["part"]}
                | found
                | dict(zip(("slope_lower", "slope_upper"), interval, strict=True))
            )
    table = pd.DataFrame(rows, columns=list(FOLLOWING))
    return table.sort_values(["p_swap", "statistic"], ascending=[True, False], kind="stable").reset_index(drop=True)


def standardised(node: xr.Dataset, noise: xr.Dataset, layout: Layout, part: str) -> tuple[Array, Array]:
    """Log profiles as z scores of those on noise, past lags alone: (sample, layer, head, lag), (lag,)."""
    measured = layout.tested(part) & (layout.lag > 0)

    def logs(dataset: xr.Dataset) -> Array:
        maps = dataset["attention"].transpose("sample", "layer", "head", "query", "key")
        samples = range(maps.sizes["sample"])
        ratios = [ratio_of_part(maps.isel(sample=i).values, layout, part)[..., measured] for i in samples]
        return log_ratio(np.stack(ratios))

    null = logs(noise)
    spread = null.std(0, ddof=1)
    # A head may hardly vary on noise at some lag; there its typical spread counts.
    floor = np.maximum(0.1 * np.median(spread, -1, keepdims=True), 1e-9)
    return (logs(node) - null.mean(0)) / np.maximum(spread, floor), layout.lag_samples[measured]


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
