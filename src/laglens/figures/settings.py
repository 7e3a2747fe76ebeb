"""The figure settings a person chooses, checked once at the edge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from typing import Any

from laglens.errors import LaglensError

FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class FigureSettings:
    """How figures are drawn; the attributes are the keys of the ``figures`` section of the config.

    Attributes
    ----------
    powermap
        Colour = weight to the power `gamma`; without it the colour is linear in the weight.
    gamma
        Exponent of the power map, in (0, 2]; smaller values lift weak weights.
    robust_percentiles
        Percentiles of the drawn weights that become the two ends of the colour scale.
    show_log
        Colour = log10 of the weight; wins over `powermap`.
    top_overlay_percent
        Outline the strongest x % of the cells of every map, 0 to 100; 0 draws no outline.
    heads
        ``"auto"`` (the three heads strongest against their limit) or labels such as ``"encoder L00 H03"``.
    part
        ``"auto"`` (the headline: horizon->history, else readout->history) or a query part of the lags tree.
    window
        Which window the maps show, counted from 0. Lag profiles always use all windows.
    traced_time
        Time of the window from which the arcs are followed, in input samples from its start; ``"auto"``: the last
        forecast step.
    formats
        File formats to write: png, svg, pdf.
    dpi
        Dots per inch of a PNG, and of the maps inside an SVG or PDF.
    """

    powermap: bool = True
    gamma: float = 0.5
    robust_percentiles: tuple[float, float] = (5.0, 99.5)
    show_log: bool = False
    top_overlay_percent: float = 0.0
    heads: str | tuple[str, ...] = "auto"
    part: str = "auto"
    window: int = 0
    traced_time: float | str = "auto"
    formats: tuple[str, ...] = ("png", "svg")
    dpi: int = 200

    @classmethod
    def parse(cls, settings: Mapping[str, Any] | FigureSettings | None = None) -> FigureSettings:
        """Settings from a mapping (the ``figures`` section of the config); missing keys take their default.

        Raises
        ------
        LaglensError
            A key is unknown or a value out of range.
        """
        if isinstance(settings, FigureSettings):
            return settings
        known = [field.name for field in fields(cls)]
        for key in settings or {}:
            if key not in known:
                raise LaglensError(f"figures.{key} is no figure setting; the nearest is {nearest(str(key), known)!r}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in (settings or {}).items()
        }
        return cls(**values)

    def __post_init__(self) -> None:
        low, high = self.robust_percentiles
        window_is_index = isinstance(self.window, int) and self.window >= 0
        heads_are_named = self.heads == "auto" or (isinstance(self.heads, tuple) and len(self.heads) > 0)
        _check(0 < self.gamma <= 2, "gamma", self.gamma, "above 0 and at most 2")
        _check(0 <= low < high <= 100, "robust_percentiles", [low, high], "two rising numbers between 0 and 100")
        _check(0 <= self.top_overlay_percent <= 100, "top_overlay_percent", self.top_overlay_percent, "0 to 100")
        _check(heads_are_named, "heads", self.heads, "'auto' or a list such as ['encoder L00 H03']")
        _check(window_is_index, "window", self.window, "the index of a window, 0 or more")
        timed = self.traced_time == "auto" or (isinstance(self.traced_time, int | float) and self.traced_time >= 0)
        _check(timed, "traced_time", self.traced_time, "'auto' or a time in samples from the start of the window")
        _check(set(self.formats) <= set(FORMATS), "formats", list(self.formats), f"some of {', '.join(FORMATS)}")
        _check(self.dpi > 0, "dpi", self.dpi, "above 0")


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most like `word`; of equals the first."""
    return max(known, key=lambda other: SequenceMatcher(None, word, other).ratio())


def _check(right: bool, key: str, value: object, wanted: str) -> None:
    if not right:
        raise LaglensError(f"figures.{key} is {value!r}; it must be {wanted}")
