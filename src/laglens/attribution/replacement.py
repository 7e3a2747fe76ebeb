"""How much a forecast changes when attention is replaced (Jain and Wallace 2019; Wiegreffe and Pinter 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture
from laglens.attention.weights import weights_of
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.progress import track
from laglens.signals.windows import histories

KINDS = ("permuted", "uniform", "identity", "mean", "frozen")
Place = tuple[str, int]


@dataclass
class KeepWeights:
    """Reader that keeps the weights of every call and lets the model's own kernel run."""

    weights: dict[Place, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading | None:
        """Keep the weights of one call."""
        self.weights[call.module, call.index] = weights_of(call)
        return None


@dataclass
class Replace:
    """Edit of a capture that puts other weights in the place of a model's own.

    Attributes
    ----------
    kind
        ``permuted``: those of every row in random order among the keys it sees; ``uniform``: over these keys;
        ``identity``: all on the query itself, where it is a key; ``mean``: over all windows; ``frozen``: those of
        another window.
    clean
        Weights of the intact run, by module and call.
    n
        Windows that run together.
    generator
        Of the permutations.
    heads
        Modules and heads whose weights are replaced; None: all.
    """

    kind: str
    clean: Mapping[Place, Tensor]
    n: int
    generator: torch.Generator
    heads: Mapping[str, Sequence[int]] | None = None

    def __call__(self, call: AttentionCall) -> AttentionCall:
        """Replace the weights of one call."""
        clean = self.clean.get((call.module, call.index))
        chosen = None if self.heads is None else self.heads.get(call.module, ())
        if clean is None or (chosen is not None and not len(chosen)):
            return call
        own = weights_of(call)
        if own.shape != clean.shape or (self.kind == "identity" and own.shape[-1] != own.shape[-2]):
            return call  # cross-attention has no query among its keys
        # Some models fold windows and heads into one axis.
        each, clean = (weights.reshape(self.n, -1, *own.shape[-2:]) for weights in (own, clean))
        other = self._other(each, clean)
        if chosen is not None:
            of_head = torch.zeros(each.shape[1], dtype=torch.bool, device=own.device)
            of_head[list(chosen)] = True
            other = torch.where(of_head[:, None, None], other, each)
        return with_weights(call, other.reshape(own.shape))

    def _other(self, own: Tensor, clean: Tensor) -> Tensor:
        visible = own > 0
        if self.kind == "uniform":
            return visible / visible.sum(-1, keepdim=True).clamp_min(1)
        if self.kind == "identity":
            eye = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
            return torch.where(visible.diagonal(dim1=-2, dim2=-1)[..., None], eye, own)
        if self.kind == "mean":
            return clean.mean(0, keepdim=True).expand_as(own)
        if self.kind == "frozen":
            return clean.roll(1, 0)
        # Two sorts bring the weights of the visible keys, in random order, to the places of the visible keys.
        noise = torch.rand(own.shape, generator=self.generator).to(own.device)
        source = torch.where(visible, noise, 2.0).argsort(-1)
        place = (~visible).to(own).argsort(dim=-1, stable=True)
        return torch.zeros_like(own).scatter(-1, place, own.gather(-1, source))


def with_weights(call: AttentionCall, weights: Tensor) -> AttentionCall:
    """The same call with other weights: ``(..., query, key)``, rows summing to 1, or to 0 for one without a key.

    The softmax of log weights is the weights, so a query of zeros with them as its mask makes the kernel use them.
    """
    if call.query is None or call.weights is not None:
        return replace(call, weights=weights, mask=None)
    return replace(call, query=torch.zeros_like(call.query), mask=weights.log().to(call.query), is_causal=False)


def replace_attention(
    model: Forecaster,
    windows: xr.Dataset,
    *,
    kinds: Sequence[str] = KINDS,
    draws: int = 3,
    by_head: str | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> xr.Dataset:
    """Change of the forecast when the weights of all heads are replaced at once, and of single ones.

    All windows run together: ``mean`` and ``frozen`` need those of the others.

    Parameters
    ----------
    model
        In evaluation mode, one channel, with a horizon.
    windows
        ``series (sample, time)``, at least two; the horizon may hold NaN.
    kinds
        See `Replace`.
    draws
        Permutations, over which the median is taken.
    by_head
        A kind that is also tried in one head after the other; None: not.
    seed
        Of the permutations.

    Returns
    -------
    xr.Dataset
        In standard deviations of each history: ``forecast_change (kind, sample)``, mean over the horizon of the
        absolute difference from the intact forecast, and ``error_change (kind, sample)``, mean absolute error minus
        that of the intact one (NaN where the truth is not known). With `by_head` also ``head_change (label, sample)``,
        labels being the module and the number of the head.

    Raises
    ------
    LaglensError
        An unknown kind, no horizon, several channels, or fewer than two windows.
    """
    unknown = [kind for kind in (*kinds, *([by_head] if by_head else [])) if kind not in KINDS]
    if unknown or not kinds:
        raise LaglensError(f"replacement '{(unknown or [''])[0]}' is not one of {', '.join(KINDS)}")
    if model.horizon < 1 or getattr(model, "channels", 1) > 1 or windows.sizes["sample"] < 2:
        raise LaglensError("replacing attention needs a model that forecasts one channel, and two windows")
    model = model.eval().to(device)
    shown = torch.from_numpy(histories(windows, model.history)).to(device)
    keep = KeepWeights()
    with torch.no_grad(), AttentionCapture(model, certify=False, reader=keep) as clean:
        intact = model(shown)
    clean.check()
    in_time = {layer for stack in model.stacks for layer in stack.layers}
    weights = {place: found for place, found in keep.weights.items() if place[0] in in_time}

    def run(kind: str, number: int, heads: Mapping[str, Sequence[int]] | None = None) -> Tensor:
        edit = Replace(kind, weights, len(shown), torch.Generator().manual_seed(1000 * seed + number), heads)
        with torch.no_grad(), AttentionCapture(model, certify=False, reader=Nothing(), edit=edit, clean=clean):
            return model(shown)

    changes, errors = {}, {}
    sd = shown.double().std(1, keepdim=True)
    scale = torch.where(sd > 0, sd, 1.0)
    truth = torch.from_numpy(windows["series"].values[:, model.history :][:, : model.horizon]).to(shown.device)
    before = ((intact - truth).abs() / scale).mean(1)
    for kind in kinds:
        forecasts = torch.stack([run(kind, i) for i in range(draws if kind == "permuted" else 1)])
        changes[kind] = ((forecasts - intact).abs() / scale).mean(2).quantile(0.5, dim=0).cpu().numpy()
        errors[kind] = (((forecasts - truth).abs() / scale).mean(2) - before).nanquantile(0.5, dim=0).cpu().numpy()
    dims = ("kind", "sample")
    variables = {
        "forecast_change": (dims, np.stack(list(changes.values()))),
        "error_change": (dims, np.stack(list(errors.values()))),
    }
    coords = {"kind": np.array(list(kinds), object), "sample": windows["sample"].values}
    if by_head is not None:
        sizes = {module: found.shape[-3] for (module, _), found in weights.items()}
        labels = [(module, head) for stack in model.stacks for module in stack.layers for head in range(sizes[module])]
        labels = list(dict.fromkeys(labels))
        rows = [
            ((run(by_head, 0, {module: [head]}) - intact).abs() / scale).mean(1).cpu().numpy()
            for module, head in track(labels, "replacing heads", total=len(labels))
        ]
        variables["head_change"] = (("label", "sample"), np.stack(rows))
        coords["label"] = np.array([f"{module} H{head:02}" for module, head in labels], object)
    attrs = windows.attrs | {"draws": draws, "by_head": by_head or "none"}
    return xr.Dataset(variables, coords, attrs)


class Nothing:
    """Reader that keeps nothing: the model's own kernels run."""

    def read(self, call: AttentionCall) -> Reading | None:
        """Keep nothing of a call."""
        return None
