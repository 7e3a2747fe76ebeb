"""Attention of a vision transformer to a picture, along the columns of the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from laglens.attention.cube import attention_tree
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.models.timm_layout import Layout, read_layout
from laglens.models.timm_vit import TimmTransformer, colour_statistic
from laglens.models.tokens import Stack
from laglens.store import read_image

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in a grey of the same brightness (ITU-R BT.601)


def image_attention(model: nn.Module, image: str | Path | ArrayLike, **options: Any) -> xr.DataTree:
    """Capture the attention of a vision transformer of timm to a picture.

    The whole picture is stretched or squeezed to the size that the model expects; nothing is cropped.

    Parameters
    ----------
    model
        A model of timm, or one that laglens has loaded.
    image
        Image file, or an array ``(row, column)`` or ``(row, column, colour)`` of whole numbers from 0 to 255, or of
        light from 0 to 1.
    options
        See `laglens.attention.cube.attention_into`.

    Returns
    -------
    xr.DataTree
        As `laglens.attention.cube.attention_tree`, of one sample. Time is the column of the picture [pixels], and
        ``series`` the mean light of each.

    Raises
    ------
    LaglensError
        The file cannot be read; the array is no picture; the model's attention is not that of all patches over all
        patches.
    """
    light = read_image(image) if isinstance(image, str | Path) else _light(image)
    viewer = _Viewer(model, light)
    series = xr.DataArray(light.mean((0, 2), dtype=np.float64)[None], dims=("sample", "time"))
    windows = xr.Dataset({"series": series}, {"sample": [0], "time": np.arange(viewer.history)})
    windows["time"].attrs["units"] = "pixels from the left edge"
    return attention_tree(viewer, windows, **options)


class _Viewer(Forecaster):
    """A vision transformer that looks at one picture, whatever series it is given."""

    differentiable = False
    picture: Tensor

    def __init__(self, model: nn.Module, light: NDArray[np.float32]) -> None:
        super().__init__()
        self.network, self.layout, colours = _parts(model)
        self.history, self.horizon = light.shape[1], 0
        picture = torch.from_numpy(np.moveaxis(light, 2, 0).copy())[None]
        if colours == 1:
            picture = (picture * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        sized = F.interpolate(picture, self.layout.size, mode="bilinear", antialias=True)
        mean, std = (colour_statistic(self.network, key, colours) for key in ("mean", "std"))
        self.register_buffer("picture", (sized - mean) / std)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return (self.layout.stack(self.history),)

    @property
    def not_in_time(self) -> dict[str, str]:  # type: ignore[override]
        return self.layout.not_in_time

    def forward(self, history: Tensor) -> Tensor:
        self.network(self.picture.expand(len(history), -1, -1, -1))
        return history.new_zeros(len(history), 0, dtype=torch.float64)


def _parts(model: nn.Module) -> tuple[nn.Module, Layout, int]:
    """The model of timm, the layout of its tokens, and its colour channels."""
    if isinstance(model, TimmTransformer):
        return model.network, model.layout, model.colours
    filters = [weight for weight in model.parameters() if weight.dim() == 4]
    colours = filters[0].shape[1] if filters else 3
    return model, read_layout(model, type(model).__name__, colours), colours


def _light(image: ArrayLike) -> NDArray[np.float32]:
    """An array as red, green and blue from 0 to 1: ``(row, column, colour)``."""
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3) or not array.size or array.dtype.kind not in "uif":
        raise LaglensError(
            f"a picture is (row, column) or (row, column, colour) with 1 or 3 colours, not {array.shape} {array.dtype}"
        )
    light = array.astype(np.float32) / (1 if array.dtype.kind == "f" else 255)
    if not (np.isfinite(light).all() and light.min() >= 0 and light.max() <= 1):
        raise LaglensError(
            f"the picture holds values from {light.min():g} to {light.max():g} of full light; whole numbers lie from "
            "0 to 255, others from 0 to 1"
        )
    return np.broadcast_to(light, (*light.shape[:2], 3))
