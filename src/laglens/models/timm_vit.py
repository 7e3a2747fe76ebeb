"""Vision transformers of timm: they look at a picture of the series, and forecast nothing."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from laglens.errors import LaglensError
from laglens.models.checkpoints import load_strictly, read_checkpoint, strip_prefix
from laglens.models.forecaster import Forecaster
from laglens.models.rendering import DRAWINGS, standardise
from laglens.models.timm_layout import read_layout
from laglens.models.tokens import Stack

# Of timm's function that makes a model: where weights come from and what it is compiled to is not the config's matter.
OWN_ARGUMENTS = {
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "in_chans",
    "scriptable",
    "exportable",
    "no_jit",
}


class TimmTransformer(Forecaster):
    """A vision transformer of timm. It shows which times of a drawn series its patches attend to.

    Parameters
    ----------
    name
        timm's name of the model, such as ``vit_tiny_patch16_224``.
    colours
        Colour channels of the picture, 1 or 3, all with the same grey.
    history
        Samples that the picture shows.
    horizon
        0: it does not forecast.
    drawing
        ``line`` or ``raster``; see `laglens.models.rendering`.
    config
        Keyword arguments of timm's model, such as ``img_size`` or ``num_classes``.

    Raises
    ------
    LaglensError
        timm has no such model; its attention is not that of all patches over all patches.
    """

    differentiable = False  # there is no forecast
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        name: str,
        colours: int = 3,
        history: int = 224,
        horizon: int = 0,
        drawing: str = "line",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if horizon:
            raise LaglensError(f"timm model '{name}': it does not forecast; leave 'horizon' out, or set it to 0")
        self.name, self.colours, self.drawing, self.config = name, colours, drawing, dict(config or {})
        self.history, self.horizon = history, horizon
        self.network = _create(name, colours, self.config)
        self.layout = read_layout(self.network, name, colours)
        for key in ("mean", "std"):
            self.register_buffer(key, colour_statistic(self.network, key, colours), persistent=False)

    @classmethod
    def from_checkpoint(cls, path: Path, **options: Any) -> Self:
        """Load a state dict of timm, ``.pth`` or ``.safetensors``, also under ``state_dict`` or ``model``.

        The number of classes is taken from it, unless ``config`` has ``num_classes``.

        Raises
        ------
        LaglensError
            The file is missing, damaged or not a state dict; the weights are not those of the model.
        """
        content = read_checkpoint(path)
        if isinstance(content, Mapping):
            content = next((content[key] for key in ("state_dict", "model") if key in content), content)
        if not isinstance(content, Mapping) or not content or not all(torch.is_tensor(v) for v in content.values()):
            raise LaglensError(f"{path}: does not hold the weights of a timm model by their names")
        state = strip_prefix(content, "module.")
        classes = len(state["head.weight"]) if "head.weight" in state else 0
        options["config"] = {"num_classes": classes} | dict(options.get("config") or {})
        model = cls(**options)
        load_strictly(model.network, state, path)
        return model

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this model again, JSON-native."""
        return {
            "name": self.name,
            "colours": self.colours,
            "history": self.history,
            "drawing": self.drawing,
            "config": self.config,
        }

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All blocks; the patches of a column share a time."""
        return (self.layout.stack(self.history),)

    @property
    def not_in_time(self) -> Mapping[str, str]:  # type: ignore[override]
        """Attention that pools the tokens for the classifier."""
        return self.layout.not_in_time

    def draw(self, history: Tensor) -> Tensor:
        """Picture of the series, from 0 to 1: ``(batch, history) -> (batch, row, column)``."""
        return DRAWINGS[self.drawing](standardise(history), *self.layout.size)

    def picture(self, history: Tensor) -> Tensor:
        """Draw series in the colours that the model expects: ``(batch, history) -> (batch, colour, row, column)``."""
        grey = self.draw(history)
        return (grey[:, None].expand(-1, self.colours, -1, -1) - self.mean) / self.std

    def forward(self, history: Tensor) -> Tensor:
        """Look at the series: ``(batch, history) -> (batch, 0)``."""
        self.network(self.picture(history))
        return history.new_zeros(len(history), 0, dtype=torch.float64)


def colour_statistic(network: nn.Module, key: str, colours: int) -> Tensor:
    """``mean`` or ``std`` of the colours that a model of timm expects, ``(colour, 1, 1)``; for grey, their mean."""
    values = torch.tensor(resolve_model_data_config(network)[key])
    return (values if len(values) == colours else values.mean().expand(colours)).clone()[:, None, None]


def _create(name: str, colours: int, config: Mapping[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        close = get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; timm.list_models() lists all"
        raise LaglensError(f"timm has no model '{name}'{hint}")
    if taken := sorted(OWN_ARGUMENTS & set(config)):
        raise LaglensError(
            f"timm model '{name}': config cannot hold '{taken[0]}'; colours and checkpoint are keys beside it"
        )
    try:
        return timm.create_model(name, pretrained=False, in_chans=colours, **config).eval()
    except Exception as error:  # timm checks its arguments in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LaglensError(f"timm builds no '{name}' of config {dict(config)} ({reason})") from error
