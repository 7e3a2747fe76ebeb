"""Results on an S3 server, here one on this machine: written there, read from there, the same bytes as here."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from mini_slurm import _free_ports, until
from workflow_copy import REPOSITORY, WorkflowCopy

PACKAGES = REPOSITORY / ".venv" / "storage"
INSTALL = "pip install --no-deps --target .venv/storage --requirement envs/storage.txt"
# A model trained on a signal, what is measured of it and drawn; a signal read from a table of this machine.
WANTED = ("results/attribution/each/wave.csv", "results/figures/each/wave/mosaic.png", "results/signals/table.zarr.zip")
REMADE = "figures/each/wave/mosaic.png"
# The server checks no signature, but hands nothing out without one.
SIGNED = "AWS4-HMAC-SHA256 Credential=anybody/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@dataclass
class Bucket:
    """A place on a server for results."""

    server: str
    name: str = "laglens"

    def ask(self, method: str, path: str = "") -> bytes:
        request = Request(f"{self.server}/{self.name}{path}", method=method, headers={"Authorization": SIGNED})
        with build_opener(ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.read()

    def answers(self) -> bool:
        try:
            self.ask("PUT")
        except URLError:
            return False
        return True

    def results(self) -> dict[str, bytes]:
        """Content of every result by its name."""
        listed = self.ask("GET", "?list-type=2&prefix=study/results/").decode()
        assert "<IsTruncated>false" in listed
        names = re.findall("<Key>study/results/(.*?)</Key>", listed)
        return {name: self.ask("GET", f"/study/results/{name}") for name in names}

    @property
    def options(self) -> dict[str, Any]:
        """For a run whose results are in the bucket: the way to the plugin, and what it has to know."""
        settings = {"ENDPOINT_URL": self.server, "ACCESS_KEY": "anybody", "SECRET_KEY": "anything"}
        named = {f"SNAKEMAKE_STORAGE_S3_{key}": value for key, value in settings.items()}
        return {"python_path": PACKAGES, "environment": named | {"NO_PROXY": "127.0.0.1"}}


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    """An empty one, on a server of this machine."""
    if not (PACKAGES / "moto").is_dir():
        message = f"no S3 server and no plugin here; {INSTALL}"
        if os.environ.get("LAGLENS_TEST_STORAGE") == "required":
            pytest.fail(message)
        pytest.skip(message)
    (port,) = _free_ports(1)
    with (tmp_path / "server.log").open("wb") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env=os.environ | {"PYTHONPATH": str(PACKAGES)},
            stdout=said,
            stderr=said,
        )
    try:
        bucket = Bucket(f"http://127.0.0.1:{port}")
        until(bucket.answers, what="the server")
        yield bucket
    finally:
        server.kill()
        server.wait()


def test_a_study_keeps_its_results_on_a_server_and_goes_on_from_there(
    bucket: Bucket, finished: WorkflowCopy, tmp_path: Path
) -> None:
    workflow = WorkflowCopy.create(tmp_path / "workflow")
    command = (*WANTED, "--default-storage-provider", "s3", "--default-storage-prefix", f"s3://{bucket.name}/study")
    run = workflow.in_forks(*command, **bucket.options)
    assert run.returncode == 0, run.stdout
    assert f"results      s3://{bucket.name}/study/results" in run.stdout
    made, expected = bucket.results(), finished.results()
    assert {Path(name).suffix for name in made} == {".csv", ".json", ".png", ".safetensors", ".zip"}
    assert {f"results/{name}" for name in made} > set(WANTED)
    assert made == {name: expected[name] for name in made}
    assert not (workflow.root / "results").exists()
    bucket.ask("DELETE", f"/study/results/{REMADE}")
    again = workflow.snakemake(*command, **bucket.options)
    assert again.returncode == 0, again.stdout
    assert re.search(r"^draw_run +1$\n^total +1$", again.stdout, re.MULTILINE), again.stdout
    assert bucket.results() == made
    assert "Nothing to be done" in workflow.snakemake(*command, "-n", **bucket.options).stdout


def test_what_is_installed_for_it_is_what_is_pinned() -> None:
    text = (REPOSITORY / "envs/storage.txt").read_text("utf-8")
    assert f"#   .venv/bin/python -m {INSTALL}\n" in text
    assert INSTALL in (REPOSITORY / ".ci/run").read_text("utf-8")
    assert INSTALL in (REPOSITORY / "docs/cluster.md").read_text("utf-8")
    pins = [line for line in text.splitlines() if not line.startswith("#")]
    locked = (REPOSITORY / "envs/lock.txt").read_text("utf-8").lower()
    for pin in pins:
        name, _, version = pin.partition("==")
        assert version and f"\n{name.lower()}==" not in locked, f"{pin}: the lock has it"
