"""From what was read of single attention calls to the arrays of a stack: passes, decoding steps, selected rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laglens.attention.calls import Record
from laglens.attention.streaming import Columns, reduce_weights, row_statistics
from laglens.errors import LaglensError
from laglens.models.tokens import Stack

Arrays = dict[str, Tensor]
Lead = Sequence[int]


@dataclass(frozen=True)
class Place:
    """Where a call belongs: layer number `layer` of `stack`."""

    stack: Stack
    layer: int


@dataclass(frozen=True)
class Batch:
    """Windows that went through the model together.

    Attributes
    ----------
    samples
        Which windows.
    channels
        Series of each window that the attention layers see side by side; None: one, without an axis of its own.
    """

    samples: slice
    channels: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """``(sample,)`` or ``(sample, channel)``."""
        n = self.samples.stop - self.samples.start
        return (n,) if self.channels is None else (n, self.channels)

    def unfold(self, tensor: Tensor, lead: Lead, layer: str) -> Tensor:
        """Give an array of a call its axes: (lead..., any...) -> (sample, [channel,] head, any...).

        The leading dims of a call are the batch, which may hold the channels, and the heads; some models fold all of
        them into one. Heads run fastest.

        Raises
        ------
        LaglensError
            The leading dims do not begin with the batch.
        """
        n = math.prod(self.shape)
        beginnings = [math.prod(lead[: i + 1]) for i in range(len(lead))]
        if n not in beginnings and not (len(lead) == 1 and lead[0] % n == 0):
            raise LaglensError(
                f"'{layer}': the leading dims of its attention are {tuple(lead)}, which do not begin with the batch "
                f"{self.shape}; the model folds other axes into them, so it needs an adapter of its own"
            )
        return tensor.reshape(*self.shape, -1, *tensor.shape[len(lead) :])


def records_of(stack: Stack, records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each layer of a stack: its call, or all its decoding steps in order.

    Raises
    ------
    LaglensError
        A layer made no such call.
    """
    found: dict[str, list[Record]] = {layer: [] for layer in stack.layers}
    for record in records:
        if record.module in found and (stack.steps or record.call == stack.call):
            found[record.module].append(record)
    missing = [layer for layer, calls in found.items() if not calls]
    if missing:
        which = f" number {stack.call + 1}" if stack.call else ""
        raise LaglensError(f"stack '{stack.name}': no attention call{which} in {', '.join(missing)}")
    return found


def layer_arrays(
    stack: Stack, records: Sequence[Record], *, columns: Columns | None, dtype: torch.dtype, statistics: Sequence[str]
) -> tuple[Arrays, Lead] | None:
    """What is kept of one layer, ``(lead..., any...)`` by name, and its leading dims.

    Parameters
    ----------
    records
        Of the layer: its call, or its decoding steps.
    columns
        Reduces weights that were read as they are to time columns; None: they are kept over tokens, in `dtype`.
    statistics
        Of the rows, by name.

    Returns
    -------
    tuple or None
        None where everything was handed on while the model ran (see `laglens.attention.readers.TokenReader`).
    """
    reduced, weights = records[0].reduced, records[0].weights
    if weights is None:
        return None if reduced is None or "attention" not in reduced else (reduced, reduced["attention"].shape[:-2])
    whole, selected = whole_weights(stack, records)
    if columns is None:
        arrays = token_arrays(whole, dtype, statistics)
    else:
        arrays = reduce_weights(whole, columns, statistics=statistics)
    return arrays | ({} if selected is None else {"selected": selected}), whole.shape[:-2]


def token_arrays(weights: Tensor, dtype: torch.dtype, statistics: Sequence[str]) -> Arrays:
    """Weights ``(..., query, key)`` in the type they are stored in, and statistics ``(..., query)`` of their rows."""
    found = row_statistics(weights) if statistics else {}
    # torch casts to half some 20 times faster than numpy when most weights are subnormal.
    return {"attention": weights.to(dtype)} | {name: found[name] for name in statistics}


