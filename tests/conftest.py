"""Fixtures that several test files share."""

import os

# Several workers side by side: threads beyond the processors would make each of them many times slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import explorer_study
import pytest
from browser import Browser, Page, find_chromium
from explorer_study import Files
from filelock import FileLock
from hypothesis import settings
from workflow_copy import WorkflowCopy

# Every run tries the same examples: what fails, fails on every machine, and not once in a while.
settings.register_profile("laglens", derandomize=True, deadline=None)
settings.load_profile("laglens")


# Minutes each: begun first, so that no worker is left alone with one at the end.
LONG = (
    "test_slurm.py", "test_workflow.py", "test_adapters.py", "test_faults_kills.py", "test_twice.py", "test_verify.py",
    "test_faults_machine.py", "test_storage.py", "test_cache.py", "test_gpu_jobs.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; workers take file after file in this order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> WorkflowCopy:
    """The tiny study, run once without disturbance, with a job of every rule kept. Copy it before changing anything."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "workflow"
    with FileLock(f"{shared}.lock"):  # the first worker runs it, the others wait
        if (shared / "done").exists():
            return WorkflowCopy(shared / "finished")
        shutil.rmtree(shared, ignore_errors=True)  # of a worker whose run failed: this one says why again
        workflow = WorkflowCopy.create(shared / "finished")
        run = workflow.in_forks()
        assert run.returncode == 0, run.stdout
        (shared / "done").touch()
        return workflow


@pytest.fixture
def workflow(finished: WorkflowCopy, tmp_path: Path) -> WorkflowCopy:
    """A copy of the finished study."""
    return finished.copy(tmp_path / "workflow")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium; where there is none its tests are skipped, or fail if LAGLENS_NEEDS_CHROMIUM is set."""
    program = find_chromium()
    if program is None:
        message = "no Chromium found: install chromium, or name one in the environment variable CHROMIUM"
        if os.environ.get("LAGLENS_NEEDS_CHROMIUM"):
            pytest.fail(message)
        pytest.skip(message)
    started = Browser(program)
    yield started
    started.close()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A study on disk that an explorer is made from."""
    return explorer_study.study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def address(files: Files, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its explorer."""
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


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Scripts run inside the test process turn the log on; the next test begins as a fresh process does."""
    loggers = logging.getLogger(), logging.getLogger("laglens")
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
