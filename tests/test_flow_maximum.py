"""Maximum flow: networkx, closed forms, bounds, and the widest path."""

import networkx
import numpy as np
import pytest
from trees import node_of, time_tree

from laglens.errors import LaglensError
from laglens.flow.lags import flow_lags
from laglens.flow.layers import Mixing
from laglens.flow.maximum import attention_flow, maximum_flows, widest_paths
from laglens.flow.rollout import rollout


def random_steps(layers: int, n: int, *, sharp: float = 3.0, residual: float = 0.5, seed: int = 0) -> list[np.ndarray]:
    weights = np.exp(sharp * np.random.default_rng(seed).normal(size=(layers, 2, n, n)))
    weights /= weights.sum(-1, keepdims=True)
    return [Mixing(residual=residual).step(heads) for heads in weights]


def every(steps: list[np.ndarray]) -> np.ndarray:
    tokens = np.arange(len(steps[0]))
    return maximum_flows(steps, tokens, tokens)


@pytest.mark.parametrize(("layers", "residual", "causal"), [(2, 0.5, False), (4, 0.1, False), (3, 0.3, True)])
def test_it_is_the_maximum_flow_of_networkx(layers: int, residual: float, causal: bool) -> None:
    steps = random_steps(layers, 8, residual=residual)
    if causal:
        steps = [np.tril(step) / np.tril(step).sum(1, keepdims=True) for step in steps]
    graph = networkx.DiGraph()
    for level, step in enumerate(steps):
        for i, j in np.ndindex(step.shape):
            graph.add_edge((level + 1, i), (level, j), capacity=step[i, j])
    flow = every(steps)
    for i, j in ((0, 0), (2, 5), (7, 1), (6, 6)):
        expected = networkx.maximum_flow_value(graph, (layers, i), (0, j)) if not causal or j <= i else 0.0
        np.testing.assert_allclose(flow[i, j], expected, atol=1e-6)


def test_flow_of_one_layer_is_the_layer_and_of_two_is_a_sum_of_minima() -> None:
    first, second = random_steps(2, 9, residual=0.2)
    np.testing.assert_allclose(every([first]), first, atol=1e-6)
    np.testing.assert_allclose(every([first, second]), np.minimum(second[:, :, None], first).sum(1), atol=2e-6)


def test_attention_to_oneself_stays_with_oneself() -> None:
    np.testing.assert_array_equal(every([np.eye(5)] * 4), np.eye(5))
    np.testing.assert_array_equal(widest_paths([np.eye(5)] * 4), np.eye(5))


@pytest.mark.parametrize("residual", [0.0, 0.5])
def test_it_lies_between_rollout_and_the_ends_of_the_network_and_above_its_widest_path(residual: float) -> None:
    steps = random_steps(4, 10, residual=residual)
    flow, product = every(steps), steps[3] @ steps[2] @ steps[1] @ steps[0]
    assert (product <= flow + 1e-5).all() and (widest_paths(steps) <= flow + 1e-5).all()
    assert (flow <= np.minimum(1.0, steps[0].sum(0)) + 1e-5).all()
    assert np.abs(flow - product).max() > 0.01 and np.abs(flow - widest_paths(steps)).max() > 0.01


def test_the_widest_path_is_the_best_of_all_paths() -> None:
    steps = random_steps(3, 4)
    expected = np.zeros((4, 4))
    for i, a, b, j in np.ndindex(4, 4, 4, 4):
        expected[i, j] = max(expected[i, j], min(steps[2][i, a], steps[1][a, b], steps[0][b, j]))
    np.testing.assert_array_equal(widest_paths(steps), expected)


def test_permuting_tokens_permutes_the_flow() -> None:
    steps, order = random_steps(3, 6), np.random.default_rng(1).permutation(6)
    permuted = [step[order][:, order] for step in steps]
    np.testing.assert_array_equal(every(permuted), every(steps)[order][:, order])


