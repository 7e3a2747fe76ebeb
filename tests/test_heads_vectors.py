"""Queries and keys of chosen heads: their softmax is the attention that was read, on every kind of model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny_chronos
import tiny_huggingface
import xarray as xr
from models import tiny
from stage_models import Channels, Decoding, Picture, Small, Sparse, TwoPasses, small, windows_of
from trees import softmax

from laglens.attention.cube import attention_tree
from laglens.errors import LaglensError
from laglens.heads.scores import chosen_heads, head_label, pair_products, pair_scores, score_weights
from laglens.heads.vectors import head_vectors
from laglens.models.forecaster import Forecaster
from laglens.time.reduce import to_time

ALL = [(layer, head) for layer in range(2) for head in range(2)]
MODELS = {
    "rotary": lambda: tiny("numeric"),
    "rotary image": lambda: tiny("image"),
    "own layers": lambda: tiny("encoder"),
    "causal and cross": lambda: tiny("encoder_decoder"),
    "passes": lambda: small(TwoPasses),
    "channels": lambda: small(Channels),
    "cached steps": lambda: small(Decoding),
    "steps on all tokens": lambda: small(Decoding, cached=False, prompt=3),
    "special tokens": lambda: small(Picture),
    "grouped queries and padding": lambda: tiny_huggingface.tiny("timesfm2_5"),
    "position biases and steps": lambda: tiny_chronos.tiny("chronos_t5"),
}


def captured(model: Forecaster, *, window: int = 1) -> tuple[xr.DataTree, xr.DataTree, xr.DataTree]:
    """Attention over tokens in float32, in time, and the vectors of the first heads of every stack."""
    tokens = attention_tree(model, windows_of(model, 3), store="tokens", dtype="float32")
    time = to_time(tokens)
    heads = [
        (name, int(layer), int(head))
        for name, node in tokens.children.items()
        for layer in node["layer"].values[:2]
        for head in node["head"].values[:2]
    ]
    return tokens, time, head_vectors(model, time, heads, window=window)


def stored_map(tokens: xr.DataTree, name: str, one: xr.Dataset, window: int, channels: int) -> np.ndarray:
    cube = tokens[name]["attention"].sel(layer=int(one["layer"]), head=int(one["head"]))
    if "channel" in cube.dims:
        return cube.isel(sample=window // channels, channel=window % channels).values
    return cube.isel(sample=window).values


@pytest.mark.parametrize("kind", MODELS)
def test_their_softmax_is_the_attention_that_was_read(kind: str) -> None:
    model = MODELS[kind]()
    tokens, _, vectors = captured(model)
    assert vectors.attrs["left_out"] == {}
    assert set(vectors.children) == set(tokens.children)
    rounding = 5e-5 if "steps" in kind else 3e-6  # what one step rounds, the next one decodes from
    sharpest = 1.0
    for name in vectors.children:
        node = vectors[name].to_dataset(inherit=False)
        for one in (node.isel(chosen=i) for i in range(node.sizes["chosen"])):
            stored = stored_map(tokens, name, one, 1, model.channels)
            assert score_weights(one).values == pytest.approx(stored, abs=rounding)
            label = head_label(name, int(one["layer"]), int(one["head"]))
            assert vectors.attrs["certificate"][label] < rounding
            entropy = -np.sum(stored * np.log(np.maximum(stored, 1e-30)), -1).mean() / np.log(stored.shape[-1])
            sharpest = min(sharpest, float(entropy))
    assert sharpest < 0.9  # nearly uniform attention would pass with any vectors


def test_the_scores_are_sums_over_dimensions_by_an_independent_route() -> None:
    tokens, _, vectors = captured(tiny("numeric"))
    node = vectors["encoder"].to_dataset(inherit=False).isel(chosen=1)
    query, key, scale = node["query_vector"].values, node["key_vector"].values, float(node["scale"])
    assert scale == pytest.approx(node.sizes["dimension"] ** -0.5)
    expected = softmax(np.einsum("qd,kd->qk", query, key) * scale)
    stored = tokens["encoder"]["attention"].isel(sample=1).sel(layer=int(node["layer"]), head=int(node["head"])).values
    assert stored == pytest.approx(expected, abs=3e-6)
    products = pair_products(node, 7, 2)
    assert float(products.sum()) == pytest.approx(float(pair_scores(node)[7, 2]), rel=1e-9)
    assert products.sizes == {"dimension": len(query[0])}
    swapped = softmax(np.einsum("qd,kd->qk", key, query) * scale)
    assert np.abs(swapped - stored).max() > 0.05  # the fixture tells queries from keys


def test_hidden_keys_and_position_biases_are_kept() -> None:
    _, _, vectors = captured(tiny("encoder_decoder"))
    own = vectors["decoder"].to_dataset(inherit=False)["bias"]
    assert np.isneginf(own.values[0][np.triu_indices(own.sizes["key"], 1)]).all()
    assert (own.values[0][np.tril_indices(own.sizes["key"])] == 0).all()
    assert "bias" not in vectors["encoder"]


def test_a_head_without_vectors_says_why() -> None:
    model = small(Sparse)
    time = to_time(attention_tree(model, windows_of(model, 2)))
    found = head_vectors(model, time, [("encoder", 0, 0), ("encoder", 5, 0), ("cross", 0, 0)])
    assert not found.children
    assert found.attrs["left_out"] == {
        "encoder L00 H00": "the model writes its softmax out, so that its queries and keys are not seen",
        "encoder L05 H00": "the model has no such head",
        "cross L00 H00": "the model has no such head",
    }
    model = small(Small)
    time = to_time(attention_tree(model, windows_of(model, 2)))
    assert head_vectors(model, time, [("encoder", 0, 9)]).attrs["left_out"] == {
        "encoder L00 H09": "the model has no such head"
    }


def test_vectors_of_another_model_are_refused() -> None:
    model = tiny("numeric")
    time = to_time(attention_tree(model, windows_of(model, 2)))
    other = tiny("numeric")
    for parameter in other.parameters():
        parameter.data.mul_(1.5)
    with pytest.raises(LaglensError, match="do not give its attention"):
        head_vectors(other, time, [("encoder", 0, 0)])
    with pytest.raises(LaglensError, match="window 2 of 2"):
        head_vectors(model, time, [("encoder", 0, 0)], window=2)


def test_auto_takes_supported_heads_and_then_those_furthest_beyond_their_limit() -> None:
    peaks = pd.DataFrame(
        {
            "stack": ["decoder", "encoder", "decoder", "encoder", "encoder"],
            "layer": [1, 0, 1, 0, 1],
            "head": [2, 3, 0, 1, 0],
            "part": ["horizon->history"] * 3 + ["history->history", "horizon->history"],
            "ratio": [2.0, 9.0, 1.0, 50.0, 7.0],
            "limit": [1.0, 3.0, 2.0, 1.0, 2.5],
        }
    )
    assert chosen_heads("auto", peaks) == [("encoder", 0, 3), ("encoder", 1, 0), ("decoder", 1, 2)]
    verdicts = peaks.iloc[[2, 3]].assign(verdict=["supported", "not supported"])
    assert chosen_heads("auto", peaks, verdicts) == [("decoder", 1, 0), ("encoder", 0, 3), ("encoder", 1, 0)]
    assert chosen_heads("auto", peaks.iloc[:0], verdicts.iloc[:0]) == []
    assert chosen_heads("auto", peaks.iloc[3:4]) == [("encoder", 0, 1)]  # no forecast: whatever part there is
    assert chosen_heads(["cross L10 H02", "encoder_flipped L00 H00"], peaks) == [
        ("cross", 10, 2),
        ("encoder_flipped", 0, 0),
    ]
    with pytest.raises(LaglensError, match=r"'L0 H1' names no head.*such as 'encoder L00 H03'"):
        chosen_heads(["L0 H1"], peaks)
