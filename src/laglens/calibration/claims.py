"""The claims of the published experiments, one row per model, signal and question. Numpy, pandas and xarray only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from laglens.calibration.summary import rate
from laglens.lags.reach import HEADLINES

Row = dict[str, Any]
MULTIPLES = (1, 2, 3)
COLUMNS = (
    "model", "signal", "question", "at", "answer", "heads", "of", "head", "value", "limit", "lower", "upper", "reason",
)  # fmt: skip


def claims_table(
    lags: Mapping[str, xr.DataTree],
    verdicts: Mapping[str, pd.DataFrame],
    knock_outs: Mapping[str, pd.DataFrame],
    pairs: pd.DataFrame,
    *,
    model: str,
    period: float,
) -> pd.DataFrame:
    """Answer for one model what the published experiments claim of theirs.

    Parameters
    ----------
    lags, verdicts, knock_outs
        By signal: from `measure_lags`, `verdict_table` and `knock_out_table`.
    pairs
        From `laglens.calibration.ablation.remove_periods`.
    model
        Its name, for the first column.
    period
        Whose multiples are asked about as peaks [input samples].

    Returns
    -------
    pd.DataFrame
        ``question``:

        - ``peak``: at each multiple of `period`, how many ``heads`` ``of`` all pass their limit there; ``value`` is the
          largest z, of ``head``.
        - ``verdict``: at every period, how many heads are supported; ``value`` is the largest contrast, ``limit`` the
          largest of any head with random weights. ``not testable`` has the ``reason``.
        - ``more than random weights``: how many heads have a larger contrast than the best one of these.
        - ``used``: the effect of cutting the comb of the period (``value``), against its controls (``limit``).
        - ``pairs``: share of pairs of unrelated periods (``value``, with interval) in which the head shows the first,
          ``at`` a, or the second, ``at`` b; ``signal`` is what was removed.
    """
    rows = [row | {"signal": name} for name, tree in lags.items() for row in _peaks(tree, period)]
    rows += [row | {"signal": name} for name, table in verdicts.items() for row in _judged(table)]
    rows += [row | {"signal": name} for name, table in knock_outs.items() for row in _used(table)]
    return pd.DataFrame([*rows, *_pairs(pairs)], columns=list(COLUMNS)).assign(model=model)


def _peaks(tree: xr.DataTree, period: float) -> Iterator[Row]:
    for k in MULTIPLES:
        passed, best, heads = 0, (-np.inf, ""), 0
        for name, node in tree.children.items():
            stack = node.to_dataset(inherit=False)
            part = next((part for part in HEADLINES if part in stack["part"].values), None)
            if part is None:
                continue
            near = stack.sel(part=part).sel(lag=k * period, method="nearest")
            if abs(float(near["lag"]) - k * period) > stack.attrs["samples_per_token"] / 2:
                continue
            passed += int(np.count_nonzero(near["ratio"].values > near["limit"].values))
            heads += near["z"].size
            i, j = np.unravel_index(int(np.argmax(near["z"].values)), near["z"].shape)
            best = max(best, (float(near["z"].values[i, j]), _label(name, near["layer"][i], near["head"][j])))
        answer = "no lag there" if not heads else "yes" if passed else "no"
        place = {"question": "peak", "at": f"{k} x {period:.1f}", "answer": answer, "heads": passed, "of": heads}
        yield place | ({"value": best[0], "head": best[1]} if heads else {})


def _judged(table: pd.DataFrame) -> Iterator[Row]:
    for period in table["period"].unique():
        group = table[table["period"] == period]
        at, n = f"{period:.1f}", len(group)
        supported = int((group["verdict"] == "supported").sum())
        if (group["verdict"] == "not testable").all():
            reason = str(group["reason"].iloc[0])
            yield {"question": "verdict", "at": at, "answer": "not testable", "of": n, "reason": reason}
            continue
        best = group.sort_values("contrast").iloc[-1]
        numbers = {"value": best["contrast"], "limit": best["untrained"], "of": n}
        numbers["head"] = _label(best["stack"], best["layer"], best["head"])
        answer = "supported" if supported else "not supported"
        yield {"question": "verdict", "at": at, "answer": answer, "heads": supported} | numbers
        beyond = int((group["contrast"] > group["untrained"]).sum())
        answer = "yes" if beyond else "no"
        yield {"question": "more than random weights", "at": at, "answer": answer, "heads": beyond} | numbers


def _used(table: pd.DataFrame) -> Iterator[Row]:
    combs = table[(table["cut"] == "comb") & (table["measure"] == "error_change")]
    for row in combs.to_dict("records"):
        numbers = {"value": row["effect"], "limit": row["control"], "lower": row["lower"], "upper": row["upper"]}
        yield {
            "question": "used",
            "at": f"{row['period']:.1f}",
            "answer": row["matters"],
            "head": row["head"],
        } | numbers


def _pairs(pairs: pd.DataFrame) -> Iterator[Row]:
    for (heads, condition), group in pairs.groupby(["heads", "condition"], sort=False):
        for place in ("a", "b"):
            shown = group[f"at_{place}"].astype(bool).to_numpy()
            value, lower, upper = rate(shown)
            numbers = {"heads": int(shown.sum()), "of": len(shown), "value": value, "lower": lower, "upper": upper}
            head = f"{heads}: {group['head'].iloc[0]}"
            yield {"question": "pairs", "signal": condition, "at": place, "head": head} | numbers


def _label(stack: Any, layer: Any, head: Any) -> str:
    return f"{stack} L{int(layer):02} H{int(head):02}"
