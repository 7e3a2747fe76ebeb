# ruff: noqa: E501 - scripts for the page are clearer on one line
"""The query-key view of the explorer: which dimensions make the score of a pair."""

import re
from collections.abc import Callable

from browser import Page
from explorer_study import LAG, STEP, Files
from explorer_view import at_map, check_products, hover, products_said


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
