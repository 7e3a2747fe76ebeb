"""Similarity of heads: naive divergences, identical heads, permutations, planted groups."""

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import jensenshannon, pdist, squareform
from trees import node_of, time_tree, with_maps

from laglens.errors import LaglensError
from laglens.heads.labelled import head_similarity
from laglens.heads.layers import layers_table, similarity_table
from laglens.heads.measure import measure_heads
from laglens.heads.similarity import (
    classical_scaling,
    cluster_heads,
    compare_heads,
    js_divergence,
    pairwise,
    silhouette,
)


def random_rows(*shape: int, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).exponential(size=shape) ** 3
    return weights / weights.sum(-1, keepdims=True)


def test_the_divergence_is_that_of_scipy_and_is_averaged_over_rows() -> None:
    rows = random_rows(4, 6, 9)
    expected = jensenshannon(rows[0], rows[1], base=2, axis=-1) ** 2
    np.testing.assert_allclose(js_divergence(rows[0], rows[1]), expected, rtol=1e-9)
    found = pairwise(rows)
    np.testing.assert_allclose(found["js"][0, 1], expected.mean(), rtol=1e-9)
    twice = pairwise(np.concatenate([rows, rows], 1))  # a sum over rows would double
    np.testing.assert_allclose(twice["js"], found["js"], rtol=1e-9)
    np.testing.assert_allclose(found["euclidean"], squareform(pdist(rows.reshape(4, -1))), atol=1e-9)
    np.testing.assert_allclose(found["cosine"], 1 - squareform(pdist(rows.reshape(4, -1), "cosine")), atol=1e-9)


def test_identical_heads_are_at_distance_zero_and_disjoint_ones_at_one() -> None:
    rows = np.stack([np.eye(4), np.eye(4), np.roll(np.eye(4), 1, 1)])
    found = pairwise(rows)
    np.testing.assert_allclose(found["js"], [[0, 0, 1], [0, 0, 1], [1, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(found["cosine"][0], [1, 1, 0], atol=1e-12)


def test_permuted_heads_permute_the_matrix() -> None:
    tree, order = time_tree(stacks={"encoder": (0,)}), [2, 0, 3, 1]
    found = compare_heads(tree)["encoder"].to_dataset()
    permuted = compare_heads(tree.isel(head=order))["encoder"].to_dataset()
    for name in ("js", "cosine", "euclidean"):
        np.testing.assert_allclose(permuted[name], found[name].values[:, order][:, :, order], atol=1e-9, err_msg=name)
    np.testing.assert_allclose(permuted["diversity_js"], found["diversity_js"], atol=1e-12)


@pytest.mark.parametrize("by", ["js", "cosine", "euclidean"])
def test_the_labelled_measure_is_that_of_each_layer_and_window(by: str) -> None:
    rows = random_rows(2, 3, 4, 6, 9)
    visible = np.ones((6, 9), bool)
    visible[2], visible[:, 7] = False, False
    attention = xr.DataArray(rows, dims=("sample", "layer", "head", "query", "key"), coords={"layer": [5, 6, 7]})
    found = head_similarity(attention, xr.DataArray(visible, dims=("query", "key")), by=by)
    assert found.dims == ("sample", "layer", "head", "other_head")
    seen = np.delete(np.delete(rows, 2, -2), 7, -1)
    seen /= seen.sum(-1, keepdims=True)
    np.testing.assert_allclose(found.sel(layer=6)[1], pairwise(seen[1, 1])[by], atol=1e-12)
    with pytest.raises(LaglensError, match="not by 'cka'"):
        head_similarity(attention, by="cka")


def test_planted_groups_are_found_and_placed_apart() -> None:
    rng = np.random.default_rng(1)
    kinds = random_rows(3, 5, 8, seed=2)
    members = [0, 0, 1, 2, 1, 0]
    rows = np.stack([0.95 * kinds[kind] + 0.05 * random_rows(5, 8, seed=int(rng.integers(99))) for kind in members])
    js = pairwise(rows)["js"]
    cluster, leaf = cluster_heads(js)
    assert cluster.tolist() == [1, 1, 2, 3, 2, 1]
    assert sorted(leaf) == list(range(6))
    places = classical_scaling(np.sqrt(js))
    within, apart = np.linalg.norm(places[0] - places[1]), np.linalg.norm(places[0] - places[2])
    assert within < 0.3 * apart


def test_places_of_points_in_a_plane_keep_their_distances() -> None:
    points = np.random.default_rng(0).normal(size=(7, 2))
    distance = squareform(pdist(points))
    np.testing.assert_allclose(squareform(pdist(classical_scaling(distance))), distance, atol=1e-9)


def test_the_silhouette_equals_a_naive_loop() -> None:
    distance = squareform(pdist(np.random.default_rng(3).normal(size=(8, 3))))
    labels = np.array([1, 1, 1, 2, 2, 3, 2, 1])
    scores = []
    for i in range(8):
        own = [distance[i, j] for j in range(8) if labels[j] == labels[i] and j != i]
        others = [distance[i, labels == label].mean() for label in {1, 2, 3} - {labels[i]}]
        scores.append(0 if not own else (min(others) - np.mean(own)) / max(min(others), np.mean(own)))
    assert silhouette(distance, labels) == pytest.approx(np.mean(scores))


def test_windows_of_a_head_that_never_changes_are_alike_and_tables_have_a_row_per_head_and_layer() -> None:
    tree = time_tree(stacks={"encoder": (0, 1)}, samples=3)
    node = node_of(tree)
    maps = node["attention"].values.copy()
    maps[:, 0, 1] = maps[:1, 0, 1]
    tree = xr.DataTree.from_dict({"/": tree.to_dataset(), "/encoder": with_maps(node, maps)})
    similar = compare_heads(tree)
    table = similarity_table(similar).set_index(["part", "layer", "head"])
    assert len(table) == 4 * 2 * 4
    same, other = table.loc[("history->history", 0, 1)], table.loc[("history->history", 0, 0)]
    assert same["sample_cosine"] == pytest.approx(1) and same["sample_js"] == pytest.approx(0, abs=1e-9)
    assert 0 < other["sample_js"] <= 1 and other["sample_cosine"] < 1
    layers = layers_table(measure_heads(tree), similar)
    assert len(layers) == 4 * 2
    row = layers[(layers["part"] == "history->history") & (layers["layer"] == 1)].iloc[0]
    js = similar["encoder"]["js"].sel(part="history->history").values[4:, 4:]
    assert row["diversity_js"] == pytest.approx(js[np.triu_indices(4, 1)].mean())
    assert row["locality"] == pytest.approx(
        measure_heads(tree)["encoder"]["locality"].sel(part="history->history", layer=1).mean().item()
    )


def test_a_tree_without_stacks_is_refused() -> None:
    with pytest.raises(LaglensError, match="no heads to compare"):
        compare_heads(xr.DataTree(xr.Dataset(attrs={"history": 8})))
