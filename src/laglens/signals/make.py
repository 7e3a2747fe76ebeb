"""Make any signal of the config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from laglens.config.generators import Generated, Published
from laglens.config.signals import OwnTable, RealSeries, parse_signal
from laglens.errors import LaglensError
from laglens.signals import distributions, generators
from laglens.signals.datasets import from_dataset
from laglens.signals.labelled import Draw, checked, from_draws
from laglens.signals.published import PUBLISHED
from laglens.signals.streams import stream
from laglens.signals.tables import from_table

LEGACY_SEED = 42
GENERATORS: dict[str, Callable[[Any, np.random.Generator, int], Draw]] = {
    "harmonics": generators.harmonics,
    "chirp": generators.chirp,
    "planted_lag": generators.planted_lag,
    "random_walk_echo": generators.random_walk_echo,
    "heavy_tailed_ar1": distributions.heavy_tailed_ar1,
    "garch11": distributions.garch11,
    "jump_diffusion": distributions.jump_diffusion,
    "regime_switching": distributions.regime_switching,
    "trend_breaks": distributions.trend_breaks,
    "random_walk": distributions.random_walk,
    "season_trend_outliers": distributions.season_trend_outliers,
    "multi_seasonality": generators.harmonics,
    "one_over_f": distributions.one_over_f,
}


def make_signal(
    spec: Mapping[str, Any], seed: int = 0, table: pd.DataFrame | None = None, *, name: str = "signal"
) -> xr.Dataset:
    """Make one signal from its section of the config.

    Parameters
    ----------
    spec
        With one of the keys ``generator``, ``dataset`` and ``file``; see ``docs/signals.md``.
    seed
        The study's seed. The random numbers depend on it and on `name` alone, or only on the ``seed`` of `spec`
        where it has one.
    table
        The content of the file, if `spec` has the key ``file``.
    name
        The signal's name, for its random numbers and for messages.

    Returns
    -------
    xr.Dataset
        ``value (sample, time)``; what is known about the series, its time step and units are attributes.

    Raises
    ------
    LaglensError
        The settings are wrong, or the series is constant, not finite, too short or unevenly spaced.
    """
    parsed = parse_signal(spec, name)
    if isinstance(parsed, RealSeries):
        signal = from_dataset(parsed, name)
    elif isinstance(parsed, OwnTable):
        if table is None:
            raise LaglensError(f"signal '{name}': read '{parsed.file}' with laglens.store.read_table and pass it on")
        signal = from_table(parsed, table, name)
    else:
        signal = _generated(parsed, seed, name)
    return checked(signal)


def _generated(spec: Generated, seed: int, name: str) -> xr.Dataset:
    parameters = spec.model_dump(mode="json")
    generator = parameters["generator"]
    if isinstance(spec, Published):
        seed = LEGACY_SEED if spec.seed is None else spec.seed
        # The published series are defined by this generator of numpy.
        draws = [PUBLISHED[generator](np.random.RandomState(seed + k), spec.length) for k in range(spec.samples)]
    else:
        root = stream(seed, name) if spec.seed is None else stream(spec.seed)
        seed = seed if spec.seed is None else spec.seed
        # One child per sample: asking for more samples leaves the first ones as they are.
        children = enumerate(root.spawn(spec.samples))
        draws = [GENERATORS[generator](spec, np.random.default_rng(child), k) for k, child in children]
    return from_draws(
        draws,
        source=f"{generator} ({spec.variant})" if hasattr(spec, "variant") else generator,
        parameters=parameters,
        name=name,
        seed=seed,
        time_step=spec.time_step,
        time_unit=spec.time_unit,
        unit=spec.unit,
    )
