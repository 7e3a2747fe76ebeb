"""Build the models that `config.yaml` can name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from laglens.errors import LaglensError
from laglens.models.architectures import module_and_class
from laglens.models.forecaster import Forecaster, ScaledForecaster, broken_weights


def architecture_class(architecture: str) -> type[Forecaster]:
    """The class behind an architecture's name.

    Raises
    ------
    LaglensError
        Unknown architecture.
    """
    # Imported only when asked for: timm brings torchvision along, which takes longer to import than torch.
    module, kind = module_and_class(architecture)
    return getattr(import_module(module), kind)


def build_model(architecture: str, options: Mapping[str, Any] | None = None, *, seed: int = 0) -> Forecaster:
    """Build a model with freshly drawn weights, in evaluation mode.

    Parameters
    ----------
    architecture
        See `laglens.models.architectures`.
    options
        Keyword arguments of the class, such as ``history`` and ``horizon``.
    seed
        Of the initial weights. The global random state of torch is left as it was.

    Returns
    -------
    Forecaster
        With ``history``, ``horizon``, ``stacks`` and ``forward (batch, history) -> (batch, horizon)``.

    Raises
    ------
    LaglensError
        Unknown architecture.
    """
    kind = architecture_class(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(**(options or {})).eval()


def build_trainable(architecture: str, options: Mapping[str, Any] | None = None, *, seed: int = 0) -> ScaledForecaster:
    """`build_model` for an architecture that laglens trains.

    Raises
    ------
    LaglensError
        Unknown architecture, or one that is only ever loaded.
    """
    model = build_model(architecture, options, seed=seed)
    if not isinstance(model, ScaledForecaster):
        raise LaglensError(f"architecture '{architecture}' is not trained here; give it a 'checkpoint'")
    return model


def load_model(
    architecture: str, checkpoint: str | Path | None, options: Mapping[str, Any], *, seed: int = 0
) -> Forecaster:
    """Load a published checkpoint, or, without one, build the model with random weights; in evaluation mode.

    Parameters
    ----------
    architecture
        See `laglens.models.architectures`.
    checkpoint
        File or folder in the format in which the architecture is published. No code in it is ever run.
    options
        Keyword arguments of the class, or of its ``from_checkpoint``. Those that are None are left out.
    seed
        Of random weights.

    Raises
    ------
    LaglensError
        Unknown architecture; a checkpoint that is missing, truncated, or of another format or shape.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if checkpoint is None:
        return build_model(architecture, given, seed=seed)
    kind = architecture_class(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.from_checkpoint(Path(checkpoint), **given).eval()


def restore_model(card: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Forecaster:
    """Build the model that a card describes and load its weights, strictly.

    Raises
    ------
    LaglensError
        The weights do not fit the card, or hold NaN.
    """
    # The seed of the first time: what a model draws and does not keep among its weights must be the same again.
    model = build_model(card["architecture"], card["options"], seed=card.get("training", {}).get("seed", 0))
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise LaglensError(f"the weights do not fit architecture '{card['architecture']}': {reason}") from error
    if broken := broken_weights(model, state):
        raise LaglensError(f"weights are not finite in {', '.join(broken[:3])}; train again or take another checkpoint")
    return model


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises
    ------
    LaglensError
        ``cuda`` was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise LaglensError("device: cuda was asked for, but torch sees no GPU; set 'device: auto' or 'cpu'")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
