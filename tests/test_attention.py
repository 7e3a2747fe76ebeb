"""What is captured is what the model used: independent recomputation, certificates, loud failure."""

import numpy as np
import pytest
import xarray as xr
from models import TINY, tiny
from torch import nn

from laglens.attention.cube import attention_tree
from laglens.errors import LaglensError


def windows(model: nn.Module, n: int = 5, seed: int = 0) -> xr.Dataset:
    series = np.random.default_rng(seed).normal(size=(n, model.history + model.horizon)).cumsum(1)
    return xr.Dataset({"series": (("sample", "time"), series)}, coords={"start": ("sample", np.arange(n))})


def test_batches_do_not_influence_each_other_and_two_captures_agree() -> None:
    model = tiny("numeric")
    both = attention_tree(model, windows(model, 4), dtype="float32")
    halves = attention_tree(model, windows(model, 4), dtype="float32", batch=2)
    for stack in ("encoder", "decoder"):
        np.testing.assert_allclose(halves[stack]["attention"], both[stack]["attention"], atol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("architecture", TINY)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_tree_has_the_documented_layout(architecture: str, dtype: str) -> None:
    model = tiny(architecture)
    tree = attention_tree(model, windows(model), dtype=dtype, batch=2)
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    assert tree.attrs["certificate"]["captured"] == tree.attrs["certificate"]["found"] > 0
    assert tree["forecast"].dims == ("sample", "step") and tree["forecast"].shape == (5, model.horizon)
    assert tree["start"].values.tolist() == [0, 1, 2, 3, 4]
    for stack in model.stacks:
        node = tree[stack.name]
        assert node["attention"].dims == ("sample", "layer", "head", "query", "key")
        assert node["attention"].dtype == dtype
        assert list(node["layer_name"].values) == list(stack.layers)
        assert node["layer_name"].dtype == object
        np.testing.assert_allclose(node["attention"].astype("f4").sum("key"), 1, atol=tolerance)
        np.testing.assert_array_equal(node["query_end"] - node["query_start"], TINY[architecture].get("patch", 1))


def test_row_statistics_come_from_the_full_rows() -> None:
    model = tiny("image")
    node = attention_tree(model, windows(model), dtype="float32")["encoder"]
    weights = node["attention"].values.astype(float)
    np.testing.assert_allclose(node["entropy"], -(weights * np.log(weights)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(node["effective_keys"], 1 / (weights**2).sum(-1), rtol=1e-4)
    np.testing.assert_array_equal(node["top_key"], weights.argmax(-1))


def test_gaps_and_short_histories_are_refused() -> None:
    model = tiny("numeric")
    broken = windows(model)
    broken["series"][2, 3] = np.nan
    with pytest.raises(LaglensError, match="NaN"):
        attention_tree(model, broken)
    with pytest.raises(LaglensError, match="needs 32 samples of history, the windows have 20"):
        attention_tree(model, windows(model).isel(time=slice(20)))
    unknown_future = windows(model)
    unknown_future["series"][:, model.history :] = np.nan
    assert np.isfinite(attention_tree(model, unknown_future)["forecast"]).all()
