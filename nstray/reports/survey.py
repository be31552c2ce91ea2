"""What lies in an output: its windows, their parts, and what their indexes say; no row is read."""

from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from nstray import storage
from nstray.output import histograms
from nstray.output.folder import Output
from nstray.output.histograms import Histograms
from nstray.output.layout import window_sizes
from nstray.output.reader import parts_by_window

MOST_WINDOWS = 100  # that are listed: each takes a request for every 1,000 parts, and its index


@dataclass(frozen=True)
class Window:
    """A window of a job, and what is there of it.

    Attributes:
        rows: of the job.
        parts: number of its parts once it is complete.
        listed: the parts that are there, by number.
        index: if it is about these very parts, and none is missing.
        small: the index's histograms.
    """

    number: int
    rows: int
    parts: int
    shard_size: int
    listed: Mapping[int, storage.ObjectInfo]
    index: Mapping[str, Any] | None
    small: Histograms | None

    def rows_of(self, part: int) -> int:
        """Number of rows of a part."""
        return min(self.shard_size, self.rows - part * self.shard_size)

    @property
    def rows_done(self) -> int:
        """Number of rows of the parts that are there."""
        return sum(map(self.rows_of, self.listed))


@dataclass(frozen=True)
class Survey:
    """The windows of a job; of more than `MOST_WINDOWS` as many, drawn at random.

    Attributes:
        all_windows: number of the job's windows.
    """

    windows: tuple[Window, ...]
    all_windows: int

    @property
    def rows_done(self) -> int:
        """Number of rows that are there in the windows that were listed."""
        return sum(window.rows_done for window in self.windows)

    @property
    def parts(self) -> list[tuple[Window, int]]:
        """The parts that are there, in order."""
        return [(window, number) for window in self.windows for number in sorted(window.listed)]


def survey(output: Output, job: Mapping[str, Any], seed: int = 0) -> Survey:
    """List the parts of a job and read its indexes; raises `StorageError`."""
    layout = parts_by_window(job)
    sizes: list[int] = []
    for _, size in zip(layout, window_sizes(job["cuts"]), strict=False):
        sizes.append(min(size, job["rows"] - sum(sizes)))
    chosen = layout
    if len(layout) > MOST_WINDOWS:
        chosen = sorted(random.Random(seed).sample(layout, MOST_WINDOWS))

    def look(window: tuple[int, int]) -> Window:
        number, parts = window
        listed = output.parts.list_window(number)
        index = output.indexes.read_complete(number, listed, parts) if listed else None
        small = None if index is None else histograms.load(index)
        if small is not None and index is not None and small.rows != index["rows"]:
            small = None
        return Window(number, sizes[number], parts, job["shard_size"], listed, index, small)

    with ThreadPoolExecutor(storage.LIST_THREADS) as pool:
        return Survey(tuple(pool.map(look, chosen)), len(layout))
