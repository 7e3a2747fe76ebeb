"""Comb and period-swap tests on trees whose heads are known."""

import numpy as np
import pytest
import xarray as xr
from trees import control_tree, time_tree

from laglens.errors import LaglensError
from laglens.lags.comb_tests import comb_test, swap_test
from laglens.lags.verdicts import untrained_contrasts, verdict_table

HEADS = ("planted", "uniform", "first", "decay")


def swap_tree(periods=(20.0, 28.0, 44.0), inputs=4, heads=HEADS, follows=True) -> xr.DataTree:
    """Inputs of several periods; planted heads attend at the period of their input, or always at the first."""
    trees = [
        time_tree(history=160, horizon=32, heads=heads, samples=inputs, lag=period if follows else periods[0], seed=i)
        for i, period in enumerate(periods)
    ]
    nodes = {}
    for name in trees[0].children:
        parts = [tree.children[name].to_dataset(inherit=False) for tree in trees]
        joined = xr.concat(parts, "sample", coords="minimal", compat="override")
        nodes[name] = joined.assign_coords(sample=np.arange(inputs * len(periods)))
    root = xr.Dataset(coords={"true_period": ("sample", np.repeat(periods, inputs))}, attrs=trees[0].attrs)
    return xr.DataTree.from_dict({"/": root, **nodes})


def test_planted_heads_are_found_and_the_others_are_not():
    # A planted head attends at one lag: its comb shows at the first tooth.
    options = {"history": 160, "horizon": 32, "lag": 44, "strength": 4.0}
    found = comb_test(time_tree(**options), control_tree(**options), [44.0, 60.0])
    for node in ("encoder", "decoder"):
        p = found[node]["p_family"].sel(period=44.0)
        assert (p.sel(head=0) == 0.01).all()
        assert (p.sel(head=[1, 2, 3]) > 0.05).all()
        assert found[node].attrs["part"] == "horizon->history"
    assert found["encoder"].attrs["smallest_p"] == 0.01
    assert (found["encoder"]["q"].sel(head=0, period=44.0) < 0.1).all()


def test_false_alarms_of_the_family_are_rare():
    """Signals that are controls themselves: at most 5 % show any head, over 8 heads, 2 stacks, 2 periods."""
    alarms = 0
    for seed in range(20):
        options = {"history": 96, "horizon": 32, "heads": ("uniform", "decay")}
        observed = time_tree(**options, seed=100 + seed)
        found = comb_test(observed, control_tree(**options, replicates=19, seed=200 + seed), [20.0, 28.0])
        alarms += min(float(found[node]["p_family"].min()) for node in found.children) <= 0.05
    assert alarms <= 4  # binomial(20, .05): 99.7 %


def test_aliased_and_unreachable_periods_are_left_out_with_the_reason():
    options = {"history": 160, "horizon": 32, "lag": 44}
    found = comb_test(time_tree(**options), control_tree(**options), [44.0, 6.3, 150.0])
    refused = found["encoder"].attrs["not_testable"]
    assert "under 2" in refused["6.3"]
    assert "no multiple of the period 150 lies between two gaps" in refused["150.0"]
    assert found["encoder"]["period"].values.tolist() == [44.0]
    none = comb_test(time_tree(**options), control_tree(**options), [6.3])
    assert none["encoder"].sizes["period"] == 0
    assert list(none["encoder"].attrs["not_testable"]) == ["6.3"]


def test_swap_test_finds_the_head_that_follows_and_confirms_it_on_the_other_half():
    found = swap_test(swap_tree(), n_permutations=199)
    for node in ("encoder", "decoder"):
        assert (found[node]["p_family"].sel(head=0) < 0.05).all()
        assert (found[node]["p_family"].sel(head=[1, 2, 3]) > 0.05).all()
    assert found.attrs["selected"]["head"] == 0
    assert found.attrs["p_selected"] < 0.05
    assert found.attrs["n_inputs"] == 12


def test_a_head_that_always_looks_at_one_lag_does_not_follow():
    """Its comb is strong at that lag whatever the input: the head likes a lag, it does not track."""
    found = swap_test(swap_tree(follows=False), n_permutations=199)
    assert float(found["encoder"]["p_family"].min()) > 0.05


def test_swap_test_needs_periods_and_two_inputs_of_each():
    with pytest.raises(LaglensError, match="no 'true_period"):
        swap_test(time_tree())
    with pytest.raises(LaglensError, match="one input only"):
        swap_test(swap_tree(inputs=1))


def test_a_model_whose_forecast_reads_no_row_in_time_is_not_testable_and_no_error():
    """As of an encoder that forecasts from its CLS token: every head has a node, no period, and the reason."""
    nothing = {"horizon_tokens": False, "readout": "none"}
    found = comb_test(time_tree(**nothing), control_tree(**nothing), [32.0, 48.0])
    for node in ("encoder", "decoder"):
        assert found[node].sizes["period"] == 0
        assert list(found[node].attrs["not_testable"]) == ["32.0", "48.0"]
        assert found.attrs["left_out"][node] == "no row of its attention in time is read for the forecast"
    probe = time_tree(**nothing, samples=6)
    probe = xr.DataTree.from_dict(
        {"/": probe.to_dataset().assign_coords(true_period=("sample", np.repeat([24.0, 32.0], 3)))}
        | {f"/{name}": node.to_dataset(inherit=False) for name, node in probe.children.items()}
    )
    swapped = swap_test(probe)
    assert not swapped.children
    assert "stack 'decoder': no row of its attention in time is read for the forecast" in swapped.attrs["left_out"]
    table = verdict_table(found, swapped, untrained_contrasts(time_tree(**nothing, samples=3), []))
    assert len(table) == 12 * 2
    assert (table["verdict"] == "not testable").all()
    assert table["p_swap"].isna().all()


def test_one_stack_without_such_a_row_does_not_keep_the_others_from_a_test():
    both = [time_tree(), time_tree(horizon_tokens=False, readout="none")]
    controls = [control_tree(), control_tree(horizon_tokens=False, readout="none")]
    observed, noise = (
        xr.DataTree.from_dict({"/": first.to_dataset(), "/decoder": first["decoder"].to_dataset(inherit=False),
                               "/encoder": second["encoder"].to_dataset(inherit=False)})
        for first, second in (both, controls)
    )  # fmt: skip
    found = comb_test(observed, noise, [32.0])
    assert list(found.children) == ["decoder"]
    assert list(found.attrs["left_out"]) == ["encoder"]
