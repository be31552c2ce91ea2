"""How long shards take, when the rest will be done, and which worker is behind: arithmetic over the shards that were done last."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

RECENT = 256  # shards that the pace is taken from
LEAST = 4  # shards before anything is said
STRAGGLES = 3.0  # times the median
TENTH = 1.2816  # standard deviations from a normal distribution's median to its 10th and 90th percentile


@dataclass(frozen=True)
class Eta:
    """Seconds to go, and their 10th and 90th percentile."""

    seconds: float
    low: float
    high: float


class ShardTimes:
    """The last `RECENT` shards that workers did: rows, and seconds from when the worker turned to it until it was committed.

    A shard that ran pair by pair is not among them.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)

    def add(self, seconds: float, rows: int) -> None:
        """Count one shard."""
        self._recent.append((seconds, rows))

    @property
    def _seconds(self) -> list[float]:
        return [seconds for seconds, _ in self._recent]

    @property
    def median(self) -> float | None:
        """Seconds of a shard; None before `LEAST` of them are done."""
        return statistics.median(self._seconds) if len(self._recent) >= LEAST else None

    def straggles(self, seconds: float) -> bool:
        """Whether a worker that has had its shard for `seconds` is a straggler: it takes more than `STRAGGLES` times the median."""
        return self.median is not None and seconds > STRAGGLES * self.median

    def eta(self, rows: int, workers: int) -> Eta | None:
        """When so many workers will have done `rows` more rows; None before `LEAST` shards are done, or without a worker.

        With n recent shards whose seconds have mean m and standard deviation s, and K shards' worth of rows to go, W workers take
        K m / W. The percentiles are those of a normal distribution: K shards vary by s sqrt(K) in sum, and m itself, a mean of
        n, is known to s / sqrt(n); together s sqrt(K + K^2 / n) / W.
        """
        if not workers or len(self._recent) < LEAST:
            return None
        n, mean = len(self._recent), statistics.fmean(self._seconds)
        deviation = math.sqrt(sum((seconds - mean) ** 2 for seconds in self._seconds) / (n - 1))
        shards = max(0, rows) * n / sum(each for _, each in self._recent)
        spread = TENTH * deviation * math.sqrt(shards + shards**2 / n)
        return Eta(
            shards * mean / workers,
            max(0.0, shards * mean - spread) / workers,
            (shards * mean + spread) / workers,
        )
