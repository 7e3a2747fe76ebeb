"""Lag profiles of every head of a model on a signal, against the same model on control signals."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.alike import require_alike, stack_dataset
from laglens.lags.bands import Bands, check_controls, control_bands
from laglens.lags.inputs import autocorrelation_at, rank_correlation, token_autocorrelation
from laglens.lags.layout import MIN_PAIRS, Layout
from laglens.lags.peaks import prominence_limit
from laglens.lags.permutation import smallest_p
from laglens.lags.precision import Resamples, mean_interval, resample_windows, window_ratios
from laglens.lags.profiles import mass_on_special, profile_of_part, ratio_of_part
from laglens.lags.testability import as_attrs, true_periods

Array = NDArray[np.float64]
DIMS = ("part", "layer", "head", "lag")
BOUNDS = ("lower", "upper")


def measure_lags(
    time_tree: xr.DataTree,
    control_tree: xr.DataTree,
    *,
    max_lag: float | str = "auto",
    confidence: float = 0.95,
    seed: int = 0,
    min_pairs: int = MIN_PAIRS,
) -> xr.DataTree:
    """Lag profiles with their bands, one node per attention stack.

    Parameters
    ----------
    time_tree
        Time maps of the signal; its windows are averaged first.
    control_tree
        Time maps of the same model on control signals. Each ``sample`` is one replicate, averaged over as many
        windows as the signal has.
    max_lag
        Longest lag on either side [input samples], or ``auto`` (see `Layout.of`).
    confidence
        Of the pointwise band, of the limit over all lags of one head and part, and of the interval of the ratio.
    seed
        Of the bootstrap over windows.
    min_pairs
        Fewest pairs of a lag (see `Layout.of`).

    Returns
    -------
    xr.DataTree
        Dims ``(part, layer, head, lag)``, lag in input samples, positive = the past. ``profile``: mean weight per
        pair; ``ratio``: ratio to uniform over fixed query sets, and its ``ratio_interval (..., bound)`` by bootstrap
        over windows (`laglens.lags.precision.mean_interval`); ``control_mean``, ``band (..., bound)``, ``limit`` (NaN
        at lag 0, which is not tested), ``excess`` over the control mean and ``z`` of the ratio; ``n_pairs (part, lag)``
        of the profile and ``n_queries (part, lag)`` of the ratio; ``prominence_limit (part, layer, head)``;
        ``special_mass (part, layer, head)``: mass on special tokens, which the ratio leaves out. Where the windows are
        at the root: ``autocorrelation (lag)`` of what the model saw, ``token_autocorrelation (lag)`` of its average in
        tokens, and ``acf_correlation (part, layer, head)``, rank correlation of the ratio with the latter. Attributes:
        controls, null, windows, ``interval_of`` (which windows the intervals are from, or why there are none), true
        periods with their testability, parts left out and why; at the root, stacks left out and why.

    Raises
    ------
    LaglensError
        No or too few controls, trees that differ in model, layers, heads or tokens (the message names what), or no
        lag to measure.
    """
    check_pair(time_tree, control_tree, confidence)
    found, left_out = layouts(time_tree, max_lag=max_lag, min_pairs=min_pairs)
    root, nodes = windows_of(time_tree), {}
    resamples = resample_windows(root, time_tree.attrs["history"], seed=seed)
    settings = {"max_lag": max_lag, "confidence": confidence, "min_pairs": min_pairs, "interval_of": str(resamples)}
    for name, layout in found.items():
        node, control = stack_dataset(time_tree, name), stack_dataset(control_tree, name)
        measured = _measure_stack(node, control, layout, resamples, confidence)
        measured = with_input(measured, root, time_tree.attrs["history"], layout.table.step)
        measured.attrs |= settings | describe(time_tree, control_tree, name, layout)
        nodes[f"/{name}"] = measured
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=time_tree.attrs | {"left_out": left_out}), **nodes})


def layouts(time_tree: xr.DataTree, **options: Any) -> tuple[dict[str, Layout], dict[str, str]]:
    """The lag axis of every stack (see `Layout.of`), and why the others have none.

    A decoder of a few tokens has no lag to measure, while the cross-attention beside it has.

    Raises
    ------
    LaglensError
        No stack has a lag to measure; the message names the stacks.
    """
    found, left_out = {}, {}
    for name in time_tree.children:
        try:
            found[name] = Layout.of(stack_dataset(time_tree, name), time_tree.attrs["history"], **options)
        except LaglensError as error:
            left_out[name] = str(error)
    if not found:
        raise LaglensError("; ".join(f"stack '{name}': {reason}" for name, reason in left_out.items()))
    return found, left_out


def check_pair(time_tree: xr.DataTree, control_tree: xr.DataTree, confidence: float) -> None:
    """Raise where a signal cannot be compared with its controls.

    Raises
    ------
    LaglensError
        As `measure_lags`.
    """
    if not time_tree.children:
        raise LaglensError("the time tree has no attention stack, so there is no lag to measure")
    check_controls(n_samples(control_tree), confidence)
    require_alike(time_tree, control_tree, ("the signal", "the control"))
    windows, theirs = n_samples(time_tree), control_tree.attrs.get("n_windows")
    if theirs is not None and theirs != windows:
        raise LaglensError(
            f"the controls average {theirs} windows each, the signal {windows}; "
            "their bands would not fit, so window both alike"
        )


def windows_of(tree: xr.DataTree) -> xr.Dataset:
    """Root of a time tree; one without its windows has their number."""
    root = tree.to_dataset()
    return root if "sample" in root.sizes else root.assign_coords(sample=np.arange(n_samples(tree)))


def n_samples(tree: xr.DataTree) -> int:
    """Count the samples of a time tree: windows of a signal, replicates of a control."""
    return next((int(node.sizes["sample"]) for node in tree.children.values()), 0)


def describe(time_tree: xr.DataTree, control_tree: xr.DataTree, name: str, layout: Layout) -> dict[str, Any]:
    """Attributes of a measured stack: what was compared with what, and what its tokens can show."""
    step = layout.table.step
    periods = true_periods(time_tree.attrs.get("signal", {}), step)
    reached = [{"parts": [part for part in layout.windows if layout.reaches(part, p.period)]} for p in periods]
    return {
        "n_windows": n_samples(time_tree),
        "n_controls": n_samples(control_tree),
        "null": null_name(control_tree),
        "samples_per_token": step,
        "normalisation": time_tree[name].attrs.get("normalisation", "mass"),
        "periods": [known | parts for known, parts in zip(as_attrs(periods), reached, strict=True)],
        "left_out": dict(layout.left_out),
    }


def null_name(control_tree: xr.DataTree) -> str:
    """Name the null of a control tree, such as ``ar1``."""
    attrs = control_tree.attrs
    return str(attrs.get("control") or attrs.get("signal", {}).get("control") or "control")


def said_of_controls(control_tree: xr.DataTree) -> str:
    """How many controls there are, and the smallest p-value that they allow."""
    n = n_samples(control_tree)
    return f"{n} {null_name(control_tree)} controls: the smallest p-value they allow is {smallest_p(n):.3g}"


def mean_map(node: xr.Dataset) -> NDArray[np.float64]:
    """Mean over the windows of a node, ``(layer, head, query, key)``."""
    attention = node["attention"].transpose("sample", "layer", "head", "query", "key")
    total = np.zeros(attention.shape[1:])
    for i in range(attention.sizes["sample"]):  # one at a time: a tree read from disk need not fit in memory
        total += attention.isel(sample=i).values
    return total / attention.sizes["sample"]


def control_ratios(control: xr.Dataset, layout: Layout) -> dict[str, Array]:
    """Ratio of every replicate by part, ``(replicate, layer, head, lag)`` each."""
    attention = control["attention"].transpose("sample", "layer", "head", "query", "key")
    ratios: dict[str, list[Array]] = {part: [] for part in layout.windows}
    for i in range(attention.sizes["sample"]):
        weights = attention.isel(sample=i).values
        for part, collected in ratios.items():
            collected.append(ratio_of_part(weights, layout, part))
    return {part: np.stack(collected) for part, collected in ratios.items()}


def bands_of_part(observed: Array, controls: Array, layout: Layout, part: str, **options: Any) -> Bands:
    """`control_bands` on the measured lags of a part, NaN at the others; arrays ``(..., lag)``."""
    inside = layout.measured(part)
    bands = control_bands(observed[..., inside], controls[..., inside], layout.tested(part)[inside], **options)
    return Bands(**{name: spread_out(values, inside) for name, values in vars(bands).items()})


def spread_out(values: Array, inside: NDArray[np.bool_]) -> Array:
    """Put values of the lags `inside` on the whole lag axis, NaN elsewhere: (..., measured) -> (..., lag)."""
    whole = np.full((*values.shape[:-1], len(inside)), np.nan)
    whole[..., inside] = values
    return whole


def _measure_stack(
    node: xr.Dataset, control: xr.Dataset, layout: Layout, resamples: Resamples, confidence: float
) -> xr.Dataset:
    weights, windows = mean_map(node), window_ratios(node, layout, layout.windows)
    columns: dict[str, list[NDArray]] = {}
    for part, controls in control_ratios(control, layout).items():
        ratio = ratio_of_part(weights, layout, part)
        bands = bands_of_part(ratio, controls, layout, part, confidence=confidence)
        values = {
            "profile": profile_of_part(weights, layout, part),
            "ratio": ratio,
            "control_mean": bands.mean,
            "band": np.stack([bands.lower, bands.upper], axis=-1),
            "limit": bands.limit_upper,
            "z": bands.z,
            "n_pairs": layout.n_pairs(part),
            "n_queries": layout.n_pairs(part, fixed=True),
            "prominence_limit": prominence_limit(controls, layout.lag_samples, confidence),
            "special_mass": mass_on_special(node, layout, part),
            "excess": ratio - bands.mean,
            "ratio_interval": mean_interval(windows[part], resamples, confidence),
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return labelled_stack(node, layout, {name: np.stack(parts) for name, parts in columns.items()})


LABELS = {
    "profile": "mean weight per pair",
    "ratio": "attention / uniform",
    "control_mean": "mean ratio of the controls",
    "band": "pointwise band of the controls",
    "limit": "limit over all lags of a head and part",
    "z": "ratio standardised by the controls",
    "n_pairs": "pairs of the profile",
    "n_queries": "queries of the ratio",
    "prominence_limit": "largest prominence of a peak in the controls",
    "special_mass": "attention on special tokens",
    "excess": "ratio minus mean ratio of the controls",
    "ratio_interval": "interval of the ratio, by bootstrap over windows",
}
OTHER_DIMS = {
    "band": (*DIMS, "bound"),
    "ratio_interval": (*DIMS, "bound"),
    "n_pairs": ("part", "lag"),
    "n_queries": ("part", "lag"),
    "prominence_limit": DIMS[:3],
    "special_mass": DIMS[:3],
}


def with_input(measured: xr.Dataset, windows: xr.Dataset, history: float, step: float) -> xr.Dataset:
    """Put beside the profiles of a stack what the input itself repeats, and how much of each profile that explains."""
    if "series" not in windows:
        return measured
    shown = windows["series"].isel(time=slice(int(history)))
    lag, ratio = measured["lag"].values, measured["ratio"].where(measured["lag"] != 0).values
    try:
        curve = autocorrelation_at(shown, lag)
        of_tokens = token_autocorrelation(shown, step, lag)
    except LaglensError as error:  # a straight line, or a history of a few tokens
        return measured.assign_attrs(no_autocorrelation=str(error))
    correlations = np.stack([rank_correlation(of_part, of_tokens) for of_part in ratio])
    labels = {
        "autocorrelation": "autocorrelation of the input",
        "token_autocorrelation": "autocorrelation of the input averaged in tokens",
        "acf_correlation": "rank correlation of the ratio with that of the input averaged in tokens",
    }
    found = {"autocorrelation": ("lag", curve), "token_autocorrelation": ("lag", of_tokens)}
    labelled = {name: (*value, {"long_name": labels[name]}) for name, value in found.items()}
    about = {"long_name": labels["acf_correlation"]}
    return measured.assign(labelled).assign(acf_correlation=(DIMS[:3], correlations, about))


def labelled_stack(node: xr.Dataset, layout: Layout, columns: dict[str, NDArray]) -> xr.Dataset:
    """Put names on the arrays of a stack, ``(part, ...)`` each."""
    variables = {n: (OTHER_DIMS.get(n, DIMS), values, {"long_name": LABELS[n]}) for n, values in columns.items()}
    return xr.Dataset(variables, stack_coords(node, layout))


def stack_coords(node: xr.Dataset, layout: Layout) -> dict[str, Any]:
    """Coordinates of a measured stack."""
    return {
        "part": np.array(list(layout.windows), dtype=object),
        **{name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords},
        "lag": ("lag", layout.lag_samples, {"units": "input samples", "long_name": "lag, positive = past"}),
        "bound": np.array(BOUNDS, dtype=object),
    }
