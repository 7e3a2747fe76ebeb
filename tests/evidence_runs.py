"""Verdict tables, tracking trees and knock-outs with known heads, for the tests of their figures."""

import numpy as np
import pandas as pd
import xarray as xr

from laglens.attribution.causal import knock_out_table

REASONS = ("noise with the same memory shows as much", "does not follow other periods", "random weights show as much")
STACKS = {"encoder": (3, 4), "decoder": (2, 4)}


def verdicts(stacks=STACKS, periods=(60.0, 30.0, 6.0), step=8.0, supported=(("encoder", 0, 1, 60.0),)):
    """One row per head and period: those named are supported, of the others each fails one condition."""
    rows = []
    for stack, (layers, heads) in stacks.items():
        for layer, head in np.ndindex(layers, heads):
            for period in periods:
                tokens = period / step
                row = {"stack": stack, "layer": layer, "head": head, "period": period, "tokens": tokens}
                row |= {"testable": "no" if tokens < 2 else "coarse" if tokens < 4 else "yes", "p_swap": 0.001}
                row |= {"n_windows": 16, "n_controls": 99, "n_untrained": 3, "part": "horizon->history"}
                rows.append(row | _judged(row, (stack, layer, head, period) in supported, (layer + head) % 3))
    return pd.DataFrame(rows).assign(period_of="truth")


def _judged(row, supported, fails):
    if row["testable"] == "no":
        numbers = dict.fromkeys(("z", "p_family", "contrast", "untrained"), np.nan)
        return numbers | {"verdict": "not testable", "reason": "period 6 is 0.75 tokens, under 2"}
    numbers = {"z": 7.25, "p_family": 0.01, "contrast": 0.5, "untrained": 0.1}
    if supported:
        return numbers | {"verdict": "supported", "reason": ""}
    failed = ({"p_family": 0.6}, {"p_swap": 0.7}, {"untrained": 0.9})[fails]
    return numbers | {"verdict": "not supported", "reason": REASONS[fails]} | failed


def tracking(stacks=STACKS, following=(("encoder", 0, 1),)):
    """Tracking and swap tree: the heads named detect the true period, the others 40 samples whatever it is."""
    true = np.repeat([24.0, 36.0, 50.0, 70.0], 4)
    tracked, tested = {}, {}
    for stack, (layers, heads) in stacks.items():
        follows = np.array([[(stack, i, j) in following for j in range(heads)] for i in range(layers)])
        dims = ("layer", "head")
        coords = {"layer": np.arange(layers), "head": np.arange(heads), "bound": ["lower", "upper"]}
        slope = follows.astype(float)
        share = np.where(follows, 1.0, 0.3)
        variables = {"slope": (dims, slope), "at_period": (dims, share), "at_multiple": (dims, share)}
        variables |= {name: (dims, np.full(follows.shape, 0.25)) for name in ("chance_at_period", "chance_at_multiple")}
        variables["slope_interval"] = ((*dims, "bound"), slope[..., None] + np.array([-0.1, 0.1]))
        variables["detected"] = ((*dims, "sample"), np.where(follows[..., None], true, 40.0))
        tracked[f"/{stack}"] = xr.Dataset(variables, coords, {"part": "horizon->history"})
        found = {"p_family": (dims, np.where(follows, 0.001, 0.9)), "statistic": (dims, np.where(follows, 2.0, 0.1))}
        tested[f"/{stack}"] = xr.Dataset(found, {name: coords[name] for name in dims})
    root = xr.Dataset(coords={"true_period": ("sample", true)})
    trees = [xr.DataTree.from_dict({"/": root, **nodes}) for nodes in (tracked, tested)]
    trees[1].attrs["smallest_p"] = 0.001
    return trees


def knock_out(stacks=STACKS, periods=(24.0,), step=4.0, samples=6, truth=None, worst=("encoder", 1, 2), unit=None):
    """Effects and their table: lag 24 and head `worst` matter, bands and controls hardly."""
    rng = np.random.default_rng(0)
    lag = np.arange(2, 17) * step

    def noise(*shape):
        return 0.01 * rng.random(shape)

    curve = noise(lag.size, samples) + np.where(lag == 24.0, 0.5, 0)[:, None]
    nodes = {"/curve": xr.Dataset({"forecast_change": (("lag", "sample"), curve)}, {"lag": lag})}
    cuts = np.array(["comb", "comb + 0.5 P", "band", "band at 1.25 P"], dtype=object)
    for i, period in enumerate(p for p in periods if p >= 2 * step):
        both = noise(4, samples) + np.array([0.4, 0, 0, 0])[:, None]
        unknown = np.full_like(both, np.nan) if truth is False else both
        variables = {"forecast_change": (("cut", "sample"), both), "error_change": (("cut", "sample"), unknown)}
        variables |= {"error": ("sample", np.full(samples, 0.5)), "spared": ("cut", np.zeros(4, int))}
        attrs = {"period": period, "tokens": period / step}
        nodes[f"/period_{i}"] = xr.Dataset(variables, {"cut": cuts, "sample": np.arange(samples)}, attrs)
        for stack, (layers, heads) in stacks.items():
            effect = noise(layers, heads, samples)
            if worst[0] == stack:
                effect[worst[1:]] += 0.3
            dims, labels = ("layer", "head", "sample"), {"layer": np.arange(layers), "head": np.arange(heads)}
            of_head = {
                "forecast_change": (dims, effect),
                "error_change": (dims, effect * (np.nan if truth is False else 1)),
            }
            nodes[f"/period_{i}/{stack}"] = xr.Dataset(of_head, labels)
    refused = {repr(p): f"period {p:g} is under 2 tokens" for p in periods if p < 2 * step}
    attrs = {"signal": {"truth": {"periods": list(periods)}} | ({"time_unit": unit} if unit else {})}
    root = xr.Dataset(attrs=attrs | {"not_testable": refused, "samples_per_token": step})
    tree = xr.DataTree.from_dict({"/": root, **nodes})
    return tree, knock_out_table(tree)
