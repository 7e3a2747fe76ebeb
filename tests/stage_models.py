"""Small forecasters whose attention needs assembly: passes, decoding steps, channels, selected rows, special tokens."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr
from models import sharpen
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack, TokenMap

WIDTH, HEADS = 12, 3


class Attention(nn.Module):
    """Attention from `query` to `context`, with the keys and values of earlier calls if they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.to_query, self.to_key, self.to_value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def forward(self, query: Tensor, context: Tensor, cache: list[Tensor] | None = None, *, causal: bool = False):
        q, k, v = (self.heads(p(x)) for p, x in zip(self.projections, (query, context, context), strict=True))
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = k, v
        return self.out(self.weigh(q, k, v, causal).transpose(1, 2).flatten(2))

    @property
    def projections(self) -> tuple[nn.Module, ...]:
        return self.to_query, self.to_key, self.to_value

    def weigh(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=causal)


class SparseAttention(Attention):
    """ProbSparse: the three queries with the largest scores attend, the others get the mean of the values.

    Heads are folded into the batch, as in Informer.
    """

    def weigh(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        batch = q.shape[0]
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        score = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        rows = torch.arange(len(q))[:, None]
        top = score.amax(-1).topk(3, -1).indices
        if causal:
            score = score.masked_fill(torch.ones_like(score, dtype=torch.bool).triu(1), -math.inf)
            out = v.cumsum(1)
        else:
            out = v.mean(1, keepdim=True).expand_as(q).clone()
        weights = torch.softmax(score[rows, top], -1)
        out[rows, top] = torch.bmm(weights, v)
        return out.unflatten(0, (batch, HEADS))


class Small(Forecaster):
    """A history of 12 samples, one token each; forecasts are the mean of the tokens, which no test looks at."""

    history, horizon = 12, 4
    attention: type[Attention] = Attention

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, WIDTH)
        self.position = nn.Parameter(torch.randn(self.history + self.horizon, WIDTH))
        self.layers = nn.ModuleList(self.attention() for _ in range(2))

    @property
    def tokens(self) -> TokenMap:
        return TokenMap.patches(self.history, 0, 1, readout="last")

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return (Stack("encoder", ("layers.0", "layers.1"), self.tokens, self.tokens),)

    def embedded(self, history: Tensor) -> Tensor:
        return self.embed(history.to(self.position)[..., None]) + self.position[: history.shape[-1]]

    def encode(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, x)
        return x

    def forward(self, history: Tensor) -> Tensor:
        return self.encode(self.embedded(history)).mean((1, 2))[:, None].double().expand(-1, self.horizon)


class TwoPasses(Small):
    """Runs its layers on the series and on the series upside down, as TimesFM 2.5 does."""

    @property
    def stacks(self) -> tuple[Stack, ...]:
        names = ("layers.0", "layers.1")
        return tuple(
            Stack(name, names, self.tokens, self.tokens, call=call)
            for call, name in enumerate(("encoder", "encoder_flipped"))
        )

    def forward(self, history: Tensor) -> Tensor:
        return super().forward(history) - super().forward(-history)


class Channels(Small):
    """Three series at once, folded into the batch of the attention, as PatchTST does."""

    channels = 3

    def forward(self, history: Tensor) -> Tensor:
        return super().forward(history.flatten(0, 1)).unflatten(0, history.shape[:2])


class Sparse(Small):
    """ProbSparse attention."""

    attention = SparseAttention


class CausalSparse(Sparse):
    """ProbSparse attention to earlier tokens."""

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return (Stack("decoder", ("layers.0", "layers.1"), self.tokens, self.tokens, causal=True),)

    def encode(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, x, causal=True)
        return x


class Decoding(Small):
    """Greedy decoding, one step at a time: self-attention to the steps so far, cross-attention to the history.

    The first call of the decoder is on `prompt` tokens; with `cached` keys later ones are on one token each.
    """

    def __init__(self, *, cached: bool = True, prompt: int = 1) -> None:
        self.cached, self.prompt, self.horizon = cached, prompt, 6
        super().__init__()
        self.own, self.cross = nn.ModuleList([Attention(), Attention()]), nn.ModuleList([Attention(), Attention()])
        self.start = nn.Parameter(torch.randn(prompt, WIDTH))
        self.head = nn.Linear(WIDTH, WIDTH)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        past, first = TokenMap.patches(self.history, 0, 1, readout="none"), self.history - self.prompt + 1
        start = np.arange(first, self.history + self.horizon)
        steps = TokenMap.spans(start, start + 1, self.history)
        return (
            Stack("encoder", ("layers.0", "layers.1"), past, past),
            Stack("decoder", ("own.0", "own.1"), steps, steps, causal=True, steps=True),
            Stack("cross", ("cross.0", "cross.1"), steps, past, steps=True),
        )

    def decode(self, tokens: Tensor, memory: Tensor, caches: list[list[Tensor]] | None) -> Tensor:
        for i, (own, cross) in enumerate(zip(self.own, self.cross, strict=True)):
            cache = None if caches is None else caches[i]
            tokens = tokens + own(tokens, tokens, cache, causal=not cache)
            tokens = tokens + cross(tokens, memory)
        return torch.tanh(self.head(tokens))

    def forward(self, history: Tensor) -> Tensor:
        memory = self.encode(self.embedded(history))
        tokens, caches = self.start.expand(len(history), -1, -1), [[], []] if self.cached else None
        new = tokens
        for _ in range(self.horizon):
            made = self.decode(new if self.cached else tokens, memory, caches)[:, -1:]
            new, tokens = made, torch.cat([tokens, made], 1)
        return tokens[:, -self.horizon :].mean(-1).double()


class Picture(Small):
    """Two value rows over columns of four samples, a CLS token in front and a REG token at the end."""

    history, horizon = 32, 16

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.position = nn.Parameter(torch.randn(2 * 12 + 2, WIDTH))

    @property
    def tokens(self) -> TokenMap:
        return TokenMap.grid(np.arange(0, 49, 4), 2, self.history).with_special(1, 1)

    def embedded(self, history: Tensor) -> Tensor:
        seen = nn.functional.pad(history.to(self.position), (0, self.horizon))
        rows = self.embed(seen.unflatten(1, (-1, 4)))
        special = rows.new_zeros(len(rows), 1, WIDTH)
        return torch.cat([special, rows, rows.roll(1, -1), special], 1) + self.position


class Image(Small):
    """Does not forecast."""

    horizon = 0


def small(kind: type[Small], **options) -> Small:
    """A model with sharp attention."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sharpen(kind(**options), 1.3)


def windows_of(model: Forecaster, n: int = 5, seed: int = 0) -> xr.Dataset:
    """Random walks as windows, ``series (sample, [channel,] time)``."""
    channels = (model.channels,) if model.channels > 1 else ()
    series = np.random.default_rng(seed).normal(size=(n, *channels, model.history + model.horizon)).cumsum(-1) / 3
    dims = ("sample", *(("channel",) if channels else ()), "time")
    return xr.Dataset({"series": (dims, series)}, coords={"sample": np.arange(n)})
