"""Heads ranked by what the forecast loses without them at the multiples of a period."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.attribution.effects import MEASURES

Array = NDArray[np.float64]
RESAMPLES = 2000
COLUMNS = (
    "period", "measure", "rank", "head", "stack", "layer", "number", "effect", "lower", "upper", "win", "share_of_all",
    "n", "causal",
)  # fmt: skip


def rank_heads(tree: xr.DataTree, *, smallest: float = 0.05, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Rank every head by the effect of cutting the comb of a period in it alone.

    The effects of single heads need not add up to that of all: what one head loses, another may bring.

    Parameters
    ----------
    tree
        From `laglens.attribution.causal.measure_knock_outs`.
    smallest
        Effect from which a head is called causal [standard deviations of the history]; random weights stay below 0.02.
    confidence, seed
        Of the percentile bootstrap over samples.

    Returns
    -------
    pd.DataFrame
        One row per period, measure and head, best first: ``effect`` with its interval, ``win`` (share of samples in
        which cutting costs), ``share_of_all`` (effect over that of the comb in all heads), ``n`` samples; ``causal``:
        yes where the interval lies above 0 and the effect is at least `smallest`.
    """
    rows = [
        row
        for name, node in tree.children.items()
        if name.startswith("period_")
        for measure in MEASURES
        for row in _ranked(node, measure, smallest, confidence, seed)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _ranked(node: xr.DataTree, measure: str, smallest: float, confidence: float, seed: int) -> Iterator[dict[str, Any]]:
    whole = node.to_dataset(inherit=False)
    of_all = whole[measure].sel(cut="comb").values
    known = np.isfinite(of_all)
    if np.count_nonzero(known) < 3:
        return  # no truth to compare with
    places, values = [], []
    for stack, child in node.children.items():
        found = child.to_dataset(inherit=False)
        effects = found[measure].transpose("layer", "head", "sample").values[..., known]
        for i, j in np.ndindex(effects.shape[:2]):
            places.append({"stack": stack, "layer": int(found["layer"][i]), "number": int(found["head"][j])})
            values.append(effects[i, j])
    effects = np.stack(values)  # (head, sample)
    mean, total = effects.mean(1), float(of_all[known].mean())
    lower, upper = _interval(effects, confidence, seed)
    for rank, k in enumerate(np.argsort(-mean, kind="stable"), start=1):
        label = f"{places[k]['stack']} L{places[k]['layer']:02} H{places[k]['number']:02}"
        causal = lower[k] > 0 and mean[k] >= smallest
        numbers = {"effect": float(mean[k]), "lower": float(lower[k]), "upper": float(upper[k])}
        numbers |= {"win": float((effects[k] > 0).mean()), "n": effects.shape[1]}
        numbers["share_of_all"] = float(mean[k]) / total if total > 0 else float("nan")
        of_period = {"period": whole.attrs["period"], "measure": measure, "rank": rank, "head": label}
        yield of_period | places[k] | numbers | {"causal": "yes" if causal else "no"}


def _interval(effects: Array, confidence: float, seed: int) -> tuple[Array, Array]:
    """Percentile bootstrap of the mean over samples: (head, sample) -> (head,), (head,)."""
    n = effects.shape[1]
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    lower, upper = np.quantile(drawn @ effects.T, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return lower, upper
