"""Tables for people: the peaks of every head, and what changed between two signals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from laglens.errors import LaglensError
from laglens.lags.pairs import PARTS
from laglens.lags.peaks import profile_peaks
from laglens.lags.permutation import smallest_p
from laglens.lags.units import in_time

AXES = ("part", "layer", "head", "lag")
PEAK_COLUMNS = {
    "stack": "object",
    "layer": "int64",
    "head": "int64",
    "part": "object",
    "lag": "float64",
    "lag_time": "float64",
    "time_unit": "object",
    "axis_lag": "float64",
    "ratio": "float64",
    "control_mean": "float64",
    "limit": "float64",
    "z": "float64",
    "prominence": "float64",
    "prominence_limit": "float64",
    "above_limit": "bool",
    "above_prominence": "bool",
    "above": "bool",
    "period": "float64",
    "multiple": "int64",
    "offset": "float64",
    "testable": "object",
    "n_windows": "int64",
    "n_controls": "int64",
    "null": "object",
    "ratio_lower": "float64",
    "ratio_upper": "float64",
    "excess": "float64",
    "special_mass": "float64",
    "acf_correlation": "float64",
    "smallest_p": "float64",
}
CHANGE_COLUMNS = {
    "stack": "object",
    "layer": "int64",
    "head": "int64",
    "part": "object",
    "at": "object",
    "period": "float64",
    "period_of": "object",
    "testable": "object",
    "lag": "float64",
    "lag_time": "float64",
    "time_unit": "object",
    "ratio_a": "float64",
    "ratio_b": "float64",
    "difference": "float64",
    "control_mean": "float64",
    "limit_lower": "float64",
    "limit_upper": "float64",
    "z": "float64",
    "beyond_limit": "bool",
    "n_windows": "int64",
    "n_controls": "int64",
    "null": "object",
}
NO_PERIOD = {"period": np.nan, "multiple": 0, "offset": np.nan, "testable": ""}


def peaks_table(lags_tree: xr.DataTree) -> pd.DataFrame:
    """Every peak of every head: those that stand out from the controls first, of these the headline part first.

    Parameters
    ----------
    lags_tree
        From `laglens.lags.measure.measure_lags`.

    Returns
    -------
    pd.DataFrame
        One row per peak. ``lag``: location refined between tokens [input samples], ``lag_time`` the same in
        ``time_unit``; ``ratio``, ``control_mean``, ``limit`` and ``z`` are those of ``axis_lag``, the lag on the axis;
        ``prominence`` is that of ``excess``, ratio minus control mean. ``above``: both over the limit and prominent.
        ``multiple`` times the true ``period`` is nearest, ``offset`` = lag - multiple x period; ``testable`` is about
        that period. Periods under two tokens are never assigned. A signal without true periods has NaN and 0 there.

    Raises
    ------
    LaglensError
        The tree holds no lag profiles.
    """
    rows = [row for name, node in _stacks(lags_tree, "ratio") for row in _peak_rows(name, node, lags_tree.attrs)]
    table = pd.DataFrame(rows, columns=list(PEAK_COLUMNS)).astype(PEAK_COLUMNS)
    order = table.assign(rank=table["part"].map(PARTS.index), above=~table["above"], z=-table["z"])
    return table.loc[order.sort_values(["above", "rank", "z"], kind="stable").index].reset_index(drop=True)


def changes_table(comparison_tree: xr.DataTree) -> pd.DataFrame:
    r"""What changed from signal B to signal A: per head its largest change, and the change at every true period.

    Parameters
    ----------
    comparison_tree
        From `laglens.lags.comparison.compare_lags`.

    Returns
    -------
    pd.DataFrame
        ``at`` is ``largest`` (of all tested lags, by \|z\|) or ``period``: the lag on the axis nearest to ``period``,
        a period of the signals ``period_of``. ``difference`` = ``ratio_a`` - ``ratio_b``; ``beyond_limit``: outside
        the limits of the control differences. Periods under two tokens and lags out of reach have no row. Largest
        \|z\| first.

    Raises
    ------
    LaglensError
        The tree holds no differences.
    """
    stacks = _stacks(comparison_tree, "difference")
    rows = [row for name, node in stacks for row in _change_rows(name, node, comparison_tree.attrs)]
    table = pd.DataFrame(rows, columns=list(CHANGE_COLUMNS)).astype(CHANGE_COLUMNS)
    return table.sort_values("z", key=abs, ascending=False, kind="stable", ignore_index=True)


def nearest_multiple(lag: float, periods: Sequence[Mapping[str, Any]], step: float) -> dict[str, Any]:
    """The multiple of a true period that a lag is nearest to.

    Multiples within half a token cannot be told apart; of those the smallest multiple is taken, so 63 samples are
    1 x 62.8 and not 2 x 31.4.
    """
    distance = abs(lag)
    choices = []
    for known in periods:
        if known["testable"] != "no":
            multiple = max(1, round(distance / known["period"]))
            offset = distance - multiple * known["period"]
            choices.append((max(0.0, abs(offset) - step / 2), multiple, abs(offset), offset, known))
    if not choices:
        return NO_PERIOD
    _, multiple, _, offset, known = min(choices, key=lambda choice: choice[:3])
    return {"period": known["period"], "multiple": multiple, "offset": offset, "testable": known["testable"]}


def _stacks(tree: xr.DataTree, variable: str) -> list[tuple[str, xr.Dataset]]:
    nodes = [(name, node.to_dataset(inherit=False)) for name, node in tree.children.items() if variable in node]
    if not nodes:
        raise LaglensError(f"the tree has no stack with '{variable}'; give the result of the lags stage")
    return nodes


def _head_positions(node: xr.Dataset) -> Iterator[tuple[int, int, int]]:
    return iter(np.ndindex(node.sizes["part"], node.sizes["layer"], node.sizes["head"]))


def _named(name: str, node: xr.Dataset, position: tuple[int, int, int]) -> dict[str, Any]:
    part, layer, head = position
    return {
        "stack": name,
        "layer": int(node["layer"].values[layer]),
        "head": int(node["head"].values[head]),
        "part": str(node["part"].values[part]),
        **{key: node.attrs[key] for key in ("n_windows", "n_controls", "null")},
    }


def _peak_rows(name: str, node: xr.Dataset, attrs: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    signal, step = attrs.get("signal", {}), node.attrs["samples_per_token"]
    lag = node["lag"].values
    on_axis = {name: node[name].transpose(*AXES).values for name in ("ratio", "control_mean", "limit", "z", "excess")}
    bounds = node["ratio_interval"].transpose(..., "bound").values
    of_head = {name: node[name].values for name in ("special_mass", "acf_correlation") if name in node}
    threshold = node["prominence_limit"].transpose(*AXES[:3]).values
    for position in _head_positions(node):
        here = {variable: values[position] for variable, values in on_axis.items()}
        peaks = profile_peaks(here["ratio"] - here["control_mean"], lag)
        for i, at, prominence in zip(peaks.index, peaks.lag, peaks.prominence, strict=True):
            above_limit, above_prominence = here["ratio"][i] > here["limit"][i], prominence > threshold[position]
            yield {
                **_named(name, node, position),
                "lag": at,
                **in_time(at, signal),
                "axis_lag": lag[i],
                **{variable: values[i] for variable, values in here.items()},
                "prominence": prominence,
                "prominence_limit": threshold[position],
                "above_limit": above_limit,
                "above_prominence": above_prominence,
                "above": above_limit and above_prominence,
                **dict(zip(("ratio_lower", "ratio_upper"), bounds[position][i], strict=True)),
                **{variable: values[position] for variable, values in of_head.items()},
                "smallest_p": smallest_p(node.attrs["n_controls"]),
                **nearest_multiple(at, node.attrs["periods"], step),
            }


def _change_rows(name: str, node: xr.Dataset, attrs: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    lag = node["lag"].values
    signal = attrs["signals"][attrs["names"][0]]
    arrays = _change_arrays(node)
    for position in _head_positions(node):
        here = {variable: values[position] for variable, values in arrays.items()}
        tested = np.isfinite(here["limit_upper"]) & np.isfinite(here["z"])
        if not tested.any():
            continue
        for row, i in _change_places(here["z"], tested, lag, node.attrs["periods"], node.attrs["samples_per_token"]):
            values = {variable: array[i] for variable, array in here.items()}
            beyond = not values["limit_lower"] <= values["difference"] <= values["limit_upper"]
            yield {
                **_named(name, node, position),
                **row,
                "lag": lag[i],
                **in_time(lag[i], signal),
                **values,
                "beyond_limit": beyond,
            }


def _change_arrays(node: xr.Dataset) -> dict[str, np.ndarray]:
    """Columns of the table over ``(part, layer, head, lag)``."""
    ratio, limit = node["ratio"], node["limit"]
    arrays = {"ratio_a": ratio.isel(signal=0), "ratio_b": ratio.isel(signal=1)}
    arrays |= {"limit_lower": limit.isel(bound=0), "limit_upper": limit.isel(bound=1)}
    arrays |= {name: node[name] for name in ("difference", "control_mean", "z")}
    return {name: array.transpose(*AXES).values for name, array in arrays.items()}


def _change_places(
    z: np.ndarray, tested: np.ndarray, lag: np.ndarray, periods: Sequence[Mapping[str, Any]], step: float
) -> Iterator[tuple[dict[str, Any], int]]:
    """Where to read the change of a head: the largest, and at each true period, on either side of lag 0."""
    nothing = {"period": np.nan, "period_of": "", "testable": ""}
    yield {"at": "largest", **nothing}, int(np.where(tested, np.abs(z), -1).argmax())
    for known in periods:
        row = {"at": "period", "period": known["period"], "period_of": " ".join(known["signals"])}
        for sign in (1, -1):
            i = int(np.abs(lag - sign * known["period"]).argmin())
            if known["testable"] != "no" and tested[i] and abs(lag[i] - sign * known["period"]) <= step / 2 + 1e-9:
                yield {**row, "testable": known["testable"]}, i
