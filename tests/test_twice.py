"""The study again: in another folder, on other cores, with other hashes, without a network; the same bytes."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_copy import REPOSITORY, WorkflowCopy

sys.path.insert(0, str(REPOSITORY))

from benchmarks.twice import differences

OUTSIDE = ("unshare", "--map-root-user", "--net")  # a network of its own, in which there is nothing
# Beside every Python, where the system has no such thing: no address is reached.
GUARD = """
import socket

def connect(self, address):
    if self.family != socket.AF_UNIX:
        raise OSError(f"tests/test_twice.py: no network, but {address} was asked for")
    return reach(self, address)

reach, socket.socket.connect = socket.socket.connect, connect
socket.getaddrinfo = lambda *a, **b: (_ for _ in ()).throw(OSError(f"tests/test_twice.py: no network, but {a}"))
"""


@pytest.fixture
def offline(tmp_path: Path) -> tuple[tuple[str, ...], Path]:
    """What goes before a command, and what comes first on its path, so that it has no network."""
    guard = tmp_path / "guard"
    guard.mkdir()
    if subprocess.run([*OUTSIDE, "true"], capture_output=True, check=False).returncode == 0:
        return OUTSIDE, guard
    (guard / "sitecustomize.py").write_text(GUARD)
    return (), guard


def test_without_a_network_nothing_is_reached(offline: tuple[tuple[str, ...], Path]) -> None:
    before, guard = offline
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket; socket.create_connection({server.getsockname()}, timeout=5)"
        reached = subprocess.run([sys.executable, "-c", program], check=False)
        refused = subprocess.run(
            [*before, sys.executable, "-c", program],
            env={"PYTHONPATH": str(guard)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert reached.returncode == 0
    assert refused.returncode == 1 and "OSError" in refused.stderr, refused.stderr


def test_the_study_elsewhere_and_without_a_network_is_the_same_bytes(
    finished: WorkflowCopy, tmp_path: Path, offline: tuple[tuple[str, ...], Path]
) -> None:
    before, guard = offline
    again = WorkflowCopy.create(tmp_path / "a folder of another name")
    more = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    run = again.in_forks("--cores", "2", before=before, python_path=guard, environment=more)
    assert run.returncode == 0, run.stdout
    results = finished.root / "results", again.root / "results"
    assert len(finished.results()) == len(list(results[1].rglob("provenance/**/*.json"))) > 100
    assert differences(*results) == []
    (results[1] / "summary.csv").write_text("other\n")
    (results[1] / "summary.html").rename(results[1] / "page.html")
    assert differences(*results) == [
        "page.html: only in one of them",
        "summary.html: only in one of them",
        "summary.csv: not the same bytes",
    ]
