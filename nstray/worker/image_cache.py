"""Decoded images, and those of a worker that were used last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Picture:
    """Pixels (H, W, 3), or (H, W) of a mask; `source` is height and width before resizing."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    sha256: str
    source: tuple[int, int]


class ImageCache:
    """Decoded images of at most `bound` bytes; the least recently used leave first.

    Safe for threads.
    """

    def __init__(self, bound: int) -> None:
        self._bound, self._used = bound, 0
        self._images: OrderedDict[tuple[Any, ...], Picture] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...]) -> Picture | None:
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def put(self, key: tuple[Any, ...], image: Picture) -> None:
        with self._lock:
            if key not in self._images:
                self._images[key] = image
                self._used += image.pixels.nbytes
            while self._used > self._bound:
                self._used -= self._images.popitem(last=False)[1].pixels.nbytes
