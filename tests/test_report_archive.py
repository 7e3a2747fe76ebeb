"""`snakemake --report report.zip`: every figure and table under a category, and the explorer inside it, offline."""

import json
import zipfile

import pytest
from browser import Browser
from workflow_copy import WorkflowCopy


@pytest.fixture(scope="module")
def archive(finished: WorkflowCopy, tmp_path_factory: pytest.TempPathFactory):
    """The unpacked report of the tiny study."""
    run = finished.copy(tmp_path_factory.mktemp("report") / "study")
    said = run.snakemake("--report", "report.zip")
    assert said.returncode == 0, said.stdout
    with zipfile.ZipFile(run.root / "report.zip") as file:
        file.extractall(run.root / "unpacked")
    [page] = (run.root / "unpacked").rglob("report.html")
    return run, page


def test_the_report_holds_the_explorer_the_summary_and_every_table(archive) -> None:
    run, page = archive
    packed = {path.name: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    tables = [name for name in run.results() if name.endswith(".csv") and not name.startswith("models/")]
    assert len(tables) > 20
    for name in [*tables, "explorer.html", "summary.html"]:
        assert name.split("/")[-1] in packed, name
    assert packed["explorer.html"] == (run.root / "results" / "explorer.html").read_bytes()
    text = page.read_text("utf-8")
    for category in ("0 Start here", "1 Verdicts", "6 Tables"):
        assert f'"{category}": {{"' in text


def test_the_explorer_works_inside_the_report(archive, browser: Browser) -> None:
    _, report = archive
    page = browser.blank()
    page.call("Page.navigate", url=report.as_uri())
    category = "[...document.querySelectorAll('span')].find((one) => one.textContent === '0 Start here')"
    page.until(f"{category} !== undefined")
    page.run(f"{category}.click()")
    row = "[...document.querySelectorAll('tr')].find((one) => one.cells[0].textContent === 'explorer')"
    page.until(f"{row} !== undefined")
    page.run(f"{row}.querySelector('a[iconname=eye]').click()")
    page.until("document.querySelector('iframe') !== null")

    def inside(script: str) -> object:
        return page.run(script, contextId=page.frame())

    for _ in range(500):
        if inside("document.documentElement?.dataset.ready === 'yes'"):
            break
        page.run("new Promise((done) => setTimeout(done, 20))")
    chosen = "document.querySelector('#grid [aria-current=true]')"
    before = inside(f"{chosen}.title")
    inside(f"{chosen}.focus()")
    arrow = json.dumps("ArrowRight" if "head 0" in str(before) else "ArrowLeft")
    inside(f"{chosen}.dispatchEvent(new KeyboardEvent('keydown', {{key: {arrow}, bubbles: true}}))")
    assert inside(f"{chosen}.title") != before
    assert inside("document.querySelectorAll('image.map').length") == 1
    inside("location.hash = 'q=3&g=0.9'")
    for _ in range(500):
        if inside("document.getElementById('query').value") == "3":
            break
        page.run("new Promise((done) => setTimeout(done, 20))")
    assert inside("document.getElementById('gamma').value") == "0.9"
    asked = {url.split(":")[0] for url in page.requests()}
    assert asked <= {"file", "data", "blob", "about"}
    page.close()
