"""Two small forecasters on timm blocks whose attention is easy to read.

Both see `history` samples followed by `horizon` hidden ones, cut into patches; every token passes an encoder
and a decoder of pre-norm blocks with rotary positions and bidirectional attention. The layout (encoder,
bridge, decoder, blank horizon) follows ViTime (Yang et al. 2024, arXiv 2407.07311).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from laglens.models.forecaster import ScaledForecaster
from laglens.models.tokens import Stack, TokenMap

HISTORY_WEIGHT = 0.1  # of a history sample in the training loss; a horizon sample has 1


def rotary_table(n_tokens: int, head_width: int, base: float) -> Tensor:
    """Sines and cosines of the rotary position code in timm's layout: ``-> (token, 2 * head_width)``."""
    frequency = base ** (-torch.arange(0, head_width, 2) / head_width)
    angle = torch.arange(n_tokens)[:, None] * frequency
    return torch.cat([angle.sin(), angle.sin(), angle.cos(), angle.cos()], dim=-1)


class PatchForecaster(ScaledForecaster):
    """Shared body: embed patches, encoder, bridge, decoder, head.

    Parameters
    ----------
    history, horizon
        Samples seen and samples forecast; multiples of `patch`.
    patch
        Samples per token.
    width, heads
        Embedding width and attention heads of each block.
    encoder_depth, decoder_depth
        Blocks before and after the bridge.
    rotary_base
        Base of the rotary frequencies.
    """

    limit = 6.0
    rotary: Tensor

    def __init__(
        self,
        *,
        token_size: int,
        output_size: int,
        history: int,
        horizon: int,
        patch: int,
        width: int = 64,
        heads: int = 4,
        encoder_depth: int = 3,
        decoder_depth: int = 2,
        rotary_base: float = 1000.0,
    ) -> None:
        super().__init__()
        self.history, self.horizon, self.patch = history, horizon, patch
        self.embed = nn.Linear(token_size, width)
        self.encoder = nn.ModuleList(_block(width, heads) for _ in range(encoder_depth))
        self.bridge = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.decoder = nn.ModuleList(_block(width, heads) for _ in range(decoder_depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, output_size)
        table = rotary_table((history + horizon) // patch, width // heads, rotary_base)
        self.register_buffer("rotary", table, persistent=False)
        self.apply(_initialise)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The encoder and the decoder blocks; both see the same tokens."""
        tokens = TokenMap.patches(self.history, self.horizon, self.patch)
        return tuple(
            Stack(name, tuple(f"{name}.{i}.attn" for i in range(len(blocks))), tokens, tokens)
            for name, blocks in (("encoder", self.encoder), ("decoder", self.decoder))
        )

    @abstractmethod
    def tokens(self, history: Tensor) -> Tensor:
        """Normalised history ``(batch, history)`` to token inputs ``(batch, token, feature)``, horizon blank."""

    @abstractmethod
    def values(self, output: Tensor) -> Tensor:
        """Head output ``(batch, token, feature)`` to normalised values ``(batch, history + horizon)``."""

    @abstractmethod
    def error(self, output: Tensor, series: Tensor) -> Tensor:
        """Loss per sample of the normalised series: ``-> (batch, history + horizon)``."""

    def outputs(self, history: Tensor) -> Tensor:
        """Normalised history ``(batch, history)`` to head output ``(batch, token, feature)``."""
        hidden = self.embed(self.tokens(history))
        for block in self.encoder:
            hidden = block(hidden, rope=self.rotary)
        hidden = self.bridge(hidden)
        for block in self.decoder:
            hidden = block(hidden, rope=self.rotary)
        return self.head(self.norm(hidden))

    def scaled_forecast(self, history: Tensor) -> Tensor:
        """Normalised history to normalised forecast: ``(batch, history) -> (batch, horizon)``."""
        return self.values(self.outputs(history))[:, self.history :]

    def loss(self, series: Tensor) -> Tensor:
        """Training loss of whole series ``(batch, history + horizon)``."""
        scaled = self.normalise(series)[0]
        error = self.error(self.outputs(scaled[:, : self.history]), scaled)
        past, future = error[:, : self.history], error[:, self.history :]
        weight = HISTORY_WEIGHT * self.history + self.horizon
        return (HISTORY_WEIGHT * past.sum(1) + future.sum(1)).mean() / weight


class NumericForecaster(PatchForecaster):
    """Tokens are `patch` raw values and a flag that marks hidden ones; smooth L1 loss."""

    def __init__(self, *, history: int = 256, horizon: int = 128, patch: int = 4, **options: Any) -> None:
        super().__init__(
            token_size=patch + 1, output_size=patch, history=history, horizon=horizon, patch=patch, **options
        )

    def tokens(self, history: Tensor) -> Tensor:
        """Values and flag of each token, zeros in the horizon."""
        values = F.pad(history, (0, self.horizon)).unflatten(1, (-1, self.patch))
        hidden = torch.arange(values.shape[1], device=history.device) >= self.history // self.patch
        return torch.cat([values, hidden.to(values).expand(len(values), -1)[..., None]], -1)

    def values(self, output: Tensor) -> Tensor:
        """The outputs are the values."""
        return output.flatten(1)

    def error(self, output: Tensor, series: Tensor) -> Tensor:
        """Smooth L1, quadratic below 0.3."""
        return F.smooth_l1_loss(self.values(output), series, reduction="none", beta=0.3)


class ImageForecaster(PatchForecaster):
    """Tokens are full-height strips of the rendered series, `bins` x `patch` pixels; cross-entropy per column.

    A column is a Gaussian of one bin's width around its value, on bin centres from -`value_range` to
    `value_range` standard deviations; the forecast is the expectation over the bins.
    """

    centres: Tensor

    def __init__(
        self,
        *,
        history: int = 256,
        horizon: int = 128,
        patch: int = 8,
        bins: int = 32,
        value_range: float = 3.5,
        **options: Any,
    ) -> None:
        pixels = bins * patch
        super().__init__(
            token_size=pixels, output_size=pixels, history=history, horizon=horizon, patch=patch, **options
        )
        self.register_buffer("centres", torch.linspace(-value_range, value_range, bins), persistent=False)

    def render(self, series: Tensor) -> Tensor:
        """Draw the series, one normalised column per sample: ``(batch, time) -> (batch, time, bin)``."""
        width = self.centres[1] - self.centres[0]
        inside = series.clamp(self.centres[0], self.centres[-1])[..., None]
        return torch.softmax(-0.5 * ((inside - self.centres) / width) ** 2, -1)

    def tokens(self, history: Tensor) -> Tensor:
        """Strips of the picture, blank in the horizon."""
        # Times 4 brings the pixels of a column to about unit variance.
        image = F.pad(4 * self.render(history), (0, 0, 0, self.horizon))
        return image.unflatten(1, (-1, self.patch)).flatten(2)

    def _columns(self, output: Tensor) -> Tensor:
        return output.unflatten(2, (self.patch, -1)).flatten(1, 2)

    def values(self, output: Tensor) -> Tensor:
        """Expectation of each column over the bins."""
        return self._columns(output).softmax(-1) @ self.centres

    def error(self, output: Tensor, series: Tensor) -> Tensor:
        """Cross-entropy of each column with the rendered one."""
        return -(self.render(series) * self._columns(output).log_softmax(-1)).sum(-1)


def _block(width: int, heads: int) -> EvaBlock:
    return EvaBlock(width, heads, num_prefix_tokens=0, rotate_half=True)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
