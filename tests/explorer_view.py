# ruff: noqa: E501 - scripts for the page are clearer on one line
"""What an open explorer shows, read off it, and checks of that against the artifacts it was made from."""

import io
import re
import urllib.request

import explorer_study
import numpy as np
import pytest
from browser import Page
from explorer_study import LAG, STEP, TOKENS, Files
from PIL import Image

from laglens.attention.coordinates import columns_of
from laglens.heads.scores import pair_products, pair_scores, score_weights
from laglens.store import read_tree

HEADLINE = "horizon->history"


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
