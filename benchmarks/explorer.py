"""The explorer in a real browser: until it can be used, and what another head or another cell of the map takes.

``python -m benchmarks.explorer [results/explorer.html]``. Without a Chromium nothing is measured. Frames are painted by
software here; a graphics processor is faster.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import ROOT, keep, show, show_machine

sys.path.insert(0, str(ROOT / "tests"))

import explorer_study  # type: ignore[import-not-found]
from browser import Browser, find_chromium  # type: ignore[import-not-found]

FRAME, USABLE = 1000 / 60, 1000.0  # ms, the goals
TOKENS = 256  # of the larger page, on each side of its maps
REPEATS, STARTS = 40, 5
NOTE_READY = """
new MutationObserver((_, observer) => {
  if (document.documentElement?.dataset.ready !== "yes") return;
  window.readyAfter = performance.now();
  observer.disconnect();
}).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-ready"] });
"""
NEXT_HEAD = """
const cells = [...document.querySelectorAll("#grid button")];
const at = cells.findIndex((cell) => cell.getAttribute("aria-current") === "true");
const act = () => cells[(at + 1) % cells.length].click();
"""
NEXT_CELL = """
const map = document.querySelector("image.map").getBoundingClientRect();
window.turn = ((window.turn ?? 0) + 37) % 100;
const options = {
  clientX: map.x + (map.width * window.turn) / 100,
  clientY: map.y + (map.height * (100 - window.turn)) / 100,
  bubbles: true,
};
const act = () => document.getElementById("stage").dispatchEvent(new PointerEvent("pointermove", options));
"""
# The work until the layout is known, and the time until the browser has painted: after the second frame it surely has.
TIMED = """
(async () => {{
  {action}
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame();
  const start = performance.now();
  act();
  document.getElementById("stage").getBoundingClientRect();
  const work = performance.now() - start;
  await frame();
  await frame();
  return [work, performance.now() - start];
}})()
"""


def measured(browser: Browser, url: str) -> dict[str, float]:
    """Medians in ms: of several starts, and of many changes of head and cell after one of them."""
    ready = []
    for _ in range(STARTS):
        page = browser.blank()
        page.call("Page.addScriptToEvaluateOnNewDocument", source=NOTE_READY)
        page.go(url)
        ready.append(float(page.run("window.readyAfter")))
        page.close()
    page = browser.page(url)
    found: dict[str, float] = {"usable": median(ready)}
    for name, action in (("head", NEXT_HEAD), ("cell", NEXT_CELL)):
        times: list[Any] = [page.run(TIMED.format(action=action)) for _ in range(REPEATS)]
        found[name], found[f"{name}_painted"] = (median(one[place] for one in times) for place in (0, 1))
    page.close()
    return found


def main(study: Path = ROOT / "results/explorer.html") -> None:
    """Measure the page of a finished study, if there is one, and a page with larger maps."""
    program = find_chromium()
    if program is None:
        print("\nexplorer: no Chromium here, nothing measured")
        return
    results: dict[str, Any] = {}
    browser = Browser(program)
    with tempfile.TemporaryDirectory(prefix="laglens-explorer-") as folder:
        pages = {f"maps of {TOKENS} x {TOKENS}": explorer_study.write_large(Path(folder) / "large.html", TOKENS)}
        if study.is_file():
            pages = {"the study": study.resolve()} | pages
        try:
            for name, path in pages.items():
                results[name] = measured(browser, path.as_uri()) | {"megabytes": path.stat().st_size / 1e6}
        finally:
            browser.close()
    keep(
        "explorer", {"starts": STARTS, "repeats": REPEATS, "goals": {"usable": USABLE, "head": FRAME}, "pages": results}
    )
    labels = {
        "usable": f"usable after (goal {USABLE:.0f})",
        "head": f"another head: work (goal {FRAME:.1f})",
        "head_painted": "another head: on the screen",
        "cell": "another cell: work",
        "cell_painted": "another cell: on the screen",
    }
    rows = [(label, *(f"{found[key]:.1f}" for found in results.values())) for key, label in labels.items()]
    rows.append(("size of the page, MB", *(f"{found['megabytes']:.1f}" for found in results.values())))
    show(f"explorer in ms (medians of {REPEATS}, starts of {STARTS})", ["", *results], rows)


if __name__ == "__main__":
    show_machine()
    main(*map(Path, sys.argv[1:2]))
