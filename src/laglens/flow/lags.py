"""The lags of a rollout, with the same pairs and query windows as those of single heads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from laglens.lags.layout import MIN_PAIRS, Layout
from laglens.lags.profiles import profile_of_part, ratio_of_part
from laglens.lags.units import in_time

DIMS = ("part", "layer", "lag")


def rollout_lags(flow: xr.Dataset, *, max_lag: float | str = "auto", min_pairs: int = MIN_PAIRS) -> xr.Dataset:
    """Lag profiles of a rollout.

    Parameters
    ----------
    flow
        From `laglens.flow.rollout.roll_out`.
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
    layout = Layout.of(flow, flow.attrs["history"], max_lag=max_lag, min_pairs=min_pairs)
    windows, mean = flow["rollout"].values, flow["rollout"].mean("sample").values
    parts = list(layout.windows)
    ratio = np.stack([ratio_of_part(windows, layout, part) for part in parts])  # (part, sample, layer, lag)
    sd = ratio.std(1, ddof=1) if len(windows) > 1 else np.full_like(ratio[:, 0], np.nan)
    variables = {
        "profile": (DIMS, np.stack([profile_of_part(mean, layout, part) for part in parts]), "mean weight per pair"),
        "ratio": (DIMS, ratio.mean(1), "rollout / uniform"),
        "ratio_sd": (DIMS, sd, "sd over windows of rollout / uniform"),
        "n_pairs": (("part", "lag"), np.stack([layout.n_pairs(part) for part in parts]), "pairs of the profile"),
    }
    coords = {name: flow[name].variable for name in ("layer", "stack", "stack_layer", "layer_name")}
    coords["part"] = xr.Variable("part", np.array(parts, dtype=object))
    units = {"units": "input samples", "long_name": "lag, positive = past"}
    coords["lag"] = xr.Variable("lag", layout.lag_samples, units)
    labelled = {name: (dims, values, {"long_name": label}) for name, (dims, values, label) in variables.items()}
    return xr.Dataset(labelled, coords, flow.attrs)


def flow_table(lags: xr.Dataset) -> pd.DataFrame:
    """Lag profile of the rollout through all layers, one row per query part and lag.

    Parameters
    ----------
    lags
        From `rollout_lags`.

    Returns
    -------
    pd.DataFrame
        ``lag`` [input samples] and ``lag_time`` in ``time_unit``; ``ratio`` to uniform with its ``ratio_sd`` over
        ``n_windows``, ``profile`` and ``n_pairs``. Lags without a ratio have no row.
    """
    last = lags.isel(layer=-1)[["ratio", "ratio_sd", "profile", "n_pairs"]].reset_coords(drop=True)
    table = last.to_dataframe(dim_order=["part", "lag"]).reset_index().dropna(subset="ratio", ignore_index=True)
    in_units = pd.DataFrame([in_time(lag, lags.attrs.get("signal", {})) for lag in table["lag"]], table.index)
    settings = {name: lags.attrs[name] for name in ("n_windows", "fusion", "residual")}
    return pd.concat([table[["part", "lag"]], in_units, table.drop(columns=["part", "lag"])], axis=1).assign(**settings)
