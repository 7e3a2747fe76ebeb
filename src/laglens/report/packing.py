"""Arrays as text inside a page: planes of bytes, deflated, in base64; the same arrays give the same text."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Code = Literal["float32", "float16", "log8"]
LOWEST = 1e-5  # smallest weight that log8 tells from 0
STEPS = 255  # of log8, above 0
ERRORS = {"float16": 2.0**-11, "log8": LOWEST ** (-0.5 / (STEPS - 1)) - 1}  # largest relative error of a weight


@dataclass
class Pack:
    """Arrays that travel together, in the order in which they were added.

    Attributes
    ----------
    index
        For each array its code, shape and first byte.
    """

    index: dict[str, dict[str, Any]] = field(default_factory=dict)
    _planes: list[bytes] = field(default_factory=list)
    _size: int = 0

    def add(self, name: str, values: Any, code: Code = "float32") -> None:
        """Add an array under a name of its own.

        Parameters
        ----------
        values
            Any shape; kept in C order.
        code
            ``float32`` for numbers; for maps, which are pictures, ``float16``, or ``log8`` at half its size: weights
            from 1e-5 to 1 on 255 even steps of the logarithm, none off by more than 2.3 %; smaller ones become 0.
        """
        if name in self.index:
            raise ValueError(f"two arrays of a page are called {name!r}")
        values = np.ascontiguousarray(values)
        coded = encode(values, code)
        # All first bytes, then all second bytes: neighbours are alike, and deflate finds that.
        planes = coded.ravel().view(np.uint8).reshape(-1, coded.itemsize).T.tobytes()
        self.index[name] = {"code": code, "shape": list(values.shape), "at": self._size}
        self._planes.append(planes)
        self._size += len(planes)

    def text(self) -> str:
        """All arrays as one line of base64."""
        return base64.b64encode(zlib.compress(b"".join(self._planes), 9)).decode()


def encode(values: NDArray[Any], code: Code) -> NDArray[Any]:
    """Values in the number format of a code, little-endian."""
    if code == "log8":
        steps = np.full(values.shape, 0.0)
        seen = values >= LOWEST / 2
        clipped = np.clip(values[seen], LOWEST, 1.0)
        steps[seen] = 1 + np.round((1 - np.log(clipped) / np.log(LOWEST)) * (STEPS - 1))
        return steps.astype(np.uint8)
    return values.astype({"float32": "<f4", "float16": "<f2"}[code])


def decode_log8(steps: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Weights that the steps of ``log8`` stand for."""
    weights = LOWEST ** (1 - (steps.astype(float) - 1) / (STEPS - 1))
    return np.where(steps == 0, 0.0, weights)
