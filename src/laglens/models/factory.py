"""A person's own model, made by a function in their own file."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn

from laglens.attention.assembly import records_of
from laglens.attention.capture import read_attention
from laglens.errors import LaglensError
from laglens.models.adapt import Adaptation, AdaptedForecaster
from laglens.models.forecaster import Forecaster
from laglens.models.inferred import OutlineReader, noise

NOTHING: Mapping[str, Any] = MappingProxyType({})
FOLDERS: set[str] = set()  # from which files were imported in this process


class FactoryForecaster(AdaptedForecaster):
    """What a function ``build`` in a file returns: a module, an adapted one (`laglens.adapt`), or a forecaster.

    Parameters
    ----------
    factory
        ``file.py:function``; the file is relative to the folder one runs from, and may import files beside it.
    arguments
        Keyword arguments of the function.
    checkpoint
        Handed to the function as ``checkpoint``, if given.
    history, horizon
        Of a plain module; what is returned may know its own.

    Raises
    ------
    LaglensError
        There is no such file or function, it fails (the message names its line), or it returns something else.
    """

    def __init__(
        self,
        *,
        factory: str,
        arguments: Mapping[str, Any] = NOTHING,
        checkpoint: str | None = None,
        history: int | None = None,
        horizon: int | None = None,
    ) -> None:
        path, _, name = factory.rpartition(":")
        self.file = Path(path)
        function = _function(import_file(self.file), name, self.file)
        given = dict(arguments) | ({} if checkpoint is None else {"checkpoint": checkpoint})
        with blamed(self.file):
            built = function(**given)
        module, adaptation = _adaptation(built, factory, history, horizon)
        _check_state(module, factory)
        super().__init__(module, adaptation)
        self._options = {
            "factory": factory,
            "arguments": dict(arguments),
            "checkpoint": checkpoint,
            "history": history,
            "horizon": horizon,
        }

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this model again: the function is called anew."""
        return {key: value for key, value in self._options.items() if value is not None}

    @classmethod
    def from_checkpoint(cls, path: Path, **options: Any) -> Self:
        """Call the function that `path`, ``file.py:function``, names, and try what it returned on noise.

        Raises
        ------
        LaglensError
            As the class; or the model does not run, does not forecast, or its attention is not what its stacks say.
        """
        model = cls(factory=str(path), **options).eval()
        with blamed(model.file):
            _try_out(model)
        return model


def import_file(path: Path) -> ModuleType:
    """Import a file by its path; files beside it can be imported by it, then and later.

    Files beside it, or beside one imported before, are read afresh: an edit is seen, and files of one name in two
    folders are kept apart.

    Raises
    ------
    LaglensError
        There is no such file, or it fails while it is imported.
    """
    if not path.is_file():
        raise LaglensError(f"there is no file '{path}'; paths are relative to the folder you run from")
    folder = str(path.resolve().parent)
    FOLDERS.add(folder)
    for name, module in list(sys.modules.items()):
        if str(Path(getattr(module, "__file__", None) or "/").parent) in FOLDERS:
            del sys.modules[name]
    sys.path[:] = [folder, *(entry for entry in sys.path if entry not in FOLDERS)]
    spec = spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise LaglensError(f"'{path}' is no Python file; its name must end with .py")
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    with blamed(path):
        spec.loader.exec_module(module)
    return module


@contextmanager
def blamed(file: Path) -> Iterator[None]:
    """Turn an error in a person's own file into one line that names file and line."""
    try:
        yield
    except Exception as error:
        # The innermost frame in their folder; an error of syntax has none.
        own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == file.resolve().parent]
        name, line = (own[-1].filename, own[-1].lineno) if own else (str(file), None)
        if isinstance(error, SyntaxError) and error.filename:
            name, line = error.filename, error.lineno
        where = f"{file.parent / Path(name).name}" + (f", line {line}" if line else "")
        what = str(error) if isinstance(error, LaglensError) else f"{type(error).__name__}: {error}"
        raise LaglensError(f"{where}: {' '.join(what.split())}") from error


def _function(module: ModuleType, name: str, file: Path) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    close = get_close_matches(name, own, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(own) or 'none'}"
    raise LaglensError(f"{file} has no function '{name}'; {hint}")


def _adaptation(built: Any, factory: str, history: int | None, horizon: int | None) -> tuple[nn.Module, Adaptation]:
    """What a function returned, as a module and how to run and read it."""
    if not isinstance(built, nn.Module):
        raise LaglensError(
            f"{factory} returned {type(built).__name__}, not a torch.nn.Module; return the model, or "
            "laglens.adapt(model, history=..., horizon=...)"
        )
    if not isinstance(built, Forecaster):
        if history is None or horizon is None:
            raise LaglensError(
                f"{factory} returned a plain {type(built).__name__}: set 'history' and 'horizon' of the model, or "
                "return laglens.adapt(model, history=..., horizon=...)"
            )
        return built, Adaptation(history, horizon)
    for key, asked in (("history", history), ("horizon", horizon)):
        own = getattr(built, key)
        if asked is not None and asked != own:
            raise LaglensError(f"{factory} returned a model with {key} {own}, not {asked}; leave '{key}' out")
    if isinstance(built, AdaptedForecaster):
        return built.model, built.adaptation
    return built, Adaptation(
        built.history,
        built.horizon,
        built.stacks,
        lambda model, histories: model(histories),
        built.channels,
        built.not_in_time,
        built.differentiable,
    )


def _check_state(module: nn.Module, factory: str) -> None:
    """Raise where the weights could not be kept, or are not finite."""
    state = module.state_dict()
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise LaglensError(f"{factory} returned a model whose state holds more than tensors: {', '.join(foreign[:3])}")
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise LaglensError(f"{factory} returned weights that are not finite in {', '.join(broken[:3])}")


def _try_out(model: AdaptedForecaster) -> None:
    """Run the model on noise, and compare the tokens of its attention with those of its stacks."""
    channels = (model.channels,) if model.channels > 1 else ()
    inputs = noise(model, 1, *channels, model.history)
    forecast, capture = read_attention(model, inputs, certify=False, reader=OutlineReader(weigh=False))
    if not torch.isfinite(forecast).all():
        raise LaglensError("the forecast of noise is not finite")
    for stack in model.stacks:
        expected = len(stack.query), len(stack.key)
        for layer, records in records_of(stack, capture.records).items():
            shape = records[-1].shape
            if not stack.steps and records[-1].selected is None and shape != expected:
                raise LaglensError(
                    f"stack '{stack.name}': its token maps have {expected[0]} queries and {expected[1]} keys, the "
                    f"attention of '{layer.removeprefix('model.')}' has {shape[0]} and {shape[1]}"
                )
