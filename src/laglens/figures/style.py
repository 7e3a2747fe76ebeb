"""The one look of all figures: colours, type, templates in inches, and bytes that never change."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import lru_cache
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from laglens.errors import LaglensError
from laglens.figures.pixels import drawn, encode_png, fonts_found_once

ACCENT = "#c4480a"
SECOND = "#0a63a8"
INK = "#1d2433"
MUTED = "#4a5163"
FAINT = "#9aa1ae"
BAND = "#d9dbe0"
OVERLAY = "#6fe3ff"
CATEGORIES = tuple(matplotlib.color_sequences["okabe_ito"])
SEQUENTIAL = "magma"
DIVERGING = "RdBu_r"

WIDTH = 7.2  # inches: two columns of a journal
SCREEN_DPI = 110  # of a figure in a notebook
TITLE, LABEL, TICK, SMALL = 11.0, 8.0, 7.5, 7.0  # points

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": LABEL,
    "axes.labelsize": LABEL,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelpad": 3.0,
    "axes.unicode_minus": True,
    "xtick.labelsize": TICK,
    "ytick.labelsize": TICK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "lines.linewidth": 1.1,
    "lines.solid_joinstyle": "round",
    "text.color": INK,
    "text.parse_math": False,
    "text.hinting": "no_hinting",  # else widths depend on the resolution
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "image.origin": "lower",
    "image.interpolation": "nearest",
    "svg.fonttype": "path",
    "svg.hashsalt": "laglens",
    "pdf.fonttype": 42,
}

# Software, dates and creators would make the same figure differ between days and patch releases.
METADATA: dict[str, dict[str, None]] = {
    "png": {},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


def look() -> AbstractContextManager[None]:
    """Context in which figures are built and rendered; every setting is restored on leaving."""
    return matplotlib.rc_context(RC)  # type: ignore[arg-type]


def render(figure: Figure, file_format: str = "png", dpi: int = 200) -> bytes:
    """Bytes of a figure, the same for the same figure in any process.

    Raises
    ------
    LaglensError
        The format is none of png, svg, pdf.
    """
    return render_all(figure, [file_format], dpi)[file_format]


def render_all(figure: Figure, formats: Iterable[str], dpi: int = 200) -> dict[str, bytes]:
    """Bytes of a figure by format, as from `render`; PNG and SVG take less time together than one after the other.

    Raises
    ------
    LaglensError
        A format is none of png, svg, pdf.
    """
    formats = list(formats)
    for name in formats:
        if name not in METADATA:
            raise LaglensError(f"no figure format {name!r}; choose one of {', '.join(METADATA)}")
    made: dict[str, bytes] = {}
    with look(), fonts_found_once():
        if {"png", "svg"} & set(formats):
            svg = METADATA["svg"] if "svg" in formats else None
            pixels, vectors = drawn(figure, dpi, pixels="png" in formats, metadata=svg)
            if pixels is not None:
                made["png"] = encode_png(pixels, dpi)
            if vectors is not None:
                made["svg"] = vectors.encode()
        if "pdf" in formats:
            buffer = BytesIO()
            figure.savefig(buffer, format="pdf", dpi=dpi, metadata=METADATA["pdf"])
            made["pdf"] = buffer.getvalue()
    return made


def render_files(figure: Figure, paths: Iterable[str], dpi: int = 200) -> dict[str, bytes]:
    """What to write to each path, whose ending names the format; see `render_all`."""
    formats = {path: path.rpartition(".")[2] for path in paths}
    made = render_all(figure, formats.values(), dpi)
    return {path: made[name] for path, name in formats.items()}


class NotebookFigure(Figure):
    """A figure that a notebook shows by itself: figures are made without ``pyplot``, which would do it."""

    def _repr_png_(self) -> bytes:
        return render(self, "png", SCREEN_DPI)


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Empty figure of `width` by `height` inches, without a layout engine."""
    return NotebookFigure(figsize=(width, height), layout=None)


def place(figure: Figure, left: float, top: float, width: float, height: float, **kwargs: Any) -> Axes:
    """Axes at a fixed place: inches from the left and the upper edge of the figure."""
    total_width, total_height = figure.get_size_inches()
    bottom = total_height - top - height
    rectangle = (left / total_width, bottom / total_height, width / total_width, height / total_height)
    return figure.add_axes(rectangle, **kwargs)


