"""Waiting for a store that is out of reach: an outage costs the wait and no row."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from nstray.errors import AccessDenied, StorageError
from nstray.text import log_event

T = TypeVar("T")
log = logging.getLogger("nstray.worker.worker")
# Pauses of 1, 2, 4, 8, 16 and then 30 s, on top of the storage client's own retries. Ten minutes of outage cost nothing but the
# wait; after that the shard goes back to the driver. A store that takes every connection and never answers costs five minutes a try:
# no further one is begun after PATIENCE seconds.
STORAGE_TRIES = 24
LONGEST_PAUSE = 30.0
PATIENCE = 900.0


def retry(
    what: str,
    trouble: type[StorageError],
    call: Callable[[], T],
    on_try: Callable[[], None],
    others_answer: Callable[[], bool] | None = None,
) -> T:
    """What `call` returns; tried again on `trouble`, but for want of permission, as long as patience lasts.

    `on_try` is told of each pause, which is no standstill. `others_answer` says whether the store answers somebody else
    now: then three tries are enough.
    """
    began = time.monotonic()
    for attempt in range(STORAGE_TRIES):
        try:
            return call()
        except AccessDenied:
            raise
        except trouble as error:
            spent = attempt + 1 == STORAGE_TRIES or time.monotonic() - began > PATIENCE
            if spent or (attempt >= 2 and others_answer and others_answer()):
                raise
            log_event("storage_retry", log.warning, what=what, **{"try": attempt + 1}, error=error)
            on_try()
            time.sleep(min(LONGEST_PAUSE, 2.0**attempt))
    raise AssertionError("the last try returns or raises")
