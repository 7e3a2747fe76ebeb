"""Chronos models of chronos-forecasting: which of the three a configuration is of, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from laglens.errors import LaglensError
from laglens.models.huggingface import HuggingFaceForecaster
from laglens.models.tokens import TokenMap

# All are of the model_type 't5'; each is known by a setting that those after it lack.
FAMILIES = {"tokenizer_class": "chronos_t5", "output_patch_size": "chronos_2", "input_patch_size": "chronos_bolt"}
MEDIAN = 0.5


class ChronosForecaster(HuggingFaceForecaster):
    """A Chronos model; see `HuggingFaceForecaster`. Its configuration has the section ``chronos_config``.

    Attributes
    ----------
    architecture
        Its name in the config.
    """

    architecture: ClassVar[str]
    kinds: ClassVar[Mapping[str, str]] = {"t5": "T5ForConditionalGeneration"}

    def __init__(
        self, *, config: Mapping[str, Any], history: int | None = None, horizon: int | None = None, **options: Any
    ) -> None:
        # A copy: chronos-forecasting adds to what it is given.
        super().__init__(config=deepcopy(dict(config)), history=history, horizon=horizon, **options)

    @classmethod
    def _settings(cls, network_class: Any) -> set[str]:
        return super()._settings(network_class) | {"chronos_config"}

    @classmethod
    def _type_of(cls, config: Mapping[str, Any], source: str | Path) -> str:
        own = config.get("chronos_config")
        family = next((FAMILIES[key] for key in FAMILIES if isinstance(own, Mapping) and key in own), None)
        if family is None:
            raise LaglensError(f"{source}: has no 'chronos_config' of a known kind, so it is no Chronos model")
        if config.get("model_type", "t5") != "t5":
            raise LaglensError(f"{source}: is a Chronos model on '{config['model_type']}'; only those on T5 are read")
        if family != cls.architecture:
            raise LaglensError(f"{source}: is a model of 'architecture: {family}', not of '{cls.architecture}'")
        return "t5"

    @property
    def chronos_config(self) -> Mapping[str, Any]:
        """Lengths and patches."""
        return self.config["chronos_config"]

    @property
    def patches(self) -> TokenMap:
        """Patches of the history. They are laid from its end, so the first may hold fewer samples than the others."""
        patch, stride = (self.chronos_config[f"input_patch_{key}"] for key in ("size", "stride"))
        whole = TokenMap.patches(self.history, 0, patch, stride=stride, first=-(-self.history % patch), readout="none")
        return whole.clipped(0, self.history)

    def _median(self) -> int:
        """Index of the median among the quantiles of the forecast."""
        quantiles = self.chronos_config["quantiles"]
        if MEDIAN not in quantiles:
            raise LaglensError(f"quantiles: the forecast is read from the median, and {quantiles} has no {MEDIAN}")
        return quantiles.index(MEDIAN)


def chronos_class(module: str, name: str) -> Any:
    """A class of chronos-forecasting.

    Raises
    ------
    LaglensError
        The package is missing.
    """
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise LaglensError(
            f"Chronos needs the package chronos-forecasting ({error}): pip install 'laglens[adapters]'"
        ) from error


def centred(history: Tensor) -> tuple[Tensor, Tensor]:
    """Histories less their means, float32, and the means ``(..., 1)``, float64.

    Models that standardise in float32 lose a series far from 0; less its mean they forecast the same, less its mean.
    """
    mean = history.double().mean(-1, keepdim=True)
    return (history - mean).float(), mean
