"""Ids that appear more than once, found in bounded memory for a manifest of any length."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

IN_MEMORY = 4 * 2**20  # hashes, 32 MB
PARTITIONS = 64  # files
MAX_CANDIDATES = 100_000  # repeated hashes that are returned

Hashes = npt.NDArray[np.int64]


class IdHashes:
    """8-byte hashes of all ids: 32 MB in memory, the rest in temporary files.

    A hash decides its file, so equal hashes are in one file. Use as a context manager: its end
    removes the files.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._held: list[Hashes] = []
        self._count = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> IdHashes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    @staticmethod
    def of(ids: list[str]) -> Hashes:
        """Python's own hash of each id; it is the same within one process, which is enough here."""
        return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))

    def add(self, hashes: Hashes) -> None:
        """Take the hashes of further ids."""
        self._held.append(hashes)
        self._count += len(hashes)
        if self._count >= self._in_memory:
            self._spill()

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="nstray-ids-")
        held = np.concatenate(self._held)
        parts = held.view(np.uint64) % np.uint64(PARTITIONS)
        for part in range(PARTITIONS):
            with (Path(self._folder.name) / str(part)).open("ab") as file:
                held[parts == part].tofile(file)
        self._held, self._count = [], 0

    def duplicates(self) -> tuple[Hashes, int]:
        """The hashes that appear more than once, and how many rows repeat an earlier row's hash.

        The hashes are sorted, and at most `MAX_CANDIDATES`.
        """
        if self._folder is None:
            return _repeated(np.concatenate(self._held) if self._held else np.empty(0, np.int64))
        if self._held:
            self._spill()
        found: list[Hashes] = []
        repeats = 0
        for part in range(PARTITIONS):
            written = np.fromfile(Path(self._folder.name) / str(part), dtype=np.int64)
            hashes, more = _repeated(written)
            repeats += more
            if sum(len(f) for f in found) < MAX_CANDIDATES:
                found.append(hashes)
        return np.sort(np.concatenate(found))[:MAX_CANDIDATES], repeats


def _repeated(hashes: Hashes) -> tuple[Hashes, int]:
    """As `IdHashes.duplicates`, for hashes in memory."""
    ordered = np.sort(hashes)
    repeat = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.unique(repeat)[:MAX_CANDIDATES], len(repeat)
