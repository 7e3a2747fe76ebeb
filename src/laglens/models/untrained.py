"""The same architecture with random weights: what attention looks like before anything was learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from laglens.models.forecaster import Forecaster
from laglens.models.registry import build_model


def untrained_model(card: Mapping[str, Any], state: Mapping[str, Tensor], *, seed: int) -> Forecaster:
    """Build the model of a card with random weights, in evaluation mode.

    Weights are drawn as the architecture draws them. Where building it gives the trained weights (a person's factory
    that loads them), the entries of every weight are shuffled instead, which keeps their distribution.

    Parameters
    ----------
    card, state
        Of the trained model.
    seed
        Of the weights. The global random state of torch is left as it was.
    """
    model = build_model(card["architecture"], card["options"], seed=seed)
    parameters = dict(model.named_parameters())
    if all(name in state and torch.equal(parameter, state[name]) for name, parameter in parameters.items()):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in parameters.values():
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return model
