"""The row of a class token over the patches of a picture, and its peaks."""

import numpy as np
import pytest
import xarray as xr
from trees import time_tree, token_coords

from laglens.errors import LaglensError
from laglens.heads.pictures import class_attention, peak_positions
from laglens.models.tokens import TokenMap


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
    peaks = peak_positions(class_attention(picture_tree()), n=2).set_index(["head", "rank"])
    first = peaks.loc[(0, 1)]
    assert (first["row"], first["column"], first["start"], first["end"]) == (1, 2, 8, 12)
    assert first["ratio"] == pytest.approx(0.6 / (0.95 / 8))
    assert peaks.loc[(1, 1)][["row", "column"]].tolist() == [0, 0]
    assert len(peaks) == 4


def test_a_tree_in_time_or_without_a_class_token_is_refused() -> None:
    with pytest.raises(LaglensError, match="no stack has a special token number 1"):
        class_attention(time_tree())
    with pytest.raises(LaglensError, match="no stack has a special token number 2"):
        class_attention(picture_tree(), token=1)
