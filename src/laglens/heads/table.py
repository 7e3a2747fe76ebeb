"""The measures of every head as a table for people."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from laglens.errors import LaglensError
from laglens.heads.measure import MEASURES, OF_ALL_WINDOWS, UNIFORM

HEAD = ["part", "layer", "head"]


def heads_table(heads_tree: xr.DataTree) -> pd.DataFrame:
    """One row per head and query part.

    Parameters
    ----------
    heads_tree
        From `laglens.heads.measure.measure_heads`.

    Returns
    -------
    pd.DataFrame
        For every measure its mean over windows, ``{measure}_sd`` over windows (NaN for a single one; windows may
        overlap, so it is a spread and not an error of the mean), and ``{measure}_uniform``, what a head without any
        preference has, where that is not 0 or 1; ``content`` and ``top_lag``, which are of all windows and have no sd.

    Raises
    ------
    LaglensError
        The tree holds no measures.
    """
    nodes = {name: node.to_dataset(inherit=False) for name, node in heads_tree.children.items() if "gini" in node}
    if not nodes:
        raise LaglensError("the tree has no measures of heads; give the result of the heads stage")
    return pd.concat([_stack_table(name, node) for name, node in nodes.items()], ignore_index=True)


def _stack_table(name: str, node: xr.Dataset) -> pd.DataFrame:
    measured = node[list(MEASURES)].drop_vars("layer_name", errors="ignore")
    columns = {}
    for measure, mean in measured.mean("sample").items():
        columns[measure] = mean
        columns[f"{measure}_sd"] = measured[measure].std("sample", ddof=1)
        if measure in UNIFORM:
            columns[f"{measure}_uniform"] = node[f"{measure}_uniform"].broadcast_like(mean)
    together = node[list(OF_ALL_WINDOWS)].drop_vars("layer_name", errors="ignore")
    columns |= {str(name): values for name, values in together.items()}
    counts = {"stack": name, "n_windows": node.sizes["sample"], "n_rows": node["n_rows"]}
    table = xr.Dataset(counts | columns).to_dataframe(dim_order=HEAD).reset_index()
    return table[["stack", "layer", "head", "part", *table.columns.drop(["stack", *HEAD])]]
