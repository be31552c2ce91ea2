"""The windows of a run: opened in order, and closed once every part is committed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from nstray.cluster.progress import JobProgress
from nstray.cluster.resume import pending_windows
from nstray.cluster.scheduling import Backlog, Window
from nstray.errors import Unreachable
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import Shard, cut_windows
from nstray.output.folder import Output
from nstray.output.part_file import read_footer
from nstray.output.records import Counts, PartInfo, total
from nstray.storage.backoff import retry
from nstray.worker.messages import JobSpec

T = TypeVar("T")
LOW_WATER = 512  # shards in the backlog below which the next window is opened


class Stopped(Exception):
    """The run stops while its store is out of reach; the next run finds what it waited for."""


class JobWindows:
    """The windows of a run. Its storage calls run in threads, and retry while the store is away.

    Args:
        backlog: gets the shards that have no part.
        job_progress: gets the rows as they are committed.
        stopping: set when the run stops.
        changed: set when there are further shards.

    Attributes:
        before: what was committed before this run and stays.
        all_opened: whether the manifest is read to its end.
    """

    def __init__(
        self,
        spec: JobSpec,
        manifest: Manifest,
        output: Output,
        *,
        backlog: Backlog,
        job_progress: JobProgress,
        stopping: threading.Event,
        changed: asyncio.Event,
    ) -> None:
        self.spec, self.manifest, self.output = spec, manifest, output
        self._backlog, self._job_progress = backlog, job_progress
        self._stopping, self._changed = stopping, changed
        self._open: dict[int, Window] = {}
        self._closed = Counts()
        self.before = Counts()
        self.all_opened = False

    @property
    def all_closed(self) -> bool:
        """Whether every part of the job is committed, and every window has its index."""
        return self.all_opened and not self._open

    @property
    def complete(self) -> bool:
        """Whether every row of the manifest is committed."""
        return not self._open and self._closed.rows == self.spec.info.rows

    def counts(self) -> Counts:
        """What all committed parts add up to."""
        found = Counts()
        found.merge(self._closed)
        for window in self._open.values():
            found.merge(total(window.parts))
        return found

    async def open_all(self) -> None:
        """Open the windows in order: count what is committed, add the rest to the backlog.

        Waits while the backlog is long. Ends early if the run stops.
        """
        windows = cut_windows(self.manifest.tables(self.spec.info), self.spec.cuts)
        pending = pending_windows(windows, self.spec, self.output, self._on_wait)
        while not self._stopping.is_set():
            if len(self._backlog) >= LOW_WATER:
                await asyncio.sleep(0.05)
                continue
            found = await asyncio.to_thread(next, pending, None)
            if found is None:
                break
            if found.finished is not None:
                self._closed.merge(found.finished)
                self._resume(found.finished)
                continue
            window = Window(len(found.shards), list(found.present.values()))
            self._open[found.number] = window
            self._resume(total(window.parts))
            self._backlog.extend(s for s in found.shards if s.number not in found.present)
            if window.complete:
                await self._close(found.number)
            self._changed.set()
        self.all_opened = True
        self._changed.set()

    async def add_part(self, shard: Shard, part: PartInfo) -> None:
        """Count a part that is committed now, and close its window if it is the last one."""
        window = self._open[shard.window]
        window.parts.append(part)
        self._job_progress.add(part.rows, part.errors)
        if window.complete:
            await self._close(shard.window)

    async def read_part(self, shard: Shard) -> PartInfo:
        """What is in the part of a shard that another writer has committed."""
        uri = self.output.data_uri(shard.name)
        return await self._retried(shard.name, lambda: read_footer(uri))

    async def _close(self, number: int) -> None:
        """Write the index of a window whose parts are all there, and drop what is known of them."""
        window = self._open[number]
        await self._retried(
            f"index of window {number}", lambda: self.output.indexes.write(number, window.parts)
        )
        self._closed.merge(total(window.parts))
        del self._open[number]

    def _resume(self, counts: Counts) -> None:
        self.before.merge(counts)
        self._job_progress.resumed += counts.rows
        self._job_progress.add(counts.rows, counts.errors)

    async def _retried(self, what: str, call: Callable[[], T]) -> T:
        return await asyncio.to_thread(retry, what, Unreachable, call, self._on_wait)

    def _on_wait(self) -> None:
        if self._stopping.is_set():
            raise Stopped
