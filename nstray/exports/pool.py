"""Worker processes of an export, without Ray."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from nstray import storage
from nstray.errors import JobFailed
from nstray.exports.plan import Plan
from nstray.exports.worker import Worker
from nstray.text import log_to_stderr

_AHEAD = 2  # calls that wait for each process


class Pool:
    """Processes with a `Worker` each; one alone works in this process.

    Use it as a context manager. Processes end with it, and if this process dies.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        self._plan, self._workers = plan, workers
        self._own: Worker | None = None
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        if self._workers > 1:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._workers,
                # not fork: Arrow and boto3 have threads here
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self._plan, storage.payer_agreed(), storage.remote_allowed()),
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        if kind is not None:
            for process in multiprocessing.active_children():
                process.kill()  # what they write is visible whole or not at all
        self._pool.shutdown(cancel_futures=True)

    def map(self, method: str, calls: Iterable[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
        """What a method of `Worker` returns for each of `calls`, as they end.

        Raises what a call raises, and `JobFailed` if a process dies.
        """
        if self._pool is None:
            if self._own is None:
                self._own = Worker(self._plan)
            for arguments in calls:
                yield getattr(self._own, method)(*arguments)
            return
        waiting: set[concurrent.futures.Future[dict[str, Any]]] = set()
        rest = iter(calls)
        try:
            while True:
                for arguments in rest:
                    waiting.add(self._pool.submit(_call, method, arguments))
                    if len(waiting) >= _AHEAD * self._workers:
                        break
                if not waiting:
                    return
                done, waiting = concurrent.futures.wait(
                    waiting, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise JobFailed(
                "a worker process of the export was killed, perhaps because memory ran out; "
                "nothing that was written is lost: run the same command again, with fewer --workers"
            ) from None


_worker: Worker | None = None
_given: Plan | None = None


def _begin(plan: Plan, payer: bool, schemes: tuple[str, ...]) -> None:
    global _given
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    log_to_stderr()
    storage.request_payer(payer)
    storage.allow_remote(schemes, installed=False)  # the parent saw to that
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _given = plan


def _end_with(sentinel: int) -> None:
    """End this process when the one that started it has died, even by SIGKILL."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _call(method: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    global _worker
    if _worker is None:  # not in `_begin`, whose exceptions reach nobody
        assert _given is not None
        _worker = Worker(_given)
    result: dict[str, Any] = getattr(_worker, method)(*arguments)
    return result
