"""A whole study twice, in two folders, with different numbers of cores: every file has to be the same, byte by byte."""

from __future__ import annotations

import argparse
import filecmp
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import study
from benchmarks.measure import SNAKEMAKE, keep, show, show_machine, timed


def differences(one: Path, other: Path) -> list[str]:
    """Files of two folders that only one of them has, or that differ, by what is the matter with them."""
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (one, other)]
    found = [f"{name}: only in one of them" for name in sorted(names[0] ^ names[1])]
    _, different, unreadable = filecmp.cmpfiles(one, other, sorted(names[0] & names[1]), shallow=False)
    return found + [f"{name}: not the same bytes" for name in (*different, *unreadable)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare artifacts, figures, pages, and the records of what made them; 1 if any differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.twice", description=__doc__)
    parser.add_argument("--configfile", help="of the study (default: config.yaml)")
    parser.add_argument(
        "--cores", nargs=2, default=["1", str(os.cpu_count() or 2)], metavar="N", help="of the two runs"
    )
    given = parser.parse_args(arguments)
    options = ["--configfile", str(Path(given.configfile).resolve())] if given.configfile else []
    with tempfile.TemporaryDirectory(prefix="laglens-twice-") as temporary:
        folders = [Path(temporary, name) for name in ("one", "a folder of another name")]
        costs = {}
        for folder, cores in zip(folders, given.cores, strict=True):
            folder.mkdir()
            study.lay_out(folder)
            print(f"\nRunning {given.configfile or 'the default study'} on {cores} cores", flush=True)
            costs[cores] = timed([SNAKEMAKE, "--cores", cores, *options], folder)
        results = [folder / "results" for folder in folders]
        count = sum(path.is_file() for path in results[0].rglob("*"))
        found = differences(*results)
    show(
        f"{count - len(found)} of {count} files are the same bytes",
        ["cores", "wall s", "CPU s"],
        [(cores, cost.wall, cost.cpu) for cores, cost in costs.items()],
    )
    print("\n".join(found))
    keep("twice", {"study": given.configfile or "config.yaml", "runs": costs, "files": count, "different": found})
    return int(bool(found))


if __name__ == "__main__":
    show_machine()
    sys.exit(main())
