"""Content scores and head classes: naive correlations, planted kinds, stated rules."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from trees import head_logits, node_of, softmax, time_tree, with_maps

from laglens.errors import LaglensError
from laglens.heads.classes import MIXED, RULES, classify_heads
from laglens.heads.content import content_score
from laglens.heads.measure import measure_heads
from laglens.models.tokens import TokenMap

PAIR = ("query", "key")


def random_maps(*shape: int, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).exponential(size=shape) ** 2
    return weights / weights.sum(-1, keepdims=True)


def test_the_content_score_is_one_minus_the_mean_correlation_of_log_maps() -> None:
    weights = random_maps(4, 3, 7, 7)  # sample, head, query, key
    visible = np.tri(7, dtype=bool)
    found = content_score(xr.DataArray(weights, dims=("sample", "head", *PAIR)), xr.DataArray(visible, dims=PAIR))
    for head in range(3):
        logs = []
        for sample in range(4):
            rows = np.where(visible, weights[sample, head], 0)
            ratio = rows / rows.sum(-1, keepdims=True) * np.arange(1, 8)[:, None]
            logs.append(np.log(0.999 * ratio[visible] + 0.001))
        correlations = np.corrcoef(logs)[np.triu_indices(4, 1)]
        np.testing.assert_allclose(found[head], 1 - correlations.mean(), rtol=1e-9)


def test_a_map_that_never_changes_has_no_content_and_a_uniform_one_no_score() -> None:
    same = np.repeat(random_maps(1, 6, 6), 5, 0)
    assert content_score(xr.DataArray(same, dims=("sample", *PAIR))) == pytest.approx(0, abs=1e-9)
    assert 0.5 < content_score(xr.DataArray(random_maps(40, 6, 6), dims=("sample", *PAIR))) < 1.1
    assert np.isnan(content_score(xr.DataArray(np.full((3, 6, 6), 1 / 6), dims=("sample", *PAIR))))
    with pytest.raises(LaglensError, match="attention has 1 of 'sample'"):
        content_score(xr.DataArray(same[:1], dims=("sample", *PAIR)))


def planted_kinds(samples: int = 6) -> xr.DataTree:
    """One head of each class, in the order of `KINDS`."""
    tree = time_tree(stacks={"encoder": (0,)}, samples=samples, heads=("uniform",) * 7)
    tokens, rng = TokenMap.patches(128, 64, 4), np.random.default_rng(0)
    n = len(tokens)
    logits = np.zeros((samples, 1, 7, n, n))
    logits[:, 0, 0] = head_logits("first", tokens, tokens, 32, 8)
    logits[:, 0, 2] = head_logits("same", tokens, tokens, 32, 8)
    logits[:, 0, 3, :, 5] = 6.0
    logits[:, 0, 4] = head_logits("planted", tokens, tokens, 32, 6)
    logits[:, 0, 5] = rng.normal(0, 1.5, (n, n))
    logits[:, 0, 6] = rng.normal(0, 1.5, (samples, n, n))
    return xr.DataTree.from_dict({"/": tree.to_dataset(), "/encoder": with_maps(node_of(tree), softmax(logits))})


KINDS = ["sink", "uniform", "local", "broadcast", "lag", "positional", "content"]


def test_planted_heads_get_their_class() -> None:
    table = classify_heads(measure_heads(planted_kinds()))
    within = table[table["part"] == "history->history"].set_index("head")["class"]
    assert within.to_list() == KINDS
    assert set(KINDS) | {"periodic"} == {rule.name for rule in RULES}


def test_a_single_row_has_neither_stripes_nor_keys_that_all_read() -> None:
    tree = time_tree(horizon_tokens=False, readout="last", stacks={"encoder": (0,)}, heads=("first", "planted"))
    measured = measure_heads(tree)["encoder"].sel(part="readout->history")
    assert np.isnan(measured["diagonal_share"]).all() and np.isnan(measured["vertical_stripe"]).all()
    table = classify_heads(measure_heads(tree)).set_index(["part", "head"])
    assert not {"lag", "broadcast"} & set(table.loc["readout->history", "class"])


def test_a_supported_head_is_periodic_in_the_part_that_was_tested_alone() -> None:
    verdict = {"stack": "encoder", "layer": 0, "head": 4, "part": "horizon->history", "verdict": "supported"}
    failed = verdict | {"head": 5, "verdict": "not supported"}
    table = classify_heads(measure_heads(planted_kinds()), pd.DataFrame([verdict, failed])).set_index(["part", "head"])
    assert table.loc[("horizon->history", 4), "class"] == "periodic"
    assert table.loc[("horizon->history", 4), "also"] == "lag, positional"
    assert table.loc[("history->history", 4), "class"] == "lag"
    assert table.loc[("horizon->history", 5), "class"] == "positional"


def test_a_head_that_no_rule_fits_is_mixed_and_a_single_window_has_no_content() -> None:
    table = classify_heads(measure_heads(planted_kinds(samples=1)))
    within = table[table["part"] == "history->history"].set_index("head")
    assert within.loc[[5, 6], "class"].to_list() == [MIXED, MIXED]
    assert within.loc[5, "also"] == ""
    with pytest.raises(LaglensError, match="result of measure_heads"):
        classify_heads(time_tree())
