"""ViTime: a masked autoencoder that completes the picture of a series (Yang et al. 2024, arXiv 2407.07311)."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from laglens.errors import LaglensError
from laglens.models.checkpoints import load_strictly, read_checkpoint, strip_prefix
from laglens.models.forecaster import Forecaster
from laglens.models.tokens import Stack, TokenMap
from laglens.models.vitime_image import Canvas, position_code

SETTINGS = ("h", "maxScal", "size", "patch_size", "modelSize")  # in the args of every checkpoint
# Args of a training on several pictures of each series (moving averages, envelopes, key points), which weights
# named `channel_combiner` join.
SEVERAL_PICTURES = re.compile(r"(MA|Env)(_\w+)?|KeyP")


class ViTimeForecaster(Forecaster):
    """Draws the history, completes the picture, reads the forecast from it.

    The picture is cut into patches; all of them and a CLS token pass the encoder and the decoder, with attention both
    ways. Nothing is masked while it forecasts, so tokens keep their order (the published code shuffles those of the
    encoder and puts them back).

    Parameters
    ----------
    history, horizon
        Samples seen and samples forecast, of any number: they are stretched or squeezed onto the columns.
    rows, columns
        Pixels of the picture: values, time.
    patch
        Pixels of a token: values, time.
    model_size
        1 is 1024 wide, 12 encoder blocks, 16 heads; the decoder has half the width and half the blocks.
    max_scale, mu_norm
        See `laglens.models.vitime_image.Canvas`.
    sigmoid
        Pixels pass a sigmoid before the brightest of a column is read, instead of a softmax over the column.
    """

    # A pixel is lit or not, and the brightest row is read: neither has a slope. Torch would find that of mu and sigma.
    differentiable = False
    origin = "lower"

    def __init__(
        self,
        *,
        history: int = 512,
        horizon: int = 720,
        rows: int = 128,
        columns: int = 2464,
        patch: Sequence[int] = (4, 32),
        model_size: float = 1.0,
        max_scale: float = 3.5,
        mu_norm: int | None = 2,
        sigmoid: bool = False,
    ) -> None:
        super().__init__()
        self.history, self.horizon = history, horizon
        self.patch = high, wide = patch[0], patch[1]
        self.model_size, self.sigmoid = model_size, sigmoid
        self.canvas = Canvas(history, horizon, rows, columns, max_scale, mu_norm)
        width, depth, heads = (int(full * model_size) for full in (1024, 12, 16))
        self._check(width, depth, heads)
        grid = (rows // high, columns // wide)
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(1, width, self.patch, self.patch)))
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(position_code(width, *grid), requires_grad=False)
        self.blocks = nn.ModuleList(_block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.decoder_embed = nn.Linear(width, width // 2)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width // 2))  # of the training alone
        self.decoder_pos_embed = nn.Parameter(position_code(width // 2, *grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(_block(width // 2, heads) for _ in range(depth // 2))
        self.decoder_norm = nn.LayerNorm(width // 2)
        self.decoder_pred = nn.Linear(width // 2, high * wide)
        self.apply(_initialise)

    def _check(self, width: int, depth: int, heads: int) -> None:
        canvas, (high, wide) = self.canvas, self.patch
        if depth < 2 or heads < 1 or width % (2 * heads) or width % 8:
            raise LaglensError(
                f"modelSize {self.model_size:g} gives {depth} blocks of width {width} with {heads} heads, which is no "
                "encoder and decoder of ViTime"
            )
        if min(high, wide) < 1 or canvas.rows < 2 or canvas.rows % high or canvas.columns % wide:
            raise LaglensError(
                f"a picture of {canvas.rows} x {canvas.columns} pixels is no whole number of patches {high} x {wide}"
            )
        if self.horizon < 1 or self.history < 2 or not canvas.history_columns:
            raise LaglensError(
                f"history {self.history} and horizon {self.horizon} cannot be drawn: the horizon needs a sample, the "
                f"history 2 samples and one of {canvas.columns} columns; change them in the model's section"
            )

    @classmethod
    def from_checkpoint(cls, path: Path, **options: Any) -> Self:
        """Load ``{'args': Namespace, 'model': state_dict}``, keys with or without ``module.`` and ``model.``.

        Options are ``history`` and ``horizon``; all else is in the checkpoint.

        Raises
        ------
        LaglensError
            The file is missing, damaged or no checkpoint of ViTime; of a variant that draws other pictures; its
            weights do not fit its settings; the history is too short.
        """
        args, state = _args_and_weights(path)
        _refuse_variants(path, args, state)
        try:
            model = cls(**options, **_read_settings(args))
        except LaglensError as error:
            raise LaglensError(f"{path}: {error}") from error
        load_strictly(model, state, path)
        return model

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that build this model again, JSON-native."""
        canvas = self.canvas
        return {
            "history": self.history,
            "horizon": self.horizon,
            "rows": canvas.rows,
            "columns": canvas.columns,
            "patch": list(self.patch),
            "model_size": self.model_size,
            "max_scale": canvas.max_scale,
            "mu_norm": canvas.mu_norm,
            "sigmoid": self.sigmoid,
        }

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The encoder and the decoder blocks; both see the same tokens: CLS, then the patches row by row.

        A token covers ``(history + horizon) / columns of patches`` samples, so one may lie across the border. It is of
        the history, and the forecast is read from it too.
        """
        rows, columns = self.canvas.rows // self.patch[0], self.canvas.columns // self.patch[1]
        edges = torch.linspace(0, self.history + self.horizon, columns + 1, dtype=torch.float64).numpy()
        tokens = TokenMap.grid(edges, rows, self.history)
        tokens = replace(tokens, readout=tokens.end > self.history).with_special(before=1)
        encoder = tuple(f"blocks.{i}.attn" for i in range(len(self.blocks)))
        decoder = tuple(f"decoder_blocks.{i}.attn" for i in range(len(self.decoder_blocks)))
        return Stack("encoder", encoder, tokens, tokens), Stack("decoder", decoder, tokens, tokens)

    def complete(self, picture: Tensor) -> Tensor:
        """Picture of the history to that of history and horizon, before the activation: ``(batch, row, column)``."""
        patches = F.unfold(picture[:, None].to(self.cls_token), self.patch, stride=self.patch).transpose(1, 2)
        # As a product: on a GPU, torch rounds the operands of convolutions to 10 bits unless told otherwise.
        weight, bias = (self.get_parameter(f"patch_embed.proj.{name}") for name in ("weight", "bias"))
        patches = F.linear(patches, weight.flatten(1), bias)
        cls = self.cls_token + self.pos_embed[:, :1]
        hidden = torch.cat([cls.expand(len(patches), -1, -1), patches + self.pos_embed[:, 1:]], 1)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.decoder_embed(self.norm(hidden)) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            hidden = block(hidden)
        pixels = self.decoder_pred(self.decoder_norm(hidden))[:, 1:]
        grid = pixels.unflatten(1, (-1, self.canvas.columns // self.patch[1])).unflatten(3, self.patch)
        return grid.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)

    def draw(self, history: Tensor) -> Tensor:
        """Picture of the history, blank in the horizon: ``(batch, history) -> (batch, row, column)``."""
        return self.canvas.draw(self.canvas.normalise(history.double())[0])

    def forward(self, history: Tensor) -> Tensor:
        """Forecast: ``(batch, history) -> (batch, horizon)``, float64, in the units of the input.

        Raises
        ------
        LaglensError
            A history of another length, or with values that are not finite.
        """
        if history.shape[1] != self.history:
            raise LaglensError(f"the history has {history.shape[1]} samples; this model was set up for {self.history}")
        if not torch.isfinite(history).all():
            raise LaglensError("the history holds values that are not finite; ViTime cannot draw them")
        scaled, mu, sigma = self.canvas.normalise(history.double())
        completed = self.complete(self.canvas.draw(scaled))
        # Rounding may make rows equal, and the first of them is read: decode what the published code decodes.
        bright = completed.sigmoid() if self.sigmoid else completed.softmax(1)
        return self.canvas.read(bright, mu, sigma)


def _block(width: int, heads: int) -> Block:
    # Not timm's own LayerNorm, which adds 1e-6 to the variance; the published code takes torch's, which adds 1e-5.
    return Block(width, heads, qkv_bias=True, norm_layer=nn.LayerNorm)


def _initialise(module: nn.Module) -> None:
    """Weights before training, as published: what a model with random weights is compared with."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _args_and_weights(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = read_checkpoint(path)
    parts = [content.get(name) for name in ("args", "model")] if isinstance(content, Mapping) else [None, None]
    args = vars(parts[0]) if isinstance(parts[0], Namespace) else parts[0]
    if not isinstance(args, Mapping) or not isinstance(parts[1], Mapping):
        raise LaglensError(f"{path}: does not hold the 'args' and 'model' of a checkpoint of ViTime")
    return dict(args), strip_prefix(parts[1], "module.", "model.")


