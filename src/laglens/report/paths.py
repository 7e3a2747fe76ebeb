"""Which run a result belongs to: the folder is the model, the name begins with the signal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def by_run(paths: str | Iterable[str]) -> dict[tuple[str, str], str]:
    """Paths such as ``results/lags/MODEL/SIGNAL.verdicts.csv`` by (model, signal), in their order."""
    listed = [paths] if isinstance(paths, str) else list(paths)
    return {(Path(path).parent.name, Path(path).name.split(".")[0]): path for path in listed}
