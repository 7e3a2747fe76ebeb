"""A zip whose entries lie in a given order, whatever order they come in."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

EARLIEST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
FLUSHED = 256 << 20  # bytes after which they go to the disk, so that little is left to do at the end


class OrderedArchive:
    """An uncompressed zip with fixed dates.

    Entries that come in order go straight into it, so that most of a large cube is written once. Others wait in files.

    Parameters
    ----------
    path
        Of the zip.
    waiting
        Folder for entries whose turn has not come.
    order
        Names of the entries; None where the next name is not known yet, and then it is asked again.
    """

    def __init__(self, path: Path, waiting: Path, order: Iterator[str | None]) -> None:
        self._file = path.open("w+b")
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self._waiting, self._order = waiting, order
        self._early: dict[str, Path | None] = {}
        self._next: str | None = None
        self._flushed = 0

    def put(self, name: str, content: bytes | None) -> None:
        """Take an entry; None is an entry that is left out, because its absence says the same."""
        if self._turn() == name:
            self._append(name, content)
            self._next = None
        elif content is None:
            self._early[name] = None
        else:
            self._early[name] = file = self._waiting / name.replace("/", ".")
            file.write_bytes(content)
        self._catch_up()

    def finish(self, others: Mapping[str, bytes]) -> None:
        """Append entries that have no place in the order, by name, and make the zip durable."""
        self._catch_up()
        for name in sorted(others):
            self._append(name, others[name])
        self._zip.close()
        self._flush()

    def close(self) -> None:
        """Let go of the file, finished or not."""
        with suppress(OSError, ValueError):  # a full disk, which was raised where it was met
            self._zip.close()
        with suppress(OSError):
            self._file.close()

    def _catch_up(self) -> None:
        while (name := self._turn()) in self._early:
            file = self._early.pop(name)
            self._append(name, None if file is None else file.read_bytes())
            if file is not None:
                file.unlink()
            self._next = None

    def _turn(self) -> str | None:
        if self._next is None:
            self._next = next(self._order, None)
        return self._next

    def _append(self, name: str, content: bytes | None) -> None:
        if content is None:
            return
        entry = zipfile.ZipInfo(name, EARLIEST_ZIP_DATE)
        entry.external_attr = 0o644 << 16
        with self._zip.open(entry, "w", force_zip64=True) as target:
            target.write(content)
        if self._file.tell() - self._flushed > FLUSHED:
            self._flush()

    def _flush(self) -> None:
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self._flushed = self._file.tell()
