"""The lags of a rollout or a flow, with the same pairs and query windows as those of single heads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.lags.layout import MIN_PAIRS, Layout
from laglens.lags.profiles import profile_of_part, ratio_of_part
from laglens.lags.units import in_time

DIMS = ("part", "layer", "lag")
FLOWS = ("max_flow", "widest_path")
COLUMNS = ["ratio", "ratio_sd", "profile", "n_pairs"]


def rollout_lags(flow: xr.Dataset, *, max_lag: float | str = "auto", min_pairs: int = MIN_PAIRS) -> xr.Dataset:
    """Lag profiles of a rollout.

    Parameters
    ----------
    flow
        From `laglens.flow.rollout.roll_out`, or another ``rollout (sample, layer, query, key)`` with its labels, such
        as `laglens.flow.relevance.gradient_relevance` gives under its own name.
    max_lag, min_pairs
        As `laglens.lags.layout.Layout.of`.

    Returns
    -------
    xr.Dataset
        Dims ``(part, layer, lag)``, lag in input samples, positive = the past: ``profile``, mean weight per pair;
        ``ratio`` to uniform over fixed query sets and ``ratio_sd`` over windows; ``n_pairs (part, lag)``. No band:
        a peak alone is no evidence.

    Raises
    ------
    LaglensError
        As `laglens.lags.layout.Layout.of`.
    """
    layout = _layout(flow, max_lag, min_pairs)
    maps = flow["relevance" if "relevance" in flow else "rollout"].transpose("sample", "layer", "query", "key").values
    profile, ratio = _measured(maps, layout)  # (part, sample, layer, lag)
    sd = ratio.std(1, ddof=1) if len(maps) > 1 else np.full_like(ratio[:, 0], np.nan)
    variables = {
        "profile": (DIMS, profile.mean(1), {"long_name": "mean weight per pair"}),
        "ratio": (DIMS, ratio.mean(1), {"long_name": "rollout / uniform"}),
        "ratio_sd": (DIMS, sd, {"long_name": "sd over windows of rollout / uniform"}),
    }
    coords = {name: flow[name].variable for name in ("layer", "stack", "stack_layer", "layer_name")}
    return _with_lags(variables, coords, layout, flow)


def flow_lags(flow: xr.Dataset, *, max_lag: float | str = "auto", min_pairs: int = MIN_PAIRS) -> xr.Dataset:
    """Lag profiles of the maximum flow and of the widest paths.

    Parameters
    ----------
    flow
        From `laglens.flow.maximum.attention_flow`.
    max_lag, min_pairs
        As `laglens.lags.layout.Layout.of`.

    Returns
    -------
    xr.Dataset
        ``max_flow_profile``, ``max_flow_ratio`` and ``max_flow_ratio_sd`` (over windows; NaN for a flow of mean maps),
        and the same of ``widest_path``, all ``(part, lag)``, as in `rollout_lags`; NaN where a part has queries without
        a flow.
    """
    layout = _layout(flow, max_lag, min_pairs)
    variables: dict = {}
    for name in FLOWS:
        every = f"{name}_windows"
        maps = flow[every].transpose("sample", ...).values if every in flow else flow[name].values[None]
        profile, ratio = _measured(maps[:, None], layout)
        sd = ratio.std(1, ddof=1) if len(maps) > 1 else np.full_like(ratio[:, 0], np.nan)
        found = {"profile": profile.mean(1), "ratio": ratio.mean(1), "ratio_sd": sd}
        variables |= {f"{name}_{what}": (("part", "lag"), values[:, 0], {}) for what, values in found.items()}
    return _with_lags(variables, {}, layout, flow)


def flow_table(lags: xr.Dataset) -> pd.DataFrame:
    """Lag profiles through all layers, one row per method, query part and lag.

    Parameters
    ----------
    lags
        From `rollout_lags`, or merged with those of `flow_lags`.

    Returns
    -------
    pd.DataFrame
        ``method``: ``rollout``, ``max_flow`` or ``widest_path``; ``lag`` [input samples] and ``lag_time`` in
        ``time_unit``; ``ratio`` to uniform with its ``ratio_sd`` over ``n_windows``, ``profile`` and ``n_pairs``. Lags
        without a ratio have no row.
    """
    last = lags.isel(layer=-1).reset_coords(drop=True)
    tables = [_rows(last[COLUMNS], "rollout")]
    for name in (name for name in FLOWS if f"{name}_ratio" in lags):
        own = {f"{name}_{what}": what for what in COLUMNS[:-1]}
        tables.append(_rows(last[[*own, "n_pairs"]].rename(own), name))
    table = pd.concat(tables, ignore_index=True)
    signal = lags.attrs.get("signal", {})
    in_units = pd.DataFrame([in_time(lag, signal) for lag in table["lag"]], table.index)
    settings = {name: lags.attrs[name] for name in ("n_windows", "fusion", "residual", "discard", "start")}
    first = ["method", "part", "lag"]
    return pd.concat([table[first], in_units, table[COLUMNS]], axis=1).assign(**settings)


def _rows(profiles: xr.Dataset, method: str) -> pd.DataFrame:
    table = profiles.to_dataframe(dim_order=["part", "lag"]).reset_index().dropna(subset="ratio", ignore_index=True)
    return table.assign(method=method)


def _layout(flow: xr.Dataset, max_lag: float | str, min_pairs: int) -> Layout:
    visible = flow["visible"].values if "visible" in flow else None
    return Layout.of(flow, flow.attrs["history"], max_lag=max_lag, min_pairs=min_pairs, visible=visible)


def _measured(maps: NDArray, layout: Layout) -> tuple[NDArray, NDArray]:
    """Profile and ratio of each part: (sample, layer, query, key) -> (part, sample, layer, lag)."""
    found = [(profile_of_part(maps, layout, part), ratio_of_part(maps, layout, part)) for part in layout.windows]
    profiles, ratios = zip(*found, strict=True)
    return np.stack(profiles), np.stack(ratios)


def _with_lags(variables: dict, coords: dict, layout: Layout, flow: xr.Dataset) -> xr.Dataset:
    parts = list(layout.windows)
    pairs = np.stack([layout.n_pairs(part) for part in parts])
    units = {"units": "input samples", "long_name": "lag, positive = past"}
    coords = coords | {
        "part": xr.Variable("part", np.array(parts, dtype=object)),
        "lag": xr.Variable("lag", layout.lag_samples, units),
    }
    pairs_of = {"n_pairs": (("part", "lag"), pairs, {"long_name": "pairs of the profile"})}
    return xr.Dataset(variables | pairs_of, coords, flow.attrs)
