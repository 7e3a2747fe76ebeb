"""Following one output time back: what arrives is its rollout, and every step passes all of it."""

import numpy as np
import pytest
from trees import time_tree

from laglens.errors import LaglensError
from laglens.flow.rollout import roll_out
from laglens.flow.trace import trace_back

STACKS = {"encoder": (0, 1, 2), "decoder": (0, 1)}


@pytest.fixture(scope="module")
def tree():
    return time_tree(samples=3, history=64, horizon=32, step=4, lag=24, stacks=STACKS, noise=0.3)


@pytest.mark.parametrize("mixing", [{}, {"fusion": "max", "residual": 0.2, "discard": 0.3}, {"start": 2}])
def test_what_arrives_is_the_row_of_the_rollout_and_every_step_passes_all_of_it(tree, mixing):
    trace = trace_back(tree, sample=1, time=50, **mixing)
    flow = roll_out(tree, **mixing)
    assert trace.attrs["token"] == 12 and trace.attrs["time"] == flow["query_time"].values[12]
    np.testing.assert_allclose(trace["reached"], flow["rollout"][1, -1, 12], atol=1e-6)
    np.testing.assert_allclose(trace["passed"].sum(("query", "key")), 1, rtol=1e-12)
    assert trace.sizes["step"] == flow.sizes["layer"] and trace["step_name"].values[-1] == "decoder L01"
    # What leaves a token at a step is what it was given at the step above.
    given, left = trace["passed"].sum("query").values, trace["passed"].sum("key").values
    np.testing.assert_allclose(given[1:], left[:-1], atol=1e-12)


def test_the_default_is_the_last_forecast_step(tree):
    node = tree["encoder"].to_dataset()
    assert trace_back(tree).attrs["time"] == node["query_time"].values[-1] == 93.5
    short = time_tree(samples=1, history=64, horizon=32, step=4, lag=24, horizon_tokens=False, readout="last")
    assert trace_back(short).attrs["token"] == short["encoder"].sizes["query"] - 1


def test_a_time_or_window_that_is_not_there_is_named(tree):
    with pytest.raises(LaglensError, match="no token covers time 96; those of this model stand for 0 to 95 samples"):
        trace_back(tree, time=96)
    with pytest.raises(LaglensError, match=r"window 3 is not among the 3 windows \(0 to 2\)"):
        trace_back(tree, sample=3)
