"""Gradient relevance: attention weighed by what one number of the forecast makes of it (Chefer et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture
from laglens.attention.coordinates import samples_per_token, stack_coordinates
from laglens.attention.weights import attention_weights, repeat_groups
from laglens.errors import LaglensError
from laglens.flow.columns import in_columns
from laglens.flow.layers import Array
from laglens.flow.path import Path
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.progress import track
from laglens.signals.windows import histories

Place = tuple[str, int]  # module, and index of its call
LARGEST = float(np.finfo(np.float32).max)


class GradientReader:
    """Reader that puts weights with a gradient in the place of the kernel, and keeps them by call."""

    def __init__(self) -> None:
        self.weights: dict[Place, Tensor] = {}

    def read(self, call: AttentionCall) -> Reading:
        """Compute the output from weights that the graph goes through."""
        if call.selected is not None:
            raise LaglensError(f"'{call.module}' computes some of its queries only, so relevance cannot follow it")
        place = (call.module, call.index)
        if call.weights is not None:  # written out by the model: already in its graph
            self.weights[place] = call.weights
            return Reading()
        query, key, value = call.operands
        weights = attention_weights(query, key, call.mask, call.is_causal, call.scale)
        self.weights[place] = weights
        return Reading(output=(weights @ repeat_groups(value, query).to(weights)).to(value.dtype))


def gradient_relevance(
    model: Forecaster,
    windows: xr.Dataset,
    *,
    step: int | None = None,
    batch: int = 8,
    device: torch.device | str = "cpu",
) -> xr.Dataset:
    r"""Relevance of input times to output times for one number y of the forecast.

    .. math:: R \leftarrow R + \bar A R, \quad \bar A = \mathrm{mean}_h \max(A \odot \partial y / \partial A, 0)

    from the lowest layer up, beginning with the identity, at the level of tokens; then reduced to time. A decoder with
    tokens of its own also reads the encoder: :math:`R_{qk} \leftarrow R_{qk} + N(R_{qq})^T \bar A N(R_{kk})`, N being
    the rows without the identity, normalised, plus the identity. A model whose forecast does not use attention gives
    the identity.

    Parameters
    ----------
    model
        In evaluation mode, with a gradient, one channel, and every query computed.
    windows
        ``series (sample, time)``, the history first.
    step
        Forecast sample that is explained, 1 = the first; None: the mean of the horizon.
    batch
        Windows per pass; the weights of all layers and their gradients are in memory at once.

    Returns
    -------
    xr.Dataset
        ``relevance (sample, layer, query, key)``: up to and including each layer, of the forecast in standard
        deviations of the history (the rule adds products of as many relevances as there are layers, so that in the
        units of the series deep paths would count for more the smaller the unit), with the labels of
        `laglens.flow.rollout.roll_out`, so that `laglens.flow.lags.rollout_lags` reads it too; ``visible``. Read the
        rows that make the forecast, and leave out the column of the row itself.

    Raises
    ------
    LaglensError
        The model does not forecast, has several channels or no gradient, or no stack can be followed; the relevance is
        beyond what float32 holds, as where random weights forecast without bounds.
    """
    if not 1 <= (step or 1) <= model.horizon:
        raise LaglensError(f"step is {step}; this model forecasts {model.horizon} samples, counted from 1")
    if getattr(model, "channels", 1) > 1 or not getattr(model, "differentiable", True):
        raise LaglensError(f"relevance needs one channel and a gradient, which {type(model).__name__} has not")
    shown = torch.from_numpy(histories(windows, model.history)).to(device)
    model = model.eval().to(device)
    parts = shown.split(batch)
    maps = [_weighed(model, part, step) for part in track(parts, "relevance", total=len(parts))]
    path = _path(model.stacks, {name: np.concatenate([part[name] for part in maps]) for name in maps[0]})
    with np.errstate(over="ignore", invalid="ignore"):  # an error just below, with its reason
        every = np.stack([_relevance(path, sample) for sample in range(path.n_samples)])
    if not (every <= LARGEST).all():  # NaN is not
        raise LaglensError(
            "the relevance is beyond what float32 holds: the gradient of this forecast in its attention has no bounds"
        )
    found = in_columns(every, path.coords, path.visible)
    attrs = windows.attrs | path.attrs | {"history": model.history, "n_windows": len(shown), "step": step or "mean"}
    attrs |= {"samples_per_token": samples_per_token(found.coords)}
    own = {name: c.variable for name, c in windows.coords.items() if c.dims == ("sample",)}
    variables = {
        "relevance": (("sample", "layer", "query", "key"), found.maps.astype(np.float32)),
        "visible": (("query", "key"), found.visible),
    }
    return xr.Dataset(variables, own | found.coords, attrs)


def _weighed(model: Forecaster, history: Tensor, step: int | None) -> dict[str, Array]:
    """Positive part of weight times gradient, mean over heads: ``(sample, layer, query, key)`` for each stack."""
    reader = GradientReader()
    with torch.enable_grad(), AttentionCapture(model, certify=False, reader=reader) as capture:
        forecast = model(history.clone().requires_grad_())
        # Windows do not see each other, so the gradient of the sum is that of each.
        y = ((forecast.mean(1) if step is None else forecast[:, step - 1]) / _spread(history)).sum()
    capture.check()
    if not y.requires_grad:
        raise LaglensError("the forecast has no gradient (it leaves torch, or detaches, on its way)")
    gradients = torch.autograd.grad(y, list(reader.weights.values()), allow_unused=True, materialize_grads=True)
    weighed = {
        place: mean_heads((weights * slope).clamp_min(0).detach().double(), len(history))
        for (place, weights), slope in zip(reader.weights.items(), gradients, strict=True)
    }
    return {
        stack.name: np.stack([of_layer(stack, name, weighed) for name in stack.layers], 1) for stack in model.stacks
    }


def _spread(history: Tensor) -> Tensor:
    """Standard deviation of each window, ``(sample,)``; 1 where it is constant."""
    sd = history.std(1)
    return torch.where(sd > 0, sd, torch.ones_like(sd))


def mean_heads(weights: Tensor, n: int) -> Array:
    """``(sample, head, query, key)``, or samples and heads in one, ``-> (sample, query, key)``."""
    return weights.reshape(n, -1, *weights.shape[-2:]).mean(1).cpu().numpy()


def of_layer(stack: Stack, module: str, weighed: Mapping[Place, Array]) -> Array:
    """Map of one layer, ``(sample, query, key)``; the rows of decoding steps come from one call each."""
    if not stack.steps:
        return weighed[module, stack.call]
    calls = [weighed[place] for place in sorted(place for place in weighed if place[0] == module)]
    rows = [calls[0], *(call[:, -1:] for call in calls[1:])]
    whole = [np.pad(row, ((0, 0), (0, 0), (0, len(stack.key) - row.shape[-1]))) for row in rows]
    return np.concatenate(whole, 1)


def _path(stacks: tuple[Stack, ...], maps: dict[str, Array]) -> Path:
    nodes = {
        f"/{stack.name}": xr.Dataset(
            {"attention": (("sample", "layer", "head", "query", "key"), maps[stack.name][:, :, None])},
            stack_coordinates(stack),
            {"causal": stack.causal},
        )
        for stack in stacks
    }
    return Path.of(xr.DataTree.from_dict(nodes))


def _relevance(path: Path, sample: int) -> Array:
    """Relevance of one window after each layer: ``-> (layer, token, token)``."""
    found, layers = np.eye(path.n_tokens), []
    for name, node in path.stacks.items():
        own = path.place(name)
        for layer in range(node.sizes["layer"]):
            found = found.copy()
            found[own] += node["attention"].values[sample, layer, 0] @ found[own]
            if path.cross is not None and own.start:
                past = slice(0, own.start)
                across = path.cross["attention"].values[sample, layer, 0]
                found[own, past] += _rows_alone(found[own, own]).T @ across @ _rows_alone(found[past, past])
            layers.append(found)
    return np.stack(layers)


def _rows_alone(relevance: Array) -> Array:
    """Rows without the identity, normalised, plus the identity; a row that is the identity stays."""
    own = np.eye(len(relevance))
    rest = relevance - own
    total = rest.sum(-1, keepdims=True)
    return np.divide(rest, total, out=np.zeros_like(rest), where=total > 0) + own
