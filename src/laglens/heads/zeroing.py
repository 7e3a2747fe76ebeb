"""Value zeroing (Mohebbi et al. 2023): what the output of a layer loses without the values of a token, or of a head.

The layer is everything around the attention that the model repeats: residual connection, normalisation and feed-forward
network too. It runs once more for every token or head whose values are 0, on the input that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.capture import AttentionCapture
from laglens.attention.coordinates import stack_coordinates
from laglens.errors import LaglensError
from laglens.heads.ablation import NoReading, RemovedHeads
from laglens.heads.nothing import NothingToMeasureError
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack
from laglens.progress import track
from laglens.signals.windows import histories

Edit = Callable[[AttentionCall], AttentionCall]
SAME = 1e-4  # of the largest value: outputs that differ by rounding alone
LONGEST = 512  # keys; a layer runs once for each of them
STEPS = "its rows are decoding steps: keys and values of earlier steps have grown since, so no layer runs again alone"


@dataclass(frozen=True)
class ZeroedValue:
    """Edit of a capture that sets the values of one key to 0, in all heads of a module."""

    module: str
    key: int

    def __call__(self, call: AttentionCall) -> AttentionCall:
        """Zero the key in one call."""
        if call.module != self.module:
            return call
        if call.weights is not None:  # a weight on a value of 0 is no weight
            weights = call.weights.clone()
            weights[..., self.key] = 0
            return replace(call, weights=weights)
        query, key, value = call.operands
        value = value.clone()
        value[..., self.key, :] = 0
        return replace(call, query=query, key=key, value=value)


def value_zeroing(
    model: Forecaster, windows: xr.Dataset, *, batch: int = 16, device: torch.device | str = "cpu"
) -> xr.DataTree:
    r"""How much the output of each layer turns when the values of one token are 0; one node per attention stack.

    .. math:: V_{ij} = 1 - \cos(y_i, y_i^{\lnot j}), \quad \text{rows divided by their sum}

    with y the output of the whole layer (see `block_of`).

    Parameters
    ----------
    model
        In evaluation mode.
    windows
        ``series (sample, time)``; the channels of a window are samples (see `laglens.time.reduce.channels_as_samples`).
    batch
        Windows per pass.

    Returns
    -------
    xr.DataTree
        Over tokens: ``attention (sample, layer, head, query, key)`` with one head, so that
        `laglens.time.reduce.to_time` and `laglens.flow.rollout.roll_out` take it (with ``residual=0``: y holds the
        residual connection already), and ``turned (sample, layer, query)``, the sums of the rows before they are
        divided. The attribute ``left_out`` names the stacks of decoding steps.

    Raises
    ------
    NothingToMeasureError
        All stacks are decoding steps.
    LaglensError
        A stack has more than 512 keys; its layers do not put out its tokens, or not the same when they run alone.

    References
    ----------
    Mohebbi et al. 2023 (arXiv 2301.12971). `laglens.heads.norms.value_zeroing_residual` is the same for attention and
    residual connection alone.
    """
    model = model.eval().to(device)
    stacks = [stack for stack in model.stacks if not stack.steps]
    if not stacks:
        raise NothingToMeasureError("the model attends in decoding steps, whose layers cannot run alone")
    if long := [stack for stack in stacks if len(stack.key) > LONGEST]:
        raise LaglensError(
            f"stack '{long[0].name}' has {len(long[0].key)} keys, and each layer would run once for each; value "
            f"zeroing is for up to {LONGEST}; value_zeroing_residual needs no run"
        )
    nodes = {}
    progress = iter(track(range(sum(len(s.layers) * len(s.key) for s in stacks)), "zeroing values"))
    for stack in stacks:
        layers = [_zeroed(layers, stack, progress) for layers in _in_batches(model, stack, windows, batch, device)]
        turned = np.concatenate(layers)
        total = turned.sum(-1)
        rows = np.divide(turned, total[..., None], out=np.zeros_like(turned), where=total[..., None] > 0)
        dims = ("sample", "layer", "query")
        variables = {
            "attention": (("sample", "layer", "head", "query", "key"), rows[:, :, None]),
            "turned": (dims, total, {"long_name": "sum of 1 - cosine over keys", "units": "1"}),
        }
        coords = stack_coordinates(stack) | {"head": xr.Variable("head", [0]), "sample": windows["sample"].variable}
        nodes[f"/{stack.name}"] = xr.Dataset(variables, coords, {"causal": stack.causal})
    root = windows.assign_attrs(history=model.history, horizon=model.horizon, left_out=_decoding(model))
    return xr.DataTree.from_dict({"/": root, **nodes})


def zeroed_heads(
    model: Forecaster, windows: xr.Dataset, *, batch: int = 16, device: torch.device | str = "cpu"
) -> xr.DataTree:
    """How much the output of each layer turns when the values of one head are 0; one node per attention stack.

    Parameters
    ----------
    model, windows, batch
        As `value_zeroing`, for any number of tokens.

    Returns
    -------
    xr.DataTree
        ``value_zeroing (sample, layer, head)``: 1 - cosine of the outputs with and without, mean over the queries.
        Stacks of decoding steps have no node; the attribute ``left_out`` names them.

    Raises
    ------
    LaglensError
        The layers of a stack do not put out its tokens, or not the same when they run alone.
    """
    model = model.eval().to(device)
    nodes = {}
    for stack in (stack for stack in model.stacks if not stack.steps):
        parts = []
        for layers in _in_batches(model, stack, windows, batch, device):
            turned = [
                [
                    layer.turned(RemovedHeads({layer.attention: [head]}, layer.rows)).mean(-1)
                    for head in range(layer.heads)
                ]
                for layer in layers
            ]
            parts.append(np.moveaxis(np.array(turned), -1, 0))
        about = {"long_name": "1 - cosine of the output of the layer with and without the values of the head"}
        dims = ("sample", "layer", "head")
        names = xr.Variable("layer", np.array(stack.layers, dtype=object))
        nodes[f"/{stack.name}"] = xr.Dataset(
            {"value_zeroing": (dims, np.concatenate(parts), about)}, {"layer_name": names}
        )
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"left_out": _decoding(model)}), **nodes})


def _decoding(model: Forecaster) -> dict[str, str]:
    """Stacks whose layers cannot run alone, each with the reason."""
    return {stack.name: STEPS for stack in model.stacks if stack.steps}


def block_of(model: nn.Module, stack: Stack, layer: str) -> str:
    """Name of the module that a model repeats around an attention layer.

    The outermost element of a list of modules that holds no other layer of the stack; where the attention is in no
    list, the attention itself.
    """
    modules, parts = dict(model.named_modules()), layer.split(".")
    for depth in range(1, len(parts) + 1):
        name, above = ".".join(parts[:depth]), ".".join(parts[: depth - 1])
        alone = not any(f"{other}.".startswith(f"{name}.") for other in stack.layers if other != layer)
        if alone and isinstance(modules[above], nn.ModuleList | nn.Sequential):
            return name
    return layer


@dataclass
class _HeadsOfFirstCall:
    """Counts the heads of the first call of a module; nothing is kept."""

    module: str
    rows: int
    heads: int = 0

    def read(self, call: AttentionCall) -> Reading | None:
        if call.module == self.module and call.index == 0:
            tensor = call.weights if call.query is None else call.query
            if tensor is not None:  # (sample, head, token, dim), or samples and heads folded together
                self.heads = tensor.shape[-3] if tensor.dim() > 3 else len(tensor) // self.rows
        return None


@dataclass
class _Layer:
    """One layer of a model with the input that it had, and its output."""

    model: Forecaster
    block: nn.Module
    attention: str
    seen: tuple[tuple, dict[str, Any], Any]  # arguments and output, while the whole model ran
    rows: int  # windows; of several channels, all of them
    n_query: int

    def __post_init__(self) -> None:
        counter = _HeadsOfFirstCall(self.attention, self.rows)
        expected = self._tokens(_first(self.seen[2]))
        with torch.no_grad(), AttentionCapture(self.model, certify=False, reader=counter) as self.clean:
            self.output = self._tokens(self._run())
        if not torch.allclose(self.output, expected, rtol=0, atol=SAME * float(expected.abs().max())):
            raise LaglensError(f"the layer around '{self.attention}' puts out something else when it runs alone")
        self.heads = counter.heads

    @property
    def without_heads(self) -> list[Edit]:
        """Edits that set the values of one head to 0."""
        return [RemovedHeads({self.attention: [head]}, self.rows) for head in range(self.heads)]

    def turned(self, edit: Edit) -> NDArray[np.float64]:
        """1 - cosine of the outputs without and with an edit: ``(window, query)``."""

        def of_first_call(call: AttentionCall) -> AttentionCall:
            # A layer may attend over time first, and over something else with the same module then.
            return edit(call) if call.index == 0 else call

        options: dict[str, Any] = {"certify": False, "reader": NoReading(), "clean": self.clean, "edit": of_first_call}
        with torch.no_grad(), AttentionCapture(self.model, **options):
            changed = self._tokens(self._run())
        cosine = torch.nn.functional.cosine_similarity(self.output, changed, dim=-1)
        return (1 - cosine).clamp_min(0).cpu().numpy()

    def _run(self) -> Tensor:
        args, options, _ = self.seen
        try:
            return _first(self.block(*args, **options))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # such as a cache that grew
            raise LaglensError(f"the layer around '{self.attention}' does not run alone ({error})") from error

    def _tokens(self, output: Tensor) -> Tensor:
        found = output.detach().double().reshape(-1, *output.shape[-2:])
        if found.shape[:2] != (self.rows, self.n_query):
            raise LaglensError(
                f"the layer around '{self.attention}' puts out {tuple(output.shape)}, not {self.rows} windows of "
                f"{self.n_query} tokens"
            )
        return found


def _first(output: Any) -> Tensor:
    """The hidden states among what a layer puts out."""
    parts = output.values() if isinstance(output, Mapping) else output
    first = output if isinstance(output, Tensor) else next(iter(parts), None)
    if not isinstance(first, Tensor) or first.dim() < 2:
        raise LaglensError(f"a layer puts out {type(output).__name__}, in which no hidden states can be told")
    return first


def _in_batches(
    model: Forecaster, stack: Stack, windows: xr.Dataset, batch: int, device: torch.device | str
) -> Iterator[list[_Layer]]:
    """The layers of a stack, each with its input, batch by batch of windows."""
    shown = torch.from_numpy(histories(windows, model.history)).to(device)
    modules = dict(model.named_modules())
    blocks = {layer: modules[block_of(model, stack, layer)] for layer in stack.layers}
    for part in shown.split(max(batch // model.channels, 1) * model.channels):
        seen: dict[str, list[tuple[tuple, dict[str, Any], Any]]] = {layer: [] for layer in stack.layers}

        def keep(layer: str, seen: dict[str, list] = seen) -> Callable[..., None]:
            return lambda module, args, options, output: seen[layer].append((args, options, output))

        hooks = [block.register_forward_hook(keep(layer), with_kwargs=True) for layer, block in blocks.items()]
        try:
            with torch.no_grad():
                model(part if model.channels == 1 else part.unflatten(0, (-1, model.channels)))
        finally:
            for hook in hooks:
                hook.remove()
        yield [
            _Layer(model, block, layer, seen[layer][stack.call], len(part), len(stack.query))
            for layer, block in blocks.items()
        ]


def _zeroed(layers: list[_Layer], stack: Stack, progress: Iterator[int]) -> NDArray[np.float64]:
    """1 - cosine for every key, ``(sample, layer, query, key)``."""
    found = np.zeros((layers[0].rows, len(layers), len(stack.query), len(stack.key)))
    for i, layer in enumerate(layers):
        for key in range(len(stack.key)):
            next(progress, None)
            found[:, i, :, key] = layer.turned(ZeroedValue(layer.attention, key))
    return found
