"""The row of a class token over the patches of a picture, and its peaks."""

from pathlib import Path

import numpy as np
import pytest
import torch
import vitime_checkpoint
import xarray as xr
from models import tiny
from trees import time_tree, token_coords

from laglens.attention.coordinates import token_coordinates
from laglens.attention.cube import attention_tree
from laglens.errors import LaglensError
from laglens.heads.class_token import read_class_attention
from laglens.heads.nothing import NothingToMeasureError
from laglens.heads.pictures import class_attention, on_picture, peak_positions
from laglens.models.registry import load_model
from laglens.models.tokens import TokenMap
from laglens.signals.windows import windows


def picture_tree() -> xr.DataTree:
    """Two rows and four columns of patches after a class token, which prefers one patch in each head."""
    tokens = TokenMap.grid(np.arange(0, 20, 4), 2, 16, readout="none").with_special(before=1)
    weights = np.full((3, 1, 2, 9, 9), 1 / 9)
    weights[:, :, :, 0] = 0.05
    weights[:, :, 0, 0, 1 + 4 + 2] = 0.6  # second row, third column
    weights[:, :, 1, 0, 1 + 0] = 0.6
    coords = token_coords("query", tokens) | token_coords("key", tokens) | {"layer": [0], "head": [0, 1]}
    node = xr.Dataset({"attention": (("sample", "layer", "head", "query", "key"), weights)}, coords)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"history": 16}), "/encoder": node})


def test_the_row_of_the_class_token_lies_on_the_picture_and_keeps_its_mass() -> None:
    seen = class_attention(picture_tree())["encoder"].to_dataset()
    assert seen["attention"].shape == (3, 1, 2, 2, 4)
    np.testing.assert_allclose(seen["attention"].sum(["row", "column"]) + seen["elsewhere"], 1)
    assert seen["attention"].isel(sample=0, layer=0, head=0, row=1, column=2) == pytest.approx(0.6)
    peaks = peak_positions(class_attention(picture_tree()), n=2).set_index(["of", "head", "rank"])
    first = peaks.loc[("patch", 0, 1)]
    assert (first["row"], first["column"], first["start"], first["end"]) == (1, 2, 8, 12)
    assert first["ratio"] == pytest.approx(0.6 / (0.95 / 8)) and first["share_first"] == 1
    assert peaks.loc[("patch", 1, 1)][["row", "column"]].tolist() == [0, 0]
    together = peaks.loc[("time", 0, 1)]  # both rows of the third column
    assert (together["start"], together["end"]) == (8, 12)
    assert together["weight"] == pytest.approx(0.65) and together["ratio"] == pytest.approx(0.65 / (2 * 0.95 / 8))
    assert together["elsewhere"] == pytest.approx(0.05)
    assert len(peaks) == 8


IMAGE_MODELS = {
    "vitime": lambda folder: vitime_checkpoint.loaded(
        vitime_checkpoint.write(folder / "ViTime_Model.pth", h=32, size=[128, 0, 192]), 90, 100
    ),
    "timm": lambda folder: load_model(
        "timm",
        None,
        {"name": "vit_tiny_patch16_224", "history": 90,
         "config": {"img_size": [32, 64], "embed_dim": 16, "depth": 2, "num_heads": 2}},
    ),
    "visionts": lambda folder: load_model(
        "visionts",
        None,
        {"period": 7, "history": 60, "horizon": 14, "align_const": 1.0, "config": {
            "img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16,
            "decoder_depth": 1, "decoder_num_heads": 2, "mlp_ratio": 2.0}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_one_row_read_alone_is_that_of_the_whole_maps(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = IMAGE_MODELS[name](tmp_path).eval()
    value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 400)).cumsum(1), dims=("sample", "time"))
    shown = windows(value, model.history, model.horizon, 3)
    seen = read_class_attention(model, shown)
    whole = class_attention(attention_tree(model, shown, store="tokens", dtype="float32", batch=2))
    assert set(seen.children) == set(whole.children) and seen.children
    for stack in seen.children:
        ours, theirs = seen[stack].to_dataset(inherit=False), whole[stack].to_dataset(inherit=False)
        for variable in ("attention", "in_time", "elsewhere"):
            np.testing.assert_allclose(ours[variable], theirs[variable], atol=1e-6)
        for place in ("patch_start", "span_time", "span_patches"):
            np.testing.assert_array_equal(ours[place], theirs[place])
        np.testing.assert_allclose(ours["attention"].sum(["row", "column"]) + ours["elsewhere"], 1, atol=1e-5)
    assert len(peak_positions(seen, n=1)) == 2 * sum(
        node.sizes["layer"] * node.sizes["head"] for node in seen.children.values()
    )


def test_patches_lie_where_the_picture_shows_their_samples(tmp_path: Path) -> None:
    """A series that is low, then high: the lit pixels of each column lie in the rows of its value, at its time."""
    model = IMAGE_MODELS["vitime"](tmp_path)
    step = np.where(np.arange(90) < 45, -1.0, 1.0)
    shown = windows(xr.DataArray(step[None], dims=("sample", "time")), 90, 100, 1)
    seen = read_class_attention(model, shown)
    picture, node = seen["picture"].isel(sample=0).values, seen["encoder"]
    bright = picture.argmax(0)
    late = node["patch_start"].isel(row=0) >= 90
    lit = picture[:, np.round(node["column_pixel"].values).astype(int)].max(0)
    assert (lit[~late] > lit[late].max()).all()
    early = int(node["column_pixel"][0])
    after = int(node["column_pixel"].values[np.argmax(node["patch_start"].isel(row=0).values > 50)])
    assert bright[early] < bright[after]  # values rise with the row
    assert seen["picture"].attrs["origin"] == "lower"
    assert node.sizes["row"] * 4 == len(picture)


def test_a_model_without_a_picture_or_a_class_token_has_nothing_to_read(tmp_path: Path) -> None:
    value = xr.DataArray(np.random.default_rng(0).normal(size=(1, 400)), dims=("sample", "time"))
    numbers = tiny("encoder", history=24, horizon=4)
    with pytest.raises(NothingToMeasureError, match="draws no picture"):
        read_class_attention(numbers, windows(value, 24, 4, 2))
    model = IMAGE_MODELS["timm"](tmp_path)
    with pytest.raises(NothingToMeasureError, match="no stack of the model has a special token number 2"):
        read_class_attention(model, windows(value, 90, 0, 2), token=1)


def test_tokens_that_are_no_picture_are_refused() -> None:
    tokens = TokenMap.patches(32, 0, 4).with_special(before=1)
    with pytest.raises(LaglensError, match="9 tokens are no picture"):
        on_picture(np.zeros((1, 1, 1, 9)), token_coordinates("key", tokens))


def test_a_tree_in_time_or_without_a_class_token_is_refused() -> None:
    with pytest.raises(LaglensError, match="no stack has a special token number 1"):
        class_attention(time_tree())
    with pytest.raises(LaglensError, match="no stack has a special token number 2"):
        class_attention(picture_tree(), token=1)
