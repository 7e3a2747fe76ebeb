"""Models of others in the `models` section: published checkpoints, a person's own module, recordings."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from laglens.config.section import FACTORY_PATTERN, Section

CHECKPOINT = "file or folder with the weights, as published; relative to the folder you run from"


class AdaptedModel(Section):
    """Keys that all models of others share.

    What a model really has (layers, heads, context) is in its checkpoint and read when it is loaded.
    """

    head_labels: ClassVar[None] = None  # known only once the checkpoint is read
    history: PositiveInt | None = Field(None, description="samples the model sees; null: its own context length")
    horizon: PositiveInt | None = Field(None, description="samples it forecasts; null: its own forecast length")


class LoadedModel(AdaptedModel):
    """A published architecture: from a checkpoint, or with random weights from its configuration."""

    checkpoint: str | None = Field(None, description=CHECKPOINT)
    config: dict[str, Any] | None = Field(
        None, description="the architecture's own configuration, for random weights; instead of `checkpoint`"
    )
    seed: int = Field(0, ge=0, description="of random weights, and of what the model draws while it runs")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.checkpoint is None) == (self.config is None):
            raise ValueError("give either 'checkpoint' (trained weights) or 'config' (random weights)")
        return self


class HuggingFaceModel(LoadedModel):
    """Models of the transformers library: a folder with config.json and weights."""

    architecture: Literal["patchtst", "time_series_transformer", "informer", "autoformer"] = Field(
        description="which one; docs/models.md"
    )


class TimesFMModel(LoadedModel):
    """TimesFM 2.0 or 2.5 of the transformers library: a folder with config.json and weights."""

    architecture: Literal["timesfm"]
    frequency: Literal[0, 1, 2] = Field(
        0, description="of the series, for version 2.0: 0 up to daily, 1 weekly or monthly, 2 quarterly or yearly"
    )


class ChronosModel(LoadedModel):
    """Chronos models through chronos-forecasting: a folder with config.json and weights."""

    architecture: Literal["chronos_t5", "chronos_bolt"] = Field(description="which one; docs/models.md")


class Chronos2Model(LoadedModel):
    """Chronos-2 through chronos-forecasting: a folder with config.json and weights."""

    architecture: Literal["chronos_2"]
    channels: PositiveInt = Field(1, description="series of a signal that are forecast together")


class ViTimeModel(AdaptedModel):
    """ViTime's official checkpoint."""

    architecture: Literal["vitime"]
    checkpoint: str = Field(description=CHECKPOINT)
    history: PositiveInt = Field(512, description="samples the model sees")
    horizon: PositiveInt = Field(720, description="samples it forecasts")


class TimmModel(AdaptedModel):
    """A vision transformer of timm that looks at a picture of the series; it does not forecast."""

    architecture: Literal["timm"]
    name: str = Field(description="timm's name of the model; `architecture: timm:NAME` is short for it")
    checkpoint: str | None = Field(None, description=CHECKPOINT + "; null: random weights")
    colours: Literal[1, 3] = Field(3, description="colour channels of the picture")
    drawing: Literal["line", "raster"] = Field("line", description="a curve, or columns of one grey")
    config: dict[str, Any] = Field({}, description="keyword arguments of timm's model, such as `img_size`")
    history: PositiveInt = Field(224, description="samples the picture shows")
    horizon: Literal[0] = Field(0, description="it does not forecast")
    seed: int = Field(0, ge=0, description="of random weights")


class VisionTSModel(AdaptedModel):
    """VisionTS: a masked autoencoder that completes a picture of the series folded by its period."""

    architecture: Literal["visionts"]
    checkpoint: str | None = Field(None, description=CHECKPOINT + "; null: random weights")
    period: PositiveInt = Field(description="samples of one cycle, by which the series is folded")
    history: PositiveInt = Field(description="samples the model sees")
    horizon: PositiveInt = Field(description="samples it forecasts")
    norm_const: PositiveFloat = Field(0.4, description="standard deviation of the picture's pixels")
    align_const: float = Field(0.4, gt=0, le=1, description="how much of its width by length the history fills")
    interpolation: Literal["bilinear", "nearest", "bicubic"] = Field("bilinear", description="how it is stretched")
    config: dict[str, Any] = Field(
        {}, description="sizes of the autoencoder; with `checkpoint` the numbers of heads, where not a published size"
    )
    seed: int = Field(0, ge=0, description="of random weights")


class FactoryModel(AdaptedModel):
    """A person's own model, made by their own function."""

    architecture: Literal["factory"]
    factory: str = Field(pattern=FACTORY_PATTERN, description="file.py:function that returns the model")
    checkpoint: str | None = Field(None, description="file or folder handed to the function as `checkpoint`")
    arguments: dict[str, Any] = Field({}, description="keyword arguments of the function")
    horizon: NonNegativeInt | None = Field(
        None, description="samples it forecasts; null: its own forecast length; 0, which must be written: it does not"
    )
    seed: int = Field(0, ge=0, description="of weights that the function draws")


class RecordedModel(AdaptedModel):
    """Attention that was recorded in another environment, one file per signal."""

    architecture: Literal["recording"]
    folder: str = Field(description="folder with the recordings, {signal}.npz")
    history: PositiveInt = Field(description="samples the model sees")
    horizon: PositiveInt = Field(description="samples it forecasts")


Adapted = (
    HuggingFaceModel
    | TimesFMModel
    | ChronosModel
    | Chronos2Model
    | ViTimeModel
    | TimmModel
    | VisionTSModel
    | FactoryModel
    | RecordedModel
)
LOADED = tuple(
    name
    for section in get_args(Adapted)
    if section is not RecordedModel
    for name in get_args(section.model_fields["architecture"].annotation)
)  # architectures of which a published checkpoint, or the configuration, is loaded
