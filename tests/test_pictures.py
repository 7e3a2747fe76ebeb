"""Attention to image files and arrays, along the columns of the picture."""

import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from models import entropy_ratio, sharpen
from PIL import Image

from laglens.attention.capture import read_attention
from laglens.attention.pictures import image_attention
from laglens.errors import LaglensError
from laglens.models.registry import build_model
from laglens.store import read_image
from laglens.time.reduce import to_time

CONFIG = {"depth": 2, "img_size": [64, 160]}


def painted(height: int = 64, width: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bytes_of(array: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def network(**config) -> torch.nn.Module:
    return sharpen(timm.create_model("test_vit", **CONFIG | config))


def test_the_file_is_seen_as_the_model_expects_it(tmp_path: Path) -> None:
    """A picture of the model's own size, so that nothing is resized: normalised by hand, given to timm's model."""
    picture, model = painted(), network()
    (tmp_path / "a.png").write_bytes(bytes_of(picture))
    tree = image_attention(model, tmp_path / "a.png", store="tokens", dtype="float32")
    config = timm.data.resolve_model_data_config(model)
    shown = (picture / 255 - config["mean"]) / config["std"]
    _, capture = read_attention(model, torch.from_numpy(shown).permute(2, 0, 1)[None].float())
    expected = torch.stack([record.weights[0] for record in capture.records])
    assert entropy_ratio(expected) < 0.9
    np.testing.assert_allclose(tree["encoder"]["attention"][0], expected, atol=5e-6)
    np.testing.assert_allclose(tree["series"][0], picture.mean((0, 2)) / 255, atol=1e-6)


def test_time_is_the_column_in_pixels() -> None:
    tree = image_attention(network(), painted(200, 470), store="tokens")
    node = tree["encoder"]
    assert tree["series"].sizes == {"sample": 1, "time": 470} and tree["forecast"].shape == (1, 0)
    edges = node["key_start"].values[1:].reshape(4, 10)
    np.testing.assert_allclose(edges, np.tile(47 * np.arange(10), (4, 1)))
    assert node["key_end"].values[-1] == 470
    maps = to_time(tree)["encoder"]
    assert maps["attention"].shape[-2:] == (10, 10)
    assert maps.attrs["samples_per_token"] == 47


def test_a_change_on_the_right_is_seen_on_the_right() -> None:
    """Keys in the changed columns, and no others, get other weights from the queries of the first layer."""
    model, before = network(), np.full((64, 160, 3), 128, np.uint8)
    after = before.copy()
    after[:, 112:128] = painted(64, 16)
    first, second = (
        image_attention(model, picture, store="tokens", dtype="float32")["encoder"] for picture in (before, after)
    )
    scores = [np.log(node["attention"].values[0, 0]) for node in (first, second)]
    unchanged = first["key_time"].values != 119.5
    rows = np.flatnonzero(unchanged)  # their queries are the same, so only the changed keys and the norm differ
    difference = (scores[1] - scores[0])[:, rows]
    spread = np.ptp(difference[..., unchanged], axis=-1)
    assert spread.max() < 1e-3 < np.abs(difference[..., ~unchanged]).max()


@pytest.mark.parametrize("colours", [1, 3])
def test_a_loaded_model_and_one_of_timm_see_the_same(colours: int) -> None:
    loaded = sharpen(build_model("timm", {"name": "test_vit", "colours": colours, "config": CONFIG}))
    picture = painted(80, 100)
    first, second = (image_attention(m, picture, store="tokens")["encoder"] for m in (loaded, loaded.network))
    assert first.to_dataset().identical(second.to_dataset())


def test_one_colour_is_the_brightness() -> None:
    model = network(in_chans=1)
    picture = painted()
    grey = picture / 255 @ np.array([0.299, 0.587, 0.114])
    first, second = (image_attention(model, shown, store="tokens", dtype="float32") for shown in (picture, grey))
    np.testing.assert_allclose(first["encoder"]["attention"], second["encoder"]["attention"], atol=1e-5)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 4), np.uint8)
    picture[:, 3:, 3] = 255  # black where it is opaque
    (tmp_path / "a.png").write_bytes(bytes_of(picture))
    light = read_image(tmp_path / "a.png")
    assert light.shape == (4, 6, 3) and light.dtype == np.float32
    np.testing.assert_array_equal(light[:, :3], 1)
    np.testing.assert_array_equal(light[:, 3:], 0)


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaglensError, match=r"nowhere\.png: no such image"):
        read_image(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("time,value\n0,1\n")
    with pytest.raises(LaglensError, match=r"text\.png: is no image of a known format"):
        read_image(tmp_path / "text.png")
    whole = bytes_of(painted())
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LaglensError, match=r"half\.png: the image cannot be read"):
        read_image(tmp_path / "half.png")
    (tmp_path / "deep.png").write_bytes(bytes_of(np.zeros((4, 4), np.uint16)))
    with pytest.raises(LaglensError, match=r"deep\.png: has more than 8 bits to a pixel \(I;16\); save it with 8"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 6, 4)), r"not \(4, 6, 4\) float64"),
        (np.zeros(7), r"not \(7,\) float64"),
        (np.full((4, 6), 200.0), "values from 200 to 200 of full light"),
        (np.full((4, 6), np.nan), "values from nan to nan"),
        (np.array([["a"]]), "not"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(picture: np.ndarray, message: str) -> None:
    with pytest.raises(LaglensError, match=message):
        image_attention(network(), picture)


def test_a_model_with_windows_is_refused() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=16, depths=(1, 1), num_heads=(1, 2))
    with pytest.raises(LaglensError, match="SwinTransformer.* attends inside windows"):
        image_attention(model, painted())
