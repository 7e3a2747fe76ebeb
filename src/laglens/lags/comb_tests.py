"""Which heads follow a period: tests of the comb contrast over all heads of a model at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.lags.alike import stack_dataset
from laglens.lags.contrasts import comb_contrasts, headline_contrasts, place_of, split_by_stack
from laglens.lags.headlines import read_headlines
from laglens.lags.layout import MIN_PAIRS
from laglens.lags.measure import check_pair, n_samples, null_name, windows_of
from laglens.lags.permutation import (
    control_p_values,
    false_discovery_rate,
    period_swap_test,
    pooled_max_test,
    smallest_p,
)
from laglens.lags.precision import resample_windows
from laglens.lags.reach import forecasting_stacks, periods_in_reach, sort_stacks, within_reach
from laglens.lags.readings import describe_heads

Array = NDArray[np.float64]
LABELS = ("layer", "layer_name", "head")
TESTED = ("contrast", "control_mean", "z", "p", "p_family", "q")


def comb_test(
    time_tree: xr.DataTree,
    control_tree: xr.DataTree,
    periods: Sequence[float],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    min_pairs: int = MIN_PAIRS,
) -> xr.DataTree:
    """Test every head for the comb of each period against control signals.

    Parameters
    ----------
    time_tree, control_tree
        As for `laglens.lags.measure.measure_lags`.
    periods
        [input samples]. Those that tokens or lags cannot show are left out of the test, with the reason.
    confidence
        Of the intervals.
    seed
        Of the bootstrap over windows.

    Returns
    -------
    xr.DataTree
        One node per stack that reads the history for the forecast, ``(layer, head, period)``: ``contrast`` (of log(1 +
        ratio)), ``control_mean``, ``z``, ``p`` of the head alone, ``p_family`` over all heads of all stacks and all
        periods (exact pooled maximum), ``q`` (Benjamini-Hochberg, for exploration), and what
        `laglens.lags.readings.describe_heads` says of each head. Attributes: ``part``, ``null``, ``n_windows``,
        ``n_controls``, ``smallest_p``, ``interval_of``, ``not_testable`` (reason by period). The attribute ``left_out``
        of the root says why the other stacks have no node; where no stack reads the history for the forecast, each has
        a node without a period, in which all are ``not_testable``.

    Raises
    ------
    LaglensError
        As `measure_lags`.
    """
    check_pair(time_tree, control_tree, 0.5)
    stacks, left_out = sort_stacks(time_tree, min_pairs=min_pairs)
    about = {
        "n_windows": n_samples(time_tree),
        "n_controls": n_samples(control_tree),
        "null": null_name(control_tree),
        "smallest_p": smallest_p(n_samples(control_tree)),
    }
    root = xr.Dataset(attrs=time_tree.attrs | {"left_out": left_out})
    if not stacks:
        nodes = {f"/{name}": _untested(time_tree, name, periods, why, about) for name, why in left_out.items()}
        return xr.DataTree.from_dict({"/": root, **nodes})
    reasons = [periods_in_reach(periods, layout, part) for part, layout in stacks.values()]
    refused = {p: next(r[p] for r in reasons if r[p]) for p in map(float, periods) if any(r[p] for r in reasons)}
    tested = [float(p) for p in periods if float(p) not in refused]
    found = read_headlines(time_tree, control_tree, stacks)
    observed = {name: headline_contrasts(line, line.ratio, tested) for name, line in found.items()}
    controls = {name: headline_contrasts(line, line.controls, tested, "replicate") for name, line in found.items()}
    flat = np.concatenate([array.values.ravel() for array in observed.values()])
    null = np.concatenate([array.values.reshape(n_samples(control_tree), -1) for array in controls.values()], axis=1)
    windows = windows_of(time_tree)
    resamples = resample_windows(windows, time_tree.attrs["history"], seed=seed)
    shown = windows["series"].isel(time=slice(int(time_tree.attrs["history"]))) if "series" in windows else None
    about |= {"not_testable": {repr(period): reason for period, reason in refused.items()}}
    about |= {"confidence": confidence, "interval_of": str(resamples)}
    nodes = {}
    for name, values in split_by_stack(_all_heads(flat, null), observed).items():
        line = found[name]
        node = observed[name].to_dataset().assign(values)
        node["control_mean"] = controls[name].mean("replicate")
        node = node.assign(describe_heads(line, tested, resamples, shown, confidence=confidence))
        nodes[f"/{name}"] = node.assign_attrs(about | {"part": line.part, "samples_per_token": line.step})
    return xr.DataTree.from_dict({"/": root, **nodes})


def _untested(
    time_tree: xr.DataTree, name: str, periods: Sequence[float], why: str, about: dict[str, Any]
) -> xr.Dataset:
    """The heads of a stack that cannot be asked about any period: no period, and the reason for each."""
    node = stack_dataset(time_tree, name)
    labels = {label: node[label] for label in LABELS if label in node.coords}
    attrs = about | {"part": "", "samples_per_token": float(node.attrs["samples_per_token"])}
    return xr.Dataset(
        {column: (("layer", "head", "period"), np.empty((*node["attention"].shape[1:3], 0))) for column in TESTED},
        labels | {"period": np.empty(0)},
        attrs | {"not_testable": {repr(float(period)): why for period in periods}},
    )


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
        for name, values in split_by_stack({"statistic": statistic, "p_family": p_family}, heads).items()
    }
    attrs = probe_tree.attrs | {
        "periods": [float(p) for p in periods],
        "n_inputs": len(true),
        "smallest_p": smallest_p(n_permutations),
        "selected": place_of(selected, heads),
        "p_selected": p_selected,
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **nodes})


def said_of_swap(tested: xr.DataTree) -> str:
    """The outcome of a period swap in one line, with the smallest p-value that its permutations allow."""
    attrs = tested.attrs
    if "left_out" in attrs:
        return f"no period swap: {attrs['left_out']}"
    head = "{stack} L{layer:02} H{head:02}".format(**attrs["selected"])
    chosen = f"{head}, chosen on half of the inputs, has p = {attrs['p_selected']:.3g} on the others"
    return (
        f"{attrs['n_inputs']} inputs of {len(attrs['periods'])} periods; the smallest p-value of the permutations is "
        f"{attrs['smallest_p']:.3g}; {chosen}"
    )


def _all_heads(observed: Array, controls: Array) -> dict[str, Array]:
    """Tests of all heads and periods at once, (head,) each; empty where no period can be tested."""
    if not observed.size:
        return dict.fromkeys(("z", "p", "p_family", "q"), observed)
    z, p_family = pooled_max_test(observed, controls)
    own = control_p_values(observed, controls)
    return {"z": z, "p": own, "p_family": p_family, "q": false_discovery_rate(own)}


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
