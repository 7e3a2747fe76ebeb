"""The trained models that a benchmark looks at: those that are shipped, or files of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.measure import ROOT
from laglens.models.forecaster import Forecaster
from laglens.models.registry import restore_model
from laglens.models.untrained import untrained_model
from laglens.store import read_card, read_weights

SHIPPED = ROOT / "src" / "laglens" / "weights"


def weight_files(files: Sequence[str] = ()) -> list[Path]:
    """The given files, else those of all shipped models; each has its card beside it."""
    return [Path(file) for file in files] or sorted(SHIPPED.glob("*.safetensors"))


def trained_models(files: Sequence[str] = ()) -> Iterator[tuple[str, Forecaster]]:
    """Name and model of each of `weight_files`."""
    for path in weight_files(files):
        yield path.stem, restore_model(read_card(path), read_weights(path))


def random_weights(file: Path, *, seed: int) -> Forecaster:
    """The model of a file before it learnt anything."""
    return untrained_model(read_card(file), read_weights(file), seed=seed)


def windows_of(series: np.ndarray) -> xr.Dataset:
    """Series ``(series, time)`` as windows, one of each."""
    return xr.Dataset({"series": (("sample", "time"), series)}, coords={"sample": np.arange(len(series))})


def count_and_files(arguments: Sequence[str], default: int) -> tuple[int, list[str]]:
    """``[COUNT] [FILE ...]`` of a command line."""
    first = arguments[:1]
    return (int(first[0]), list(arguments[1:])) if first and first[0].isdigit() else (default, list(arguments))
