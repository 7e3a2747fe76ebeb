"""Whether tokens of a given length can show a period as a lag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from laglens.errors import LaglensError

REFUSED, WARNED = 2.0, 4.0  # tokens per period: below the first it is aliased, below the second a peak has no flanks


@dataclass(frozen=True)
class Testability:
    """What tokens of `step` samples can say about a period.

    Attributes
    ----------
    period
        Period [input samples].
    tokens
        Tokens per period.
    testable
        ``yes``; ``coarse``: under 4 tokens, to be read with care; ``no``: under 2 tokens, aliased.
    apparent
        Period that a comb of token lags would show [input samples]; infinite when the tokens fall on whole periods.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    period: float
    tokens: float
    testable: str
    apparent: float

    def __str__(self) -> str:
        if self.testable == "yes":
            return f"period {self.period:.4g} is {self.tokens:.3g} tokens"
        limit = REFUSED if self.testable == "no" else WARNED
        text = f"period {self.period:.4g} is {self.tokens:.3g} tokens, under {limit:g}"
        return f"{text}: it would appear at {self.apparent:.4g}" if self.testable == "no" else text


def testability(period: float, step: float) -> Testability:
    r"""Judge one period against tokens of `step` samples.

    The apparent period is that of the aliased comb, :math:`s / |s/P - \mathrm{round}(s/P)|`.

    Raises
    ------
    LaglensError
        The period is not positive and finite.
    """
    if not (np.isfinite(period) and period > 0):
        raise LaglensError(f"a true period of {period:g} samples is not possible; correct the truth of the signal")
    turns = step / period
    offset = abs(turns - round(turns))
    apparent = step / offset if offset > 1e-12 else float("inf")
    tokens = period / step
    answer = "no" if tokens < REFUSED else "coarse" if tokens < WARNED else "yes"
    return Testability(float(period), float(tokens), answer, float(apparent))


testability.__test__ = False  # type: ignore[attr-defined]


def true_periods(signal: dict[str, Any], step: float) -> list[Testability]:
    """Testability of the true periods and planted lags of a signal's attributes, longest first."""
    truth = signal.get("truth", {})
    known: Sequence[float] = [*truth.get("periods", ()), *truth.get("lags", ())]
    return [testability(period, step) for period in sorted({float(p) for p in known}, reverse=True)]


def as_attrs(periods: Sequence[Testability]) -> list[dict[str, Any]]:
    """The same as plain dictionaries for attributes; an infinite apparent period becomes None, as JSON has none."""
    return [asdict(p) | {"apparent": p.apparent if np.isfinite(p.apparent) else None} for p in periods]
