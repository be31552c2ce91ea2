"""The list of what is wrong with a manifest's rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nstray.errors import ManifestError
from nstray.manifest.arrow_columns import Flags
from nstray.manifest.raw_batches import RawBatch
from nstray.text import counted


class Problems:
    """What is wrong with a manifest's rows: the first ten lines, and how many there are."""

    LIMIT = 10

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0
        self._batch: list[tuple[int, str]] = []

    def add(self, bad: Flags, text: Callable[[int], str]) -> None:
        """Note `text(i)` for each row i of the current batch for which `bad` is true."""
        rows = np.flatnonzero(bad)
        self.count += len(rows)
        self._batch += [(int(i), text(int(i))) for i in rows[: self.LIMIT]]

    def settle(self, batch: RawBatch) -> None:
        """Add file and row to the current batch's problems and sort them by row."""
        for row, text in sorted(self._batch, key=lambda p: p[0])[: self.LIMIT - len(self.lines)]:
            self.lines.append(f"{batch.file.name} row {batch.first + row + 1}: {text}")
        self._batch.clear()

    def raise_any(self) -> None:
        """Raise one `ManifestError` with a line per problem, if there is one."""
        if self.count:
            more = self.count - len(self.lines)
            raise ManifestError(
                "\n".join(
                    [
                        *self.lines,
                        *([f"... and {counted(more, 'more problem')}"] if more > 0 else []),
                    ]
                )
            )
