"""The `models` section of the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from laglens.config.adapters import Adapted
from laglens.config.section import Section
from laglens.errors import LaglensError
from laglens.models.architectures import refuse


class MixtureTraining(Section):
    """Training on the synthetic mixture; used unless `weights: shipped` finds a file."""

    steps: PositiveInt = Field(description="optimiser steps")
    batch: PositiveInt = Field(32, description="series per step, freshly drawn")
    learning_rate: PositiveFloat = Field(1.5e-3, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.02, ge=0, description="weight decay of AdamW")
    seed: int = Field(0, ge=0, description="of the initial weights and of the training series")


class SignalTraining(Section):
    """Training on one signal, with early stopping on its validation part."""

    epochs: int = Field(40, ge=0, description="most passes over the training windows; 0: random weights")
    batch: PositiveInt = Field(32, description="windows per step")
    learning_rate: PositiveFloat = Field(1e-3, description="learning rate of Adam")
    patience: PositiveInt = Field(5, description="epochs without a better validation error before it stops")
    validation: float = Field(0.2, gt=0, lt=1, description="share of the windows, the latest ones, kept for validation")
    seed: int = Field(0, ge=0, description="of the initial weights and of the order of the windows")
    stride: PositiveInt = Field(1, description="samples from one training window to the next")


class PatchModel(Section):
    """Keys that the image and the numeric model share."""

    patch: int
    weights: Literal["shipped"] | None = Field(
        None, description="shipped: take the weights that come with laglens under this model's name; else train"
    )
    history: PositiveInt = Field(256, description="samples the model sees; a multiple of `patch`")
    horizon: PositiveInt = Field(128, description="samples it forecasts; a multiple of `patch`")
    width: PositiveInt = Field(64, description="width of a token's embedding")
    heads: PositiveInt = Field(4, description="attention heads per layer; 2 x `heads` divides `width`")
    encoder_depth: PositiveInt = Field(3, description="layers before the bridge")
    decoder_depth: PositiveInt = Field(2, description="layers after the bridge")
    rotary_base: PositiveFloat = Field(1000.0, description="base of the rotary position code")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key in ("history", "horizon"):
            if getattr(self, key) % self.patch:
                raise ValueError(f"{key} {getattr(self, key)} is not a multiple of patch {self.patch}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 2 x heads = {2 * self.heads}")
        return self

    @property
    def head_labels(self) -> list[str]:
        """Every head by its label."""
        return _labels("encoder", self.encoder_depth, self.heads) + _labels("decoder", self.decoder_depth, self.heads)


class ImageModel(PatchModel):
    """Reads the series as a picture of it, in full-height strips."""

    architecture: Literal["image"]
    patch: PositiveInt = Field(8, description="samples per token")
    bins: int = Field(32, ge=2, description="rows of the picture")
    value_range: PositiveFloat = Field(3.5, description="values drawn, +- in standard deviations of the history")
    train: MixtureTraining = Field(MixtureTraining(steps=10000), description="how to train it")


class NumericModel(PatchModel):
    """Reads the values themselves, in patches."""

    architecture: Literal["numeric"]
    patch: PositiveInt = Field(4, description="samples per token")
    train: MixtureTraining = Field(MixtureTraining(steps=16000), description="how to train it")


class SignalModel(Section):
    """Keys that the models share which are trained on each signal they are run on."""

    history: int = Field(100, ge=2, description="samples the model sees")
    horizon: PositiveInt = Field(20, description="samples it forecasts")
    width: PositiveInt = Field(64, description="width of a token's embedding")
    heads: PositiveInt = Field(4, description="attention heads per layer; divides `width`")
    layers: PositiveInt = Field(2, description="layers of the encoder, and as many of a decoder")
    feedforward: PositiveInt = Field(256, description="width of the feed-forward part")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of activations dropped while training")
    train: SignalTraining = Field(SignalTraining(), description="how to train it")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class EncoderModel(SignalModel):
    """Transformer encoder on single samples, trained on each signal it is run on."""

    architecture: Literal["encoder"]

    @property
    def head_labels(self) -> list[str]:
        """Every head by its label."""
        return _labels("encoder", self.layers, self.heads)


class EncoderDecoderModel(SignalModel):
    """Transformer encoder and decoder on single samples, trained on each signal; forecasts step by step."""

    architecture: Literal["encoder_decoder"]

    @property
    def head_labels(self) -> list[str]:
        """Every head by its label."""
        stacks = ("encoder", "decoder", "cross")
        return [label for stack in stacks for label in _labels(stack, self.layers, self.heads)]


def _split_architecture(written: Any) -> Any:
    """``architecture: timm:NAME`` is short for ``architecture: timm`` and ``name: NAME``."""
    if isinstance(written, Mapping) and str(written.get("architecture")).startswith("timm:"):
        family, _, name = written["architecture"].partition(":")
        return {**written, "architecture": family, "name": name}
    return written


def _refuse_without_attention(written: Any) -> Any:
    """Say why a known architecture cannot be read, rather than that it is unknown."""
    if isinstance(written, Mapping):
        try:
            refuse(str(written.get("architecture")))
        except LaglensError as reason:
            raise ValueError(str(reason)) from None
    return written


Model = Annotated[
    ImageModel | NumericModel | EncoderModel | EncoderDecoderModel | Adapted,
    Field(discriminator="architecture"),
    BeforeValidator(_split_architecture),
    BeforeValidator(_refuse_without_attention),
]
PER_SIGNAL = ("encoder", "encoder_decoder")  # architectures that are trained on each signal
SHIPPED = (  # models whose weights come with laglens
    "image_small", "image_seed1", "image_seed2", "numeric_small", "numeric_seed1", "numeric_seed2",
)  # fmt: skip


def _labels(stack: str, layers: int, heads: int) -> list[str]:
    return [f"{stack} L{layer:02} H{head:02}" for layer in range(layers) for head in range(heads)]
