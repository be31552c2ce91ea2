"""When a picture is done: the time of an evaluation by the pixels that it computes."""

from __future__ import annotations

import time
from collections.abc import Sequence

# What an evaluation costs besides its pixels, in pixels. Measured with the compact network on one
# core: 9.8 ms at 24 x 18 pixels, 26 at 96 x 72, 70 at 192 x 144, 250 at 384 x 288.
_OVERHEAD = 4096


class Eta:
    """The time to go of one picture after the other.

    Args:
        pictures: how many there are.
    """

    def __init__(self, pictures: int) -> None:
        self._left, self._made = pictures, 0
        self._made_seconds = 0.0
        self._per_pixel: float | None = None  # seconds of an evaluation for each pixel
        self._stages: list[tuple[int, int]] = []
        self._stage, self._first, self._since = 0, 0, 0.0

    def begin(self, stages: Sequence[tuple[int, int]]) -> None:
        """A picture begins; (pixels, evaluations) of each of its stages."""
        self._stages = [(pixels + _OVERHEAD, count) for pixels, count in stages]
        self._stage = 0

    def seconds(self, evaluation: int, stage: int) -> tuple[float | None, float | None]:
        """Seconds until this picture is done, and until all are; None if unknown.

        Args:
            evaluation, stage: of the picture, as `nstray.engine.progress.Progress` has them.
        """
        now = time.monotonic()
        pixels = self._stages[stage - 1][0]
        if stage != self._stage:
            self._stage, self._first, self._since = stage, evaluation, now
        elif evaluation > self._first:
            self._per_pixel = (now - self._since) / (evaluation - self._first) / pixels
        if self._per_pixel is None:
            return None, None
        ends = sum(n for _, n in self._stages[:stage])
        work = pixels * max(0, ends - evaluation)
        work += sum(size * n for size, n in self._stages[stage:])
        each = (
            self._made_seconds / self._made
            if self._made
            else self._per_pixel * sum(size * n for size, n in self._stages)
        )
        left = self._per_pixel * work
        return left, left + each * max(0, self._left - 1)

    def done(self, seconds: float) -> None:
        """A picture is done, after so many seconds."""
        self._made, self._made_seconds = self._made + 1, self._made_seconds + seconds
        self._left -= 1

    def skipped(self) -> None:
        """A picture is left out."""
        self._left -= 1