def _refuse_variants(path: Path, args: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Checkpoints of the same project that need pictures or networks other than those here."""
    if any(key.startswith("RefiningModel.") for key in state):
        raise LaglensError(
            f"{path}: is the ViTime with a refining network behind the autoencoder (versions 1 and 2); only the "
            "masked autoencoder alone is read, published as the model 'MAE'"
        )
    joined = [name for name, value in args.items() if SEVERAL_PICTURES.fullmatch(name) and value]
    if joined or any(key.startswith("channel_combiner.") for key in state):
        raise LaglensError(
            f"{path}: was trained on several pictures of each series ({', '.join(joined) or 'channel_combiner'}), of "
            "which laglens draws the plain one; take a checkpoint that was trained on that alone"
        )
    if args.get("expandData", 1) != 1:
        raise LaglensError(
            f"{path}: expandData is {args['expandData']!r}: the published predictor does not draw the picture that "
            "such a network was trained on; only 1 is read"
        )


def _read_settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the class from the settings of the training script.

    ``dropout``, ``loss``, ``out_channels``, ``dNorm``, ``ks``, ``ROPE`` and all others have no effect on the forecast
    of one series: the network has one channel, and its position code is among the weights.
    """
    missing = [name for name in SETTINGS if name not in args]
    if missing:
        raise LaglensError(f"args have no {', '.join(missing)}; this is no checkpoint of ViTime")
    try:
        past, _, future = map(_whole, args["size"])
        high, wide = map(_whole, args["patch_size"])
        power = args.get("muNorm")
        return {
            "rows": _whole(args["h"]),
            "columns": past + future,
            "patch": (high, wide),
            "model_size": float(args["modelSize"]),
            "max_scale": float(args["maxScal"]),
            "mu_norm": None if power is None else _whole(power),
            "sigmoid": args.get("lossType") == "MSE",
        }
    except (TypeError, ValueError) as error:
        used = ", ".join(f"{name} {args[name]!r}" for name in (*SETTINGS, "muNorm") if name in args)
        raise LaglensError(f"args cannot be read ({error}): {used}") from error


def _whole(number: Any) -> int:
    if int(number) != number:
        raise ValueError(f"{number!r} is no whole number")
    return int(number)
