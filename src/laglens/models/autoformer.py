"""Autoformer of the transformers library, whose layers shift the series by a few delays instead of weighing keys.

A layer correlates its queries with its keys at every circular delay (Wiener-Khinchin theorem), takes the few delays
with the largest correlation, averaged over heads and channels, and adds up the values shifted by each of them, with a
softmax over their correlations as weights. That is a linear operator on the values, the same for all heads: a matrix
with the weight of delay ``d`` at the key ``query + d``, modulo the length. It is what the other stages read as the
attention of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from laglens.errors import LaglensError
from laglens.models.huggingface import exact_length
from laglens.models.lagged import LaggedForecaster
from laglens.models.tokens import Stack, TokenMap

TOLERANCE = 1e-4  # of the operator against the library's layer, relative to the largest output


class AutoformerForecaster(LaggedForecaster):
    """`AutoformerForPrediction`; the mean of the forecast distribution, the whole horizon at once.

    References
    ----------
    Wu et al., Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series Forecasting, NeurIPS
    2021 (arXiv:2106.13008).
    """

    kinds: ClassVar[Mapping[str, str]] = {"autoformer": "AutoformerForPrediction"}

    def _prepare(self) -> None:
        super()._prepare()
        context, label = self.config["context_length"], self.config["label_length"]
        if not 0 < label <= context:
            raise LaglensError(f"label_length {label}: must be between 1 and the context_length {context}")
        for layer in (*self.network.model.encoder.layers, *self.network.model.decoder.layers):
            for name in ("self_attn", "encoder_attn"):
                if attention := getattr(layer, name, None):
                    # Bound to the module, so that its parameters keep their names and a copy stays a copy.
                    attention.forward = MethodType(delay_attention, attention)

    def _lengths(self, history: int | None, horizon: int | None) -> tuple[int, int]:
        length = self.config["prediction_length"]
        return self._history(history), exact_length("horizon", horizon, length, "its prediction_length")

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Encoder; decoder, which begins ``label_length`` samples before the horizon; and cross-attention."""
        past, label = self.encoder_tokens, self.config["label_length"]
        window = TokenMap.patches(self.history, self.horizon, 1)
        late = window.taken(range(self.history - label, self.history + self.horizon))
        # As many keys as queries: the first ones of the encoder, or all of them and padding.
        keys = past.taken(range(min(len(late), len(past)))).with_special(after=max(len(late) - len(past), 0))
        encoder, decoder = (range(self.config[f"{part}_layers"]) for part in ("encoder", "decoder"))
        return (
            Stack("encoder", tuple(f"network.model.encoder.layers.{i}.self_attn" for i in encoder), past, past),
            Stack("decoder", tuple(f"network.model.decoder.layers.{i}.self_attn" for i in decoder), late, late),
            Stack("cross", tuple(f"network.model.decoder.layers.{i}.encoder_attn" for i in decoder), late, keys),
        )

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, in the units of the input."""
        # The library's decoder runs only if it is given a future, of which it uses nothing but the length.
        future = history.new_zeros(len(history), self.horizon, dtype=torch.float32)
        output = self.network.model(**self.inputs(history), future_values=future, return_dict=True)
        parameters = self.network.output_params(output.last_hidden_state + output.trend)
        return self.network.output_distribution(parameters, loc=output.loc, scale=output.scale).mean.double()


def circular_correlation(query: Tensor, key: Tensor) -> Tensor:
    """Correlation of two series at every circular delay, averaged over heads and channels.

    ``(batch, head, time, channel)`` twice -> ``(batch, delay)``: the mean over heads and channels of
    ``sum_t query[t + delay] key[t]``. A shorter query counts as 0 where it has ended.
    """
    length = key.shape[-2]
    product = torch.fft.rfft(query, n=length, dim=-2) * torch.fft.rfft(key, n=length, dim=-2).conj()
    return torch.fft.irfft(product, n=length, dim=-2).mean((1, 3))


def lag_spectrum(correlation: Tensor, n_delays: int) -> Tensor:
    """Weight of every delay, ``(batch, delay) -> (batch, delay)``: a softmax over the largest, 0 for the others."""
    return _largest(correlation, n_delays).softmax(-1)


def delay_operator(spectrum: Tensor) -> Tensor:
    """The matrix that adds up shifted values: ``(..., delay) -> (..., query, key)``.

    The weight of delay ``d`` stands at the key ``query + d``, modulo the length.
    """
    time = torch.arange(spectrum.shape[-1], device=spectrum.device)
    return spectrum[..., (time - time[:, None]) % len(time)]


def _largest(correlation: Tensor, n_delays: int) -> Tensor:
    """The largest correlations; -inf elsewhere."""
    # Not `torch.topk`, by which the capture recognises selected queries.
    values, delays = torch.ops.aten.topk(correlation, n_delays, -1)
    return torch.full_like(correlation, -math.inf).scatter(-1, delays, values)


def delay_attention(
    attention: Any, hidden_states: Tensor, key_value_states: Tensor | None = None, **options: Any
) -> tuple[Tensor, None]:
    """What `AutoformerAttention` of transformers computes, as a product of its operator with the values.

    Beyond being readable, this keeps the samples of a batch apart: the library (5.23) gives a sample the delays of
    others in its batch. Its own layer runs on the first sample, to compare.

    Raises
    ------
    LaglensError
        The operator does not give the output of the library's layer.
    """
    query, key, value = _aligned(attention, hidden_states, key_value_states)
    n_delays = int(attention.autocorrelation_factor * math.log(value.shape[-2]))
    scores = delay_operator(_largest(circular_correlation(query, key), n_delays))[:, None]
    output = _merged(attention, torch.softmax(scores, -1), value)
    with torch.no_grad():
        # Computed apart, where an intervention in the weights above does not reach.
        found = _merged(attention, torch.ops.aten.softmax(scores[:1], -1), value[:1])
        first = [tokens if tokens is None else tokens[:1] for tokens in (hidden_states, key_value_states)]
        _certify(found, type(attention).forward(attention, *first)[0])
    return output, None


def _merged(attention: Any, weights: Tensor, value: Tensor) -> Tensor:
    """Output of a layer from the weights of its heads, ``(batch, head, query, key)``."""
    return attention.out_proj(torch.matmul(weights, value).transpose(1, 2).flatten(2))


def _aligned(attention: Any, queries: Tensor, others: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, ``(batch, head, time, channel)``, keys and values with as many times as there are queries.

    Where there are more queries than keys, keys and values are filled up with zeros, and of the queries only the
    first count in the correlation, as many as were filled up.
    """

    def heads(projection: nn.Module, tokens: Tensor) -> Tensor:
        return projection(tokens).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    keys = queries if others is None else others
    query, key, value = heads(attention.q_proj, queries), heads(attention.k_proj, keys), heads(attention.v_proj, keys)
    n, surplus = query.shape[-2], query.shape[-2] - key.shape[-2]
    if surplus > 0:
        return query[..., :surplus, :], pad(key, (0, 0, 0, surplus)), pad(value, (0, 0, 0, surplus))
    return query, key[..., :n, :], value[..., :n, :]


def _certify(found: Tensor, own: Tensor) -> None:
    error = (found - own).abs().max() / own.abs().max().clamp_min(1e-12)
    if error > TOLERANCE:  # NaN is for the capture to explain
        raise LaglensError(
            f"Autoformer: the operator of a layer does not reproduce the output of transformers (relative error "
            f"{error:.1e}, tolerance {TOLERANCE:.0e}); its version may compute delays in another way"
        )
