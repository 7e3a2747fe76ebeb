"""Maps too large for a page: pooled by their maximum, so that a diagonal one token wide stays visible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 512  # tokens on one axis of a map in the page


def pooling(tokens: int, most: int = MOST) -> int:
    """How many neighbouring tokens become one, so that at most `most` are left."""
    return -(-tokens // most)


def pool(maps: NDArray[np.floating], query: int, key: int) -> NDArray[np.floating]:
    """Largest weight of every block of `query` by `key` tokens, the last one of an axis perhaps smaller.

    ``(..., query, key) -> (..., ceil(query / block), ceil(key / block))``.
    """
    if query == key == 1:
        return maps
    first = np.maximum.reduceat(maps, np.arange(0, maps.shape[-2], query), axis=-2)
    return np.maximum.reduceat(first, np.arange(0, maps.shape[-1], key), axis=-1)


def pool_edges(edges: NDArray[np.floating], block: int) -> NDArray[np.floating]:
    """Borders of blocks of tokens from the borders of tokens, ``(token + 1) -> (block + 1)``."""
    starts = np.arange(0, len(edges) - 1, block)
    return np.append(edges[starts], edges[-1])
