"""One line that moves on a terminal, and plain lines in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
logger = logging.getLogger("laglens")


def track(items: Iterable[T], label: str, *, total: int | None = None, every: float = 10.0) -> Iterator[T]:
    """Yield `items`, showing progress under `label`.

    On a terminal one line moves; the log gets a line every `every` seconds and one at the end.
    """
    bar = tqdm(items, desc=label, total=total, disable=None, leave=False, dynamic_ncols=True)
    start = last = monotonic()
    done = 0
    for item in bar:
        yield item
        done += 1
        if monotonic() - last >= every:
            last = monotonic()
            logger.info("%s: %d of %s, %.0f s", label, done, total or bar.total or "?", last - start)
    logger.info("%s: %d done in %.0f s", label, done, monotonic() - start)
