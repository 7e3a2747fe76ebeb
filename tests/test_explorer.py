# ruff: noqa: E501 - scripts for the page are clearer on one line
"""The explorer in a real browser, opened from disk without a network, against the artifacts it was made from."""

import io
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import explorer_study
import numpy as np
import pytest
from browser import Browser, Page
from explorer_study import HISTORY, LAG, STEP, TOKENS
from PIL import Image

from laglens.attention.coordinates import columns_of
from laglens.heads.scores import pair_products, pair_scores, score_weights
from laglens.lags.profiles import lag_ratio
from laglens.report import explorer
from laglens.report.bundle import bundle
from laglens.report.packing import ERRORS
from laglens.store import read_tree

Files = dict[tuple[str, str], tuple[Path, Path]]
HEADLINE = "horizon->history"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return explorer_study.study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def address(files: Files, tmp_path_factory: pytest.TempPathFactory) -> str:
    return explorer_study.write_page(files, tmp_path_factory.mktemp("page") / "explorer.html").as_uri()


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens the page at an address with a hash; what it opened is closed at the end."""
    pages: list[Page] = []

    def open_page(hash_: str = "#m=plain&s=wave&k=encoder&l=0&h=0", url: str | None = None, width: int = 1440) -> Page:
        pages.append(browser.page((url or address) + hash_, width))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


def at_map(
    page: Page, query: int, key: int, *, place: int = 0, shape: tuple[int, int] = (TOKENS, TOKENS)
) -> tuple[float, float]:
    """Where a cell of a map is on the screen; queries count upwards."""
    box = page.run(
        f"(() => {{ const box = document.querySelectorAll('image.map')[{place}].getBoundingClientRect();"
        "return [box.x, box.y, box.width, box.height]; })()"
    )
    return box[0] + (key + 0.5) / shape[1] * box[2], box[1] + (1 - (query + 0.5) / shape[0]) * box[3]


def readout(page: Page) -> str:
    return str(page.run("document.getElementById('readout').textContent")).replace("\u2212", "-")


def hover(page: Page, query: int, key: int, **options: object) -> str:
    page.run("document.querySelector('image.map').scrollIntoView({block: 'center'})")
    page.move(*at_map(page, query, key, **options))
    return readout(page)


def weight_said(text: str) -> float:
    return float(re.search(r"weights? ([\d.e-]+) %", text)[1]) / 100


def chosen(page: Page) -> str:
    return str(page.run("document.querySelector('#grid [aria-current=true]').getAttribute('aria-label')"))


def maps_shown(page: Page) -> int:
    return int(page.run("document.querySelectorAll('image.map').length"))


def pixels_of_map(page: Page) -> np.ndarray:
    """Brightness (query, key) of the first map, from its own pixels."""
    href = page.run("document.querySelector('image.map').getAttribute('href')")
    with urllib.request.urlopen(href) as data:  # a data address
        image = Image.open(io.BytesIO(data.read())).convert("L")
    return np.asarray(image, float)[::-1]


def stored_map(files: Files, run: tuple[str, str], layer: int, head: int, stack: str = "encoder") -> np.ndarray:
    return read_tree(files[run][0])[stack]["attention"].values[0, layer, head]


def check_orientation(page: Page, files: Files) -> None:
    """A head that looks at the first key is bright in column 0, one that looks back lies under the diagonal."""
    shown = pixels_of_map(page)  # head 0 is planted
    back = LAG // STEP
    on = np.mean([shown[query, query - back] for query in range(back, TOKENS)])
    assert on > 2 * np.mean([shown[query - back, query] for query in range(back, TOKENS)])
    assert on > 2 * np.mean([shown[query, TOKENS - 1 - query] for query in range(TOKENS)])
    page.run("document.querySelectorAll('#grid button')[2].click()")  # head 2 looks at the first key
    shown = pixels_of_map(page)
    assert shown[:, 0].mean() > 2 * shown[:, 1:].mean()
    assert shown[:, 0].mean() > 2 * shown[0].mean()
    stored = stored_map(files, ("plain", "wave"), 0, 2)
    assert np.corrcoef(shown.ravel(), stored.ravel() ** 0.5)[0, 1] > 0.9


def check_hover(page: Page, files: Files) -> None:
    """Times, lag and weight of cells are those of the store."""
    stored = stored_map(files, ("plain", "wave"), 0, 0)
    cells = np.random.default_rng(0).integers(TOKENS, size=(20, 2)).tolist()
    for query, key in [*cells, [20, 20 - LAG // STEP], [3, 20]]:
        said = hover(page, query, key)
        for name, token in (("query", query), ("key", key)):
            assert f"{name} {token * STEP}–{token * STEP + STEP - 1} samples" in said
        assert f"lag {(query - key) * STEP} samples" in said
        assert weight_said(said) == pytest.approx(stored[query, key], rel=6e-3), said


def check_lags(page: Page, files: Files) -> None:
    """Ratio, null and limit at lags of the profile are those of the lags stage."""
    lags = read_tree(files["plain", "wave"][1])["encoder"].to_dataset().sel(part=HEADLINE, layer=0, head=0)
    lags = lags.isel(lag=np.isfinite(lags["ratio"].values))
    low, high = 0.0, float(lags["lag"].max()) + STEP / 2
    box = page.run(
        "(() => { const b = document.querySelector('path.band').getBoundingClientRect();"
        "const s = document.getElementById('stage').getBoundingClientRect(); return [b.left, b.right, b.y, s.x]; })()"
    )
    first, last = float(lags["lag"].min()), float(lags["lag"].max())
    for lag in lags["lag"].values[::2]:
        # The band reaches from the first lag to the last.
        page.move(box[0] + (lag - first) / (last - first) * (box[1] - box[0]), box[2] + 5)
        said = readout(page)
        at = lags.sel(lag=lag)
        assert f"lag {lag:g} samples" in said
        found = [float(value) for value in re.search(r"ratio (\S+) \(null (\S+), limit (\S+)\)", said).groups()]
        expected = [float(at[name]) for name in ("ratio", "control_mean", "limit")]
        assert found == pytest.approx(expected, rel=6e-3), said
    assert low < first <= LAG <= last < high
    dots = page.run("[...document.querySelectorAll('circle.above')].map((dot) => dot.getBoundingClientRect().x + 3)")
    planted = box[0] + (LAG - first) / (last - first) * (box[1] - box[0])
    assert min(abs(dot - planted) for dot in dots) < 2


def products_said(page: Page) -> str:
    """Words of the query-key view."""
    texts = page.run(
        "[...document.querySelectorAll('#stage g.products > text')].map((one) => one.textContent).join(' ')"
    )
    return str(texts).replace("\u2212", "-")


def bars_shown(page: Page) -> np.ndarray:
    """Height of the bar of each dimension in pixels, below 0 where it hangs from the axis."""
    bars = page.run(
        "[...document.querySelectorAll('rect.product')].map((bar) => [bar.dataset.dimension, bar.getAttribute('height'),"
        " bar.getAttribute('fill') === '#c4480a'])"
    )
    return np.array([float(height) * (1 if up else -1) for _, height, up in sorted(bars, key=lambda one: int(one[0]))])


def check_products(page: Page, files: Files, signal: str = "wave", head: tuple[int, int] = (0, 0)) -> None:
    """Score, products, rank and softmax weight of pairs are those of the stored vectors, the strongest of a cell."""
    vectors = explorer_study.vectors(read_tree(files["plain", signal][0]), rows=1 if signal == "wave" else 2)
    node = vectors["encoder"].to_dataset()
    one = node.isel(chosen=[*zip(node["layer"].values, node["head"].values, strict=True)].index(head))
    scores, weights = pair_scores(one).values, score_weights(one).values
    column = {axis: columns_of(one.coords, axis) for axis in ("query", "key")}
    for query, key in ((20, 14), (14, 20), (9, 2), (3, 20), (23, 0), (5, 5)):
        tokens = [
            (q, k) for q in np.flatnonzero(column["query"] == query) for k in np.flatnonzero(column["key"] == key)
        ]
        at = max(tokens, key=lambda pair: weights[pair])
        said = f"{hover(page, query, key)} {products_said(page)}"
        found = re.search(
            r"Score (\S+): sum of (\d+) products(?: and bias (\S+))?\. Softmax weight (\S+) %, rank (\d+)", said
        )
        assert found, said
        assert float(found[1]) == pytest.approx(scores[at], abs=0.01, rel=6e-3), (query, key, said)
        assert float(found[4]) / 100 == pytest.approx(weights[at], rel=0.02)
        assert int(found[5]) == 1 + np.sum(scores[at[0]] > scores[at])
        products = pair_products(one, *at).values
        assert int(found[2]) == len(products)
        assert float(found[3] or 0) == pytest.approx(float(one["bias"][at]) if "bias" in one else 0, abs=5e-3)
        if len(tokens) > 1:
            share = weights[at] / sum(weights[pair] for pair in tokens)
            shown = re.search(r"Strongest of (\d+) token pairs here, row (\d) to row (\d): (\S+) %", said)
            assert [int(shown[i]) for i in (1, 2, 3)] == [
                len(tokens),
                *(int(one[f"{a}_row"][i]) for a, i in zip(("query", "key"), at, strict=True)),
            ]
            assert float(shown[4]) / 100 == pytest.approx(share, rel=0.02)
        if page.run("document.querySelectorAll('rect.product[fill-opacity=\"1\"]').length"):
            heights = bars_shown(page)
            assert heights == pytest.approx(products * np.abs(heights).max() / np.abs(products).max(), abs=1.5)


def test_the_score_of_a_pair_is_taken_apart_by_dimension(opened: Callable[..., Page], files: Files) -> None:
    page = opened()
    check_products(page, files)
    check_products(opened("#m=plain&s=wave&k=encoder&l=1&h=3"), files, head=(1, 3))
    check_products(opened("#m=plain&s=other&k=encoder&l=1&h=3"), files, "other", (1, 3))
    # A planted head looks back by the lag, so there the score is high, and few dimensions carry it.
    said = hover(page, 20, 20 - LAG // STEP)
    assert "rank 1 of 24 keys" in said and re.search(r"dimensions \d+", said)
    assert page.complaints() == []


def test_a_pair_is_held_by_click_address_and_keyboard_and_sorted(opened: Callable[..., Page]) -> None:
    page = opened()
    hover(page, 20, 14)
    page.click(*at_map(page, 20, 14))
    page.move(5, 5)
    held = products_said(page)
    assert "Query 80–83 samples, key 56–59 samples." in held
    ordered = page.run("[...document.querySelectorAll('rect.product')].map((bar) => Number(bar.dataset.dimension))")
    assert ordered == list(range(24))
    page.run("document.getElementById('order').click()")
    assert products_said(page).startswith(held.split(" dimension of")[0][:60])
    page.until("location.hash.includes('o=size')")
    again = opened(page.run("location.hash"))
    by_size = again.run("[...document.querySelectorAll('rect.product')].map((bar) => Number(bar.dataset.dimension))")
    assert by_size != ordered and sorted(by_size) == ordered
    assert "Query 80–83 samples, key 56–59 samples." in products_said(again)
    page.run("document.getElementById('lag').focus()")
    page.press("ArrowRight")
    assert "key 52–55 samples" in products_said(page)
    page.press("Escape")
    page.press("Escape")
    assert "Point at a cell of the map" in products_said(page)


def test_a_pinned_head_has_its_own_products(opened: Callable[..., Page]) -> None:
    """Those of the pair at the same time, as the head shows them where it is chosen itself."""
    views = (
        "[...document.querySelectorAll('#stage g.products')].map((view) => [...view.querySelectorAll('text')]"
        ".map((one) => one.textContent).join(' ') + [...view.querySelectorAll('rect')].map((bar) => bar.getAttribute('width')))"
    )
    first, second = "l=0&h=0", "l=1&h=3"
    alone = []
    for head in (first, second):
        page = opened(f"#m=plain&s=wave&k=encoder&{head}")
        hover(page, 20, 14)
        alone += page.run(views)
    assert len(alone) == 2 and alone[0] != alone[1] and all("rank" in said for said in alone)
    page = opened(f"#m=plain&s=wave&k=encoder&{first}&c=plain.wave.encoder.1.3")
    hover(page, 20, 14)
    assert page.run(views) == alone
    page.run("document.querySelector('[data-scale=difference]').click()")
    hover(page, 20, 14)
    assert page.run(views) == alone
    page = opened("#m=plain&s=wave&k=encoder&l=1&h=3&c=plain.wave.encoder.1.0")
    hover(page, 20, 14)
    assert page.run(views) == alone[1:]
    assert "stored of encoder layer 0 head 0" in page.run("document.getElementById('stage').textContent")
    assert page.complaints() == []


def test_a_head_without_vectors_says_so(opened: Callable[..., Page]) -> None:
    text = "document.getElementById('stage').textContent"
    assert "of this head: the model writes its softmax out." in opened("#m=plain&s=wave&k=encoder&l=0&h=1").run(text)
    page = opened("#m=plain&s=wave&k=encoder&l=1&h=0")
    assert "stored of encoder layer 0 head 0, encoder layer 1 head 3" in page.run(text)
    assert page.run("document.getElementById('order').disabled")
    assert "No query and key vectors are stored of this run" in opened("#m=crossing&s=wave").run(text)


def test_modules_of_the_page(browser: Browser, tmp_path: Path) -> None:
    units = (Path(__file__).parent / "page" / "units.js").read_text("utf-8")
    script = bundle(explorer.page_sources() | {"units": units}, "units")
    file = tmp_path / "units.html"
    file.write_text(f'<!doctype html><meta charset="utf-8"><html data-ready="yes"><script>{script}</script>')
    page = browser.page(file.as_uri())
    found = page.run("unitTests")
    page.close()
    assert found["failures"] == []
    assert found["count"] > 40


def test_it_starts_from_disk_and_asks_for_nothing(opened: Callable[..., Page], address: str) -> None:
    page = opened("")
    assert page.complaints() == []
    assert {url.split("#")[0].split(":")[0] for url in page.requests()} <= {"file", "about", "data", "blob"}
    assert [url for url in page.requests() if url.startswith("file")] == [address]
    assert chosen(page).startswith("encoder layer 0 head 0: ")  # the head with a verdict
    assert page.run("document.querySelectorAll('#grid button.supported').length") == 1


def test_maps_are_the_right_way_round(opened: Callable[..., Page], files: Files) -> None:
    check_orientation(opened(), files)


def test_what_is_hovered_is_what_is_stored(opened: Callable[..., Page], files: Files) -> None:
    page = opened()
    check_hover(page, files)
    check_lags(page, files)
    assert page.complaints() == []


MUTANTS = {
    "transposed": ("colour", "words[y * width + x] = colourOf(values[row + across[x]])", "words[y * width + x] = colourOf(values[across[x] * count + row / count])"),
    "upside down": ("colour", "down[height - 1 - y]", "down[y]"),
    "key off by one": ("map", "tokenAt(stack.key, x.inverse(px))", "Math.min(tokenAt(stack.key, x.inverse(px)) + 1, stack.columns - 1)"),
    "another head": ("study", "const at = (layer * stack.heads.length + head) * size;\n  return stack.maps", "const at = (layer * stack.heads.length + 1) * size;\n  return stack.maps"),
    "lag off by one": ("study", "lag: get(`${stack.name}/${part}/lag`).data", "lag: get(`${stack.name}/${part}/lag`).data.map((lag) => lag + stack.token)"),
    "queries for keys": ("vectors", "sum += vectors.query[at + d] * vectors.key[start + d]", "sum += vectors.key[at + d] * vectors.query[start + d]"),
    "products of other tokens": ("vectors", "const to = (place * vectors.keys.column.length + key) * width", "const to = (place * vectors.keys.column.length + token) * width"),
    "scores without their scale": ("vectors", "scores[key] = vectors.scale[place] * sum", "scores[key] = sum"),
    "weights 2 % off": ("decode", "data[i] = table[", "data[i] = 1.02 * table["),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_page_that_shows_something_else_is_caught(
    opened: Callable[..., Page], files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    name, old, new = MUTANTS[mutant]
    sources = explorer.page_sources()
    assert sources[name].count(old) == 1
    monkeypatch.setattr(explorer, "page_sources", lambda: sources | {name: sources[name].replace(old, new)})
    url = explorer_study.write_page(files, tmp_path / "mutant.html").as_uri()

    def look() -> None:
        for check in (check_hover, check_lags, check_orientation, check_products):
            check(opened(url=url), files)

    with pytest.raises(AssertionError):
        look()


@pytest.mark.parametrize(("code", "most"), [("log8", 512), ("float16", 10)])
def test_smaller_maps_are_within_what_the_page_says(
    opened: Callable[..., Page], files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, most: int
) -> None:
    monkeypatch.setattr(explorer, "LADDER", ((code, most),))
    page = opened(url=explorer_study.write_page(files, tmp_path / "small.html").as_uri())
    stored, block = stored_map(files, ("plain", "wave"), 0, 0), -(-TOKENS // most)
    pooled = stored.reshape(TOKENS // block, block, TOKENS // block, block).max((1, 3))
    for query, key in np.random.default_rng(1).integers(TOKENS // block, size=(8, 2)).tolist():
        said = hover(page, query, key, shape=pooled.shape)
        assert weight_said(said) == pytest.approx(pooled[query, key], rel=6e-3 + ERRORS[code]), said
    text = page.run("document.getElementById('stage').textContent")
    assert ("pooled by the maximum of 3 × 3 tokens; profiles are exact" in text) == (block > 1)
    check_lags(page, files)


def test_the_keyboard_moves_pins_and_releases(opened: Callable[..., Page]) -> None:
    page = opened()
    page.run("document.querySelector('#grid [aria-current=true]').focus()")
    for key, expected in (
        ("ArrowRight", "layer 0 head 1"),
        ("ArrowDown", "layer 1 head 1"),
        ("ArrowLeft", "layer 1 head 0"),
    ):
        page.press(key)
        assert expected in chosen(page)
        assert page.run("document.activeElement === document.querySelector('#grid [aria-current=true]')")
    assert maps_shown(page) == 1
    page.press("Enter")
    assert maps_shown(page) == 2
    page.press("ArrowUp")
    assert "layer 0 head 0" in chosen(page)
    page.click(*at_map(page, 20, 5))
    assert page.run("document.getElementById('lag-value').textContent") == "60 samples"
    page.press("Escape")
    assert (maps_shown(page), page.run("document.getElementById('lag-value').textContent")) == (2, "–")
    page.press("Escape")
    assert maps_shown(page) == 1
    page.run("document.getElementById('query').focus()")
    for _ in range(3):
        page.press("ArrowRight")
    assert "query 8–11 samples" in readout(page)


def test_two_heads_side_by_side_and_their_difference(opened: Callable[..., Page], files: Files) -> None:
    page = opened("#m=plain&s=wave&k=encoder&l=0&h=0&c=plain.other.encoder.1.3&v=difference")
    first, second = stored_map(files, ("plain", "wave"), 0, 0), stored_map(files, ("plain", "other"), 1, 3)
    assert maps_shown(page) == 1
    for query, key in ((20, 14), (9, 2), (5, 5)):
        said = hover(page, query, key)
        found = [
            float(value) for value in re.search(r"weights (\S+) % and (\S+) %, difference \+?(\S+) %", said).groups()
        ]
        expected = [first[query, key], second[query, key], first[query, key] - second[query, key]]
        assert np.array(found) / 100 == pytest.approx(expected, rel=0.02, abs=2e-5), said
    page.run("document.querySelector('[data-scale=same]').click()")
    assert maps_shown(page) == 2
    ends = "[...document.querySelectorAll('#stage text')].map((t) => t.textContent).filter((t) => /^(≥ )?[0-9.]+ %$/.test(t))"
    same = [text.removeprefix("≥ ") for text in page.run(ends)]
    assert len(same) == 2 and same[0] == same[1]
    page.run("document.querySelector('[data-scale=own]').click()")
    assert len({text.removeprefix("≥ ") for text in page.run(ends)}) == 2


def test_a_range_of_queries_has_its_mean_row_and_its_profile(opened: Callable[..., Page], files: Files) -> None:
    page = opened()
    x = at_map(page, 0, 0)[0]
    cell = at_map(page, 0, 1)[0] - x
    margin = x - cell / 2 - 12
    first, last = HISTORY // STEP, TOKENS - 1
    page.drag((margin, at_map(page, first, 0)[1]), (margin, at_map(page, last, 0)[1]))
    assert f"mean of queries {first} to {last}" in readout(page)
    assert page.run("document.querySelectorAll('path.range').length") == 1
    page.until("location.hash.includes('b=16.23')")
    shaded = page.run(
        "[...document.querySelectorAll('rect[data-key]')].map((r) => [Number(r.dataset.key), Number(r.getAttribute('fill-opacity'))])"
    )
    mean = stored_map(files, ("plain", "wave"), 0, 0)[first:].mean(0)
    for key, opacity in shaded:
        assert opacity == pytest.approx(0.55 * (mean[key] / mean.max()) ** 0.5, abs=0.012)
    assert {key for key, _ in shaded} == set(np.flatnonzero(mean > 0.0201 * mean.max()).tolist())


def test_the_address_brings_back_the_whole_view(opened: Callable[..., Page]) -> None:
    wanted = (
        "#m=plain&s=other&k=encoder&l=1&h=2&p=history-%3Ehistory&c=plain.wave.encoder.0.1&v=own&q=7&lag=-8&b=2.9&g=0.8"
        "&t=profiles&o=size&d=dark"
    )
    view = (
        "JSON.stringify([location.hash, document.documentElement.dataset.theme, ...['model', 'signal', 'part', 'gamma',"
        "'query', 'from', 'to'].map((id) => document.getElementById(id).value), document.getElementById('readout')"
        ".textContent, ...[...document.querySelectorAll('[aria-pressed=true]')].map((b) => b.textContent),"
        "document.querySelector('[aria-current=true]').title, document.querySelector('.pinned')?.title ?? null])"
    )
    page = opened(wanted)
    page.run("document.getElementById('gamma').dispatchEvent(new Event('input'))")  # writes the address anew
    page.until("location.hash.length > 20")
    first = json.loads(page.run(view))
    assert urllib.parse.parse_qs(first[0][1:]) == urllib.parse.parse_qs(wanted[1:])
    assert first[1:8] == ["dark", "plain", "other", "history->history", "0.8", "7", "2"]
    assert json.loads(opened(first[0]).run(view))[1:] == first[1:]


# Each writes the address anew; what a view leaves behind for the next one must not be seen there.
STEPS = {
    "other head": "document.querySelectorAll('#grid button')[3].click()",
    "theme": "document.getElementById('theme').click()",
    "gamma": "(() => { const at = document.getElementById('gamma'); at.value = 0.8;"
    " at.dispatchEvent(new Event('input')); })()",
    "part": "(() => { const at = document.getElementById('part'); at.value = 'history->history';"
    " at.dispatchEvent(new Event('change')); })()",
    "pin": "document.querySelectorAll('#grid button')[5]"
    ".dispatchEvent(new MouseEvent('click', { shiftKey: true, bubbles: true }))",
    "difference": "document.querySelector('[data-scale=difference]').click()",
    "other signal": "(() => { const at = document.getElementById('signal'); at.value = 'other';"
    " at.dispatchEvent(new Event('change')); })()",
    "no difference": "document.querySelector('[data-scale=own]').click()",
    "first head": "document.querySelectorAll('#grid button')[0].click()",
    "light": "document.getElementById('theme').click()",
}


def test_after_any_change_the_stage_is_that_of_a_fresh_page(opened: Callable[..., Page]) -> None:
    page, stage = opened(), "document.getElementById('stage').innerHTML"
    seen = [page.run(stage)]
    for name, step in STEPS.items():
        before = page.run("location.hash")
        page.run(step)
        page.until(f"location.hash !== {json.dumps(before)}")
        page.until("document.documentElement.dataset.ready === 'yes'")
        seen.append(page.run(stage))
        assert opened(page.run("location.hash")).run(stage) == seen[-1], name
    assert len(set(seen)) == len(seen)


HOSTILE = [
    "q=NaN&lag=NaN&g=NaN&l=NaN&h=NaN", "q=-1&l=-1&h=-5&b=-3.-1", "q=1.5&l=0.5&h=1e0&b=1.5.2.5", "q=1e99&lag=1e99&l=999999999&g=1e9",
    "m=__proto__&s=constructor&k=__proto__&p=toString&t=valueOf&v=__proto__&d=x", "c=__proto__.wave.encoder.0.0", "c=....", "b=9.2",
    "q=%E0%A4%A", "<script>alert(1)</script>", "m=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", "q=" + "9" * 5000, "lag=Infinity&g=0x1",
]  # fmt: skip


def test_nonsense_in_the_address_is_a_valid_view(opened: Callable[..., Page]) -> None:
    page = opened("")
    for nonsense in HOSTILE:
        page.run(f"location.hash = {json.dumps(nonsense)}")
        page.until("location.hash.length >= 0")
        page.run("new Promise((done) => setTimeout(done, 20))")
        text = page.run("document.body.innerText + document.getElementById('stage').textContent")
        assert not re.search(r"NaN|undefined|Infinity|\[object", text), nonsense
        assert page.run("Number.isInteger(document.getElementById('query').valueAsNumber)")
        assert maps_shown(page) == 1
        assert "NaN" not in page.run("document.getElementById('stage').outerHTML")
    assert page.complaints() == []


def test_what_is_saved_is_what_is_seen(opened: Callable[..., Page], browser: Browser, tmp_path: Path) -> None:
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page = opened("#m=plain&s=wave&k=encoder&l=0&h=0&q=20&lag=24&c=plain.wave.encoder.1.3")
    width, height = (
        int(value) for value in page.run("document.getElementById('stage').getAttribute('viewBox')").split()[2:]
    )
    for suffix in ("svg", "png"):
        page.run(f"document.getElementById('save-{suffix}').click()")
        file = tmp_path / f"plain-wave-encoder-L0-H0.{suffix}"
        for _ in range(300):
            if file.is_file() and file.stat().st_size:
                break
            page.run("new Promise((done) => setTimeout(done, 20))")
    root = ElementTree.parse(file.with_suffix(".svg")).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height")) == (str(width), str(height))
    text = "".join(root.itertext())
    assert "plain on wave" in text and "20 AR(1) series through the same model" in text
    assert len([one for one in root.iter() if one.get("class") == "map"]) == 2
    bars = [one for one in root.iter() if one.get("class") == "product"]
    assert len(bars) == 2 * TOKENS and text.count("Softmax weight") == 2 and "rank 1 of 24 keys" in text
    assert {one.get("fill") for one in bars} == {"#c4480a", "#0a63a8"}
    assert len({(one.get("x"), one.get("y"), one.get("height")) for one in bars}) > TOKENS
    with Image.open(file) as image:
        assert image.size == (2 * width, 2 * height)
        assert len(image.convert("RGB").resize((200, 200)).getcolors(40000)) > 100


@pytest.mark.parametrize("width", [1440, 1125, 820])
def test_nothing_lies_outside_at_any_width(opened: Callable[..., Page], width: int) -> None:
    for extra in ("", "&c=plain.other.encoder.1.3"):
        page = opened("#m=plain&s=wave&k=encoder&l=0&h=0&q=5" + extra, width=width)
        assert page.run("document.documentElement.scrollWidth") == width
        outside = page.run(
            "(() => { const s = document.getElementById('stage').getBoundingClientRect();"
            "return [...document.querySelectorAll('#stage text')].filter((t) => { const b = t.getBoundingClientRect();"
            "return b.left < s.left - 1 || b.right > s.right + 1 || b.bottom > s.bottom + 1; }).map((t) => t.textContent); })()"
        )
        assert outside == []


def test_every_control_has_a_name(opened: Callable[..., Page]) -> None:
    page = opened("#m=plain&s=wave&k=encoder&l=0&h=0&c=plain.wave.encoder.1.0")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "combobox", "slider", "spinbutton", "image", "table"}
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert {node["role"]["value"] for node in found} >= {"button", "combobox", "slider", "spinbutton", "table"}
    assert [node["role"]["value"] for node in found if not node.get("name", {}).get("value")] == []
    summary = page.run("document.getElementById('stage-summary').textContent")
    assert "looks" in summary and "24 samples supported" in summary


def test_models_signals_and_cross_attention(opened: Callable[..., Page], files: Files) -> None:
    page = opened()
    page.run(
        "(() => { const s = document.getElementById('model'); s.value = 'crossing'; s.dispatchEvent(new Event('change')); })()"
    )
    page.until("document.getElementById('stage').textContent.includes('crossing on wave')")
    page.until("document.querySelectorAll('#grid button').length === 16")
    assert page.run("document.getElementById('signal').options.length") == 1
    page.run("document.querySelectorAll('#grid button')[8].click()")
    assert chosen(page).startswith("cross layer 0 head 0")
    stored = stored_map(files, ("crossing", "wave"), 0, 0, "cross")
    assert stored.shape == (TOKENS - HISTORY // STEP, HISTORY // STEP)
    for query, key in ((0, 10), (7, 3)):
        said = hover(page, query, key, shape=stored.shape)
        assert weight_said(said) == pytest.approx(stored[query, key], rel=6e-3)
        assert f"lag {HISTORY + (query - key) * STEP} samples" in said
    assert page.complaints() == []


def test_the_profile_of_a_range_is_the_ratio_of_the_lags_stage(opened: Callable[..., Page], files: Files) -> None:
    """Over the queries that the lags stage uses, for one window: the same curve."""
    node = read_tree(files["plain", "wave"][0])["encoder"].to_dataset(inherit=False).isel(sample=[0])
    ratio = lag_ratio(node, HEADLINE, history=HISTORY).isel(sample=0, layer=0, head=0)
    count = ratio.attrs["n_queries"][1]
    first = HISTORY // STEP
    page = opened(f"#m=plain&s=wave&k=encoder&l=0&h=0&b={first}.{first + count - 1}")
    stage = "document.getElementById('stage')"
    points = page.run(
        f"(() => {{ const path = {stage}.querySelector('path.range').getAttribute('d'); return path.match(/[\\d.]+,[\\d.]+/g); }})()"
    )
    drawn = np.array([[float(value) for value in point.split(",")] for point in points])
    page_ratio = page.run(
        f"[...{stage}.querySelectorAll('path.ratio')].map((p) => p.getAttribute('d').match(/[\\d.]+,[\\d.]+/g))"
    )
    observed = np.array([[float(value) for value in point.split(",")] for point in page_ratio[0]])
    lags = read_tree(files["plain", "wave"][1])["encoder"].to_dataset().sel(part=HEADLINE, layer=0, head=0)
    known = lags["ratio"].dropna("lag")
    # The drawn curve of all windows gives the scale: height is linear in the logarithm of the ratio.
    slope, offset = np.polyfit(np.log(known.values), observed[:, 1], 1)
    values = np.exp((drawn[:, 1] - offset) / slope)
    expected = ratio.sel(lag=known["lag"].values[: len(values)]).values
    keep = np.isfinite(expected)
    assert keep.sum() > 8
    assert values[keep] == pytest.approx(expected[keep], rel=0.03)
