"""One model on two signals: what changes in the lags, against what changes between their controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.alike import require_alike, stack_dataset
from laglens.lags.bands import ROUNDING, Bands
from laglens.lags.layout import MIN_PAIRS, Layout
from laglens.lags.measure import (
    DIMS,
    bands_of_part,
    check_pair,
    control_ratios,
    describe,
    layouts,
    mean_map,
    n_samples,
    null_name,
    stack_coords,
)
from laglens.lags.profiles import ratio_of_part

Array = NDArray[np.float64]
SIGNALS = ("a", "b")


def compare_lags(
    time_a: xr.DataTree,
    control_a: xr.DataTree,
    time_b: xr.DataTree,
    control_b: xr.DataTree,
    *,
    names: tuple[str, str] = SIGNALS,
    max_lag: float | str = "auto",
    confidence: float = 0.95,
    min_pairs: int = MIN_PAIRS,
) -> xr.DataTree:
    """Difference of the ratio profiles of one model on signals A and B, such as a signal and its ablation.

    The null of the difference is the difference between control replicate i of A and control replicate i of B. So
    what A and B differ by in plain memory (their controls) is no finding; what goes beyond that is.

    Parameters
    ----------
    time_a, time_b
        Time maps of the signals.
    control_a, control_b
        Time maps of their controls, as many replicates for both (see `laglens.lags.measure.measure_lags`).
    names
        Names of A and B, for the labels.
    max_lag, confidence, min_pairs
        As `laglens.lags.measure.measure_lags`.

    Returns
    -------
    xr.DataTree
        Dims ``(part, layer, head, lag)``: ``difference`` A - B of the ratios, and the ``control_mean``, pointwise
        ``band (..., bound)``, two-sided ``limit (..., bound)`` and ``z`` of that difference; ``ratio (signal, ...)``,
        ``signal_control_mean``, ``signal_band`` and one-sided ``signal_limit`` of each signal alone.

    Raises
    ------
    LaglensError
        As `laglens.lags.measure.measure_lags`; also where A and B differ in model or tokens, or in the number of
        controls or windows.
    """
    for observed, control in ((time_a, control_a), (time_b, control_b)):
        check_pair(observed, control, confidence)
    require_alike(time_a, time_b, names)
    _check_counts((time_a, time_b), (control_a, control_b), names)
    settings = {"max_lag": max_lag, "confidence": confidence, "min_pairs": min_pairs}
    nodes = {}
    found, left_out = layouts(time_a, max_lag=max_lag, min_pairs=min_pairs)
    for stack, layout in found.items():
        observed_nodes = [stack_dataset(tree, stack) for tree in (time_a, time_b)]
        control_nodes = [stack_dataset(tree, stack) for tree in (control_a, control_b)]
        compared = _compare_stack(observed_nodes, control_nodes, layout, confidence)
        described = [describe(time_a, control_a, stack, layout), describe(time_b, control_b, stack, layout)]
        null = " - ".join(map(null_name, (control_a, control_b)))
        compared.attrs |= described[0] | settings | {"null": null, "periods": _joined_periods(described, names)}
        nodes[f"/{stack}"] = compared.assign_coords(signal=np.array(names, dtype=object))
    root = xr.Dataset(attrs=_root_attrs(time_a, time_b, names) | {"left_out": left_out})
    return xr.DataTree.from_dict({"/": root, **nodes})


def _check_counts(observed: tuple[xr.DataTree, ...], controls: tuple[xr.DataTree, ...], names: tuple[str, str]) -> None:
    for what, trees in (("controls", controls), ("windows", observed)):
        first, second = map(n_samples, trees)
        if first != second:
            raise LaglensError(f"{names[0]} has {first} {what}, {names[1]} has {second}; a comparison needs as many")
    if names[0] == names[1]:
        raise LaglensError(f"both signals are called '{names[0]}'; give them two names")


def _compare_stack(
    observed: list[xr.Dataset], controls: list[xr.Dataset], layout: Layout, confidence: float
) -> xr.Dataset:
    maps = [mean_map(node) for node in observed]
    of_controls = [control_ratios(node, layout) for node in controls]
    columns: dict[str, list[NDArray]] = {}
    for part in layout.windows:
        ratios = [ratio_of_part(weights, layout, part) for weights in maps]
        nulls = [ratios_of[part] for ratios_of in of_controls]
        alone = [
            bands_of_part(ratio, null, layout, part, confidence=confidence)
            for ratio, null in zip(ratios, nulls, strict=True)
        ]
        # The difference may be near 0 where the ratios are not, so rounding is judged by the ratios.
        floor = ROUNDING * (np.abs(alone[0].mean) + np.abs(alone[1].mean))[..., layout.measured(part)]
        change = bands_of_part(
            ratios[0] - ratios[1], nulls[0] - nulls[1], layout, part,
            confidence=confidence, two_sided=True, floor=floor,
        )  # fmt: skip
        for name, value in _columns(ratios, alone, change).items():
            columns.setdefault(name, []).append(value)
    return _labelled(observed[0], layout, {name: np.stack(parts) for name, parts in columns.items()})


def _columns(ratios: list[Array], alone: list[Bands], change: Bands) -> dict[str, Array]:
    """Arrays of one part, ``(layer, head, lag)`` with bounds or signals behind."""
    return {
        "difference": ratios[0] - ratios[1],
        "control_mean": change.mean,
        "band": np.stack([change.lower, change.upper], -1),
        "limit": np.stack([change.limit_lower, change.limit_upper], -1),
        "z": change.z,
        "ratio": np.stack(ratios, -1),
        "signal_control_mean": np.stack([bands.mean for bands in alone], -1),
        "signal_limit": np.stack([bands.limit_upper for bands in alone], -1),
        "signal_band": np.stack([np.stack([bands.lower, bands.upper], -1) for bands in alone], -2),
    }


def _labelled(node: xr.Dataset, layout: Layout, columns: dict[str, NDArray]) -> xr.Dataset:
    extra: dict[str, tuple[str, ...]] = {"band": ("bound",), "limit": ("bound",), "ratio": ("signal",)}
    extra |= {"signal_control_mean": ("signal",), "signal_limit": ("signal",), "signal_band": ("signal", "bound")}
    variables = {name: ((*DIMS, *extra.get(name, ())), values) for name, values in columns.items()}
    return xr.Dataset(variables, stack_coords(node, layout)).transpose("signal", ...)


def _joined_periods(described: list[dict[str, Any]], names: tuple[str, str]) -> list[dict[str, Any]]:
    """Periods of either signal, longest first, each with the signals that have it."""
    joined: dict[float, dict[str, Any]] = {}
    for attrs, name in zip(described, names, strict=True):
        for period in attrs["periods"]:
            joined.setdefault(period["period"], period | {"signals": []})["signals"].append(name)
    return [joined[period] for period in sorted(joined, reverse=True)]


def _root_attrs(time_a: xr.DataTree, time_b: xr.DataTree, names: tuple[str, str]) -> dict[str, Any]:
    shared = {key: time_a.attrs[key] for key in ("model", "history", "horizon") if key in time_a.attrs}
    signals = {name: tree.attrs.get("signal", {}) for name, tree in zip(names, (time_a, time_b), strict=True)}
    return shared | {"names": list(names), "signals": signals}
