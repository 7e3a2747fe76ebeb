"""How much one number of the forecast depends on each history sample.

Every method takes the model, histories ``(sample, time)`` and the explained number, and gives ``(sample, time)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from laglens.errors import LaglensError
from laglens.models.forecaster import ScaledForecaster
from laglens.progress import track


@dataclass(frozen=True)
class Explained:
    """One number per window that a model forecasts.

    Attributes
    ----------
    model
        In evaluation mode: ``forward (batch, history) -> (batch, horizon)``.
    step
        Forecast sample that is explained, 1 = the first; None: the mean of the horizon.
    batch
        Windows per pass through the model.
    together
        ``(window, channel, history)`` for a model of several channels: what each window, one channel that is explained
        by itself, is shown together with.
    channel
        ``(window,)``: which of these channels the window is.
    """

    model: nn.Module
    step: int | None
    batch: int
    together: Tensor | None = None
    channel: Tensor | None = None

    def __call__(self, history: Tensor, window: Tensor) -> Tensor:
        """``(batch, history), (batch,) -> (batch,)``: changed histories, and which window each of them is."""
        forecast = self.forecast(history, window)
        return forecast.mean(1) if self.step is None else forecast[:, self.step - 1]

    def forecast(self, history: Tensor, window: Tensor) -> Tensor:
        """``(batch, history), (batch,) -> (batch, horizon)``: the whole forecast of changed histories."""
        if self.together is None or self.channel is None:
            return self.model(history)
        one, channel = torch.arange(len(history), device=history.device), self.channel[window]
        shown = self.together[window].index_put((one, channel), history)
        return self.model(shown)[one, channel]


def gradient(explained: Explained, history: Tensor, window: int) -> Tensor:
    """Derivative by each sample, through the scaling of the input as well: forecast units per input unit."""
    parts = torch.arange(len(history), device=history.device).split(explained.batch)
    found = [_gradient(explained, history[part], part) for part in track(parts, "gradient", total=len(parts))]
    return torch.cat(found)


def _gradient(explained: Explained, history: Tensor, window: Tensor) -> Tensor:
    inputs = history.clone().requires_grad_()
    with torch.enable_grad():
        # Windows do not see each other in evaluation mode, so the gradient of their sum is that of each.
        total = explained(inputs, window).sum()
        if not total.requires_grad:
            raise LaglensError(
                "the forecast has no gradient (it leaves torch, or detaches, on its way); use the method occlusion"
            )
        return torch.autograd.grad(total, inputs, materialize_grads=True)[0]


def input_x_gradient(explained: Explained, history: Tensor, window: int) -> Tensor:
    """Gradient times the sample's distance from the mean of its history: forecast units.

    Centred, because models that scale their input do not see its level.
    """
    return (history - history.mean(1, keepdim=True)) * gradient(explained, history, window)


def occlusion(explained: Explained, history: Tensor, window: int) -> Tensor:
    """Forecast minus the forecast without a block of `window` samples: forecast units.

    The block is bridged by a straight line between its neighbours, or held at the only one at an end of the history.
    Every sample of a block has the block's value. Mean and spread by which the model scales stay those of the
    intact history (see `intact_scaling`), so that only what the block tells about shape is taken away.
    """
    n_samples, length = history.shape
    starts = torch.arange(0, length, window, device=history.device)
    with torch.no_grad():
        intact = explained(history, torch.arange(n_samples, device=history.device))
        # Every window with every block taken out, one block per row.
        pairs = torch.cartesian_prod(torch.arange(n_samples, device=history.device), starts).split(explained.batch)
        changed = []
        for sample, start in (pair.unbind(1) for pair in track(pairs, "occlusion", total=len(pairs))):
            with intact_scaling(explained.model, history[sample]):
                changed.append(explained(bridge(history[sample], start, window), sample))
    change = intact[:, None] - torch.cat(changed).unflatten(0, (n_samples, -1))
    return change.repeat_interleave(window, 1)[:, :length]


def bridge(history: Tensor, start: Tensor, window: int) -> Tensor:
    """Replace ``[start, start + window)`` of each row by a straight line: (row, time), (row,) -> (row, time).

    Raises
    ------
    LaglensError
        The block leaves no sample on either side.
    """
    length = history.shape[1]
    if window >= length:
        raise LaglensError(f"a window of {window} samples covers the whole history of {length}; take a shorter one")
    time = torch.arange(length, device=history.device)
    before, after = start[:, None] - 1, start[:, None] + window
    left, right = (history.gather(1, edge.clamp(0, length - 1)) for edge in (before, after))
    left, right = torch.where(before < 0, right, left), torch.where(after >= length, left, right)
    line = left + (right - left) * (time - before) / (after - before)
    return torch.where((time > before) & (time < after), line, history)


@contextmanager
def intact_scaling(model: nn.Module, intact: Tensor) -> Iterator[bool]:
    """Let the model scale what it is shown by mean and spread of another history, as long as the block lasts.

    Gives False, and changes nothing, for a model that is no `laglens.models.forecaster.ScaledForecaster`: such a
    model scales by the history it is shown, if it scales at all.
    """
    if not isinstance(model, ScaledForecaster):
        yield False
        return
    normalise = model.normalise

    def by_intact(history: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Statistics come from the first `history` samples: put the intact ones there.
        scaled, mean, sd = normalise(torch.cat([intact, history], 1))
        return scaled[:, model.history :], mean, sd

    model.__dict__["normalise"] = by_intact
    try:
        yield True
    finally:
        del model.__dict__["normalise"]


METHODS: dict[str, Callable[[Explained, Tensor, int], Tensor]] = {
    "gradient": gradient,
    "input_x_gradient": input_x_gradient,
    "occlusion": occlusion,
}
