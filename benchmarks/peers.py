"""What reads attention, side by side: each method next to the plain forward pass of the same model.

Models are vision transformers with random weights, because every tool reads those or has a model of the same size.
Packages that laglens does not need are looked for by name: where one is missing, its method is skipped by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.utils.attention_extract import AttentionExtract
from torch import Tensor

from laglens.attention.capture import read_attention
from laglens.attention.streaming import Columns, StreamReader


@dataclass(frozen=True)
class Size:
    """A vision transformer on patches of 16 pixels and a CLS token."""

    rows: int
    columns: int
    depth: int
    width: int
    heads: int

    @property
    def tokens(self) -> int:
        """Patches and the CLS token."""
        return self.rows * self.columns + 1

    @property
    def image(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return 16 * self.rows, 16 * self.columns


SIZES = {"197": Size(14, 14, 12, 768, 12), "2465": Size(32, 77, 6, 1024, 16)}

Forward = Callable[[], Any]


@dataclass(frozen=True)
class Method:
    """A way to read attention.

    Attributes
    ----------
    plain
        The forward pass of the same model by its fastest kernel.
    read
        Returns what it read: a tensor for each attention layer.
    """

    plain: Forward
    read: Callable[[], Sequence[Tensor]]


def vision_transformer(size: Size) -> tuple[VisionTransformer, Tensor]:
    """Timm's model, with its fused attention, and an image."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=size.image, embed_dim=size.width, depth=size.depth, num_heads=size.heads, num_classes=10
    )
    return model.eval(), torch.randn(1, 3, *size.image)


@contextmanager
def unfused(model: VisionTransformer) -> Iterator[None]:
    """Let the model write its attention out, so that hooks can see the weights."""
    layers = [block.attn for block in model.blocks]
    for layer in layers:
        layer.fused_attn = False
    try:
        yield
    finally:
        for layer in layers:
            layer.fused_attn = True


def unfused_hooks(size: Size) -> Method:
    """What published demonstrations do: fused attention off, a hook on every layer that copies its weights."""
    model, image = vision_transformer(size)

    def read() -> list[Tensor]:
        maps: list[Tensor] = []

        def copy(module: Any, inputs: Any, output: Tensor) -> None:
            maps.append(output.detach().cpu().clone())

        hooks = [block.attn.attn_drop.register_forward_hook(copy) for block in model.blocks]
        with unfused(model):
            model(image)
        for hook in hooks:
            hook.remove()
        return maps

    return Method(partial(model, image), read)


def timm_extract(size: Size, *, method: str, fused: bool = False) -> Method:
    """Timm's AttentionExtract, on the model as it is (``fused``) or as its documentation asks."""
    model, image = vision_transformer(size)
    if fused:
        extract = AttentionExtract(model, method=method)
        return Method(partial(model, image), lambda: list(extract(image).values()))
    with unfused(model):
        extract = AttentionExtract(model, method=method)

    def read() -> list[Tensor]:
        with unfused(model):
            return list(extract(image).values())

    return Method(partial(model, image), read)


def transformers_vit(size: Size) -> tuple[Any, Tensor]:
    """A vision transformer of the same size from transformers, with its fused attention, and an image."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    options: dict[str, Any] = {
        "image_size": size.image,
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.width,
        "num_labels": 10,
        "architectures": ["ViTForImageClassification"],
    }
    config = ViTConfig(**options)
    return ViTForImageClassification(config).eval(), torch.randn(1, 3, *size.image)


def transformers_eager(size: Size) -> Method:
    """Transformers with ``output_attentions=True``, which needs its eager attention."""
    model, image = transformers_vit(size)

    def plain() -> None:
        model.set_attn_implementation("sdpa")
        model(image)

    def read() -> list[Tensor]:
        model.set_attn_implementation("eager")
        return list(model(image, output_attentions=True).attentions)

    return Method(plain, read)


def transformer_lens(size: Size) -> Method:
    """TransformerLens on the model of transformers, next to its own fused attention; only the weights are cached."""
    bridges = import_module("transformer_lens.model_bridge")
    (model, image), (plain, _) = transformers_vit(size), transformers_vit(size)
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        bridge = bridges.TransformerBridge.boot_transformers(folder, hf_model=model)

    def read() -> list[Tensor]:
        _, cache = bridge.run_with_cache(image, names_filter=lambda name: name.endswith("attn.hook_pattern"))
        return list(cache.values())

    return Method(partial(plain, image), read)


def nnsight(size: Size) -> Method:
    """Nnsight on timm's model with fused attention off, because it sees what passes between modules."""
    nnsight = import_module("nnsight")
    model, image = vision_transformer(size)
    traced = nnsight.NNsight(model)

    def read() -> list[Tensor]:
        with unfused(model):
            with traced.trace(image):
                maps = nnsight.save([block.attn.attn_drop.output for block in traced.blocks])
            return maps  # noqa: RET504 - as above

    return Method(partial(model, image), read)


def laglens_tokens(size: Size) -> Method:
    """All weights, float32, in memory."""
    model, image = vision_transformer(size)

    def read() -> list[Tensor]:
        _, capture = read_attention(model, image, certify=False)
        return [record.weights for record in capture.records if record.weights is not None]

    return Method(partial(model, image), read)


def laglens_time(size: Size, *, statistics: Sequence[str] = (), certify: bool = False) -> Method:
    """Reduced to time columns while the model runs."""
    model, image = vision_transformer(size)
    column = np.concatenate([[-1], np.tile(np.arange(size.columns), size.rows)])
    columns = dict.fromkeys([f"blocks.{n}.attn" for n in range(size.depth)], Columns(column, column))

    def read() -> list[Tensor]:
        _, capture = read_attention(model, image, certify=certify, reader=StreamReader(columns, statistics))
        return [record.reduced["attention"] for record in capture.records if record.reduced]

    return Method(partial(model, image), read)


ROWS = ("entropy", "effective_keys", "top_key")
METHODS: dict[str, Callable[[Size], Method]] = {
    "unfused, hooks that copy every map": unfused_hooks,
    "timm AttentionExtract (fx), unfused": partial(timm_extract, method="fx"),
    "timm AttentionExtract (hook), as it is": partial(timm_extract, method="hook", fused=True),
    "transformers eager, output_attentions": transformers_eager,
    "nnsight, unfused": nnsight,
    "TransformerLens (bridge)": transformer_lens,
    "laglens tokens": laglens_tokens,
    "laglens time": laglens_time,
    "laglens time, entropy": partial(laglens_time, statistics=ROWS[:1]),
    "laglens time, all statistics": partial(laglens_time, statistics=ROWS),
    "laglens time, certified": partial(laglens_time, certify=True),
}
