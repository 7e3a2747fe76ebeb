"""A person's own model, made by a function in their own file."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import invalidate_caches
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
from laglens.models.forecaster import Forecaster, broken_weights
from laglens.models.inferred import OutlineReader, noise

NOTHING: Mapping[str, Any] = MappingProxyType({})
PACKAGE = Path(__file__).parents[1]
ROUNDING = 100  # units in the last place by which two runs on one input may differ
FOLDERS: dict[str, frozenset[str]] = {}  # of persons' files imported in this process, and what was imported before


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

    What was imported from the folder of such a file before is forgotten: an edit is seen, and files of one name in two
    folders are kept apart.

    Raises
    ------
    LaglensError
        There is no such file, or it fails while it is imported.
    """
    if not path.is_file():
        raise LaglensError(f"there is no file '{path}'; paths are relative to the folder you run from")
    _forget()
    folder = str(path.resolve().parent)
    FOLDERS.setdefault(folder, frozenset(sys.modules))
    sys.path.insert(0, folder)
    # A name that is taken, such as that of an installed package, stays taken.
    name = path.stem if path.stem not in sys.modules else f"{path.stem} of {folder}"
    spec = spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise LaglensError(f"'{path}' is no Python file; its name must end with .py")
    module = module_from_spec(spec)
    sys.modules[name] = module
    with blamed(path), _without_bytecode():
        spec.loader.exec_module(module)
    return module


def _forget() -> None:
    """Forget modules that were imported from the folders of persons' files, and these folders."""
    for name in list(sys.modules):
        top = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None) or ""
        place = Path(top).parent.parent if top.endswith("__init__.py") else Path(top).parent
        if name not in FOLDERS.get(str(place), sys.modules) and not name.startswith("laglens."):
            del sys.modules[name]
    for folder in FOLDERS:
        if folder in sys.path:
            sys.path.remove(folder)
    invalidate_caches()


@contextmanager
def _without_bytecode() -> Iterator[None]:
    """Compiled files are told apart from their sources by the second, which an edit may not take."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextmanager
def blamed(file: Path) -> Iterator[None]:
    """Turn an error in a person's own file into one line that names file and line."""
    try:
        yield
    except Exception as error:
        folder = file.resolve().parent
        # The innermost frame in their folder; an error of syntax has none.
        frames = (frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(Path(frame.filename), folder))
        place, line = next(((Path(f.filename), f.lineno) for f in reversed([*frames])), (file.resolve(), None))
        if isinstance(error, SyntaxError) and error.filename:
            place, line = Path(error.filename), error.lineno
        named = file.parent / place.relative_to(folder) if place.is_relative_to(folder) else place
        what = str(error) if isinstance(error, LaglensError) else f"{type(error).__name__}: {error}"
        where = f"{named}, line {line}" if line else str(named)
        raise LaglensError(f"{where}: {' '.join(what.split())}") from error


def _is_own(file: Path, folder: Path) -> bool:
    """Whether a file in or below a person's folder is theirs, and not of a package that is installed there."""
    installed = {"site-packages", "dist-packages"} & set(file.parts) or file.is_relative_to(PACKAGE)
    return file.is_relative_to(folder) and not installed


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
            hint = f"leave '{key}' out" if own else f"write '{key}: 0', for it does not forecast"
            raise LaglensError(f"{factory} returned a model with {key} {own}, not {asked}; {hint}")
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
    if broken := broken_weights(module, state):
        raise LaglensError(f"{factory} returned weights that are not finite in {', '.join(broken[:3])}")


def _try_out(model: AdaptedForecaster) -> None:
    """Run the model on noise, again on the same, and compare the tokens of its attention with those of its stacks."""
    channels = (model.channels,) if model.channels > 1 else ()
    inputs = noise(model, 1, *channels, model.history)
    forecast, capture = read_attention(model, inputs, certify=False, reader=OutlineReader(weigh=False))
    if not torch.isfinite(forecast).all():
        raise LaglensError("the forecast of noise is not finite")
    _require_repeatable(model, inputs)
    for stack in model.stacks:
        expected = len(stack.query), len(stack.key)
        for layer, records in records_of(stack, capture.records).items():
            shape = records[-1].shape
            if not stack.steps and records[-1].selected is None and shape != expected:
                raise LaglensError(
                    f"stack '{stack.name}': its token maps have {expected[0]} queries and {expected[1]} keys, the "
                    f"attention of '{layer.removeprefix('model.')}' has {shape[0]} and {shape[1]}"
                )


def _require_repeatable(model: AdaptedForecaster, inputs: Tensor) -> None:
    """Raise where the same input is forecast differently: what an edit changes could not be told from chance."""
    with torch.no_grad():
        first, second = model(inputs), model(inputs)
    # A forecast may be of another type than what it was computed in.
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()} or {torch.float32}
    rounding = ROUNDING * max(torch.finfo(kind).eps for kind in types)
    apart = float((first - second).abs().amax()) if first.numel() else 0.0
    if apart and apart > rounding * float(first.abs().amax()):
        raise LaglensError(
            f"the same input is forecast differently, by up to {apart:.2g}: something is drawn at random while "
            "the model runs; leave out dropout after model.eval() (F.dropout: training=self.training), and draw from a "
            "generator that each call of forward seeds anew"
        )
