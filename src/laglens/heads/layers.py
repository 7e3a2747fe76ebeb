"""What changes from layer to layer: reach, concentration, and how much the heads of a layer differ."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import spearmanr

from laglens.heads.similarity import PAIRWISE
from laglens.lags.alike import stack_dataset

PROGRESSIVE = ("locality", "distance", "relative_entropy", "gini", "diagonal_share", "vertical_share")


def layers_table(heads_tree: xr.DataTree, similarity_tree: xr.DataTree) -> pd.DataFrame:
    """One row per stack, query part and layer.

    Parameters
    ----------
    heads_tree, similarity_tree
        From `laglens.heads.measure.measure_heads` and `laglens.heads.similarity.compare_heads` of the same time tree.

    Returns
    -------
    pd.DataFrame
        Mean over heads and windows of the measures in `PROGRESSIVE`; ``{measure}_trend``, their Spearman correlation
        with the layer over all heads of the stack (the same in every row; NaN for a single layer); and
        ``diversity_{measure}`` of the heads of the layer.
    """
    tables = []
    for name in heads_tree.children:
        heads, similar = stack_dataset(heads_tree, name), stack_dataset(similarity_tree, name)
        means = heads[[*PROGRESSIVE]].mean("sample").transpose("part", "layer", "head")
        columns: dict[str, xr.DataArray] = {}
        for measure in PROGRESSIVE:
            columns[measure] = means[measure].mean("head")
            trend = [_trend(values) for values in means[measure].values]
            columns[f"{measure}_trend"] = xr.DataArray(trend, dims="part").broadcast_like(columns[measure])
        columns |= {f"diversity_{measure}": similar[f"diversity_{measure}"] for measure in PAIRWISE}
        own = xr.Dataset({k: (("part", "layer"), v.transpose("part", "layer").values) for k, v in columns.items()})
        own = own.assign_coords(part=heads["part"].values, layer=heads["layer"].values)
        table = own.to_dataframe(dim_order=["part", "layer"]).reset_index()
        table.insert(0, "stack", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def similarity_table(similarity_tree: xr.DataTree) -> pd.DataFrame:
    """One row per head and query part: its cluster, its place among the others, and the head that is most like it.

    Parameters
    ----------
    similarity_tree
        From `laglens.heads.similarity.compare_heads`.

    Returns
    -------
    pd.DataFrame
        ``cluster``, ``x``, ``y``; ``nearest_layer``, ``nearest_head`` and ``nearest_js``; ``sample_cosine`` and
        ``sample_js`` of the maps of the head on all windows.
    """
    rows = []
    for name in similarity_tree.children:
        node = stack_dataset(similarity_tree, name)
        layer, head = node["layer_of"].values, node["head_of"].values
        for part in range(node.sizes["part"]):
            js = node["js"].values[part] + np.diag(np.full(len(layer), np.inf))
            nearest = js.argmin(1)
            alone = len(layer) < 2
            values = {
                "stack": name,
                "layer": layer,
                "head": head,
                "part": str(node["part"].values[part]),
                "cluster": node["cluster"].values[part],
                "x": node["position"].values[part, :, 0],
                "y": node["position"].values[part, :, 1],
                "nearest_layer": np.nan if alone else layer[nearest],
                "nearest_head": np.nan if alone else head[nearest],
                "nearest_js": np.nan if alone else js.min(1),
                "sample_cosine": node["sample_cosine"].values[part],
                "sample_js": node["sample_js"].values[part],
            }
            rows.append(pd.DataFrame(values))
    return pd.concat(rows, ignore_index=True)


def _trend(values: np.ndarray) -> float:
    """Spearman correlation of a measure with the layer, over heads: (layer, head) -> ()."""
    layer = np.repeat(np.arange(values.shape[0]), values.shape[1])
    known = np.isfinite(values.ravel())
    if len(np.unique(layer[known])) < 2 or np.ptp(values.ravel()[known]) == 0:
        return np.nan
    return float(spearmanr(layer[known], values.ravel()[known]).statistic)
