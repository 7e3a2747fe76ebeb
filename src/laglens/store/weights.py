"""Weights as safetensors, with a model card as JSON beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laglens.errors import LaglensError
from laglens.store.files import one_line, write_bytes, write_json

if TYPE_CHECKING:
    import torch


def write_weights(state: Mapping[str, torch.Tensor], card: Mapping[str, Any], path: str | Path) -> None:
    """Write weights as safetensors, then the model card beside them as ``.json``."""
    from safetensors.torch import save

    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(state.items())}
    write_bytes(save(tensors), path)
    write_json(card, path.with_suffix(".json"))


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read safetensors; no code is ever unpickled.

    Raises
    ------
    LaglensError
        The file is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise LaglensError(f"{path}: no such weights") from error
    except SafetensorError as error:
        raise LaglensError(
            f"{path}: not a complete safetensors file ({one_line(error)}); delete it and run again"
        ) from error


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the model card that lies beside weights (`path` of the weights or of the card)."""
    card = Path(path).with_suffix(".json")
    try:
        return json.loads(card.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise LaglensError(f"{card}: no readable model card beside the weights ({one_line(error)})") from error
