"""Hours, bytes and money of a job, from what a few of its pairs took.

This is arithmetic; `nstray.commands.probe` measures.

The model. A pair takes the device ``fixed + rate x work`` seconds. Its work is evaluations x pixels
over its stages. Two runs of the same pairs with different numbers of evaluations give both terms,
so that a probe need not run all of a job's evaluations. A shard takes the sum of its pairs. On GPUs
its host work (fetch, decode, encode) is hidden behind other shards as far as `depth` shards in
flight hide it. On a CPU, whose cores all optimise, it adds up. Shards go to workers in order,
`depth` to each at a time, as the driver hands them out. That gives the wall time with its ragged
end.

The spread. `low` and `high` take for each pair cost the lowest and the highest that any sample took
on any worker, and lie at least `SPREAD` to either side of the mean: as much as a machine's speed
drifts. They know nothing of what the probe did not see: pairs unlike its samples, images that a
store gives more slowly to more workers, machines that die.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, Literal

from nstray.commands.cost import BYTES_PER_PIXEL, PairCost

Level = Literal["low", "middle", "high"]
LEVELS: tuple[Level, ...] = ("low", "middle", "high")

SPREAD = 0.1
# Evaluations after which a picture's file has its final size: png and webp are 3 % above it after
# 32, jpeg 7 %; from noise 8 and 18 %; all are far off after 8 (96 px, random weights). If fewer
# were run, BYTES_PER_PIXEL is used, which is as far off as its pictures were from each other.
SETTLED = 32
UNSETTLED = 0.25
CURVE_BYTES = 4  # of the loss curve, per evaluation: a float that hardly compresses


@dataclass
class RemainingWork:
    """What a job has still to do.

    Attributes:
        compositions: the distinct compositions of a shard: how many of its pairs have which cost.
        shards: the shards to do, in order, each as the index of its composition.
    """

    compositions: list[dict[PairCost, int]] = field(default_factory=list)
    shards: list[int] = field(default_factory=list)

    @property
    def rows(self) -> Counter[PairCost]:
        """Pairs by their cost."""
        total: Counter[PairCost] = Counter()
        for composition, shards in Counter(self.shards).items():
            for cost, rows in self.compositions[composition].items():
                total[cost] += shards * rows
        return total


@dataclass(frozen=True)
class SampleCost:
    """What a pair of a sample took on one worker, with all of its evaluations.

    Attributes:
        pair: its cost by its settings.
        device: seconds on the device.
        host: seconds for fetching, decoding and encoding.
        bytes: bytes of its row.
        settled: whether the picture had enough evaluations to have as many bytes as the job's.
    """

    pair: PairCost
    device: float
    host: float
    bytes: float
    settled: bool


@dataclass(frozen=True)
class Measured:
    """What a probe measured.

    Attributes:
        per_device: workers that share a device.
        cpu: whether they ran on a CPU's cores.
        ray: seconds for starting and leaving Ray.
        start: seconds until a worker has its network.
        warm_up: seconds that a worker's first pair takes longer than a later one.
        part_bytes: bytes of a part besides its rows.
    """

    samples: Sequence[SampleCost]
    per_device: int
    cpu: bool
    ray: float
    start: float
    warm_up: float
    part_bytes: int


def full_seconds(first: tuple[float, float], second: tuple[float, float], work: float) -> float:
    """Seconds of a pair of `work`, from two shorter runs of it given as (work, seconds).

    The fixed part is never below 0.
    """
    (w1, t1), (w2, t2) = sorted((first, second))
    rate = (t2 - t1) / (w2 - w1) if w2 > w1 else 0.0
    fixed = t2 - rate * w2
    if rate <= 0 or fixed < 0:  # noise, or a pair too short to tell
        return t2 / w2 * work
    return fixed + rate * work


def makespan(seconds: Iterable[float], workers: int, depth: int) -> float:
    """Seconds until the last of `workers` has done shards of these seconds each.

    The shards are handed out in order, `depth` to a worker at a time.
    """
    shards = iter(seconds)
    queues: list[deque[float]] = [deque() for _ in range(workers)]

    def hand_out(queue: deque[float]) -> None:
        queue.extend(shard for shard in (next(shards, None),) if shard is not None)

    for _ in range(depth):
        for queue in queues:
            hand_out(queue)
    ends = [(queue[0], i) for i, queue in enumerate(queues) if queue]
    heapify(ends)
    now = 0.0
    while ends:
        now, i = heappop(ends)
        queues[i].popleft()
        hand_out(queues[i])
        if queues[i]:
            heappush(ends, (now + queues[i][0], i))
    return now


@dataclass(frozen=True)
class _PairFigures:
    """Of one pair: seconds on the device and on the host, bytes of its row."""

    device: float
    host: float
    bytes: float


class Forecast:
    """A job's cost on any number of devices.

    Args:
        remaining: what the job has to do; not every pair cost in it need be measured.
        measured: at least one sample. A pair cost without a sample is taken from the measured one
            of the nearest size, in proportion to its work.
        depth, image_format: the job's settings.
    """

    def __init__(
        self, remaining: RemainingWork, measured: Measured, depth: int, image_format: str
    ) -> None:
        self._remaining, self._measured = remaining, measured
        self._depth, self._format = depth, image_format
        self._rows = remaining.rows
        self._evaluations = sum(cost.budget * n for cost, n in self._rows.items())
        self._figures: dict[Level, dict[PairCost, _PairFigures]] = {
            level: {cost: self._pair_figures(cost, level) for cost in self._rows}
            for level in LEVELS
        }

    @property
    def device_seconds(self) -> float:
        """Seconds on the device of all pairs together, without any start."""
        return sum(n * self._figures["middle"][cost].device for cost, n in self._rows.items())

    @property
    def seconds_per_evaluation(self) -> float:
        """Seconds on the device per evaluation of one pair, its fixed costs included."""
        return self.device_seconds / self._evaluations

    def on(self, devices: int, price: float | None = None) -> dict[str, Any]:
        """The job's cost on so many devices: each figure with its spread. JSON-ready.

        A device counts from its worker's start to the run's end, since a worker waits for the
        others. `price` is that of one device-hour.
        """
        workers = devices * self._measured.per_device
        wall = {level: self._wall_seconds(level, workers) for level in LEVELS}
        hours = {
            level: devices * (seconds - self._measured.ray) / 3600
            for level, seconds in wall.items()
        }
        size = {level: self._bytes(level) for level in LEVELS}
        figures: dict[str, Any] = {"devices": devices}
        figures |= _spread("device_hours", hours) | _spread("wall_seconds", wall)
        figures |= {name: round(n) for name, n in _spread("bytes", size).items()}
        figures["evaluations_per_s"] = self._evaluations / wall["middle"]
        if price is not None:
            figures |= _spread("money", {level: price * n for level, n in hours.items()})
        return figures

    def _pair_figures(self, cost: PairCost, level: Level) -> _PairFigures:
        def distance(other: PairCost) -> tuple[bool, float, float]:
            return (
                other != cost,
                abs(math.log(other.pixels / cost.pixels)),
                abs(other.work - cost.work),
            )

        nearest = min((sample.pair for sample in self._measured.samples), key=distance)
        samples = [sample for sample in self._measured.samples if sample.pair == nearest]
        return _PairFigures(
            cost.work / nearest.work * _at([s.device for s in samples], level),
            cost.pixels / nearest.pixels * _at([s.host for s in samples], level),
            self._row_bytes(cost, [s for s in samples if s.settled], level),
        )

    def _row_bytes(self, cost: PairCost, settled: Sequence[SampleCost], level: Level) -> float:
        if settled:
            return cost.pixels / settled[0].pair.pixels * _at([s.bytes for s in settled], level)
        share = {"low": 1 - UNSETTLED, "middle": 1.0, "high": 1 + UNSETTLED}[level]
        return share * cost.pixels * BYTES_PER_PIXEL[self._format] + CURVE_BYTES * cost.budget

    def _bytes(self, level: Level) -> float:
        rows = sum(n * self._figures[level][cost].bytes for cost, n in self._rows.items())
        return rows + self._measured.part_bytes * len(self._remaining.shards)

    def _wall_seconds(self, level: Level, workers: int) -> float:
        compositions = [
            _shard_seconds(composition, self._figures[level])
            for composition in self._remaining.compositions
        ]
        # Nothing hides the first shard's fetching and the last shard's encoding.
        exposed = (
            0.0 if self._measured.cpu else max((host for _, host in compositions), default=0.0)
        )
        fixed = self._measured.ray + self._measured.start + self._measured.warm_up + exposed
        seconds = [self._with_host(*each) for each in compositions]
        shards = (seconds[composition] for composition in self._remaining.shards)
        return fixed + makespan(shards, workers, self._depth)

    def _with_host(self, device: float, host: float) -> float:
        """Seconds that a shard takes its worker."""
        return device + host if self._measured.cpu else max(device, (device + host) / self._depth)


def _shard_seconds(
    composition: Mapping[PairCost, int], figures: Mapping[PairCost, _PairFigures]
) -> tuple[float, float]:
    """Seconds of a shard on the device and on the host."""
    device = sum(n * figures[cost].device for cost, n in composition.items())
    return device, sum(n * figures[cost].host for cost, n in composition.items())


def _at(values: Sequence[float], level: Level) -> float:
    """The mean of `values`, or the low or the high end of their spread."""
    mean = sum(values) / len(values)
    return {
        "low": min(*values, (1 - SPREAD) * mean),
        "middle": mean,
        "high": max(*values, (1 + SPREAD) * mean),
    }[level]


def _spread(name: str, figures: Mapping[Level, float]) -> dict[str, float]:
    return {
        name: figures["middle"],
        f"{name}_low": figures["low"],
        f"{name}_high": figures["high"],
    }
