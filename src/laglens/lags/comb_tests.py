"""Which heads follow a period: tests of the comb contrast over all heads of a model at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset
from laglens.lags.combs import FEWEST, TOO_FEW, comb_contrast, comb_weights
from laglens.lags.layout import MIN_PAIRS, Layout
from laglens.lags.measure import check_pair, control_ratios, layouts, mean_map, n_samples, null_name
from laglens.lags.permutation import (
    control_p_values,
    false_discovery_rate,
    period_swap_test,
    pooled_max_test,
    smallest_p,
)
from laglens.lags.profiles import ratio_of_part
from laglens.lags.testability import testability

Array = NDArray[np.float64]
HEADLINES = ("horizon->history", "readout->history")


def headline(layout: Layout) -> str | None:
    """The part of a stack in which the forecast reads the history; None where it does not."""
    return next((part for part in HEADLINES if part in layout.windows), None)


def forecasting_stacks(time_tree: xr.DataTree, **options: Any) -> dict[str, tuple[str, Layout]]:
    """Headline part and layout of every stack that reads the history for the forecast.

    Raises
    ------
    LaglensError
        No stack does.
    """
    found = {}
    for name, layout in layouts(time_tree, **options)[0].items():
        part = headline(layout)
        if part is not None:
            found[name] = (part, layout)
    if not found:
        raise LaglensError("no attention stack reads the history for the forecast, so no head can follow its period")
    return found


def periods_in_reach(periods: Sequence[float], layout: Layout, part: str) -> dict[float, str]:
    """Why each period cannot be tested on the lags of a part; empty text where it can."""
    lag = layout.lag_samples[layout.measured(part)]
    lag = lag[lag > 0]
    reasons = {}
    for period in periods:
        judged = testability(period, layout.table.step)
        reasons[float(period)] = str(judged) if judged.testable == "no" else ""
        if len(lag) < FEWEST:
            reasons[float(period)] = TOO_FEW.format(len(lag))
        if not reasons[float(period)]:
            try:
                comb_weights(lag, period)
            except LaglensError as error:
                reasons[float(period)] = str(error)
    return reasons


def within_reach(probe_tree: xr.DataTree, *, min_pairs: int = MIN_PAIRS) -> xr.DataTree:
    """The inputs of a probe whose period the lags of every stack can show.

    Where these are fewer than two periods, a tree without stacks; its attribute ``left_out`` says why.

    Raises
    ------
    LaglensError
        No true periods, or no stack that reads the history for the forecast.
    """
    if "left_out" in probe_tree.attrs:
        return probe_tree
    root = probe_tree.to_dataset()
    if "true_period" not in root.coords:
        raise LaglensError("the probe has no 'true_period (sample)'; make it with laglens.make_swap_probe")
    true = root["true_period"].values
    periods = np.unique(true).tolist()
    refused: dict[float, str] = {}
    for part, layout in forecasting_stacks(probe_tree, min_pairs=min_pairs).values():
        refused |= {period: why for period, why in periods_in_reach(periods, layout, part).items() if why}
    if len(periods) - len(refused) < 2:
        return xr.DataTree(xr.Dataset(attrs=probe_tree.attrs | {"left_out": "; ".join(refused.values())}))
    return probe_tree.isel(sample=np.flatnonzero(~np.isin(true, list(refused))))


def comb_test(
    time_tree: xr.DataTree, control_tree: xr.DataTree, periods: Sequence[float], *, min_pairs: int = MIN_PAIRS
) -> xr.DataTree:
    """Test every head for the comb of each period against control signals.

    Parameters
    ----------
    time_tree, control_tree
        As for `laglens.lags.measure.measure_lags`.
    periods
        [input samples]. Those that tokens or lags cannot show are left out of the test, with the reason.

    Returns
    -------
    xr.DataTree
        One node per stack that reads the history for the forecast, ``(layer, head, period)``: ``contrast`` (of log(1 +
        ratio)), ``control_mean``, ``z``, ``p`` of the head alone, ``p_family`` over all heads of all stacks and all
        periods (exact pooled maximum), ``q`` (Benjamini-Hochberg, for exploration). Attributes: ``part``, ``null``,
        ``n_windows``, ``n_controls``, ``smallest_p``, ``not_testable`` (reason by period).

    Raises
    ------
    LaglensError
        As `measure_lags`.
    """
    check_pair(time_tree, control_tree, 0.5)
    stacks = forecasting_stacks(time_tree, min_pairs=min_pairs)
    reasons = [periods_in_reach(periods, layout, part) for part, layout in stacks.values()]
    refused = {p: next(r[p] for r in reasons if r[p]) for p in map(float, periods) if any(r[p] for r in reasons)}
    tested = [float(p) for p in periods if float(p) not in refused]
    observed, controls = {}, {}
    for name, (part, layout) in stacks.items():
        node, control = stack_dataset(time_tree, name), stack_dataset(control_tree, name)
        observed[name] = _contrasts(ratio_of_part(mean_map(node), layout, part), layout, part, tested, node)
        theirs = control_ratios(control, layout)[part]
        controls[name] = _contrasts(theirs, layout, part, tested, node, "replicate")
    flat = np.concatenate([observed[name].values.ravel() for name in stacks])
    null = np.concatenate([controls[name].values.reshape(n_samples(control_tree), -1) for name in stacks], axis=1)
    columns = _all_heads(flat, null)
    attrs = {
        "n_windows": n_samples(time_tree),
        "n_controls": n_samples(control_tree),
        "null": null_name(control_tree),
        "smallest_p": smallest_p(n_samples(control_tree)),
        "not_testable": {repr(period): reason for period, reason in refused.items()},
    }
    nodes = {}
    for name, values in _split(columns, observed).items():
        found = observed[name].to_dataset().assign(values)
        found["control_mean"] = controls[name].mean("replicate")
        nodes[f"/{name}"] = found.assign_attrs(
            attrs | {"part": stacks[name][0], "samples_per_token": stacks[name][1].table.step}
        )
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=time_tree.attrs), **nodes})


def swap_test(
    probe_tree: xr.DataTree, *, n_permutations: int = 999, seed: int = 0, min_pairs: int = MIN_PAIRS
) -> xr.DataTree:
    """Test which heads follow the period of their input, whatever it is (see `period_swap_test`).

    Parameters
    ----------
    probe_tree
        Time maps of a model on waves of several periods; ``true_period (sample)`` at its root.
    n_permutations, seed
        Of the labels.

    Returns
    -------
    xr.DataTree
        One node per stack that reads the history for the forecast, ``(layer, head)``: ``statistic`` (standard
        deviations of the head's contrasts), ``p_family`` over all heads of all stacks. Attributes of the root:
        ``selected`` (stack, layer, head that is largest on every second input of each period) and ``p_selected``,
        its p on the other inputs alone, ``smallest_p``, ``periods``, ``n_inputs``. No stacks, where the probe was
        ``left_out`` because tokens are too coarse.

    Raises
    ------
    LaglensError
        No true periods, or fewer than two inputs of a period.
    """
    probe_tree = within_reach(probe_tree, min_pairs=min_pairs)
    if "left_out" in probe_tree.attrs:
        return xr.DataTree(xr.Dataset(attrs=probe_tree.attrs))
    true = probe_tree.to_dataset()["true_period"].values
    periods, label = np.unique(true, return_inverse=True)
    if np.bincount(label).min() < 2:
        raise LaglensError("a period has one input only; half of them choose the head and the other half test it")
    stacks = forecasting_stacks(probe_tree, min_pairs=min_pairs)
    contrasts = {}
    for name, (part, layout) in stacks.items():
        node = stack_dataset(probe_tree, name)
        contrasts[name] = comb_contrasts(node, layout, part, periods)
    flat = np.concatenate([c.values.reshape(len(true), -1, len(periods)) for c in contrasts.values()], axis=1)
    rng = np.random.default_rng(seed)
    statistic, p_family = period_swap_test(flat, label, rng, n_permutations=n_permutations)
    selected, p_selected = _select_and_test(flat, label, rng, n_permutations)
    heads = {name: c.isel(sample=0, period=0, drop=True) for name, c in contrasts.items()}
    nodes = {
        f"/{name}": heads[name].to_dataset().drop_vars("contrast").assign(values).assign_attrs(part=stacks[name][0])
        for name, values in _split({"statistic": statistic, "p_family": p_family}, heads).items()
    }
    attrs = probe_tree.attrs | {
        "periods": [float(p) for p in periods],
        "n_inputs": len(true),
        "smallest_p": smallest_p(n_permutations),
        "selected": _place(selected, heads),
        "p_selected": p_selected,
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **nodes})


def comb_contrasts(node: xr.Dataset, layout: Layout, part: str, periods: Sequence[float] | Array) -> xr.DataArray:
    """Comb contrast of every sample of a node of a time tree, on its own: -> (sample, layer, head, period)."""
    maps = node["attention"].transpose("sample", "layer", "head", "query", "key")
    ratios = [ratio_of_part(maps.isel(sample=i).values, layout, part) for i in range(maps.sizes["sample"])]
    return _contrasts(np.stack(ratios), layout, part, periods, node, "sample")


def _contrasts(
    ratio: Array,
    layout: Layout,
    part: str,
    periods: Sequence[float] | Array,
    node: xr.Dataset,
    first: str | None = None,
) -> xr.DataArray:
    """Comb contrast ([first,] layer, head, period) of ratios ([first,] layer, head, lag).

    A head without any mass in time has no preference.
    """
    measured = layout.measured(part)
    coords = {name: node[name] for name in ("layer", "layer_name", "head") if name in node.coords}
    dims = ((first,) if first else ()) + ("layer", "head", "lag")
    known = np.nan_to_num(ratio[..., measured], nan=1.0)
    labelled = xr.DataArray(known, dims=dims, coords={**coords, "lag": layout.lag_samples[measured]})
    return comb_contrast(labelled, [float(p) for p in periods], step=layout.table.step)


def _all_heads(observed: Array, controls: Array) -> dict[str, Array]:
    """Tests of all heads and periods at once, (head,) each; empty where no period can be tested."""
    if not observed.size:
        return dict.fromkeys(("z", "p", "p_family", "q"), observed)
    z, p_family = pooled_max_test(observed, controls)
    own = control_p_values(observed, controls)
    return {"z": z, "p": own, "p_family": p_family, "q": false_discovery_rate(own)}


def _split(columns: dict[str, Array], like: dict[str, xr.DataArray]) -> dict[str, dict[str, xr.DataArray]]:
    """Cut columns over all heads back into stacks with the shape of `like`."""
    found, start = {}, 0
    for name, array in like.items():
        stop = start + array.size
        mine = {key: values[start:stop].reshape(array.shape) for key, values in columns.items()}
        found[name] = {key: xr.DataArray(values, dims=array.dims) for key, values in mine.items()}
        start = stop
    return found


def _select_and_test(
    contrast: Array, label: NDArray[np.int64], rng: np.random.Generator, n_permutations: int
) -> tuple[int, float]:
    """Choose the head on every second input of each period, test it alone on the others."""
    order = np.argsort(label, kind="stable")
    rank = np.empty(len(label), int)
    starts = np.concatenate([[0], np.cumsum(np.bincount(label))[:-1]])
    rank[order] = np.arange(len(label)) - np.repeat(starts, np.bincount(label))
    chooses = rank % 2 == 0
    statistic, _ = period_swap_test(contrast[chooses], label[chooses], rng, n_permutations=1)
    head = int(np.argmax(statistic))
    _, p = period_swap_test(contrast[~chooses][:, [head]], label[~chooses], rng, n_permutations=n_permutations)
    return head, float(p[0])


def _place(index: int, heads: dict[str, xr.DataArray]) -> dict[str, Any]:
    """Stack, layer and head of a position among all heads."""
    for name, array in heads.items():
        if index < array.size:
            layer, head = np.unravel_index(index, array.shape)
            return {"stack": name, "layer": int(array["layer"][layer]), "head": int(array["head"][head])}
        index -= array.size
    raise IndexError(index)
