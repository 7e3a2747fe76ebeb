"""Random numbers of a signal."""

from __future__ import annotations

import numpy as np


def stream(seed: int, *names: str) -> np.random.SeedSequence:
    """Random stream that depends on the seed and the names alone, whatever else a study contains."""
    return np.random.SeedSequence([seed, *"\0".join(names).encode()])
