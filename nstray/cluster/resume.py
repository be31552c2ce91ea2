"""What a window still needs: its rows in the manifest, compared with its parts on storage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nstray import storage
from nstray.errors import OutputError, Unreachable
from nstray.manifest.shards import Shard, cut_shards
from nstray.output.folder import Output
from nstray.output.layout import part_count
from nstray.output.records import Counts, PartInfo
from nstray.storage.backoff import retry
from nstray.worker.messages import JobSpec

T = TypeVar("T")
Listed = Mapping[int, storage.ObjectInfo]
AHEAD = 4  # windows that are listed at once; their rows are held meanwhile, some 7 MB each


@dataclass
class PendingWindow:
    """A window as resume finds it.

    Attributes:
        number: the window's.
        shards: shards to consider; of a retry, those that have a part.
        present: committed parts that need no work, by number; of a retry, those without an error
            row that is to be made again.
        finished: what the window's index counts, if every part is there. Then `shards` and
            `present` are empty.
    """

    number: int
    shards: list[Shard] = field(default_factory=list)
    present: dict[int, PartInfo] = field(default_factory=dict)
    finished: Counts | None = None


def pending_windows(
    windows: Iterator[tuple[int, Any]],
    spec: JobSpec,
    output: Output,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[PendingWindow]:
    """Compare the windows with storage, in order.

    After a window that is finished the next few are listed at once, because a store takes its time
    to answer. Blocks on storage, and retries while the output's store is out of reach.

    Raises OutputError if a part is not of this job, StorageError, and whatever `on_wait` raises.

    Args:
        windows: number and rows of each.
        on_wait: called before each pause between two tries.
    """

    def retried(call: Callable[..., T], number: int, *rest: Any) -> T:
        return retry(
            f"window {number}", Unreachable, lambda: call(number, *rest, spec, output), on_wait
        )

    ahead: deque[tuple[int, Any, Future[tuple[Listed, Counts | None]]]] = deque()
    pool = ThreadPoolExecutor(AHEAD)
    room = 1
    try:
        while True:
            while len(ahead) < room and (found := next(windows, None)) is not None:
                ahead.append((*found, pool.submit(retried, _committed, *found)))
            if not ahead:
                return
            number, table, listing = ahead.popleft()
            listed, finished = listing.result()
            room = 1 if finished is None else min(AHEAD, 2 * room)
            yield (
                retried(_unfinished, number, table, listed)
                if finished is None
                else PendingWindow(number, finished=finished)
            )
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _committed(
    number: int, table: Any, spec: JobSpec, output: Output
) -> tuple[Listed, Counts | None]:
    """The parts of a window that are there, and what its index counts.

    The second is None if a part is missing or has rows that are to be made again.
    """
    listed = output.parts.list_window(number)
    finished = output.indexes.indexed_counts(
        number, listed, part_count(table.num_rows, spec.config.rows_per_shard)
    )
    sound = (
        finished is not None
        and finished.rows == table.num_rows
        and not set(finished.errors) & set(spec.retry)
    )
    return listed, finished if sound else None


def _unfinished(
    number: int, table: Any, listed: Listed, spec: JobSpec, output: Output
) -> PendingWindow:
    shards = cut_shards(number, table, spec.config.rows_per_shard, spec.order)
    present = dict(zip(listed, output.parts.read_footers(listed), strict=True))
    digests = {s.number: s.ids_digest for s in shards if s.number in present}
    for place, part in present.items():
        if part.footer.get("fingerprint") != spec.fingerprint or part.footer.get(
            "ids_digest"
        ) != digests.get(place):
            raise OutputError(
                f"{storage.redact(part.uri)} is not a part of this job; move it away, or use "
                "another OUT"
            )
    if spec.retry:
        shards = [s for s in shards if s.number in present]
        present = {
            place: part for place, part in present.items() if not set(part.errors) & set(spec.retry)
        }
        if len(present) < len(shards):
            output.indexes.forget(number)
    return PendingWindow(number, shards, present)
