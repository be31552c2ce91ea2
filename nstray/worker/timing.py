"""Where a worker's time goes: seconds by phase, added up over its threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("fetch", "decode", "optimise", "encode", "put")


class PhaseTimes:
    """Seconds of each of `PHASES`. Safe for threads.

    Several threads fetch, decode and encode images at once. So the seconds are thread-seconds and
    may pass faster than the clock's. A wait for a store that is out of reach counts too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._finished = dict.fromkeys(PHASES, 0.0)
        self._running: dict[object, tuple[str, float]] = {}

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time of what runs inside."""
        this, began = object(), time.monotonic()
        with self._lock:
            self._running[this] = phase, began
        try:
            yield
        finally:
            with self._lock:
                del self._running[this]
                self._finished[phase] += time.monotonic() - began

    def seconds(self) -> dict[str, float]:
        """Seconds by phase so far, what still runs included."""
        with self._lock:
            seconds, now = dict(self._finished), time.monotonic()
            for phase, began in self._running.values():
                seconds[phase] += now - began
            return seconds
