"""Tries again while a store is out of reach: an outage costs the wait and no row."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
)

from nstray.errors import AccessDenied, Corrupt, StorageError
from nstray.text import log_event

T = TypeVar("T")
log = logging.getLogger(__name__)
# Pauses of 1, 2, 4, 8, 16 and then 30 s, on top of the storage client's own retries. So ten minutes
# of outage cost the wait alone; after that the shard goes back to the driver. A store that takes
# every connection and never answers costs five minutes a try, so no further try is begun after
# MAX_SECONDS.
STORAGE_TRIES = 24
LONGEST_PAUSE = 30.0
MAX_SECONDS = 900.0
_TRIES_IF_OTHERS_ANSWER = 3


def retry(
    what: str,
    trouble: type[StorageError],
    call: Callable[[], T],
    on_try: Callable[[], None],
    others_answer: Callable[[], bool] | None = None,
) -> T:
    """What `call` returns; it is called again after `trouble`.

    Raises the last error after `STORAGE_TRIES` tries, and after an error that comes later than
    `MAX_SECONDS`. Raises `AccessDenied` at once, and `Corrupt` after three tries.

    Args:
        what: what is called, for the log.
        on_try: called before each pause, so that a wait does not look like a standstill.
        others_answer: whether the store answers other requests now; then three tries are enough.
    """

    def trouble_again(error: BaseException) -> bool:
        return isinstance(error, trouble) and not isinstance(error, AccessDenied)

    limits = stop_after_attempt(STORAGE_TRIES) | stop_after_delay(MAX_SECONDS)

    def enough(state: RetryCallState) -> bool:
        if limits(state):
            return True
        if state.attempt_number < _TRIES_IF_OTHERS_ANSWER:
            return False
        if state.outcome and isinstance(state.outcome.exception(), Corrupt):
            return True  # the store does answer
        return others_answer is not None and others_answer()

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        attempt = {"try": state.attempt_number}
        log_event("storage_retry", log.warning, what=what, **attempt, error=error)
        on_try()

    return Retrying(
        retry=retry_if_exception(trouble_again),
        stop=enough,
        wait=wait_exponential(max=LONGEST_PAUSE),
        before_sleep=before_sleep,
        reraise=True,
    )(call)
