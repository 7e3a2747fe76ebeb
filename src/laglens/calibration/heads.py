"""Which heads a calibration looks at, chosen on inputs that are tested by nothing else."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from laglens.calibration.detection import excess, log_profiles, near_multiple
from laglens.calibration.series import drawn, noise_series, wave_series
from laglens.lags.comb_tests import swap_test
from laglens.models.forecaster import Forecaster
from laglens.signals.probes import make_probes
from laglens.time.probes import probe_time_tree

CHOOSING = 100  # harmonic series on which single heads are chosen, and white noise series beside them
LEVEL = 0.05

Mask = NDArray[np.bool_]


def choose_heads(
    model: Forecaster, *, seed: int, device: torch.device | str = "cpu"
) -> tuple[dict[str, Mask], NDArray[np.float64]]:
    """Mark the heads that a person would look at, over all stacks that read the history: ``{name: (head,)}``.

    ``all``; ``following``, those that follow the periods of their input by the swap test at 5 %, which is what a
    verdict asks for; ``at_multiple`` and ``at_period``, the one whose strongest lag lies most often within a token of a
    multiple of the true period, and of the period itself, on harmonic series apart from those that are tested later.

    Parameters
    ----------
    seed
        Of the inputs.

    Returns
    -------
    heads, white
        The masks, and the profiles on white noise that single heads were read against, ``(series, head, lag)``.
    """
    length = model.history + model.horizon
    noise = noise_series("white", CHOOSING, length, drawn(seed, "white", "choosing"))
    waves, periods = wave_series("harmonic", CHOOSING, length, drawn(seed, "harmonic", "choosing"))
    profiles, lag, step = log_profiles(model, np.concatenate([waves, noise]), device=device)
    z = excess(profiles[:CHOOSING], profiles[CHOOSING:])
    top = lag[z.argmax(-1)]  # (series, head)
    at_period = (np.abs(top - periods) <= step).mean(0)
    at_multiple = near_multiple(top, periods[:, None], step).mean(0)
    single = {"at_multiple": at_multiple.argmax(), "at_period": at_period.argmax()}
    number = np.arange(top.shape[1])
    chosen = {name: number == head for name, head in single.items()}
    following = np.isin(number, following_heads(model, seed=seed, device=device))
    return {"all": number >= 0, "following": following} | chosen, profiles[CHOOSING:]


def following_heads(model: Forecaster, *, seed: int, device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """Numbers of the heads that follow the periods of their input at 5 %, over all stacks together.

    None, where tokens are too coarse for two periods.
    """
    step = model.stacks[0].key.step
    probes = make_probes(step, model.history, model.horizon, periods=6, inputs=8, noises=1, seed=seed)
    tested = swap_test(probe_time_tree(model, probes["swap"], device=device), seed=seed)
    p = [node["p_family"].values.ravel() for node in tested.children.values()]
    return np.flatnonzero(np.concatenate([*p, np.empty(0)]) <= LEVEL)
