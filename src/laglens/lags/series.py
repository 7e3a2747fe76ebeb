"""Which lag stands out in every series of a panel: each against its own controls, and all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset
from laglens.lags.bands import leave_one_out_z, rounding
from laglens.lags.combs import log_ratio
from laglens.lags.inputs import autocorrelation_at
from laglens.lags.layout import Layout
from laglens.lags.permutation import false_discovery_rate, passes, smallest_p
from laglens.lags.profiles import ratio_of_part
from laglens.lags.reach import NOT_READING, headline
from laglens.lags.units import in_time

Array = NDArray[np.float64]
DIMS = ("sample", "layer", "head", "lag")
LEAST = 1e-3  # of the spread of log ratios: a change by a thousandth of uniform attention is nothing
COLUMNS = {
    "series": "object",
    "start": "int64",
    "above": "bool",
    "lag": "float64",
    "lag_time": "float64",
    "time_unit": "object",
    "score": "float64",
    "stack": "object",
    "layer": "Int64",
    "head": "Int64",
    "part": "object",
    "ratio": "float64",
    "control_mean": "float64",
    "ratio_to_control": "float64",
    "z": "float64",
    "p": "float64",
    "p_pooled": "float64",
    "q": "float64",
    "autocorrelation": "float64",
    "n_windows": "int64",
    "n_controls": "int64",
    "smallest_p": "float64",
    "reason": "object",
}


class SeriesRatios:
    """Takes the maps of many series one by one and keeps their lag profiles (see `laglens.attention.sinks.Sink`).

    Parameters
    ----------
    history
        Samples that the model sees of a window.
    n_series
        Series of the panel. Their maps come first, then those of each replicate of their controls.
    max_lag
        As of `laglens.lags.layout.Layout.of`.
    """

    def __init__(self, history: float, n_series: int, *, max_lag: float | str = "auto") -> None:
        self.history, self.n_series, self.max_lag = history, n_series, max_lag
        self.left_out: dict[str, str] = {}
        self._layouts: dict[str, tuple[str, Layout]] = {}
        self._labels: dict[str, xr.Dataset] = {}
        self._ratios: dict[str, NDArray[np.float32]] = {}

    def add(self, node: str, dataset: xr.Dataset, awaited: Mapping[str, Any] | None = None) -> None:
        """Lay out the lags of a stack."""
        try:
            layout = Layout.of(dataset, self.history, max_lag=self.max_lag)
        except LaglensError as error:
            self.left_out[node] = str(error)
            return
        part = headline(layout)
        if part is None:
            self.left_out[node] = NOT_READING
            return
        n, layers, heads = (awaited or {})["attention"].shape[:3]
        self._layouts[node], self._labels[node] = (part, layout), dataset
        n_lags = np.count_nonzero(_past(layout, part))
        self._ratios[node] = np.empty((n, layers, heads, n_lags), np.float32)

    def write(self, node: str, where: Mapping[str, int | slice], arrays: Mapping[str, NDArray]) -> None:
        """Read the profile of one map off it, and forget the map."""
        if node in self._layouts and "attention" in arrays:
            part, layout = self._layouts[node]
            ratio = ratio_of_part(arrays["attention"].astype(np.float32), layout, part)[..., _past(layout, part)]
            # A query whose keys have no mass at all says nothing about any lag.
            self._ratios[node][where["sample"], where["layer"]] = np.nan_to_num(ratio, nan=1.0)

    @property
    def tree(self) -> xr.DataTree:
        """One node per stack that the forecast reads, ``ratio (replicate, sample, layer, head, lag)``."""
        nodes = {}
        for name, (part, layout) in self._layouts.items():
            ratio, labels = self._ratios[name], self._labels[name]
            coords = {label: labels[label] for label in ("layer", "layer_name", "head") if label in labels.coords}
            lag = ("lag", layout.lag_samples[_past(layout, part)], {"units": "input samples"})
            nodes[f"/{name}"] = xr.Dataset(
                {"ratio": (("replicate", *DIMS), ratio.reshape(-1, self.n_series, *ratio.shape[1:]))},
                {**coords, "lag": lag},
                {"part": part, "samples_per_token": layout.table.step},
            )
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"left_out": self.left_out}), **nodes})


def _past(layout: Layout, part: str) -> NDArray[np.bool_]:
    return layout.measured(part) & (layout.lag > 0)


def judge_series(ratios: xr.DataTree, names: Sequence[str] | None = None, *, confidence: float = 0.95) -> xr.DataTree:
    r"""Set every series of a panel against its own controls, and count how many stand out.

    Log profiles are standardised by the controls of the series, per head and lag (by the typical spread of the head at
    least), and averaged over the heads of a stack. The statistic of a series is the largest such score over past lags
    and stacks. Each control gets the same statistic against the *other* controls. The largest value of any one head
    would see hardly anything: sharp heads have outliers at lags that they hardly look at.
    With :math:`T_s` of series s and :math:`T_{rs}` of its control r, of R controls and S series,

    .. math:: p_s = \frac{1 + \#\{r: T_{rs} \ge T_s\}}{R + 1}, \qquad
              P_s = \frac{1 + \#\{r, s': T_{rs'} \ge T_s\}}{R S + 1}

    p holds for the series on its own, and is no finer than 1 / (R + 1). P pools the controls of all series (as Tusher,
    Tibshirani and Chu 2001 do over genes): it holds for series on average, which is what a false discovery rate
    over series asks for. ``q`` is Benjamini and Hochberg's, of P.

    Parameters
    ----------
    ratios
        From `SeriesRatios`.
    names
        Of the series, for the coordinate ``series_name (sample)``.
    confidence
        1 minus the false discovery rate at which a series is ``above``.

    Returns
    -------
    xr.DataTree
        Root, ``(sample)``: ``score``, ``p``, ``p_pooled``, ``q``, ``above``. One node per stack,
        ``(sample, layer, head, lag)``: ``ratio`` to uniform attention, ``control_mean`` and ``z``; ``score (sample,
        lag)``, the mean of z over heads.

    Raises
    ------
    LaglensError
        Fewer than 3 controls.
    """
    largest, nodes = [], {}
    for name in ratios.children:
        node = stack_dataset(ratios, name)
        ratio = node["ratio"].transpose("replicate", *DIMS).values
        if len(ratio) < 4:
            raise LaglensError(f"{len(ratio) - 1} controls of each series are too few; raise lags.series_controls")
        z, scores = np.empty(ratio.shape[1:], np.float32), np.zeros((*ratio.shape[:2], ratio.shape[-1]))
        for layer in range(ratio.shape[2]):  # one at a time: all of them in float64 need much memory
            observed, null = _standardised(ratio[:, :, layer])
            scores += np.concatenate([observed[None], null]).mean(2) / ratio.shape[2]
            z[:, layer] = observed
        largest.append(scores.max(-1))
        found = {"ratio": ratio[0], "control_mean": ratio[1:].mean(0), "z": z}
        variables = {key: (DIMS, values.astype(np.float32)) for key, values in found.items()}
        stack = xr.Dataset(variables, {c: node[c] for c in node.coords if c != "replicate"}, node.attrs)
        nodes[f"/{name}"] = stack.assign(score=(("sample", "lag"), scores[0]))
    labels = {} if names is None else {"series_name": ("sample", np.array(names, dtype=object))}
    root = xr.Dataset(coords=labels, attrs=ratios.attrs)
    if nodes:
        root = root.assign(_p_values(np.max(largest, axis=0), confidence))
        root.attrs |= {"n_controls": len(ratio) - 1, "confidence": confidence, "smallest_p": smallest_p(len(ratio) - 1)}
    return xr.DataTree.from_dict({"/": root, **nodes})


def _standardised(ratio: NDArray) -> tuple[Array, Array]:
    """Log profiles of the observation against its controls, and of each of these against the others.

    (replicate, series, ..., lag) -> (series, ..., lag), (control, series, ..., lag).
    """
    logs = log_ratio(ratio)
    controls = logs[1:]
    spread = controls.std(0, ddof=1)
    floor = np.maximum(np.median(spread, -1, keepdims=True), np.maximum(rounding(controls), LEAST))
    return (logs[0] - controls.mean(0)) / np.maximum(spread, floor), leave_one_out_z(controls, floor)


def _p_values(statistic: Array, confidence: float) -> dict[str, tuple[str, NDArray]]:
    """From the largest value of each, ``(replicate, series)`` with the observation first."""
    observed, controls = statistic[0], statistic[1:]
    pool = np.sort(controls, axis=None)
    at_least = pool.size - np.searchsorted(pool, observed, side="left")
    pooled = (1 + at_least) / (1 + pool.size)
    found = {
        "score": observed,
        "p": (1 + (controls >= observed).sum(0)) / (1 + len(controls)),
        "p_pooled": pooled,
        "q": false_discovery_rate(pooled),
    }
    found["above"] = passes(found["q"], confidence)
    return {name: ("sample", values) for name, values in found.items()}


def series_table(tested: xr.DataTree, signal: xr.Dataset, history: int, n_windows: int = 1) -> pd.DataFrame:
    """One row per series: the lag that stands out most, where, and whether noise like the series shows as much.

    Parameters
    ----------
    tested
        From `judge_series`.
    signal
        The panel, ``value (sample, time)``, with the ``series_name (sample)`` of each; else they are numbered.
    history
        Samples that the model sees; the autocorrelation of a series is that of its last ones.
    n_windows
        Windows of each series that were shown.

    Returns
    -------
    pd.DataFrame
        Series that are ``above`` first, then by ``q`` and ``score``; columns as in docs/lags.md. A series that was cut
        has a row for each piece, told apart by its ``start``. Where no stack reads
        the history for the forecast there are names and the ``reason`` alone.
    """
    value = signal["value"].transpose("sample", "time")
    root, rows = tested.to_dataset(), []
    places = _strongest(tested, value.sizes["sample"]) if tested.children else []
    starts = signal["start"].values if "start" in signal.coords else np.zeros(value.sizes["sample"], int)
    why = "; ".join(f"stack '{name}': {reason}" for name, reason in tested.attrs.get("left_out", {}).items())
    for k, name in enumerate(series_names(signal)):
        row: dict[str, Any] = {"series": name, "start": int(starts[k]), "n_windows": n_windows}
        row["reason"] = "" if places else why
        if places:
            row |= places[k] | {key: root[key].values[k] for key in ("p", "p_pooled", "q", "above")}
            row |= {key: tested.attrs[key] for key in ("n_controls", "smallest_p")} | in_time(row["lag"], signal.attrs)
            row["autocorrelation"] = _repeats(value[k : k + 1, -history:], row["lag"])
        rows.append(row)
    empty = {column: 0 if kind == "int64" else False for column, kind in COLUMNS.items() if kind in ("int64", "bool")}
    table = pd.DataFrame([empty | row for row in rows], columns=list(COLUMNS)).astype(COLUMNS)
    order = table.assign(first=~table["above"], score=-table["score"]).sort_values(
        ["first", "q", "score"], kind="stable"
    )
    return table.loc[order.index].reset_index(drop=True)


def said_of_series(table: pd.DataFrame, *, confidence: float = 0.95) -> str:
    """How many series stand out from noise, and at which lags most of them do; `confidence` as in `judge_series`."""
    reasons = table["reason"].fillna("")
    if len(reasons) and reasons.all():
        return f"no series can be judged: {reasons.iloc[0]}"
    above = table[table["above"]]
    n, alone = len(table), len(table) / (1 + len(table) * table["n_controls"].max())
    text = f"{len(above)} of {n} series show a lag that noise like them does not"
    if not passes(alone, confidence):
        text += f" (with so few controls q of one series alone is {alone:.3f} at least; raise lags.series_controls)"
    if above.empty:
        return text
    counts = above["lag"].value_counts().head(3)
    return f"{text}; most often at " + ", ".join(f"{lag:g} ({n})" for lag, n in counts.items())


def _strongest(tested: xr.DataTree, n_series: int) -> list[dict[str, Any]]:
    """Where the score of every series is largest, which head stands out most there, and its numbers."""
    best: list[dict[str, Any]] = [{"score": -np.inf} for _ in range(n_series)]
    for name in tested.children:
        node = stack_dataset(tested, name)
        for k, score in enumerate(node["score"].values):
            if score.max() > best[k]["score"]:
                lag = int(score.argmax())
                z = node["z"].values[k, :, :, lag]
                layer, head = np.unravel_index(z.argmax(), z.shape)
                here = {key: float(node[key].values[k, layer, head, lag]) for key in ("ratio", "control_mean", "z")}
                place = {"layer": int(node["layer"][layer]), "head": int(node["head"][head]), "stack": name}
                best[k] = here | place | {"score": float(score[lag]), "lag": float(node["lag"][lag])}
                shown = here["ratio"] / here["control_mean"] if here["control_mean"] > 0 else np.nan
                best[k] |= {"part": node.attrs["part"], "ratio_to_control": shown}
    return best


def _repeats(shown: xr.DataArray, lag: float) -> float:
    """Autocorrelation of one series at a lag; NaN for a straight line."""
    try:
        return float(autocorrelation_at(shown, np.array([lag]))[0])
    except LaglensError:
        return np.nan


def series_names(signal: xr.Dataset) -> Sequence[str]:
    """Names of the series of a signal, or their numbers."""
    if "series_name" in signal.coords:
        return [str(name) for name in signal["series_name"].values]
    return [str(k) for k in range(signal.sizes["sample"])]
