"""Where a worker's time goes: seconds by stage, added up over its threads. Plain sums, no Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("fetch", "decode", "optimise", "encode", "put")


class PhaseTimes:
    """Seconds spent in each of `STAGES`; safe for threads. Images are fetched, decoded and encoded by several threads at once, so their
    seconds are thread-seconds and may pass faster than the clock's; those of a wait for a store that is away count too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._running: dict[object, tuple[str, float]] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of what runs inside."""
        this, began = object(), time.monotonic()
        with self._lock:
            self._running[this] = stage, began
        try:
            yield
        finally:
            with self._lock:
                del self._running[this]
                self._spent[stage] += time.monotonic() - began

    def seconds(self) -> dict[str, float]:
        """What has been spent by now, what still runs included."""
        with self._lock:
            spent, now = dict(self._spent), time.monotonic()
            for stage, began in self._running.values():
                spent[stage] += now - began
            return spent
