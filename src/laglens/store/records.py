"""What made each artifact: one small JSON file per artifact, so that a damaged or exchanged one is noticed.

The record of ``results/lags/a/b.csv`` is ``results/provenance/lags/a/b.csv.json``. It holds the rule, the settings and
the code it ran with, the versions of packages, and the digests of the artifact and of all that it was made from:
nothing that differs when the same is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from laglens.errors import LaglensError
from laglens.store.files import one_line, plain, workspace

RESULTS, FOLDER = "results", "provenance"
Record = dict[str, Any]


def digest(path: str | Path) -> str:
    """Digest (SHA-256) of the bytes of a file.

    Raises
    ------
    LaglensError
        It cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LaglensError(f"{path}: cannot be read: {one_line(error)}") from error


def record_path(artifact: str | Path, folder: str | Path = RESULTS) -> Path | None:
    """Where the record of an artifact lies; None where it is none of this folder.

    What a storage plugin brings lies elsewhere and has no record: others may change it where it comes from.

    Parameters
    ----------
    artifact
        Its path.
    folder
        Of the results.
    """
    if not Path(artifact).is_relative_to(folder):
        return None
    inside = Path(artifact).relative_to(folder)
    return Path(folder, FOLDER, inside.parent, f"{inside.name}.json")


def read_record(path: Path | None) -> Record | None:
    """Read a record; None where there is none.

    Raises
    ------
    LaglensError
        The record itself is damaged.
    """
    if path is None or not path.is_file():
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        if not isinstance(record["sha256"], str) or not isinstance(record["inputs"], dict):
            raise TypeError("no record")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaglensError(f"{path}: this record is damaged ({one_line(error)})") from error
    return record


def forget(artifacts: Iterable[str]) -> None:
    """Delete the records of artifacts that are about to be made: one that has a record is one that was finished.

    Raises
    ------
    LaglensError
        The results cannot be written.
    """
    for path in filter(None, map(record_path, artifacts)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise LaglensError(f"{path}: cannot be deleted: {one_line(error)}") from error


def digests_of_inputs(inputs: Iterable[str]) -> dict[str, str]:
    """Digests of the inputs of a job, by path.

    Raises
    ------
    LaglensError
        An input is not what its rule made, or its record is damaged.
    """
    digests = {}
    for path in sorted({path for path in inputs if Path(path).is_file()}):
        digests[path] = digest(path)
        if problem := _problem(path, digests[path]):
            raise LaglensError(f"{path}: {problem}; make it again: snakemake --force {path}")
    return digests


def _problem(path: str, found: str) -> str | None:
    """What is wrong with an artifact of the digest `found`, as far as its record tells."""
    try:
        record = read_record(record_path(path))
    except LaglensError as error:
        return str(error)
    if record is None or record["sha256"] == found:
        return None
    return "damaged, or changed by something else than its rule"


def keep(artifacts: Iterable[str], content: Mapping[str, Any]) -> None:
    """Write the record of every artifact of a job.

    They are not forced to the disk one by one, which takes longer than many a job: one that is lost with the power is
    noticed.
    """
    for artifact in artifacts:
        path = record_path(artifact)
        if path is not None:
            with workspace(path) as work:
                record = plain({**content, "sha256": digest(artifact)})
                (work / "part").write_text(json.dumps(record, sort_keys=True) + "\n", "utf-8")
                os.replace(work / "part", path)


def artifacts_in(folder: Path) -> Iterator[Path]:
    """Every artifact below a folder of results; records and files in the making are none."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if inside[0] != FOLDER and path.is_file() and not any(part.startswith(".") for part in inside):
            yield path


def records_in(folder: Path) -> Iterator[Path]:
    """The artifact of every record below a folder of results, there or not."""
    for path in sorted((folder / FOLDER).rglob("*.json")):
        inside = path.relative_to(folder / FOLDER)
        if not any(part.startswith(".") for part in inside.parts):
            yield folder / inside.with_suffix("")
