"""The explorer: all runs of a study on one page that opens from disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np

from laglens.errors import LaglensError
from laglens.figures.style import DIVERGING, SEQUENTIAL
from laglens.lags.verdicts import SUPPORTED
from laglens.report.bundle import bundle, page_sources
from laglens.report.packing import ERRORS, Code
from laglens.report.pooling import MOST
from laglens.report.run import Run
from laglens.store.files import plain

logger = logging.getLogger("laglens")
# How maps are kept, the best first: what fits into the size asked for is taken.
LADDER: tuple[tuple[Code, int], ...] = (
    ("float16", MOST),
    ("log8", MOST),
    ("log8", 256),
    ("log8", 128),
    ("log8", 64),
)
MEGABYTE = 1e6


def explorer_page(runs: Sequence[Run], *, title: str = "laglens", megabytes: float = 20) -> str:
    """The page as HTML: markup, style, script and data in one file that asks for nothing else.

    Parameters
    ----------
    runs
        From `laglens.report.run.explorer_run`, in the order in which the page lists them.
    title
        Of the page.
    megabytes
        Largest size. Maps that do not fit are kept with 8 bits; then queries and keys are left out; then maps are
        pooled by their maximum. Profiles and all other numbers stay as they are.

    Raises
    ------
    LaglensError
        There is no run, or the page is larger even with the smallest maps.
    """
    if not runs:
        raise LaglensError("the explorer has no run to show")
    rungs = [(code, most, True) for code, most in LADDER[:2]] + [(code, most, False) for code, most in LADDER[1:]]
    for code, most, vectors in rungs:
        page = _page([run.packed(code, most, vectors=vectors) for run in runs], title, code)
        size = len(page.encode()) / MEGABYTE
        if size <= megabytes:
            logger.info("explorer of %d runs: %.1f MB, maps as %s of at most %d tokens", len(runs), size, code, most)
            if not vectors and any(run.vectors for run in runs):
                logger.warning(
                    "queries and keys are left out of the explorer: it would be larger than %g MB", megabytes
                )
            return page
    raise LaglensError(
        f"the explorer of {len(runs)} runs takes {size:.0f} MB even with maps of {most} tokens; "
        f"report.megabytes allows {megabytes:g}: raise it, or make studies of fewer runs"
    )


def _page(packed: list[tuple[dict[str, Any], str]], title: str, code: str) -> str:
    sources = page_sources()
    modules = {name: text for name, text in sources.items() if "." not in name}
    index = {
        "runs": [{"model": about["model"], "signal": about["signal"]} for about, _ in packed],
        "first": max(range(len(packed)), key=lambda place: _supported(packed[place][0])),
        "colours": {"sequential": colours(SEQUENTIAL), "diverging": colours(DIVERGING)},
        "error": ERRORS[code],
    }
    data = [f'<script type="application/json" id="index">{as_json(index)}</script>']
    for place, (about, text) in enumerate(packed):
        data.append(f'<script type="application/json" id="run-{place}">{as_json(about)}</script>')
        data.append(f'<script type="text/plain" id="data-{place}">{text}</script>')
    page = sources["page.html"]
    for mark, content in (
        ("title", escape(title)),
        ("style", sources["style.css"]),
        ("data", "\n".join(data)),
        ("script", bundle(modules)),
    ):
        before, found, after = page.partition(f"<!-- {mark} -->")
        assert found, f"page.html has no place for its {mark}"
        page = before + content + after
    return page


def _supported(about: Mapping[str, Any]) -> int:
    """Verdicts that a run supports: the page opens with the run that has most to show."""
    return list((about["verdicts"] or {}).get("verdict", ())).count(SUPPORTED)


def as_json(content: Any) -> str:
    """JSON that can stand inside a script element; NaN and infinity become null."""
    return json.dumps(_finite(plain(content)), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def colours(name: str) -> str:
    """256 colours of a matplotlib colour map, as hexadecimal digits."""
    table = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return bytes(table.astype(np.uint8).ravel().tolist()).hex()
