"""Fixtures that several test files share."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from workflow_copy import WorkflowCopy

# Every run tries the same examples: what fails, fails on every machine, and not once in a while.
settings.register_profile("laglens", derandomize=True, deadline=None)
settings.load_profile("laglens")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> WorkflowCopy:
    """The tiny study, run once without disturbance. Copy it before changing anything."""
    workflow = WorkflowCopy.create(tmp_path_factory.mktemp("workflow") / "finished")
    run = workflow.snakemake()
    assert run.returncode == 0, run.stdout
    return workflow


@pytest.fixture
def workflow(finished: WorkflowCopy, tmp_path: Path) -> WorkflowCopy:
    """A copy of the finished study."""
    return finished.copy(tmp_path / "workflow")


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Scripts run inside the test process turn the log on; the next test begins as a fresh process does."""
    loggers = logging.getLogger(), logging.getLogger("laglens")
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
