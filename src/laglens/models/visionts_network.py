"""The masked autoencoder of VisionTS, as published: of any size, and told from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from laglens.errors import LaglensError

# Of the published autoencoders by their width, which is all that a checkpoint says of its heads: base, large, huge.
PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 16}
PUBLISHED_DECODER_HEADS = {512: 16}
EPSILON = 1e-6  # of the layer norms of all published autoencoders
SIZES = (
    "img_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "decoder_embed_dim",
    "decoder_depth",
    "decoder_num_heads",
    "mlp_ratio",
)


def published_code(config: Mapping[str, Any]) -> Any:
    """VisionTS around an autoencoder of any size; its own constructor knows three, and downloads them."""
    try:
        from visionts.model import VisionTS
        from visionts.models_mae import MaskedAutoencoderViT
    except ImportError as error:
        raise LaglensError(f"VisionTS needs the package visionts ({error}): pip install 'laglens[adapters]'") from error
    if unknown := sorted(set(config) - set(SIZES)):
        raise LaglensError(f"config: the autoencoder has no '{unknown[0]}'; it has {', '.join(SIZES)}")
    whole = VisionTS.__new__(VisionTS)
    nn.Module.__init__(whole)
    try:
        whole.vision_model = MaskedAutoencoderViT(**config, norm_layer=partial(nn.LayerNorm, eps=EPSILON))
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise LaglensError(f"config: visionts builds no autoencoder of it ({error})") from error
    return whole


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of the autoencoder that weights belong to.

    Raises
    ------
    KeyError, ValueError, AttributeError, IndexError, TypeError
        They belong to something else.
    """
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    side = (state["pos_embed"].shape[1] - 1) ** 0.5
    if side != int(side):
        raise ValueError(f"{state['pos_embed'].shape[1] - 1} patches fill no square")
    return {
        "img_size": int(side) * patch,
        "patch_size": patch,
        "embed_dim": width,
        "depth": _count(state, "blocks."),
        "decoder_embed_dim": state["decoder_embed.weight"].shape[0],
        "decoder_depth": _count(state, "decoder_blocks."),
        "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / width,
    }


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.split(".")[1] for key in state if key.startswith(prefix)})


def heads_of(sizes: Mapping[str, Any]) -> dict[str, int | None]:
    """Numbers of heads of the published sizes; None where they are not known."""
    return {
        "num_heads": PUBLISHED_HEADS.get(sizes["embed_dim"]),
        "decoder_num_heads": PUBLISHED_DECODER_HEADS.get(sizes["decoder_embed_dim"]),
    }
