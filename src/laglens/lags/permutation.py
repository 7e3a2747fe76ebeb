"""Exact tests for many heads at once: controls pooled with the observation, and swapped periods. Numpy only."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control

from laglens.errors import LaglensError

Array = NDArray[np.float64]


def smallest_p(n: int) -> float:
    """Smallest p-value that n controls or permutations can give: 1 / (n + 1)."""
    return 1 / (n + 1)


def passes(p: ArrayLike, confidence: float) -> NDArray[np.bool_]:
    """Whether a p-value is at most 1 minus the confidence, which floats put just under it: 1 - 0.9 < 0.1."""
    return np.asarray(p) <= 1 - confidence + 1e-9


def pooled_max_test(observed: Array, controls: Array, *, floor: float = 1e-9) -> tuple[Array, Array]:
    """Family-wise test of every head against control inputs, by the largest head of each.

    Observation and controls are standardised **together**, so they stay exchangeable under the null and the test is
    exact (Westfall and Young 1993; Nichols and Holmes 2002). Standardised by the controls alone, 24 to 90 % of null
    signals would be significant at 5 %.

    Parameters
    ----------
    observed
        One statistic per head, large = evidence, ``(head,)``.
    controls
        ``(replicate, head)``.
    floor
        Smallest standard deviation; a head that ignores its input has none.

    Returns
    -------
    z, p
        ``(head,)`` each; p is at least `smallest_p`.

    Raises
    ------
    LaglensError
        Shapes differ, or a value is not finite.
    """
    if controls.ndim != 2 or controls.shape[1:] != observed.shape:
        raise LaglensError(f"{observed.shape} heads are observed, the controls are {controls.shape}")
    pool = np.concatenate([observed[None], controls])
    if not np.isfinite(pool).all():
        raise LaglensError("a statistic of the observation or of a control is not finite")
    z = (pool - pool.mean(0)) / np.maximum(pool.std(0, ddof=1), floor)
    largest = z.max(1)
    return z[0], (largest[:, None] >= z[0]).mean(0)


def control_p_values(observed: Array, controls: Array) -> Array:
    """p-value of each head on its own, (1 + controls at least as large) / (n + 1): ``(head,)``.

    Not corrected for the number of heads; see `false_discovery_rate` and `pooled_max_test`.
    """
    return (1 + (controls >= observed).sum(0)) / (1 + len(controls))


def false_discovery_rate(p: Array, *, dependence: str = "positive") -> Array:
    """Smallest false discovery rate at which each head is a discovery, ``(head,)``; for exploration.

    ``positive``: Benjamini and Hochberg 1995; ``any``: Benjamini and Yekutieli 2001, for arbitrary dependence.

    Raises
    ------
    LaglensError
        Another `dependence`, or a p-value that is NaN or not between 0 and 1.
    """
    methods: dict[str, Literal["bh", "by"]] = {"positive": "bh", "any": "by"}
    if dependence not in methods:
        raise LaglensError(f"dependence is {dependence!r}; it must be one of {', '.join(methods)}")
    p = np.asarray(p, np.float64)
    if not ((p >= 0) & (p <= 1)).all():  # NaN is neither
        raise LaglensError("a p-value is NaN or not between 0 and 1; leave heads that were not tested out")
    return false_discovery_control(p, method=methods[dependence])


def swap_statistic(contrast: Array, label: NDArray[np.int64]) -> Array:
    """How much more each head contrasts an input's own period than other inputs do: (input, head, period) -> (head,).

    Mean diagonal of the table "contrast at candidate b on inputs of period a" after its row and column means, which
    are what an input sharpens everywhere and what a head likes whatever the input.
    """
    n_periods = contrast.shape[2]
    table = np.stack([contrast[label == a].mean(0) for a in range(n_periods)])
    table = table - table.mean(0) - table.mean(2, keepdims=True) + table.mean((0, 2))[:, None]
    return np.einsum("aha->ha", table).mean(1)


def period_swap_test(
    contrast: Array, label: NDArray[np.int64], rng: Generator, *, n_permutations: int = 999
) -> tuple[Array, Array]:
    """Test which heads follow the period of the input, by permuting which input has which period.

    Exact when a head's profile does not depend on the period of its input; family-wise over heads by the largest one
    of each permutation (Westfall and Young 1993). No forward pass is repeated.

    Parameters
    ----------
    contrast
        Comb contrast of every head on every input at every candidate period, ``(input, head, period)``, all on the
        same lags.
    label
        Index of the period that each input has, ``(input,)``; every period has inputs.
    rng
        Draws the permutations.

    Returns
    -------
    statistic, p
        ``(head,)`` each; the statistic is in standard deviations of the head's contrasts.

    Raises
    ------
    LaglensError
        Fewer than two periods, a period without inputs, or values that are not finite.
    """
    n_inputs, _, n_periods = contrast.shape
    present = np.unique(label)
    if n_periods < 2 or len(label) != n_inputs or not np.array_equal(present, np.arange(n_periods)):
        raise LaglensError(
            f"{n_inputs} inputs with {len(label)} labels of {len(present)} periods, {n_periods} candidates: every "
            "candidate needs inputs, and at least two are needed"
        )
    if not np.isfinite(contrast).all():
        raise LaglensError("a comb contrast is not finite")
    scale = contrast.std((0, 2), keepdims=True)  # the same under every permutation
    scaled = contrast / np.where(scale > 0, scale, 1.0)
    statistic = swap_statistic(scaled, label)
    largest = np.array([swap_statistic(scaled, rng.permutation(label)).max() for _ in range(n_permutations)])
    return statistic, (1 + (largest[:, None] >= statistic).sum(0)) / (1 + n_permutations)
