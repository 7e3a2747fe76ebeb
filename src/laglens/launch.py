"""What the Snakefile does around the rules: read the study, set up the jobs' environment, say where to look."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from laglens.config.load import load_study
from laglens.config.study import Study
from laglens.errors import LaglensError
from laglens.provenance import file_hashes


def read_study(written: Mapping[str, Any], source: str) -> Study:
    """Check the config, or print its problems, one line each, and leave with exit code 1.

    Parameters
    ----------
    written
        Content of the config.
    source
        Where it was read from, for the messages.
    """
    try:
        return load_study(written)
    except LaglensError as error:
        for line in str(error).splitlines():
            print(f"{source}: {line}", file=sys.stderr)
        sys.exit(1)


def run_from(source: Path) -> None:
    """Let every job import the package from `source`, whatever environment it runs in.

    What runs is then what the rules' `code` was hashed from.
    """
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(source))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), *others])


def checkpoint_files(model: Any) -> list[str]:
    """Files that a model of others is read from: its checkpoint, or all files of that folder."""
    checkpoint = getattr(model, "checkpoint", None)
    if checkpoint is None:
        return []
    path = Path(checkpoint)
    return sorted(file.as_posix() for file in path.iterdir() if file.is_file()) if path.is_dir() else [checkpoint]


def own_code(model: Any) -> dict[str, str]:
    """Digests of a person's own files that make the model (see `laglens.provenance.file_hashes`)."""
    factory = getattr(model, "factory", "").rpartition(":")[0]
    return file_hashes(Path(factory)) if factory else {}


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA device, without importing torch."""
    return Path("/dev/nvidiactl").exists()


def report(targets: Iterable[str]) -> str:
    """What a finished run left, and where to begin."""
    figures = [Path(path) for path in targets if path.startswith("results/figures/")]
    drawn = [path for path in figures if path.is_file()]
    sheets = [path for path in drawn if path.stem == "head_sheet"]
    said = f"\n{len(drawn)} of the {len(figures)} figure files of the study are in results/figures."
    if sheets:
        run = sheets[0].parent.relative_to("results/figures")
        said += f"\n  begin with   {sheets[0]}\n  its numbers  results/lags/{run}.csv"
    return said


def apology(logs: Sequence[str]) -> str:
    """What a person can do after a failed run; `logs` are those of Snakemake itself."""
    return (
        "\nA job failed. Its message is above; its own log is logs/RULE/..., Snakemake's is "
        f"{', '.join(map(str, logs))}\nWhat is finished stays: mend the cause and give the same command again."
    )
