"""What was read of archives and is used again: indexes, footers, row groups."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from nstray.errors import BadArchive, TooLarge

_LASTING = (BadArchive, TooLarge)  # what another try would meet again


class BoundedCache:
    """Values of at most `bound` bytes; the least recently used leave first, but not the last one.

    Safe for threads. Each value is made by one thread while others wait for it. `BadArchive` and
    `TooLarge`, which making it raises, are kept in its place.
    """

    def __init__(self, bound: int) -> None:
        self._bound, self._used = bound, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """The value of a key, or what `make` returns; `size` gives its bytes."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                with self._lock:
                    if (found := self._values.get(key)) is not None:
                        self._values.move_to_end(key)
                        return _given(found[0])
                try:
                    value: Any = make()
                    used = size(value)
                except _LASTING as error:
                    value, used = error, 1
                self._put(key, value, used)
                return _given(value)
        finally:
            with self._lock:
                if not making.locked():
                    self._making.pop(key, None)

    def forget(self, wanted: Callable[[Any], bool]) -> None:
        """Drop the values of all keys for which `wanted` is true."""
        with self._lock:
            for key in [key for key in self._values if wanted(key)]:
                self._used -= self._values.pop(key)[1]

    def _put(self, key: Hashable, value: Any, used: int) -> None:
        with self._lock:
            self._values[key] = value, used
            self._used += used
            while self._used > self._bound and len(self._values) > 1:
                self._used -= self._values.popitem(last=False)[1][1]


def _given(value: Any) -> Any:
    if isinstance(value, Exception):
        raise type(value)(*value.args)
    return value
