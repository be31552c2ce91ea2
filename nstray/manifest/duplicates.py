"""Ids that appear more than once, found in bounded memory for a manifest of any length."""

from __future__ import annotations

import itertools
import tempfile
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from nstray.errors import JobFailed

IN_MEMORY = 4 * 2**20  # hashes, 32 MB
PARTITIONS = 64
MAX_CANDIDATES = 100_000  # repeated hashes that are returned

Hashes = npt.NDArray[np.int64]


class IdHashes:
    """8-byte hashes of all ids: 32 MB in memory, the rest in a temporary file without a name.

    A hash decides its partition, so equal hashes are in one partition. Use as a context manager:
    its end closes the file. Nothing of the file outlives the process, however that dies.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._held: list[Hashes] = []
        self._count = 0
        self._file: IO[bytes] | None = None
        self._spans: list[list[tuple[int, int]]] = [[] for _ in range(PARTITIONS)]  # bytes: at, end

    def __enter__(self) -> IdHashes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

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
        held = np.concatenate(self._held)
        parts = (held.view(np.uint64) % np.uint64(PARTITIONS)).astype(np.uint8)
        ends = np.cumsum(np.bincount(parts, minlength=PARTITIONS)) * held.itemsize
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            at = self._file.seek(0, 2)
            data = memoryview(held[np.argsort(parts, kind="stable")].data).cast("B")
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise JobFailed(
                f"the temporary folder {tempfile.gettempdir()}: {error.strerror}; the ids of this "
                "manifest need 8 bytes a row there; set TMPDIR to a folder with more room"
            ) from None
        for part, (begin, end) in enumerate(itertools.pairwise((0, *map(int, ends)))):
            self._spans[part].append((at + begin, at + end))
        self._held, self._count = [], 0

    def duplicates(self) -> tuple[Hashes, int]:
        """The hashes that appear more than once, and how many rows repeat an earlier row's hash.

        The hashes are sorted, and at most `MAX_CANDIDATES`.
        """
        if self._file is None:
            return _repeated(np.concatenate(self._held) if self._held else np.empty(0, np.int64))
        if self._held:
            self._spill()
        found: list[Hashes] = []
        repeats = 0
        for spans in self._spans:
            written = np.concatenate([self._read(*span) for span in spans])
            hashes, more = _repeated(written)
            repeats += more
            if sum(len(f) for f in found) < MAX_CANDIDATES:
                found.append(hashes)
        return np.sort(np.concatenate(found))[:MAX_CANDIDATES], repeats

    def _read(self, begin: int, end: int) -> Hashes:
        assert self._file is not None
        self._file.seek(begin)
        return np.fromfile(self._file, dtype=np.int64, count=(end - begin) // 8)


def _repeated(hashes: Hashes) -> tuple[Hashes, int]:
    """As `IdHashes.duplicates`, for hashes in memory."""
    ordered = np.sort(hashes)
    repeat = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.unique(repeat)[:MAX_CANDIDATES], len(repeat)
