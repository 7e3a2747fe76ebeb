"""Attention to events of the signal, such as outliers and jumps, against the same tokens of windows without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from laglens.heads.nothing import NothingToMeasureError
from laglens.heads.rows import Array, share_of_keys
from laglens.lags.alike import stack_dataset
from laglens.lags.pairs import PairTable

GUARD = 2  # tokens on either side of an event that no token without event lies in
FEWEST_WINDOWS = 3  # without event, that a pair of tokens is compared with
FEWEST_EVENTS = 5  # for an interval over events
RESAMPLES = 999
COLUMNS = [
    *("stack", "layer", "head", "part", "event", "since_from", "since_to"),
    *("received", "matched", "excess", "low", "high", "n_events"),
]


@dataclass(frozen=True)
class Event:
    """Something that happened in a signal: its kind, the series it is in, and the index of its sample there."""

    kind: str
    series: int
    index: int


def events_of(signal: Mapping[Any, Any]) -> list[Event]:
    """The events in the truth of a signal, each once.

    Parameters
    ----------
    signal
        Attributes of a signal (see `laglens.signals.labelled.labelled`).
    """
    found = dict(signal.get("truth", {})).get("events") or {}
    return [
        Event(str(kind), series, int(index))
        for kind, lists in found.items()
        for series, indices in enumerate(lists)
        for index in indices
    ]


def lock_to_events(time_tree: xr.DataTree, events: Sequence[Event] | None = None) -> xr.DataTree:
    """Attention to event tokens as a function of the time since the event, one node per attention stack.

    All attention is a ratio to uniform attention within a query part. A pair of a query and the key token that holds an
    event is compared with the same two tokens, so the same positions and the same lag, in the windows in which no event
    lies within two tokens of that key: ``excess`` is the difference. What an event gets in several windows is averaged
    first: events, not windows, are what varies independently.

    Parameters
    ----------
    time_tree
        Time maps (see `laglens.time.reduce.to_time`).
    events
        Default: those that the signal's generator knows.

    Returns
    -------
    xr.DataTree
        ``received``, ``matched`` and ``excess (part, event, layer, head, since)``; ``since`` counts bins of the query's
        time minus that of the event token, with ``since_from`` and ``since_to`` in input samples, the last of them
        excluded. ``overall (part, event, layer, head)``: ``excess`` over all bins, each pair counting once. Coordinates
        ``kind``, ``series`` and ``index (event)``. NaN where an event has no pair, or no windows to compare with.

    Raises
    ------
    NothingToMeasureError
        The signal has no known event, or none of them is in the history of a window.
    """
    events = events_of(time_tree.attrs.get("signal", {})) if events is None else list(events)
    if not events:
        raise NothingToMeasureError("the signal has no known events, so there is nothing to lock attention to")
    root = time_tree.to_dataset(inherit=False)
    nodes = {}
    for name in time_tree.children:
        node = stack_dataset(time_tree, name)
        held = _holding(node, root, events)
        if any(held):
            nodes[f"/{name}"] = _lock_stack(node, time_tree.attrs["history"], events, held)
    if not nodes:
        raise NothingToMeasureError(
            f"none of the {len(events)} events of the signal lies in a window that the model sees"
        )
    return xr.DataTree.from_dict({"/": root.drop_dims(["time", "step", "sample"], errors="ignore"), **nodes})


def events_table(locked: xr.DataTree, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """One row per head, query part, kind of event and time since it.

    Parameters
    ----------
    locked
        From `lock_to_events`.
    confidence, seed
        Of the bootstrap over events.

    Returns
    -------
    pd.DataFrame
        ``since_from`` and ``since_to`` [input samples; NaN: all together], ``received`` and ``matched`` (1 = no
        preference), ``excess`` with its interval ``low`` to ``high`` (percentile bootstrap over events, NaN for fewer
        than 5) and ``n_events``.
    """
    rows = [row for name in locked.children for row in _rows(name, stack_dataset(locked, name), confidence, seed)]
    return pd.DataFrame(rows, columns=COLUMNS)


def mean_and_interval(values: Array, *, confidence: float, seed: int, fewest: int = FEWEST_EVENTS) -> dict[str, Array]:
    """Mean over the first axis without NaN, and its percentile bootstrap interval: (unit, ...) -> (...) each.

    ``n`` units have a value; ``low`` and ``high`` are NaN where they are fewer than `fewest`.
    """
    known = np.isfinite(values)
    n = known.sum(0)
    flat, mask = np.where(known, values, 0).reshape(len(values), -1), known.reshape(len(values), -1).astype(float)
    rng = np.random.default_rng(seed)
    picks = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = flat.sum(0) / mask.sum(0)
        drawn = (picks @ flat) / (picks @ mask)
    drawn[:, ~np.isfinite(drawn).any(0)] = 0  # masked below
    ends = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    shape = values.shape[1:]
    low, high = (np.where(n < fewest, np.nan, np.reshape(end, shape)) for end in ends)
    return {"mean": mean.reshape(shape), "low": low, "high": high, "n": n}


def _holding(node: xr.Dataset, root: xr.Dataset, events: Sequence[Event]) -> list[list[tuple[int, int]]]:
    """For each event the windows that hold it, each with the key token in which it lies."""
    start, end = node["key_start"].values, node["key_end"].values
    inside = root.attrs["history"]
    held: list[list[tuple[int, int]]] = []
    for event in events:
        places = []
        for sample in np.flatnonzero(root["signal_sample"].values == event.series):
            at = event.index - int(root["start"].values[sample])
            tokens = np.flatnonzero((start <= at) & (at < end) & (0 <= at < inside))
            if len(tokens):
                middle = (start[tokens] + end[tokens] - 1) / 2
                places.append((int(sample), int(tokens[np.abs(middle - at).argmin()])))
        held.append(places)
    return held


def _lock_stack(node: xr.Dataset, history: float, events: Sequence[Event], held: list) -> xr.Dataset:
    table = PairTable.of(node, history)
    edges = _edges(int(np.abs(table.lags).max()))
    near = np.zeros((node.sizes["sample"], node.sizes["key"]), bool)
    for places in held:
        for sample, key in places:
            near[sample, max(key - GUARD, 0) : key + GUARD + 1] = True
    kept = [i for i, places in enumerate(held) if places]
    parts = {name: mask for name, mask in table.parts.items() if mask[:, _keys_of(held)].any()}
    columns: dict[str, list[Array]] = {}
    for mask in parts.values():
        ratio = _ratios(node, mask)
        values = _lock_part(ratio, mask, table.lags, [held[i] for i in kept], near, edges)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    coords: dict[str, Any] = {name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords}
    coords |= {
        "part": np.array(list(parts), dtype=object),
        "since_from": ("since", table.step * edges[:-1]),
        "since_to": ("since", table.step * edges[1:]),
        "kind": ("event", np.array([events[i].kind for i in kept], dtype=object)),
        "series": ("event", np.array([events[i].series for i in kept])),
        "index": ("event", np.array([events[i].index for i in kept])),
    }
    dims = ("part", "event", "layer", "head", "since")
    arrays = {name: np.stack(values) for name, values in columns.items()}
    variables = {name: (dims[: array.ndim], array, {"units": "1"}) for name, array in arrays.items()}
    return xr.Dataset(variables, coords, {"samples_per_token": table.step, "n_windows": node.sizes["sample"]})


def _keys_of(held: list[list[tuple[int, int]]]) -> list[int]:
    return sorted({key for places in held for _, key in places})


def _edges(longest: int) -> NDArray[np.int64]:
    """Bins of the time since an event in tokens: the event itself, then 1, 2 to 3, 4 to 7 and so on."""
    powers = 2 ** np.arange(int(np.log2(max(longest, 1))) + 2)
    return np.concatenate([[0], powers])


def _ratios(node: xr.Dataset, mask: NDArray[np.bool_]) -> Array:
    """Attention over uniform attention within a part: (sample, layer, head, query, key), NaN outside."""
    weights = node["attention"].transpose("sample", "layer", "head", "query", "key").values.astype(np.float64)
    ratio = share_of_keys(weights, mask) * mask.sum(1)[:, None]
    return np.where(mask, ratio, np.nan)


def _lock_part(
    ratio: Array, mask: NDArray, lags: NDArray, held: list, near: NDArray, edges: NDArray[np.int64]
) -> dict[str, Array]:
    """Means over the pairs of each event and bin, ``(event, layer, head, since)``, and ``overall``."""
    heads, n_bins = ratio.shape[1:3], len(edges) - 1
    sums = {name: np.zeros((len(held), *heads, n_bins)) for name in ("received", "matched", "excess")}
    pairs = np.zeros((len(held), n_bins))
    for key in _keys_of(held):
        quiet = ~near[:, key]
        if quiet.sum() < FEWEST_WINDOWS:
            continue
        matched = ratio[quiet][..., key].mean(0)  # (layer, head, query)
        bins = np.digitize(lags[:, key], edges) - 1
        used = mask[:, key] & (bins >= 0) & (bins < n_bins)
        member = (bins[used, None] == np.arange(n_bins)).astype(np.float64)  # (query, since)
        for i, places in enumerate(held):
            for sample in [sample for sample, at in places if at == key]:
                received = ratio[sample][..., key]
                for name, values in (("received", received), ("matched", matched), ("excess", received - matched)):
                    sums[name][i] += values[..., used] @ member
                pairs[i] += member.sum(0)
    some = pairs[:, None, None] > 0
    found = {name: np.where(some, total / np.maximum(pairs, 1)[:, None, None], np.nan) for name, total in sums.items()}
    all_pairs = pairs.sum(1)[:, None, None]
    overall = np.where(all_pairs > 0, sums["excess"].sum(-1) / np.maximum(all_pairs, 1), np.nan)
    return found | {"overall": overall}


def _rows(name: str, node: xr.Dataset, confidence: float, seed: int) -> Iterator[dict[str, Any]]:
    for kind in dict.fromkeys(node["kind"].values):
        ours = node.isel(event=np.flatnonzero(node["kind"].values == kind))
        dims = ("event", "part", "layer", "head", "since")
        binned = {key: ours[key].transpose(*dims).values for key in ("received", "matched", "excess")}
        excess = mean_and_interval(binned["excess"], confidence=confidence, seed=seed)
        overall = ours["overall"].transpose("event", "part", "layer", "head").values
        whole = mean_and_interval(overall, confidence=confidence, seed=seed)
        for place in np.ndindex(overall.shape[1:]):
            part, layer, head = place
            common = {
                "stack": name,
                "layer": int(node["layer"][layer]),
                "head": int(node["head"][head]),
                "part": str(node["part"].values[part]),
                "event": str(kind),
            }
            yield common | _row(whole, place, np.nan, np.nan, np.nan, np.nan)
            for b in range(ours.sizes["since"]):
                if excess["n"][(*place, b)]:
                    at = (slice(None), *place, b)
                    received, matched = (_mean_known(binned[key][at]) for key in ("received", "matched"))
                    edges = float(ours["since_from"][b]), float(ours["since_to"][b])
                    yield common | _row(excess, (*place, b), *edges, received, matched)


def _row(
    values: dict[str, Array], place: tuple, since_from: float, since_to: float, received: float, matched: float
) -> dict[str, Any]:
    return {
        "since_from": since_from,
        "since_to": since_to,
        "received": received,
        "matched": matched,
        "excess": float(values["mean"][place]),
        "low": float(values["low"][place]),
        "high": float(values["high"][place]),
        "n_events": int(values["n"][place]),
    }


def _mean_known(values: Array) -> float:
    return float(values[np.isfinite(values)].mean())