def test_of_windows_is_the_flow_of_each_and_of_mean_that_of_the_mean_map() -> None:
    tree = time_tree(history=32, horizon=16, lag=8, samples=2, noise=0.6)
    windows = attention_flow(tree, of="windows", queries="all", residual=0.2)
    maps = [
        np.concatenate([node_of(tree, name)["attention"].values[i] for name in ("encoder", "decoder")])
        for i in range(2)
    ]
    for found, heads in zip(windows["max_flow_windows"].values, maps, strict=True):
        np.testing.assert_allclose(found, every([Mixing(residual=0.2).step(layer) for layer in heads]), atol=1e-6)
    np.testing.assert_allclose(windows["max_flow"], windows["max_flow_windows"].mean("sample"), rtol=1e-12)
    mean = attention_flow(tree, queries="all", residual=0.2)
    steps = [Mixing(residual=0.2).step(layer) for layer in np.mean(maps, 0)]
    np.testing.assert_allclose(mean["max_flow"], every(steps), atol=1e-6)
    assert "max_flow_windows" not in mean


def test_only_forecasting_rows_are_computed_and_the_rest_is_unknown() -> None:
    tree = time_tree(history=32, horizon=16, lag=8, samples=2)
    flow = attention_flow(tree)
    known = flow["max_flow"].notnull().all("key").values
    np.testing.assert_array_equal(known, flow["query_part"].values == 1)
    np.testing.assert_array_equal(flow["max_flow"][known], attention_flow(tree, queries="all")["max_flow"][known])
    lags = flow_lags(flow, min_pairs=2)["max_flow_ratio"]
    assert lags.sel(part="horizon->history").notnull().any() and lags.sel(part="history->history").isnull().all()
    readout = attention_flow(time_tree(history=32, lag=8, horizon_tokens=False, readout="last", samples=2))
    np.testing.assert_array_equal(readout["max_flow"].notnull().all("key"), np.arange(8) == 7)


def test_dense_maps_are_told_to_be_at_their_trivial_bound() -> None:
    deep = {"encoder": range(4), "decoder": range(4, 7)}
    options = {"history": 32, "horizon": 16, "lag": 8, "samples": 1, "stacks": deep}
    dense = attention_flow(time_tree(heads=("uniform",), noise=1.0, **options), queries="all")
    assert dense.attrs["at_bound"] == 1
    sharp = attention_flow(time_tree(heads=("planted",), strength=np.inf, noise=0.0, **options), queries="all")
    assert sharp.attrs["at_bound"] < 0.5


def test_the_flow_of_planted_heads_has_their_lag() -> None:
    tree = time_tree(heads=("planted",), lag=32, stacks={"encoder": (0,)}, strength=6)
    lags = flow_lags(attention_flow(tree))
    for name in ("max_flow", "widest_path"):
        ratio = lags[f"{name}_ratio"].sel(part="horizon->history")
        assert ratio.where(ratio["lag"] > 0, drop=True).idxmax("lag") == 32, name


@pytest.mark.parametrize(
    ("options", "message"),
    [({"of": "median"}, "flow of 'median'"), ({"queries": "some"}, "'some' queries"), ({"start": 5}, "start is 5")],
)
def test_wrong_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(LaglensError, match=message):
        attention_flow(time_tree(history=32, lag=8), **options)


def test_too_many_columns_are_refused_before_hours_are_spent() -> None:
    with pytest.raises(LaglensError, match="maximum flow of 600 time columns takes hours"):
        attention_flow(time_tree(history=400, horizon=200, step=1, samples=1, heads=("uniform",)))


def test_the_rollout_of_the_same_steps_is_the_product() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(6), size=(3, 2, 6))
    steps = [Mixing().step(heads) for heads in weights]
    np.testing.assert_allclose(rollout(weights)[-1], steps[2] @ steps[1] @ steps[0], rtol=1e-12)
