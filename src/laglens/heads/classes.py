"""What kind of head each one is, by stated rules on its measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from laglens.errors import LaglensError
from laglens.heads.measure import MEASURES
from laglens.lags.alike import stack_dataset
from laglens.lags.verdicts import SUPPORTED

MIXED = "mixed"
HEAD = ["stack", "layer", "head", "part"]


@dataclass(frozen=True)
class Rule:
    """A class of heads.

    Attributes
    ----------
    name
        What the class is called.
    says
        The condition, in words.
    holds
        The condition, on the measures of a stack averaged over windows: -> bool ``(part, layer, head)``.
    """

    name: str
    says: str
    holds: Callable[[xr.Dataset], xr.DataArray]


# In the order in which a head gets its name: what explains a map most simply comes first.
RULES = (
    Rule(
        "sink",
        "most rows lean on the first key, or more than half of the weight is on special tokens",
        lambda m: (m["sink"] > 0.5) | (m["special_mass"] > 0.5),
    ),
    Rule("uniform", "entropy of at least 0.99 of a uniform row", lambda m: m["relative_entropy"] >= 0.99),
    Rule("local", "more than half of the weight on local keys", lambda m: m["locality"] > 0.5),
    Rule(
        "broadcast",
        "one key has more than 0.3 of the weight of the queries that see it, and three times its share",
        lambda m: (m["top_column"] > 0.3) & (m["top_column"] > 3 * m["top_column_uniform"]) & (m["n_rows"] > 1),
    ),
    Rule("periodic", "supported by the lag tests for a period of the signal", lambda m: m["supported"]),
    Rule("lag", "more than half of the variance of the map is between lags", lambda m: m["diagonal_share"] > 0.5),
    Rule("positional", "the map hardly depends on the input: content below 0.1", lambda m: m["content"] < 0.1),
    Rule("content", "another map for every input: content above 0.5", lambda m: m["content"] > 0.5),
)


def classify_heads(heads_tree: xr.DataTree, verdicts: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per head and query part: the first of `RULES` that holds, and the others that do.

    Parameters
    ----------
    heads_tree
        From `laglens.heads.measure.measure_heads`.
    verdicts
        From `laglens.lags.verdicts.verdict_table`. Without, and in query parts that were not tested, no head is
        ``periodic``.

    Returns
    -------
    pd.DataFrame
        ``stack``, ``layer``, ``head``, ``part``, ``class`` (``mixed``: no rule holds) and ``also``.

    Raises
    ------
    LaglensError
        The tree holds no measures.
    """
    names = [name for name, node in heads_tree.children.items() if "gini" in node]
    if not names:
        raise LaglensError("the tree has no measures of heads; give the result of measure_heads")
    tables = [_stack_classes(name, stack_dataset(heads_tree, name), verdicts) for name in names]
    return pd.concat(tables, ignore_index=True)


def _stack_classes(name: str, node: xr.Dataset, verdicts: pd.DataFrame | None) -> pd.DataFrame:
    means = node[[*MEASURES]].mean("sample") if "sample" in node.dims else node[[*MEASURES]]
    means = means.assign(content=node["content"], top_column_uniform=node["top_column_uniform"], n_rows=node["n_rows"])
    means = means.assign(supported=_supported(name, means["gini"], verdicts))
    held = {rule.name: rule.holds(means).transpose("part", "layer", "head").values for rule in RULES}
    rows = []
    for part, layer, head in np.ndindex(means["gini"].transpose("part", "layer", "head").shape):
        kinds = [kind for kind, holds in held.items() if holds[part, layer, head]] or [MIXED]
        place = (name, int(node["layer"][layer]), int(node["head"][head]), str(node["part"].values[part]))
        rows.append((*place, kinds[0], ", ".join(kinds[1:])))
    return pd.DataFrame(rows, columns=[*HEAD, "class", "also"])


def _supported(name: str, like: xr.DataArray, verdicts: pd.DataFrame | None) -> xr.DataArray:
    """Whether a period was found supported: bool ``(part, layer, head)``."""
    found = xr.zeros_like(like, dtype=bool)
    if verdicts is None:
        return found
    supported = verdicts[(verdicts["stack"] == name) & (verdicts["verdict"] == SUPPORTED)]
    for _, row in supported.iterrows():
        if row["part"] in found["part"].values:
            found.loc[{"part": row["part"], "layer": row["layer"], "head": row["head"]}] = True
    return found
