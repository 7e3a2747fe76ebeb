"""Which heads a calibration looks at, chosen on inputs that are tested by nothing else."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from laglens.calibration.detection import Array, excess, log_profiles, near_multiple
from laglens.calibration.series import drawn, noise_series, wave_series
from laglens.errors import LaglensError
from laglens.lags.comb_tests import swap_test
from laglens.lags.tracking import candidate_combs
from laglens.models.forecaster import Forecaster
from laglens.signals.probes import make_probes
from laglens.time.probes import probe_time_tree

CHOOSING = 100  # series of each kind on which single heads are chosen, and white noise series beside them
CHOSEN_ON = ("harmonic", "two_periods")
LEVEL = 0.05

Mask = NDArray[np.bool_]


def choose_heads(model: Forecaster, *, seed: int, device: torch.device | str = "cpu") -> tuple[dict[str, Mask], Array]:
    """Mark the heads that a person would look at, over all stacks that read the history: ``{name: (head,)}``.

    ``all``; ``following``, those that follow the periods of their input by the swap test at 5 %, which is what a
    verdict asks for; ``at_multiple`` and ``at_period``, the one that most often shows a comb beyond those of white
    noise and has its strongest lag within a token of a multiple of a true period, and of the period itself, chosen
    on waves with overtones and on sums of two waves, apart from those that are tested later.

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
    white, lag, step = log_profiles(
        model, noise_series("white", CHOOSING, length, drawn(seed, "white", "choosing")), device=device
    )
    combs = _combs_and_limit(white, lag, step)
    places: dict[str, list[Array]] = {"at_multiple": [], "at_period": []}
    for kind in CHOSEN_ON:
        waves, periods = wave_series(kind, CHOOSING, length, drawn(seed, kind, "choosing"))
        profiles, _, _ = log_profiles(model, waves, device=device)
        top = lag[excess(profiles, white).argmax(-1)]
        comb = _comb(profiles, *combs) if combs else np.full(top.shape, np.inf)  # no combs: the lag decides alone
        at_period = (np.abs(top[..., None] - periods[:, None]) <= step).any(-1)
        at_multiple = near_multiple(top, np.repeat(periods[:, None], top.shape[1], 1), step)
        # The size of the comb decides only between heads that are right equally often.
        for name, at in {"at_multiple": at_multiple, "at_period": at_period}.items():
            places[name].append(((comb > 1) & at).mean(0) + 1e-6 * np.minimum(comb.mean(0), 100))
    single = {name: int(np.sum(scores, axis=0).argmax()) for name, scores in places.items()}
    number = np.arange(white.shape[1])
    chosen = {name: number == head for name, head in single.items()}
    following = np.isin(number, following_heads(model, seed=seed, device=device))
    return {"all": number >= 0, "following": following} | chosen, white


def _combs_and_limit(white: Array, lag: Array, step: float) -> tuple[Array, Array, Array] | None:
    """Combs (lag, comb), those of white noise, and the 95 % point of its largest by head; None: history too short."""
    try:
        _, combs = candidate_combs(lag, step)
    except LaglensError:
        return None
    null = white @ combs.T
    return combs.T, null, np.quantile(excess(null, null).max(-1), 1 - LEVEL, axis=0)


def _comb(profiles: Array, combs: Array, null: Array, limit: Array) -> Array:
    """Largest comb over the 95 % point of that of white noise, (series, head)."""
    return excess(profiles @ combs, null).max(-1) / limit


def following_heads(model: Forecaster, *, seed: int, device: torch.device | str = "cpu") -> NDArray[np.int64]:
    """Numbers of the heads that follow the periods of their input at 5 %, over all stacks together.

    None, where tokens are too coarse for two periods.
    """
    step = model.stacks[0].key.step
    probes = make_probes(step, model.history, model.horizon, periods=6, inputs=8, noises=1, seed=seed)
    tested = swap_test(probe_time_tree(model, probes["swap"], device=device), seed=seed)
    p = [node["p_family"].values.ravel() for node in tested.children.values()]
    return np.flatnonzero(np.concatenate([*p, np.empty(0)]) <= LEVEL)
