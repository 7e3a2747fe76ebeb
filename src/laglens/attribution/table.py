"""Agreement of attention and attribution as a table for people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import t as student

from laglens.lags.units import in_time

HEAD = ["attribution_method", "layer", "head"]


def attribution_table(agreement: xr.DataTree, *, confidence: float = 0.95) -> pd.DataFrame:
    """Agreement of every head with every method.

    Parameters
    ----------
    agreement
        From `agree_with_attention`.
    confidence
        Of the Student t interval over windows, which depend on each other: it describes this series.

    Returns
    -------
    pd.DataFrame
        One row per method and head: ``spearman``, its interval ``lower`` to ``upper`` and its ``spearman_sd``
        over ``n_windows``, ``mismatched``;
        ``strongest_lag`` [input samples] is where the profile of the method is highest, in units of the signal
        ``strongest_lag_time`` (the middle, where several lags are as high). One row per method where no stack has rows
        that forecast.
    """
    root, tables = agreement.to_dataset(), []
    for name, node in agreement.children.items():
        values = node.to_dataset().drop_vars("layer_name", errors="ignore")
        spearman = values["spearman"]
        mean, sd, n = spearman.mean("sample"), spearman.std("sample", ddof=1), spearman.count("sample")
        half = sd * student.ppf((1 + confidence) / 2, np.maximum(n - 1, 1)) / np.sqrt(n.where(n > 1))
        columns = {"spearman": mean, "lower": mean - half, "upper": mean + half, "spearman_sd": sd}
        columns |= {"mismatched": values["mismatched"], "n_windows": n}
        table = xr.Dataset(columns).to_dataframe(dim_order=HEAD).reset_index()
        table = table.rename(columns={"attribution_method": "method"})
        tables.append(table.assign(stack=name, part=node.attrs["part"]))
    if not tables:
        return _strongest_lags(root)
    table = pd.concat(tables, ignore_index=True).merge(_strongest_lags(root), on="method")
    first = ["method", "step", "strongest_lag", "strongest_lag_time", "time_unit", "stack", "layer", "head", "part"]
    return table[[*first, *table.columns.drop(first)]]


def _strongest_lags(root: xr.Dataset) -> pd.DataFrame:
    rows = []
    for method in root["attribution_method"].values:
        profile = root["profile"].sel(attribution_method=method)
        highest = profile["lag"].values[profile.values == profile.max().item()]
        lag = float(highest.mean()) if len(highest) else np.nan
        times = in_time(lag, root.attrs.get("signal", {}))
        row = {"method": method, "step": root.attrs["step"], "strongest_lag": lag}
        rows.append(row | {"strongest_lag_time": times["lag_time"], "time_unit": times["time_unit"]})
    return pd.DataFrame(rows)
