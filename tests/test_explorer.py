# ruff: noqa: E501 - scripts for the page are clearer on one line
"""The explorer in a real browser, opened from disk without a network, against the artifacts it was made from."""

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import explorer_study
import numpy as np
import pytest
from browser import Browser, Page
from explorer_study import HISTORY, STEP, TOKENS, Files
from explorer_view import (
    HEADLINE,
    at_map,
    check_hover,
    check_lags,
    check_orientation,
    check_products,
    chosen,
    hover,
    maps_shown,
    readout,
    stored_map,
    weight_said,
)
from PIL import Image

from laglens.lags.profiles import lag_ratio
from laglens.report import explorer
from laglens.report.bundle import bundle
from laglens.report.packing import ERRORS
from laglens.store import read_tree


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
