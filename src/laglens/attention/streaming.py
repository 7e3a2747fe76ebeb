"""Attention reduced to time columns while the model runs: output, maps and row statistics in one pass.

The scores are computed a block of queries at a time, so that the weights of all tokens never exist at once, and the
pass returns the layer's output, so that it replaces the fused kernel instead of following it. Needs torch and numpy
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laglens.attention.calls import AttentionCall, Reading
from laglens.attention.streaming_columns import Columns, blocks, layout
from laglens.attention.streaming_pass import Pass
from laglens.attention.streaming_rollout import advance_rollout
from laglens.attention.streaming_statistics import STATISTICS, row_statistics
from laglens.attention.weights import weights_of, without_autocast
from laglens.errors import LaglensError

__all__ = ["Columns", "StreamReader", "reduce_weights", "rollout_start", "row_statistics", "stream_attention"]

DEFAULT_STATISTICS = ("entropy", "effective_keys")


@torch.no_grad()
def stream_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    columns: Columns,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    statistics: Sequence[str] = DEFAULT_STATISTICS,
    rollout: Tensor | None = None,
    residual: float = 0.5,
    maps_dtype: torch.dtype | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scaled-dot-product attention, and where in time it looked.

    Parameters
    ----------
    query, key, value
        ``(..., head, query, width)``, ``(..., head, key, width)``, ``(..., head, key, value width)``, as a call of
        `torch.nn.functional.scaled_dot_product_attention` has them; keys and values may have fewer heads (grouped
        queries). Scores are computed at least in float32.
    columns
        The time column of every query and key token.
    mask, is_causal, scale
        As in that function; the causal triangle is aligned top left.
    statistics
        Which row statistics to return: ``entropy``, ``effective_keys``, ``top_key``.
    rollout, residual
        State of the attention rollout below this layer, ``(..., token, reached)`` (see `rollout_start`), and the weight
        of the residual connection. The weights of all heads are averaged (Abnar and Zuidema 2020).
    maps_dtype
        Of ``attention``, if not that of the scores, such as half for the weights of all tokens (`Columns.each_token`).

    Returns
    -------
    output
        ``(..., head, query, value width)`` in the dtype of `query`.
    reduced
        At least float32. ``attention (..., head, query column, key column)``: sum over the tokens of a key column,
        mean over those of a query column; ``special_mass (..., head, query column)``: mass on special keys, so that a
        row and its special mass sum to 1. ``(..., head, query)`` for every query token, special ones too: of the
        statistics asked for, ``entropy`` in nats, ``effective_keys`` (1 / sum of squares), ``top_key`` (int32). With
        `rollout`, its next state. A query that may see no key has output, weights and statistics 0.

    Raises
    ------
    LaglensError
        The tokens of the tensors and of `columns` differ in number, a statistic is unknown, or a rollout is asked of
        attention between different tokens.
    """
    _check(statistics)
    tokens = query.shape[-2], key.shape[-2]
    if tokens != columns.tokens:
        raise LaglensError(
            f"attention of {tokens} query and key tokens does not fit columns of {columns.tokens} tokens"
        )
    if rollout is not None and tokens[0] != tokens[1]:
        raise LaglensError(f"rollout needs queries and keys to be the same tokens, here there are {tokens}")
    lead = query.shape[:-2]
    with without_autocast(query.device):
        one = Pass(
            _batch_head(query, lead),
            _batch_head(key, lead),
            _batch_head(value, lead),
            columns,
            mask=None if mask is None else _mask(mask, lead),
            is_causal=is_causal,
            scale=scale,
            statistics=statistics,
            rollout=None if rollout is None else rollout.reshape(-1, *rollout.shape[-2:]),
            residual=residual,
            maps_dtype=maps_dtype,
        )
        one.run()
    reduced = {"attention": one.maps, "special_mass": one.special_mass} | one.rows
    reduced = {name: found.reshape(*lead, *found.shape[1:]) for name, found in reduced.items()}
    if one.rollout is not None and rollout is not None:
        reduced["rollout"] = one.rollout.above.reshape(*lead[:-1], *rollout.shape[-2:])
    return one.output.reshape(*lead, *one.output.shape[2:]), reduced


def rollout_start(columns: Columns, device: torch.device | str = "cpu") -> Tensor:
    """State of the rollout below the first layer, ``(token, key column + special key)``: each token is at itself.

    A one in the column of a token, or, for a special one, in its place among the special tokens.
    """
    n = columns.in_time[1]
    reached = columns.key.copy()
    reached[reached < 0] = n + np.arange(columns.special_keys)
    return torch.nn.functional.one_hot(torch.from_numpy(reached), n + columns.special_keys).to(device, torch.float32)


