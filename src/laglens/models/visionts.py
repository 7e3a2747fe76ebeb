"""VisionTS: a masked autoencoder of images completes the picture of a folded series (Chen et al. 2024, 2408.17253)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from laglens.errors import LaglensError
from laglens.models.checkpoints import load_strictly, read_checkpoint, strip_prefix
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack, TokenMap
from laglens.models.visionts_network import heads_of, published_code, sizes_of

VARIANCE = 1e-5  # added to that of a series
# Pixels blend this many samples on either axis. With more to a pixel some are in no pixel at all.
BLENDED = {"nearest": 1, "bilinear": 2, "bicubic": 4}


class VisionTSForecaster(Forecaster):
    """Folds the history into a picture, one cycle beside the other, completes it, reads the horizon from it.

    The autoencoder, and the geometry of the picture, are the published code. The encoder sees the patches of the
    history alone, the decoder all patches; both a class token before them.

    Parameters
    ----------
    period
        Samples of one cycle, which is one column of samples.
    history, horizon
        Samples seen and samples forecast. A history of no whole number of cycles is filled up on the left with its
        first value.
    norm_const, align_const, interpolation
        As in the published code: standard deviation of the pixels, share of the width that the history would fill by
        its length, and how the picture is stretched.
    config
        Sizes of the autoencoder: ``img_size``, ``patch_size``, ``embed_dim``, ``depth``, ``num_heads``,
        ``decoder_embed_dim``, ``decoder_depth``, ``decoder_num_heads``, ``mlp_ratio``. What is left out is that of
        the base model.

    Raises
    ------
    LaglensError
        visionts is missing; the period, the history or the horizon does not fit the picture.
    """

    def __init__(
        self,
        *,
        period: int,
        history: int,
        horizon: int,
        norm_const: float = 0.4,
        align_const: float = 0.4,
        interpolation: str = "bilinear",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.period, self.history, self.horizon = period, history, horizon
        self.norm_const, self.align_const, self.interpolation = norm_const, align_const, interpolation
        self.config = {"embed_dim": 768, "depth": 12, "num_heads": 12} | dict(config or {})
        self.network = published_code(self.config)
        self.network.update_config(
            history, horizon, periodicity=period, align_const=align_const, interpolation=interpolation
        )
        self._check()
        # The mask sorts the patches, those to keep first. It has ties, which every machine may sort in its own way.
        n = self.network.mask.numel()
        self.network.mask += torch.arange(n) / 2 ** n.bit_length()

    def _check(self) -> None:
        network, blended = self.network, BLENDED[self.interpolation]
        rows, filled = network.image_size, network.num_patch_input * network.patch_size
        if int(rows * (network.num_patch_input / network.num_patch)) != filled:
            raise LaglensError(
                f"a picture of {network.num_patch} patches of which {network.num_patch_input} are history cannot be "
                "drawn by visionts; change align_const"
            )
        if self.period > blended * rows:
            raise LaglensError(
                f"period {self.period} is too long: the picture has {rows} rows for its phases, of which each can "
                f"blend {blended} samples; take at most {blended * rows}, or average the series"
            )
        if self.cycles > blended * filled:
            raise LaglensError(
                f"period {self.period} is too short, or history {self.history} too long: its {self.cycles} cycles "
                f"have {filled} columns of the picture, of which each can blend {blended}; take a history of at most "
                f"{blended * filled * self.period} samples, or a multiple of the period"
            )
        if self.all_cycles * self.period < network.pad_left + self.history + self.horizon:
            most = self.all_cycles * self.period - network.pad_left - self.history
            raise LaglensError(
                f"history {self.history} is too short for horizon {self.horizon}: its {self.cycles} cycles are drawn "
                f"so wide that {max(most, 0)} samples fit beside them; take a longer history or a shorter horizon"
            )

    @classmethod
    def from_checkpoint(cls, path: Path, **options: Any) -> Self:
        """Load ``{'model': state_dict}`` of a masked autoencoder as published with MAE (He et al. 2022, 2111.06377).

        Sizes are read from the weights; the numbers of heads are known for the published sizes, and in ``config``
        otherwise.

        Raises
        ------
        LaglensError
            The file is missing, damaged, or no such checkpoint; the numbers of heads are unknown; what the class
            itself refuses.
        """
        content = read_checkpoint(path)
        state = content.get("model") if isinstance(content, Mapping) else None
        if not isinstance(state, Mapping):
            raise LaglensError(f"{path}: does not hold the 'model' of a masked autoencoder")
        state = strip_prefix(state, "module.")
        if any(key.startswith("decoder_pred_") for key in state):
            raise LaglensError(
                f"{path}: is of VisionTS++, with a head for every quantile; only the autoencoders of VisionTS are read"
            )
        try:
            sizes = sizes_of(state)
        except (KeyError, ValueError, AttributeError, IndexError, TypeError) as error:
            raise LaglensError(f"{path}: the weights are not those of a masked autoencoder ({error})") from error
        given = dict(options.pop("config", None) or {})
        if wrong := [key for key in sizes if key in given and given[key] != sizes[key]]:
            raise LaglensError(f"{path}: has {wrong[0]} {sizes[wrong[0]]}; take {given[wrong[0]]} out of the config")
        config = heads_of(sizes) | sizes | given
        if None in config.values():
            unknown = next(key for key, value in config.items() if value is None)
            raise LaglensError(
                f"{path}: is of no published size (width {sizes['embed_dim']}), and the weights do not say how many "
                f"heads they have; give the model's section 'config: {{{unknown}: ...}}'"
            )
        model = cls(config=config, **options)
        load_strictly(model.network.vision_model, state, path)
        return model

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this model again, JSON-native."""
        return {
            "period": self.period,
            "history": self.history,
            "horizon": self.horizon,
            "norm_const": self.norm_const,
            "align_const": self.align_const,
            "interpolation": self.interpolation,
            "config": self.config,
        }

    @property
    def cycles(self) -> int:
        """Cycles of the history, the first filled up."""
        return (self.network.pad_left + self.history) // self.period

    @property
    def all_cycles(self) -> int:
        """Cycles in the whole picture as it is read, history included."""
        return round(self.network.image_size * self.network.scale_x)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The encoder on the patches it keeps, in the order in which it has them, and the decoder on all patches."""
        patches = self.tokens
        kept = torch.argsort(self.network.mask[0])[: self.network.num_patch * self.network.num_patch_input]
        seen, all_tokens = patches.taken(kept.cpu().numpy()).with_special(before=1), patches.with_special(before=1)
        encoder, decoder = (
            tuple(f"network.vision_model.{name}.{i}.attn" for i in range(len(blocks)))
            for name, blocks in (
                ("blocks", self.network.vision_model.blocks),
                ("decoder_blocks", self.network.vision_model.decoder_blocks),
            )
        )
        return Stack("encoder", encoder, seen, seen), Stack("decoder", decoder, all_tokens, all_tokens)

    @property
    def tokens(self) -> TokenMap:
        """Place of every patch, row by row: rows are phases of the period, columns are cycles.

        A patch covers one stretch of a cycle, or that of several cycles. What is drawn or read beyond the horizon, and
        before the history, has no samples.
        """
        n, filled = self.network.num_patch, self.network.num_patch_input
        past, ahead = (
            drawn_span(np.arange(first, last), per_patch, lowest, highest)
            for first, last, per_patch, lowest, highest in (
                (0, filled, self.cycles / filled, 0, self.cycles - 1),
                (filled, n, self.all_cycles / n, self.cycles, self.all_cycles - 1),
            )
        )
        from_cycle, to_cycle = (np.concatenate(ends) for ends in zip(past, ahead, strict=True))
        from_phase, to_phase = drawn_span(np.arange(n), self.period / n, 0, self.period - 1)
        start = np.add.outer(from_phase, from_cycle * self.period).ravel() - self.network.pad_left
        end = np.add.outer(to_phase, to_cycle * self.period).ravel() + 1 - self.network.pad_left
        row = np.repeat(np.arange(n), n)
        return TokenMap.spans(start, end, self.history, row=row).clipped(0, self.history + self.horizon)

    def draw(self, history: Tensor) -> Tensor:
        """Picture of the folded history, blank beside it: ``(batch, history) -> (batch, row, column)``."""
        return self._drawn(self._normalised(history)[0])

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, float64, in the units of the input.

        The steps of the published code; normalised in float64 and without changes in place, so that a series may lie
        far from 0 and the forecast has a gradient.
        """
        network, autoencoder = self.network, self.network.vision_model
        scaled, sd = self._normalised(history)
        picture = self._drawn(scaled)[:, None].expand(-1, 3, -1, -1)
        order = network.mask.expand(len(picture), -1)
        _, patches, _ = autoencoder(picture, mask_ratio=network.mask_ratio, noise=order)
        grey = autoencoder.unpatchify(patches).mean(1, keepdim=True)
        completed = network.output_resize(grey)[:, 0].transpose(1, 2).flatten(1)[:, network.pad_left + self.history :]
        return completed[:, : self.horizon].double() * sd + history.double().mean(1, keepdim=True)

    def _normalised(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """The history in units of its spread, and that: ``(batch, history)``, ``(batch, 1)``."""
        centred = history.double() - history.double().mean(1, keepdim=True)
        sd = (centred.var(1, correction=0, keepdim=True) + VARIANCE).sqrt() / self.norm_const
        return centred / sd, sd

    def _drawn(self, scaled: Tensor) -> Tensor:
        network = self.network
        padded = F.pad(scaled.float()[:, None], (network.pad_left, 0), mode="replicate")[:, 0]
        folded = padded.unflatten(1, (self.cycles, self.period)).transpose(1, 2)[:, None]
        drawn = network.input_resize(folded)
        blank = drawn.new_zeros(*drawn.shape[:-1], network.image_size - drawn.shape[-1])
        return torch.cat([drawn, blank], -1)[:, 0]


def drawn_span(patch: NDArray[np.int64], per_patch: float, lowest: float, highest: float) -> tuple[NDArray, NDArray]:
    """First and last of the samples, or cycles, that patches along one axis of a stretched picture show.

    Parameters
    ----------
    patch
        Index of each patch along the axis, ``(patch,)``.
    per_patch
        Samples to a patch. With less than one, patches lie between samples, or within one.
    lowest, highest
        The samples that there are. Pixels beyond the middle of the first or last one show that one.

    Returns
    -------
    first, last
        ``(patch,)``, not whole.
    """
    middle = (patch + 0.5) * per_patch - 0.5
    reach = max(per_patch - 1, 0) / 2
    return np.clip(middle - reach, lowest, highest), np.clip(middle + reach, lowest, highest)
