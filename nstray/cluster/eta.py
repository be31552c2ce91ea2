"""How long shards take, when the rest will be done, and which worker is behind.

All of it is arithmetic over the shards that were done last.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

RECENT = 256  # shards that the times are taken from
LEAST = 4  # shards before anything is said
STRAGGLES = 3.0  # times the median
TENTH = 1.2816  # standard deviations between a normal distribution's median and its 10th percentile


@dataclass(frozen=True)
class Eta:
    """Seconds to go (the mean), and their 10th and 90th percentile."""

    seconds: float
    low: float
    high: float


class ShardTimes:
    """Rows and seconds of the last `RECENT` shards that workers committed.

    The seconds of a shard begin when its worker turns to it and end when its part is committed.
    Shards that ran pair by pair are left out.
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
        """The median of the seconds; None before `LEAST` shards are done."""
        return statistics.median(self._seconds) if len(self._recent) >= LEAST else None

    def straggles(self, seconds: float) -> bool:
        """Whether a worker that has had its shard for `seconds` is a straggler.

        It is one if it takes more than `STRAGGLES` times the median.
        """
        return self.median is not None and seconds > STRAGGLES * self.median

    def eta(self, rows: int, workers: int) -> Eta | None:
        """When `workers` will have done `rows` more rows.

        None before `LEAST` shards are done, or without a worker.

        The seconds of the n recent shards have mean m and standard deviation s, and the rows to go
        are K shards' worth. Then W workers take K m / W. The percentiles are those of a normal
        distribution. The sum of K shards varies by s sqrt(K). The mean m of n shards is known to
        s / sqrt(n). Together that is s sqrt(K + K^2 / n) / W.
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
