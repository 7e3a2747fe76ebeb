"""The known periods and lags of a signal: names, harmonics, and whether the tokens can resolve them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from laglens.figures.style import FAINT, MUTED, SMALL, text_width
from laglens.figures.times import TimeUnit

TIER = 0.125  # inches between two rows of labels above an axes
ROWS = 3
DENSE = 0.2  # inches: multiples nearer than this are drawn fainter
CLOSEST = 0.08  # inches: multiples nearer than this would be a raster; the period alone is drawn
DOTTED: dict[str, Any] = {"linewidth": 0.6, "linestyle": (0, (1, 2)), "zorder": 1.5}
NOTES = {"yes": (), "coarse": ("under 4 tokens: read with care",), "no": ("under 2 tokens: not testable",)}


@dataclass(frozen=True)
class Rhythm:
    """A known period (its multiples count too) or a known single lag of a signal.

    Attributes
    ----------
    name
        ``P``, ``P1``, ... for periods, ``lag``, ``lag 1``, ... for single lags.
    samples
        Length in input samples.
    testable
        ``yes``, ``coarse`` (under 4 tokens) or ``no`` (under 2 tokens).
    repeats
        True for a period.
    notes
        What a reader must know about it.
    """

    name: str
    samples: float
    testable: str = "yes"
    repeats: bool = True
    notes: tuple[str, ...] = ()

    def multiples(self, longest: float) -> np.ndarray:
        """The lags it predicts, up to `longest` samples: all kP, or the one lag; none where not testable but P."""
        count = int(longest // self.samples) if self.repeats and self.testable != "no" else 1
        lags = self.samples * np.arange(1, count + 1)
        return lags[lags <= longest]

    def label(self, multiple: int) -> str:
        """Name of a line: ``P1``, ``2P1``; in brackets where the tokens cannot resolve it."""
        name = self.name if multiple == 1 else f"{multiple}{self.name}"
        return f"({name})" if self.testable == "no" else name


def rhythms(testability: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], part: str) -> list[Rhythm]:
    """Known periods and lags of one or more signals, periods first, longest first.

    Parameters
    ----------
    testability
        Attribute ``periods`` of a lags or comparison tree: ``period``, ``testable``, ``parts`` that reach it and, in a
        comparison, ``signals`` that have it.
    truths
        Of the signals: ``periods`` and ``lags`` in samples.
    part
        The query part that is drawn.
    """
    repeating = {float(period) for truth in truths for period in truth.get("periods", ())}
    entries = sorted(testability, key=lambda entry: (float(entry["period"]) not in repeating, -float(entry["period"])))
    count = {flag: sum((float(e["period"]) in repeating) == flag for e in entries) for flag in (True, False)}
    known = []
    for place, entry in enumerate(entries):
        repeats = float(entry["period"]) in repeating
        index = place + 1 if repeats else place + 1 - count[True]
        number_of = "" if count[repeats] == 1 else f"{index}" if repeats else f" {index}"
        name = f"{'P' if repeats else 'lag'}{number_of}"
        known.append(Rhythm(name, float(entry["period"]), entry["testable"], repeats, _notes(entry, part)))
    return known


def _notes(entry: Mapping[str, Any], part: str) -> tuple[str, ...]:
    signals = entry.get("signals", ())
    only = (f"{signals[0]} only",) if len(signals) == 1 else ()
    far = entry["testable"] != "no" and part not in entry.get("parts", [part])
    return (*only, *NOTES[entry["testable"]], *(("outside the measured lags",) if far else ()))


def periods_of(known: Sequence[Rhythm]) -> list[float]:
    """The periods that tokens can resolve, in samples."""
    return [rhythm.samples for rhythm in known if rhythm.repeats and rhythm.testable != "no"]


def describe(known: Sequence[Rhythm], unit: TimeUnit, samples_per_token: float) -> str:
    """Spell out the names on the lines in one sentence."""
    if not known:
        return "No period of this series is known."
    notes = [f" ({', '.join(rhythm.notes)})" if rhythm.notes else "" for rhythm in known]
    values = [f"{r.name} = {unit.format(r.samples)}{note}" for r, note in zip(known, notes, strict=True)]
    token = "" if samples_per_token == 1 else f"; one token is {unit.format(samples_per_token)}"
    return f"True periods, with their multiples: {', '.join(values)}{token}."


def mark_rhythms(axes: Axes, known: Sequence[Rhythm], *, colour: str = MUTED, named: bool = True) -> None:
    """Thin dotted lines at the lags the truth predicts, `named` above the axes: one row of names per period."""
    low, high = axes.get_xlim()
    inches = axes.get_position().width * axes.figure.get_size_inches()[0] / (high - low)  # per sample
    for row, rhythm in enumerate(known[:ROWS]):
        faint = rhythm.testable == "no"
        line = FAINT if faint or (rhythm.repeats and rhythm.samples * inches < DENSE) else colour
        lags = rhythm.multiples(max(abs(low), abs(high)))
        if rhythm.samples * inches < CLOSEST:
            lags = lags[:1]
        for sign in (1, -1):
            free = -np.inf if low >= 0 else 0.0  # distance from which the next name fits
            for multiple, lag in enumerate(lags, start=1):
                if not low <= sign * lag <= high:
                    continue
                axes.axvline(sign * lag, color=line, **DOTTED)
                label = rhythm.label(multiple)
                half = text_width(label, SMALL) / 2 / inches
                if named and lag - half >= free:
                    _name(axes, sign * lag, row, label, FAINT if faint else MUTED)
                    free = lag + half + 0.05 / inches


def _name(axes: Axes, at: float, row: int, label: str, colour: str) -> None:
    axes.annotate(
        label,
        (at, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2 + row * TIER * 72),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=SMALL,
        color=colour,
        annotation_clip=False,
    )
