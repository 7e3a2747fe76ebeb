"""Image files: in only, as arrays of light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from laglens.errors import LaglensError
from laglens.store.files import one_line


def read_image(path: str | Path) -> NDArray[np.float32]:
    """Read an image file: ``(row, column, colour)``, red, green and blue from 0 to 1; what is transparent is white.

    Raises
    ------
    LaglensError
        The file is missing, damaged or no image, or has more than 8 bits to a colour.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    if not path.is_file():
        raise LaglensError(f"{path}: no such image")
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise LaglensError(f"{path}: has more than 8 bits to a pixel ({image.mode}); save it with 8")
            opaque = image.convert("RGBA")
    except UnidentifiedImageError as error:
        raise LaglensError(f"{path}: is no image of a known format") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LaglensError(f"{path}: the image cannot be read ({one_line(error)})") from error
    flat = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return np.asarray(flat, dtype=np.float32) / np.float32(255)
