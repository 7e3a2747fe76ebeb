"""Whether an explanation names what the forecast needs: deletion and insertion of the samples it ranks first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from laglens.attribution.explanations import blocks
from laglens.attribution.methods import Explained, intact_scaling
from laglens.errors import LaglensError
from laglens.models.forecaster import Forecaster
from laglens.progress import track
from laglens.signals.windows import histories

Array = NDArray[np.float64]
SHARES = (0.1, 0.3)
RANDOM, RECENCY = "random", "recency"
DIMS = ("explanation", "share", "sample")


def faithfulness(
    model: Forecaster,
    windows: xr.Dataset,
    explained: xr.Dataset,
    *,
    shares: Sequence[float] = SHARES,
    random: int = 3,
    batch: int = 128,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> xr.Dataset:
    """Change of the forecast when what an explanation ranks first is removed, or alone is kept (DeYoung et al. 2020).

    Histories are cut into blocks of the occlusion window. Removed blocks are bridged by straight lines between the
    samples that stay; mean and spread by which the model scales stay those of the intact history where they can.

    Parameters
    ----------
    model
        In evaluation mode, one channel.
    windows
        ``series (sample, time)``, those of `explained`.
    explained
        ``importance (explanation, sample, time)`` (see `laglens.attribution.explanations.explanations`).
    shares
        Of the blocks, each above 0 and below 1; at least one block and at most all but one.
    random
        Random rankings, averaged, that stand beside the explanations, as does ``recency``: the latest block first.
    seed
        Of the random rankings.

    Returns
    -------
    xr.Dataset
        In standard deviations of the history, ``(explanation, share, sample)``: ``comprehensiveness``, mean absolute
        change of the explained forecast samples when the blocks ranked first are removed, larger is better;
        ``sufficiency``, the same when all others are removed, smaller is better. ``comprehensiveness_area`` and
        ``sufficiency_area (explanation, sample)``: means over shares (AOPC). With ``random`` and ``recency`` as
        explanations of their own.

    Raises
    ------
    LaglensError
        A share out of range, several channels, or other windows than those of `explained`.
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise LaglensError(f"shares are {list(shares)}; each is above 0 and below 1")
    if getattr(model, "channels", 1) > 1:
        raise LaglensError("deletion curves need a model of one channel")
    if not np.array_equal(windows["sample"], explained["sample"]):
        raise LaglensError("the explanations are of other windows; take the same")
    width = int(explained.attrs["occlusion_window"])
    by_block = blocks(explained["importance"].transpose("explanation", "sample", "time").values, width)
    rng, n_blocks = np.random.default_rng(seed), by_block.shape[-1]
    names = [str(name) for name in explained["explanation"].values]
    scores = dict(zip(names, by_block, strict=True))
    scores[RECENCY] = np.broadcast_to(np.arange(n_blocks, dtype=float), by_block.shape[1:])
    scores |= {f"{RANDOM} {i}": rng.random(by_block.shape[1:]) for i in range(random)}
    counts = [int(np.clip(round(share * n_blocks), 1, n_blocks - 1)) for share in shares]
    shown = torch.from_numpy(histories(windows, model.history)).to(device)
    step = None if explained.attrs["step"] == "mean" else int(explained.attrs["step"])
    forecasts = Explained(model.eval().to(device), step, batch)
    found = {
        name: np.stack([_changes(forecasts, shown, ranked(score), count, width) for count in counts])
        for name, score in track(scores.items(), "deletion curves", total=len(scores))
    }
    drawn = [found.pop(f"{RANDOM} {i}") for i in range(random)]
    found |= {RANDOM: np.mean(drawn, 0)} if drawn else {}
    values = np.stack(list(found.values()))  # (explanation, share, removed or kept, sample)
    coords = {"explanation": np.array(list(found), object), "share": list(shares), "sample": explained["sample"].values}
    variables: dict[str, tuple[tuple[str, ...], Array]] = {}
    for i, name in enumerate(("comprehensiveness", "sufficiency")):
        variables[name] = (DIMS, values[:, :, i])
        variables[f"{name}_area"] = (("explanation", "sample"), values[:, :, i].mean(1))
    return xr.Dataset(variables, coords, explained.attrs)


def ranked(score: Array) -> NDArray[np.int64]:
    """Blocks from the highest score down, the later of equal ones first: (sample, block) -> (sample, block)."""
    return score.shape[-1] - 1 - np.argsort(-score[:, ::-1], axis=-1, kind="stable")


def _changes(explained: Explained, shown: Tensor, order: NDArray[np.int64], count: int, width: int) -> Array:
    """Change of the forecast without the first `count` blocks, and with them alone: ``(2, sample)``."""
    n, length = shown.shape
    first = np.zeros(order.shape, bool)
    np.put_along_axis(first, order[:, :count], True, -1)
    sample = first.repeat(width, -1)[:, :length]
    changed = []
    window = torch.arange(n, device=shown.device)
    for removed in (sample, ~sample):
        kept = torch.from_numpy(bridged(shown.cpu().numpy(), removed)).to(shown)
        with torch.no_grad():
            parts = []
            for part in window.split(explained.batch):
                with intact_scaling(explained.model, shown[part]):
                    difference = explained.forecast(kept[part], part) - explained.forecast(shown[part], part)
                parts.append(difference if explained.step is None else difference[:, [explained.step - 1]])
        changed.append(torch.cat(parts).abs().mean(1).double().cpu().numpy())
    sd = shown.double().std(1).cpu().numpy()
    return np.stack(changed) / np.where(sd > 0, sd, 1.0)


def bridged(series: Array, removed: NDArray[np.bool_]) -> Array:
    """Straight lines between the samples that stay, held at the ends: (sample, time) -> (sample, time)."""
    time = np.arange(series.shape[-1])
    lines = [np.interp(time, time[~gone], row[~gone]) for row, gone in zip(series, removed, strict=True)]
    return np.stack(lines).astype(series.dtype)
