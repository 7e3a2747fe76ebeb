"""Tables people read: CSV out, CSV or Parquet in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from laglens.errors import LaglensError
from laglens.store.files import one_line, write_bytes


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table people read as CSV, six significant digits."""
    write_bytes(table.to_csv(index=False, float_format="%.6g").encode(), path)


def read_table(path: str | Path, *, empty: bool = False) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Parameters
    ----------
    empty
        Whether a table without rows is as good as any: one of ours may have found nothing.

    Raises
    ------
    LaglensError
        The file is missing, of another kind, cannot be parsed, or has no rows, or a CSV file has two columns of one
        name.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix.lower() not in readers:
        raise LaglensError(f"{path}: a table is read from {' or '.join(readers)}, not from '{path.suffix}'")
    if not path.is_file():
        raise LaglensError(f"{path}: no such file; paths are relative to the folder you run from")
    try:
        table = readers[path.suffix.lower()](path)
    except Exception as error:  # the parsers raise what they stumble over: TypeError, KeyError, errors of their own
        raise LaglensError(f"{path}: cannot be read as {path.suffix[1:]}: {one_line(error)}") from error
    if path.suffix.lower() == ".csv":
        _require_distinct(path)
    if not len(table) and not empty:
        raise LaglensError(f"{path}: the table has no rows")
    return table


def _require_distinct(path: Path) -> None:
    """Raise where a header names two columns alike; pandas gives the second another name and says nothing."""
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    doubled = header[header.duplicated() & (header != "")]
    if len(doubled):
        raise LaglensError(f"{path}: the header has two columns '{doubled.iloc[0]}'; rename one")
