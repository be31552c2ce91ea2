"""A local file that shows the picture that is being made."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nstray import storage
from nstray.errors import PairError, StorageError
from nstray.images.encode import FORMATS, encode, quantize
from nstray.images.resize import fit

EVERY = 3.0  # seconds between two previews, at least
SHARE = 0.05  # of the time, which previews take at most


class Preview:
    """Rewrites its file; a reader finds one picture or the next, never a part of one.

    Args:
        path: absolute; its ending is the format.
        warn: told once what keeps it from being written. That never ends the work.

    Attributes:
        shows: name and evaluation of the picture in the file; None before there is one.
    """

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self.path, self._warn = path, warn
        self.shows: tuple[str, int] | None = None
        self._format = FORMATS[storage.ending(path)[1:]]
        self._size = (0, 0)
        self._next = 0.0
        self._failed = False

    def begin(self, height: int, width: int) -> None:
        """A picture of this size begins: it is shown at the next occasion."""
        self._size, self._next = (height, width), 0.0

    def due(self) -> bool:
        """Whether it is time for the next preview."""
        return time.monotonic() >= self._next

    def write(self, image: npt.NDArray[np.floating[Any]], name: str, evaluation: int) -> None:
        """Show an image (3, h, w) over 0..1; one of a coarse stage is enlarged."""
        began = time.monotonic()
        pixels = quantize(image.transpose(1, 2, 0), self._format).astype(np.uint8)
        height, width = self._size
        try:
            if pixels.shape[:2] != self._size:
                pixels = fit(pixels, f"{width}x{height}", "exact", True, what="preview")
            storage.put_over(self.path, encode(pixels, self._format))
            self.shows = name, evaluation
        except (StorageError, PairError) as error:
            if not self._failed:
                self._failed = True
                self._warn(f"--preview: {error}")
        now = time.monotonic()
        self._next = now + max(EVERY, (now - began) / SHARE)