class StreamReader:
    """Reads the calls of a forward pass with `stream_attention`, whose output takes the place of the kernel's.

    Weights that the model computes itself (``softmax``) are reduced as they are. Calls on some of the tokens only
    (selected queries, decoding steps) are kept as weights, to be put in place and then reduced (`reduce_weights`).
    Modules without columns are left alone.

    Parameters
    ----------
    columns
        Columns of each attention module, lowest layer first.
    statistics
        Row statistics, as in `stream_attention`.
    rollout, residual
        Whether to follow the attention through all these modules, and the weight of the residual connection. The
        rollout begins anew whenever the first module is called, and adds ``rollout (..., query column, key column)``
        and ``rollout_special (..., query column)``, up to and including each layer, to what is kept.

    Raises
    ------
    LaglensError
        A statistic is unknown, or a rollout is asked of modules that do not all have the same tokens.
    """

    def __init__(
        self,
        columns: Mapping[str, Columns],
        statistics: Sequence[str] = DEFAULT_STATISTICS,
        *,
        rollout: bool = False,
        residual: float = 0.5,
    ) -> None:
        _check(statistics)
        self.columns, self.statistics = columns, tuple(statistics)
        self.rollout, self.residual = rollout, residual
        self._first = next(iter(columns), "")
        self._reached: Tensor | None = None
        for name, one in columns.items() if rollout else ():
            tokens = columns[self._first].query
            if not (np.array_equal(one.query, tokens) and np.array_equal(one.key, tokens)):
                raise LaglensError(
                    f"rollout needs the same tokens everywhere: '{name}' has others than '{self._first}'"
                )

    @torch.no_grad()
    def read(self, call: AttentionCall) -> Reading | None:
        """Reduce one call; None for a module without columns."""
        columns = self.columns.get(call.module)
        if columns is None:
            return None
        if call.selected is not None or call.shape != columns.tokens:
            return Reading(weights=weights_of(call))
        below = self.below(call) if self.rollout else None
        options: dict[str, Any] = {"statistics": self.statistics, "rollout": below, "residual": self.residual}
        if call.query is None or call.key is None or call.value is None:
            reduced = reduce_weights(weights_of(call), columns, **options)
            return Reading(reduced=self.by_column(reduced, columns))
        output, reduced = stream_attention(
            call.query,
            call.key,
            call.value,
            columns,
            mask=call.mask,
            is_causal=call.is_causal,
            scale=call.scale,
            **options,
        )
        return Reading(reduced=self.by_column(reduced, columns), output=output)

    def below(self, call: AttentionCall) -> Tensor:
        """State of the rollout below a call, ``(..., token, reached)``: anew where the first module is called."""
        if self._reached is None or call.module == self._first:
            tensor = call.weights if call.query is None else call.query
            start = rollout_start(self.columns[call.module], tensor.device)
            self._reached = start.expand(*tensor.shape[:-3], *start.shape)
        return self._reached

    def by_column(self, reduced: dict[str, Tensor], columns: Columns) -> dict[str, Tensor]:
        """Keep the state of the rollout, and reduce it to what is written: its mean over the queries of each column."""
        if "rollout" not in reduced:
            return reduced
        self._reached = reduced.pop("rollout")
        pooled = _pool_queries(self._reached, columns)
        n = columns.in_time[1]
        return reduced | {"rollout": pooled[..., :n], "rollout_special": pooled[..., n:].sum(-1)}


@torch.no_grad()
def reduce_weights(
    weights: Tensor,
    columns: Columns,
    *,
    statistics: Sequence[str] = DEFAULT_STATISTICS,
    rollout: Tensor | None = None,
    residual: float = 0.5,
) -> dict[str, Tensor]:
    """What `stream_attention` returns beside its output, from weights ``(..., head, query, key)`` that are there."""
    _check(statistics)
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    in_time, special = layout(columns, weights.device).pool_keys(_pool_queries(weights, columns))
    reduced = {"attention": in_time, "special_mass": special}
    reduced |= row_statistics(weights, statistics)
    if rollout is not None:
        below = rollout.to(weights.dtype)
        reduced["rollout"] = advance_rollout(below, below, weights.sum(-3), residual)
    return reduced


def _pool_queries(rows: Tensor, columns: Columns) -> Tensor:
    """Mean over the queries of each column: ``(..., query, any) -> (..., query column, any)``."""
    known = layout(columns, rows.device)
    rows = rows[..., known.order, :] if known.moved else rows
    whole = blocks(columns, rows.shape[-2], rows.dtype, rows.device)[0]
    return whole.pool_queries(rows)


def _check(statistics: Sequence[str]) -> None:
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown:
        raise LaglensError(f"row statistic '{unknown[0]}' is not one of {', '.join(STATISTICS)}")


def _batch_head(tensor: Tensor, lead: torch.Size) -> Tensor:
    """Any leading dims as ``(batch, head)``; batch dims broadcast to those of the queries."""
    if len(lead) < 2:
        return tensor[(None,) * (2 - len(lead))]
    return tensor.expand(*lead[:-1], *tensor.shape[-3:]).reshape(-1, *tensor.shape[-3:])


def _mask(mask: Tensor, lead: torch.Size) -> Tensor:
    """``(batch, head, query, key)`` without spreading what is the same for all of them."""
    mask = mask[(None,) * max(0, 4 - mask.dim())]
    if len(lead) > 2 and any(size > 1 for size in mask.shape[:-3]):
        mask = mask.expand(*lead[:-1], *mask.shape[-3:])
    return mask.reshape(-1, *mask.shape[-3:])
