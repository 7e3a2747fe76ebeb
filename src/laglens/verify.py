"""Check that results are what their rules made, that they fit together, and that they are those of the study."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from laglens.errors import LaglensError
from laglens.provenance import package_versions
from laglens.store.records import RESULTS, Record, artifacts_in, digest, read_record, record_path, records_in

BESIDE = ("windows", "claims", "calibration")  # targets of their own, and the folders of their results
UNKNOWN = "nothing says what made it: it was put there, or its job did not finish"


@dataclass
class Findings:
    """What is known of a folder of results, by the path of every artifact.

    Attributes
    ----------
    right
        As their rules made them, from inputs that still are what they were.
    wrong
        What is wrong with each of the others: damaged, without a record, or not made from what is there.
    gone
        Made, and deleted since; what was made from them stands on its own.
    versions
        Packages of which another version is installed now, and how many of the right ones were made with the former.
    """

    right: list[Path] = field(default_factory=list)
    wrong: dict[Path, str] = field(default_factory=dict)
    gone: list[Path] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)


def verify(folder: str | Path) -> Findings:
    """Compare every artifact with its record, and every record with what its artifact was made from.

    Parameters
    ----------
    folder
        Of results, under whatever name. What they were made from outside of it is looked for beside it.

    Raises
    ------
    LaglensError
        There is no such folder, or it holds no artifact.
    """
    folder = Path(folder)
    present = list(artifacts_in(folder))
    if not present:
        raise LaglensError(f"{folder}: holds no results; name the folder that snakemake writes to")
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(present, pool.map(digest, present), strict=True))
    found = Findings(gone=[path for path in records_in(folder) if path not in digests])
    for path in present:
        try:
            record = read_record(record_path(path, folder))
            problem = next(_problems(record, path, folder, digests), None)
        except LaglensError as error:
            problem = str(error)
        if problem:
            found.wrong[path] = problem
        else:
            found.right.append(path)
            found.versions.update(_other_versions(record or {}))
    return found


def plan(folder: Path, options: Sequence[str]) -> dict[Path, bool]:
    """Every artifact of the study beside a folder of results; True where Snakemake would make it again.

    It would where the config, the code, a version or an input is another one now.

    Parameters
    ----------
    folder
        Of results.
    options
        For Snakemake, such as ``--configfile``.

    Raises
    ------
    LaglensError
        Snakemake cannot read the study.
    """
    targets = ["all", *(target for target in BESIDE if (folder / target).is_dir())]
    command = [sys.executable, "-m", "snakemake", *targets, "--summary", *options]
    asked = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)
    if asked.returncode:
        said = [line for line in asked.stderr.splitlines() if line.strip()]
        raise LaglensError(f"snakemake cannot read the study: {said[-1].strip() if said else 'it said nothing'}")
    _, *rows = [line.split("\t") for line in asked.stdout.splitlines()]
    return {folder.parent / row[0]: row[-1] == "update pending" for row in rows}


def _problems(record: Record | None, path: Path, folder: Path, digests: dict[Path, str]) -> Iterator[str]:
    """What is wrong with an artifact, the gravest first."""
    if record is None:
        yield UNKNOWN
        return
    if record["sha256"] != digests[path]:
        yield f"damaged, or changed by something else than {record.get('rule', 'its rule')}"
    for name, then in record["inputs"].items():
        source = _place(name, folder)
        if source in digests or source.is_file():  # one that was deleted since is no reason to doubt
            now = digests[source] if source in digests else digest(source)
            if now != then:
                yield f"made from another {name} than the one that is there"


def _place(name: str, folder: Path) -> Path:
    """Where an input of a record lies now, wherever the folder of results has gone."""
    if Path(name).is_relative_to(RESULTS):
        return folder / Path(name).relative_to(RESULTS)
    return folder.parent / name


def _other_versions(record: Record) -> Iterator[str]:
    then = {name: version for name, version in record.get("versions", {}).items() if name != "python"}
    for name, now in package_versions(then).items():
        if then[name] != now:
            yield f"{name} {then[name]}, now {now}"
