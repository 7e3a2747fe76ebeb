"""Models of the transformers library: built from their own configuration, or loaded from a folder as published."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from laglens.errors import LaglensError
from laglens.models.architectures import ARCHITECTURES, refuse
from laglens.models.checkpoints import load_strictly, read_checkpoint
from laglens.models.forecaster import Forecaster

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# Architectures that read a `model_type`, where the two are not named alike.
READ_BY = {"timesfm2_5": "timesfm", "t5": "chronos_t5, chronos_bolt or chronos_2"}
# Settings that the models look for, though their configuration does not declare them.
UNDECLARED = {"minimum_scale", "default_scale"}


class HuggingFaceForecaster(Forecaster):
    """A forecasting model of transformers, in float32.

    Parameters
    ----------
    config
        The model's own configuration, as in its ``config.json``. What is left out has the library's default.
    history, horizon
        Samples seen and samples forecast. Default: what the configuration says.

    Attributes
    ----------
    kinds
        Class in transformers of each ``model_type`` that this architecture reads.
    network
        The model of transformers.
    config
        Its configuration, complete and JSON-native.

    Raises
    ------
    LaglensError
        transformers is missing; the configuration is not one of this architecture; a length does not fit it.
    """

    kinds: ClassVar[Mapping[str, str]]

    def __init__(self, *, config: Mapping[str, Any], history: int | None = None, horizon: int | None = None) -> None:
        super().__init__()
        self.model_type = self._type_of(config, "config")
        kind = self._network_class(self.model_type)
        own = self._settings(kind)
        if unknown := [key for key in config if key not in own and key != "model_type"]:
            raise LaglensError(f"config: {self.model_type} has no '{unknown[0]}'; it has {', '.join(sorted(own))}")
        given = {key: value for key, value in config.items() if key in own}
        try:
            with _quiet():
                configuration = kind.config_class(**given)
                self.network = kind(configuration).float()
        except Exception as error:  # transformers checks its settings in many ways
            raise LaglensError(
                f"config: transformers builds no {self.model_type} of it ({_one_line(error)})"
            ) from error
        self.config = {"model_type": self.model_type} | json.loads(
            json.dumps({key: getattr(configuration, key) for key in sorted(own) if hasattr(configuration, key)})
        )
        self._prepare()
        self.history, self.horizon = self._lengths(history, horizon)

    def _prepare(self) -> None:
        """Set what follows from the configuration; refuse what transformers accepts but cannot run, or laglens read."""

    def _lengths(self, history: int | None, horizon: int | None) -> tuple[int, int]:
        """History and horizon, from those asked for and the configuration."""
        raise NotImplementedError

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this model again, JSON-native."""
        return {"config": self.config, "history": self.history, "horizon": self.horizon}

    @classmethod
    def from_checkpoint(cls, path: Path, **options: Any) -> Self:
        """Load a folder with ``config.json`` and weights, as ``save_pretrained`` writes it.

        Parameters
        ----------
        path
            The folder.
        options
            ``history`` and ``horizon``, and what else the class takes beside ``config``.

        Raises
        ------
        LaglensError
            The folder or a file is missing, the configuration is of another architecture, the weights are damaged,
            or do not fit the configuration.
        """
        written = _read_config(path)
        kind = cls._network_class(cls._type_of(written, path))
        # What else is in the file is about its origin, or how to run it.
        own = cls._settings(kind) | {"model_type"}
        model = cls(config={key: value for key, value in written.items() if key in own}, **options)
        load_strictly(model.network, _published_weights(path, kind, model.network.config), path)
        return model

    @classmethod
    def _network_class(cls, model_type: str) -> Any:
        """Class of the network."""
        return _kind(model_type, cls.kinds[model_type])

    @classmethod
    def _settings(cls, network_class: Any) -> set[str]:
        """Names of the settings that a configuration may hold."""
        return _own_settings(network_class)

    @classmethod
    def _type_of(cls, config: Mapping[str, Any], source: str | Path) -> str:
        """The ``model_type`` of a configuration, if this architecture reads it."""
        found, known = config.get("model_type"), " or ".join(f"'{name}'" for name in cls.kinds)
        if found is None and len(cls.kinds) == 1 and source == "config":
            return next(iter(cls.kinds))
        if found is None:
            raise LaglensError(f"{source}: 'model_type' is missing; this architecture reads {known}")
        if found not in cls.kinds:
            refuse(str(found))
            raise LaglensError(
                f"{source}: 'model_type' is '{found}', this architecture reads {known}; {_reader(found)}"
            )
        return found


