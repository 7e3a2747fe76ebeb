"""What laglens does beside the workflow: ``laglens verify results``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from laglens.errors import LaglensError
from laglens.store.records import RESULTS
from laglens.verify import Findings, plan, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code: 0 all is well, 1 something is wrong, 2 the command itself is."""
    parser = argparse.ArgumentParser(prog="laglens", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("verify", help="check that results are what their rules made")
    command.add_argument("folder", nargs="?", default=RESULTS, type=Path, help=f"of the results (default: {RESULTS})")
    command.add_argument("--configfile", help="of the study, where it is not config.yaml")
    given = parser.parse_args(arguments)
    try:
        return _verify(given.folder, ["--configfile", given.configfile] if given.configfile else [])
    except LaglensError as error:
        print(f"laglens: {error}", file=sys.stderr)
        return 1


def _verify(folder: Path, options: list[str]) -> int:
    """Check a folder and say what is wrong, one line each, and what mends it."""
    found = verify(folder)
    beside = folder.name == RESULTS and (folder.parent / "Snakefile").is_file()
    planned = plan(folder, options) if beside else None
    stale = [path for path in found.right if planned and planned.get(path)]
    for path, problem in found.wrong.items():
        print(f"{path}: {problem}")
    if not found.wrong:
        for path in stale:
            print(f"{path}: made by another study, other code or other versions than there are now")
    print(_summary(found))
    _say_what_mends(found, planned, " ".join(["snakemake --cores 4", *options]), stale)
    return int(bool(found.wrong or stale))


def _summary(found: Findings) -> str:
    total = len(found.right) + len(found.wrong)
    deleted = f"; {len(found.gone)} more were made and deleted since" if found.gone else ""
    lines = [f"{len(found.right)} of {total} artifacts are as their rules made them{deleted}"]
    lines += [f"{count} were made with {versions}" for versions, count in sorted(found.versions.items())]
    return "\n".join(lines)


def _say_what_mends(found: Findings, planned: dict[Path, bool] | None, command: str, stale: list[Path]) -> None:
    """The commands that mend what was found; the workflow's own paths are relative to the folder it runs in."""
    if planned is None:
        print("whether they are stale is known where the workflow runs: beside its Snakefile")
    again = [path for path in found.wrong if planned is None or path in planned]
    others = [path for path in found.wrong if path not in again]
    if again:
        print(f"to make them again: {command} --force {' '.join(map(str, again))}")
        print("whether others are stale can be asked then")
    elif stale:
        print(f"to make the stale ones again: {command}")
    if others:
        print(
            f"no rule of this study makes these; make them by theirs, or move them away: {' '.join(map(str, others))}"
        )


if __name__ == "__main__":
    sys.exit(main())
