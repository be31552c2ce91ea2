"""Archives listed by threads ahead of who reads the listings, in order and in bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

_Archive = TypeVar("_Archive")
_Item = TypeVar("_Item")
THREADS = 6
AHEAD = 4  # items of an archive that wait to be read
_END = object()


def in_order(
    archives: Sequence[_Archive], list_one: Callable[[_Archive], Iterator[_Item]]
) -> Iterator[_Item]:
    """The items of every archive, one archive after the other.

    At most THREADS archives are listed at once, and at most AHEAD items of each wait. An exception
    of `list_one` is raised at its place. Threads end soon after the iterator is closed.
    """
    if len(archives) == 1:
        yield from list_one(archives[0])
        return
    stopped = threading.Event()
    started: list[queue.Queue[object]] = []

    def work(archive: _Archive, items: queue.Queue[object]) -> None:
        try:
            for item in list_one(archive):
                if not _put(items, item, stopped):
                    return
            last: object = _END
        except BaseException as error:
            last = error
        _put(items, last, stopped)

    def start(i: int) -> None:
        started.append(queue.Queue(AHEAD))
        threading.Thread(target=work, args=(archives[i], started[i]), daemon=True).start()

    try:
        for i in range(len(archives)):
            while len(started) < min(i + THREADS, len(archives)):
                start(len(started))
            while (item := started[i].get()) is not _END:
                if isinstance(item, BaseException):
                    raise item
                yield cast("_Item", item)
            started[i] = queue.Queue()
    finally:
        stopped.set()


def _put(items: queue.Queue[object], item: object, stopped: threading.Event) -> bool:
    """Whether `item` was taken before everything stopped."""
    while not stopped.is_set():
        try:
            items.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