def write(figure: Figure, left: float, top: float, string: str, *, room: float = np.inf, **kwargs: Any) -> None:
    """Text at a fixed place in inches from the upper left corner, shrunk and then cut to `room` inches."""
    size, weight = kwargs.pop("fontsize", LABEL), kwargs.pop("fontweight", "normal")
    string, size = fit(string, room, size, weight)
    width, height = figure.get_size_inches()
    kwargs.setdefault("va", "baseline")
    figure.text(left / width, 1 - top / height, string, fontsize=size, fontweight=weight, parse_math=False, **kwargs)


def write_title(figure: Figure, title: str, subtitle: str, room: float = WIDTH - 0.4) -> None:
    """Title and the grey line under it, at the upper left corner."""
    write(figure, 0.2, 0.27, title, room=room, fontsize=TITLE, fontweight="bold")
    write(figure, 0.2, 0.46, subtitle, room=room, color=MUTED)


def text_width(string: str, size: float = LABEL, weight: str = "normal") -> float:
    """Width of a string in inches, without kerning."""
    return size / 72 * sum(_character_width(character, weight) for character in string)


@lru_cache(maxsize=1024)
def _character_width(character: str, weight: str) -> float:
    font = FontProperties(family="DejaVu Sans", size=1, weight=weight)
    return float(text_to_path.get_text_width_height_descent(character, font, ismath=False)[0])


def fit(string: str, room: float, size: float, weight: str = "normal") -> tuple[str, float]:
    """Shrink a string to `room` inches, down to 80 % of its size, then cut out its middle."""
    if room == np.inf:
        return string, size
    while text_width(string, size, weight) > room and size > 0.8 * SMALL:
        size -= 0.5
    if text_width(string, size, weight) <= room:
        return string, size
    keep = len(string) - 1
    while keep > 2 and text_width(_shorten(string, keep), size, weight) > room:
        keep -= 1
    return _shorten(string, keep), size


def _shorten(string: str, keep: int) -> str:
    head = (keep + 1) // 2
    return f"{string[:head]}…{string[len(string) - (keep - head) :]}"


def wrap(string: str, room: float, size: float = SMALL) -> list[str]:
    """Break a string at spaces into lines of at most `room` inches."""
    lines: list[list[str]] = [[]]
    space, length = text_width(" ", size), 0.0
    for word in string.split():
        width = text_width(word, size)
        if lines[-1] and length + space + width > room:
            lines.append([])
        length = length + space + width if lines[-1] else width
        lines[-1].append(word)
    return [" ".join(line) for line in lines if line]


def caption(figure: Figure, left: float, top: float, string: str, room: float) -> float:
    """Grey small print from `top` downwards; returns the depth below its last line, in inches."""
    for line in wrap(string, room):
        write(figure, left, top, line, fontsize=SMALL, color=MUTED)
        top += LINE
    return top


LINE = 0.135  # inches between lines of small print


def caption_height(string: str, room: float) -> float:
    """Height in inches that `caption` will take."""
    return LINE * len(wrap(string, room))


def limits(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Robust ends of a colour scale: two percentiles of the finite values, widened when they coincide."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise LaglensError("a map to draw holds no finite value")
    low, high = (float(x) for x in np.percentile(finite, percentiles))
    return (low, high) if high > low else (low, low + max(abs(low), 1e-12))


def page(bottom: float, note: str, title: str, subtitle: str, *, room: float = WIDTH - 0.4) -> Figure:
    """Figure with its title on top (`room` inches of it) and its caption from `bottom` inches downwards."""
    figure = new_figure(bottom + caption_height(note, WIDTH - 0.4))
    write_title(figure, title, subtitle, room)
    caption(figure, 0.2, bottom, note, WIDTH - 0.4)
    return figure


def explain(title: str, subtitle: str, reason: str) -> Figure:
    """Figure of words alone: why there is nothing to draw."""
    room = WIDTH - 0.4
    figure = new_figure(0.72 + LINE * len(wrap(reason, room, LABEL)) * LABEL / SMALL + 0.1)
    write_title(figure, title, subtitle)
    for index, line in enumerate(wrap(reason, room, LABEL)):
        write(figure, 0.2, 0.8 + index * LINE * LABEL / SMALL, line, color=INK)
    return figure