def exact_length(name: str, given: int | None, own: int, setting: str) -> int:
    """The one length a model can have.

    Raises
    ------
    LaglensError
        Another one was asked for.
    """
    if given not in (None, own):
        raise LaglensError(f"{name}: {given} samples were asked for, but the model has exactly {own} ({setting})")
    return own


def length_up_to(name: str, given: int | None, most: int, setting: str) -> int:
    """A length, by default the longest.

    Raises
    ------
    LaglensError
        More was asked for.
    """
    if given is not None and given > most:
        raise LaglensError(f"{name}: {given} samples were asked for, but the model has at most {most} ({setting})")
    return given or most


def _reader(model_type: str) -> str:
    """Which architecture reads a ``model_type``."""
    architecture = READ_BY.get(model_type, model_type)
    if model_type in READ_BY or architecture in ARCHITECTURES:
        return f"take 'architecture: {architecture}'"
    return "none of laglens reads it; 'architecture: factory' takes any model"


def _kind(model_type: str, name: str) -> Any:
    """A class of transformers. Only the module of the one model is imported: the whole package takes far longer."""
    module = f"transformers.models.{model_type}.modeling_{model_type}"
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise LaglensError(
            f"{name} is not installed ({error}); it comes with transformers 5: pip install 'laglens[adapters]'"
        ) from error


def _own_settings(kind: Any) -> set[str]:
    """Names of the settings that a configuration class adds to those of every model."""
    configuration = kind.config_class
    common = {field.name for field in fields(configuration.__base__)}
    return {field.name for field in fields(configuration)} - common | UNDECLARED


def _read_config(path: Path) -> dict[str, Any]:
    """Content of ``config.json`` in a folder."""
    if not path.is_dir():
        raise LaglensError(f"{path}: is no folder; give the one that holds config.json and the weights")
    try:
        config = json.loads((path / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        raise LaglensError(f"{path}: has no config.json; give the folder that save_pretrained wrote") from None
    except ValueError as error:
        raise LaglensError(f"{path}/config.json: is not JSON ({_one_line(error)}); download it again") from error
    if not isinstance(config, dict):
        raise LaglensError(f"{path}/config.json: holds no mapping; download it again")
    return config


def _published_weights(path: Path, kind: Any, configuration: Any) -> dict[str, Any]:
    """The weights of a folder, those that the model lacks or that do not fit it included.

    transformers renames the keys of older versions and joins the parts of large models; what it would replace by
    random numbers is left as published, so that it is found.
    """
    files = sorted(file for pattern in WEIGHTS for file in path.glob(pattern))
    if not files:
        raise LaglensError(f"{path}: has no weights ({' or '.join(WEIGHTS)})")
    try:
        with _quiet():
            loaded, report = kind.from_pretrained(
                path,
                config=configuration,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
    except Exception as error:
        for file in files:
            read_checkpoint(file)  # says what is wrong with a damaged one
        raise LaglensError(f"{path}: transformers cannot load it ({_one_line(error)})") from error
    state: dict[str, Any] = {
        key: value for key, value in loaded.state_dict().items() if key not in report["missing_keys"]
    }
    misfits: list[tuple[str, torch.Size, torch.Size]] = sorted(report["mismatched_keys"])
    as_published: dict[str, Tensor] = {key: torch.empty(shape, device="meta") for key, shape, _ in misfits}
    return state | as_published | dict.fromkeys(sorted(report["unexpected_keys"]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the progress bars and tables of transformers from the log: what matters in them becomes an error."""
    from transformers.utils import logging as reports

    level, bar = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.CRITICAL)
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bar:
            reports.enable_progress_bar()


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