def whole_weights(stack: Stack, records: Sequence[Record]) -> tuple[Tensor, Tensor | None]:
    """Weights of one layer over all tokens of the stack, and which queries the model selected.

    Parameters
    ----------
    records
        Of the layer, with ``weights``.

    Returns
    -------
    weights
        ``(lead..., query, key)``.
    selected
        ``(lead..., query)``, bool, or None where the model computes all rows.

    Raises
    ------
    LaglensError
        The weights do not fit the token maps.
    """
    if stack.steps:
        return _decoded(stack, records)
    (record,) = records
    weights, selected = _weights(record), record.selected
    if selected is None:
        _check_tokens(stack, record.module, record.shape)
        return weights, None
    _check_tokens(stack, record.module, (len(stack.query), record.shape[1]))
    return scattered(weights, selected, len(stack.query), causal=stack.causal)


def steps_of(stack: Stack, n_steps: int) -> list[slice]:
    """The queries whose rows each decoding step gives."""
    first = len(stack.query) - n_steps + 1
    return [slice(0, first), *(slice(first + i, first + i + 1) for i in range(n_steps - 1))]


def _decoded(stack: Stack, records: Sequence[Record]) -> tuple[Tensor, Tensor | None]:
    """Rows of each decoding step in their place, and which of them the model selected; keys to come have weight 0."""
    first = _weights(records[0])
    whole = first.new_zeros(*first.shape[:-2], len(stack.query), len(stack.key))
    marked = torch.ones(whole.shape[:-1], dtype=torch.bool, device=whole.device)
    places = steps_of(stack, len(records))
    for step, record in enumerate(records):
        queries = places[step]
        rows, n = _weights(record), queries.stop - queries.start
        fits = rows.shape[:-2] == whole.shape[:-2] and rows.shape[-1] <= whole.shape[-1]
        if n < 1 or rows.shape[-2] not in (n, queries.stop) or not fits:
            raise LaglensError(
                f"stack '{stack.name}': step {record.call} of '{record.module}' attends from {rows.shape[-2]} to "
                f"{rows.shape[-1]} tokens, which does not fit {len(records)} steps over {len(stack.query)} and "
                f"{len(stack.key)} tokens"
            )
        whole[..., queries, : rows.shape[-1]] = rows[..., -n:, :]
        if record.selected is not None:
            selected = record.selected.to(whole.device).reshape(*rows.shape[:-2], 1, -1)
            index = torch.arange(queries.start, queries.stop, device=whole.device)
            marked[..., queries] = (selected == index[:, None]).any(-1)
    return whole, marked if any(record.selected is not None for record in records) else None


def scattered(weights: Tensor, selected: Tensor, n_query: int, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Selected rows in their place among all queries, and which ones they are. The others are even over what they see.

    That is what they stand for: a model with ProbSparse attention gives unselected queries the mean of the values
    (a causal one the sum of those so far).
    """
    even = weights.new_ones(n_query, weights.shape[-1])
    even = even.tril() if causal else even
    even = even / even.sum(-1, keepdim=True)
    index = selected.to(weights.device).reshape(weights.shape[:-1])
    whole = even.expand(*weights.shape[:-2], *even.shape).clone()
    whole.scatter_(-2, index[..., None].expand_as(weights), weights)
    marked = torch.zeros(whole.shape[:-1], dtype=torch.bool, device=weights.device)
    return whole, marked.scatter_(-1, index, True)


def _weights(record: Record) -> Tensor:
    if record.weights is None:
        raise LaglensError(f"'{record.module}': no weights were kept of call {record.call}, so its rows have no place")
    return record.weights.to(torch.promote_types(record.weights.dtype, torch.float32))


def _check_tokens(stack: Stack, layer: str, shape: tuple[int, int]) -> None:
    expected = (len(stack.query), len(stack.key))
    if shape != expected:
        raise LaglensError(
            f"stack '{stack.name}': the token map has {expected} query and key tokens, the weights of '{layer}' {shape}"
        )
