"""Pixels and vectors of a figure from one drawing: artists, ticks and words are laid out once instead of per format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import numpy as np
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextToPath
from matplotlib.transforms import Affine2D, Bbox

MOST_WORDS = 20_000  # remembered; more only in a notebook that is open for days


class Letters(TextToPath):
    """Outlines of words, remembered: the same numbers and names stand in many figures."""

    def __init__(self) -> None:
        super().__init__()
        self._glyphs: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {}
        self._paths: dict[tuple[str, str], Path] = {}

    def get_glyphs_with_font(
        self, font: Any, s: str, glyph_map: Any = None, return_new_glyphs_only: bool = False, **language: Any
    ) -> Any:
        """Places of the glyphs of a word, and the outlines of those that `glyph_map` lacks."""
        key = (font.fname, s)
        if key not in self._glyphs:
            if len(self._glyphs) > MOST_WORDS:
                self._glyphs.clear()
            places, outlines, _ = super().get_glyphs_with_font(font, s)
            self._glyphs[key] = places, dict(outlines)
        places, outlines = self._glyphs[key]
        known = glyph_map if return_new_glyphs_only and glyph_map else {}
        return places, {name: outline for name, outline in outlines.items() if name not in known}, []

    def path(self, prop: FontProperties, s: str) -> Path:
        """A word as one path, at the size `FONT_SCALE`."""
        key = (self._get_font(prop).fname, s)  # type: ignore[attr-defined]
        if key not in self._paths:
            if len(self._paths) > MOST_WORDS:
                self._paths.clear()
            vertices, codes = self.get_text_path(prop, s)
            self._paths[key] = Path(np.asarray(vertices).reshape(-1, 2), codes or None)
        return self._paths[key]


LETTERS = Letters()


class Vectors(RendererSVG):
    """SVG in points, of what is drawn in pixels of `dpi`."""

    def __init__(self, width: float, height: float, file: TextIO, dpi: float, metadata: dict[str, None]) -> None:
        super().__init__(72 * width, 72 * height, file, image_dpi=dpi, metadata=metadata)
        self._points = self._scale = 72 / dpi
        self._text2path = LETTERS

    @contextmanager
    def _in_points(self, scale: float) -> Iterator[None]:
        before, self._scale = self._scale, scale
        try:
            yield
        finally:
            self._scale = before

    def _make_flip_transform(self, transform: Any) -> Any:
        return super()._make_flip_transform(transform + Affine2D().scale(self._scale))

    def _get_clip_attrs(self, gc: GraphicsContextBase) -> Any:
        rectangle, (path, _) = gc.get_clip_rectangle(), gc.get_clip_path()
        if path is None and rectangle is not None:
            gc = GraphicsContextBase()
            gc.set_clip_rectangle(Bbox(rectangle.get_points() * self._points))
        with self._in_points(self._points):
            return super()._get_clip_attrs(gc)

    def draw_markers(self, gc: Any, marker_path: Any, marker_trans: Any, *where: Any, **kwargs: Any) -> None:
        """Draw a marker at every vertex."""
        super().draw_markers(gc, marker_path, marker_trans + Affine2D().scale(self._scale), *where, **kwargs)

    def draw_path_collection(self, gc: Any, master_transform: Any, *args: Any, **kwargs: Any) -> None:
        """Draw many paths, in points before they reach any method that would scale them once more."""
        paths, transforms, offsets, offset_transform, *rest = args
        shrink = Affine2D().scale(self._scale)
        scaled = paths, transforms, offsets, offset_transform + shrink
        with self._in_points(1):
            super().draw_path_collection(gc, (master_transform + shrink).frozen(), *scaled, *rest, **kwargs)

    def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        """Embed an image whose lower left corner is at `x`, `y`."""
        super().draw_image(gc, x * self._scale, y * self._scale, im, transform)

    def draw_text(self, gc: Any, x: float, y: float, *args: Any, **kwargs: Any) -> None:
        """Write a word at `x`, `y` from the upper left corner."""
        super().draw_text(gc, x * self._scale, y * self._scale, *args, **kwargs)


def _passed_on(name: str) -> Callable[..., None]:
    def draw(self: Renderers, *args: Any, **kwargs: Any) -> None:
        for target in self.targets:
            getattr(target, name)(*args, **kwargs)

    return draw


class Renderers(RendererBase):
    """Passes on what is drawn to every target: pixels, vectors, or both; sizes of words come from the pixels.

    What artists ask to be rasterised becomes an image in the vectors.
    """

    def __init__(self, pixels: RendererAgg, vectors: Vectors | None = None, *, keep_pixels: bool = True) -> None:
        super().__init__()
        self.pixels, self.vectors = pixels, vectors
        self.width, self.height, self.dpi = pixels.width, pixels.height, pixels.dpi
        self._kept: list[RendererBase] = [pixels] if keep_pixels else []
        self._layer: RendererAgg | None = None

    @property
    def targets(self) -> list[Any]:
        """Where the next thing is drawn to."""
        return [*self._kept, *filter(None, [self._layer or self.vectors])]

    draw_path = _passed_on("draw_path")
    draw_markers = _passed_on("draw_markers")
    draw_path_collection = _passed_on("draw_path_collection")
    draw_quad_mesh = _passed_on("draw_quad_mesh")
    draw_gouraud_triangles = _passed_on("draw_gouraud_triangles")
    draw_image = _passed_on("draw_image")

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        """Write a word: in pixels as a path, which is one call instead of several to a letter."""
        for target in self.targets:
            if ismath or not isinstance(target, RendererAgg):
                target.draw_text(gc, x, y, s, prop, angle, ismath, mtext)
                continue
            filled = target.new_gc()
            filled.copy_properties(gc)
            filled.set_linewidth(0)
            filled.set_snap(False)
            size = prop.get_size_in_points() / LETTERS.FONT_SCALE * self.dpi / 72
            at = Affine2D().scale(size).rotate_deg(angle).translate(x, self.height - y)
            target.draw_path(filled, LETTERS.path(prop, s), at, gc.get_rgb())

    def get_text_width_height_descent(self, s: str, prop: FontProperties, ismath: Any) -> tuple[float, float, float]:
        """Size of a word in pixels."""
        return self.pixels.get_text_width_height_descent(s, prop, ismath)

    def start_rasterizing(self) -> None:
        """Collect in pixels what comes next, for the vectors."""
        if self.vectors is not None:
            self._layer = RendererAgg(self.width, self.height, self.dpi)

    def stop_rasterizing(self) -> None:
        """Embed in the vectors what was collected."""
        layer, self._layer = self._layer, None
        if layer is None or self.vectors is None:
            return
        image = np.asarray(layer.buffer_rgba())
        rows, columns = (np.flatnonzero(image[..., 3].any(axis)) for axis in (1, 0))
        if rows.size:
            part = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            below = image.shape[0] - rows[-1] - 1
            self.vectors.draw_image(self.new_gc(), int(columns[0]), int(below), part[::-1])

    def open_group(self, s: str, gid: str | None = None) -> None:
        """Begin a group of the vectors."""
        if self.vectors is not None and self._layer is None:
            self.vectors.open_group(s, gid)

    def close_group(self, s: str) -> None:
        """End a group of the vectors."""
        if self.vectors is not None and self._layer is None:
            self.vectors.close_group(s)

    def flipy(self) -> bool:
        """Whether words are placed from the upper edge."""
        return True

    def get_canvas_width_height(self) -> tuple[float, float]:
        """Size in pixels."""
        return self.width, self.height

    def points_to_pixels(self, points: Any) -> Any:
        """Length in pixels."""
        return self.pixels.points_to_pixels(points)

    def option_image_nocomposite(self) -> bool:
        """Images stay apart, as in pixels alone."""
        return True
