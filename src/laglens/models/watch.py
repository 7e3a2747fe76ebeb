"""What the attention of a model does while it is trained: a number for each layer, from a few windows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from laglens.attention.weights import attention_weights
from laglens.models.forecaster import ScaledForecaster

WATCHED = 8  # windows


def attention_entropy(model: ScaledForecaster, windows: Tensor) -> dict[str, float]:
    """Mean entropy of the attention of each layer, as a share of that of uniform attention: 1 = looks everywhere alike.

    Heads, windows and queries that see more than one key count alike. The model, its weights and all random numbers
    stay as they were.

    Parameters
    ----------
    model
        A model that is trained here; its attention is that of torch.
    windows
        ``(window, history + horizon)`` in the units of the series.

    Returns
    -------
    dict
        ``encoder_L00_entropy`` and so on, in the order of the stacks.
    """
    names = {
        layer: f"{stack.name}_L{number:02d}_entropy"
        for stack in model.stacks
        for number, layer in enumerate(stack.layers)
    }
    with _evaluated(model), _Entropies() as entropies, _named(model, names, entropies.begin):
        model.loss(windows)
    return {name: float(torch.cat(entropies.found[name]).mean()) for name in names.values() if name in entropies.found}


class _Entropies(TorchFunctionMode):
    """Entropies of the rows of every call of attention, by the layer that was begun last."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[Tensor]] = defaultdict(list)
        self._name = ""

    def begin(self, name: str) -> None:
        self._name = name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and self._name:
            self._add(*_of_call(*args, **kwargs))
        elif func is multi_head_attention_forward and self._name:
            output, weights = func(*args, **kwargs | {"need_weights": True, "average_attn_weights": False})
            if weights is not None:
                hidden = kwargs.get("attn_mask")
                self._add(weights, ~hidden if hidden is not None and hidden.dtype == torch.bool else hidden)
            return output, None
        return func(*args, **kwargs)

    def _add(self, weights: Tensor, mask: Tensor | None) -> None:
        """Entropy of every row over the logarithm of the number of keys it may see; weights may underflow to 0."""
        weights = weights.detach().double()
        if mask is None:
            mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device)
        elif mask.dtype != torch.bool:
            mask = mask > torch.finfo(mask.dtype).min / 2
        seen = mask.sum(-1)
        seen = seen.reshape(weights.shape[:-1]) if seen.dim() > 1 else seen.expand(weights.shape[:-1])
        self.found[self._name].append((torch.special.entr(weights).sum(-1) / seen.log())[seen > 1])


def _of_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Weights of a call of ``scaled_dot_product_attention``, ``(..., query, key)``, and which keys a query may see."""
    query, key = query.detach(), key.detach()
    weights = attention_weights(query, key, attn_mask, is_causal, scale)
    visible = torch.ones(weights.shape[-2:], dtype=torch.bool, device=query.device).tril() if is_causal else attn_mask
    if visible is not None and visible.dim() > 2:
        visible = visible.expand(weights.shape)
    return weights, visible


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model without dropout; with gradients, since without them torch takes a path that calls no attention."""
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        model.train(training)


@contextmanager
def _named(model: nn.Module, names: dict[str, str], begin: Callable[[str], None]) -> Iterator[None]:
    """Call `begin` with the name of each layer before it runs."""
    handles = []
    try:
        for layer, name in names.items():
            module = model.get_submodule(layer)
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: begin(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
