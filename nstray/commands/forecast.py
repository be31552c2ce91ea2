"""Hours, bytes and money of a job, from what a few of its pairs took. Arithmetic; `nstray.commands.probe` measures.

The model. A pair takes the device ``fixed + rate x work`` seconds, where its work is evaluations x pixels over its stages. Two runs of
the same pairs with different numbers of evaluations give both terms, so that a probe need not run all of a job's evaluations. A shard
takes the sum of its pairs. On GPUs its host work (fetch, decode, encode) is hidden behind other shards as far as `depth` shards
in flight hide it; on a CPU, whose cores all optimise, it adds up. Shards go to workers in order, `depth` to each at a time, as the driver
hands them out, which gives the wall time with its ragged end.

The spread. `low` and `high` take for each kind of pair the lowest and the highest that any sample took on any worker, and go at least
`SPREAD` to either side: as much as a machine's speed drifts. They know nothing of what the probe did not see: pairs unlike its
samples, images that a store gives more slowly to more workers, machines that die.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

from nstray.commands.cost import BYTES_PER_PIXEL, PairCost

SPREAD = 0.1
# Evaluations after which a picture's file has its final size: png and webp 3 % above it after 32, jpeg 7 %; from noise 8 and 18 %; all far off
# after 8 (96 px, random weights). Where fewer were run, BYTES_PER_PIXEL stands in, as far off as its pictures were from each other.
SETTLED = 32
UNSETTLED = 0.25
CURVE_BYTES = 4  # of the loss curve, per evaluation: a float that hardly compresses


@dataclass
class RemainingWork:
    """What a job has still to do.

    Attributes:
        mixes: the distinct contents of a shard, as the number of its pairs of each kind.
        shards: the shards to do, in order, each as the index of its mix.
    """

    mixes: list[dict[PairCost, int]] = field(default_factory=list)
    shards: list[int] = field(default_factory=list)

    @property
    def rows(self) -> Counter[PairCost]:
        """Pairs by kind."""
        found: Counter[PairCost] = Counter()
        for mix, n in Counter(self.shards).items():
            for kind, rows in self.mixes[mix].items():
                found[kind] += n * rows
        return found


@dataclass(frozen=True)
class SampleCost:
    """What a pair of a sample took on one worker, with all of its evaluations.

    Attributes:
        device: seconds on the device. host: seconds for fetching, decoding and encoding.
        bytes: of its row. settled: whether the picture had enough evaluations for its bytes to be those of the job's.
    """

    kind: PairCost
    device: float
    host: float
    bytes: float
    settled: bool


@dataclass(frozen=True)
class Measured:
    """What a probe found.

    Attributes:
        per_device: workers that share a device.
        cpu: whether they ran on a CPU's cores.
        ray: seconds for starting and leaving Ray. start: seconds until a worker has its network.
        warm_up: seconds that a worker's first pair takes longer than a later one.
        part_bytes: of a part besides its rows.
    """

    samples: Sequence[SampleCost]
    per_device: int
    cpu: bool
    ray: float
    start: float
    warm_up: float
    part_bytes: int


def full_seconds(first: tuple[float, float], second: tuple[float, float], work: float) -> float:
    """Seconds of a pair of `work`, from two shorter ones given as (work, seconds); what is fixed is never below 0."""
    (w1, t1), (w2, t2) = sorted((first, second))
    rate = (t2 - t1) / (w2 - w1) if w2 > w1 else 0.0
    fixed = t2 - rate * w2
    if rate <= 0 or fixed < 0:  # noise, or a pair too short to tell
        return t2 / w2 * work
    return fixed + rate * work


def makespan(costs: Iterable[float], workers: int, depth: int) -> float:
    """Seconds until the last of `workers` is done with shards of these seconds each, handed out in order, `depth` to a worker at a time."""
    shards = iter(costs)
    queues: list[deque[float]] = [deque() for _ in range(workers)]
    for _ in range(depth):
        for queue in queues:
            queue.extend(cost for cost in (next(shards, None),) if cost is not None)
    ends = [(queue[0], i) for i, queue in enumerate(queues) if queue]
    heapify(ends)
    now = 0.0
    while ends:
        now, i = heappop(ends)
        queues[i].popleft()
        queues[i].extend(cost for cost in (next(shards, None),) if cost is not None)
        if queues[i]:
            heappush(ends, (now + queues[i][0], i))
    return now


@dataclass(frozen=True)
class _Each:
    """Of one pair of a kind: seconds on the device and off it, bytes of its row."""

    device: float
    host: float
    bytes: float


class Forecast:
    """A job's cost on any number of devices.

    Args:
        load: what it has to do; every kind in it may be measured or not.
        measured: at least one sample. A kind without one is taken from the measured kind of the nearest size, in proportion to its work.
        depth, image_format: the job's settings.
    """

    def __init__(
        self, load: RemainingWork, measured: Measured, depth: int, image_format: str
    ) -> None:
        self._load, self._measured, self._depth, self._format = load, measured, depth, image_format
        self._rows = load.rows
        self._evaluations = sum(kind.budget * n for kind, n in self._rows.items())
        self._of = {
            place: {kind: self._each(kind, place) for kind in self._rows}
            for place in ("low", "middle", "high")
        }

    @property
    def device_seconds(self) -> float:
        """Seconds on the device of all pairs together, without any start."""
        return sum(n * self._of["middle"][kind].device for kind, n in self._rows.items())

    @property
    def seconds_per_evaluation(self) -> float:
        """On the device, of one pair, fixed costs spread over the evaluations."""
        return self.device_seconds / self._evaluations

    def on(self, devices: int, price: float | None = None) -> dict[str, Any]:
        """The job on so many devices, JSON-ready: each figure with the ends of its spread.

        A device counts from its worker's start to the run's end, since a worker waits for the others. `price` is of one device-hour.
        """
        wall = {place: self._wall(place, devices * self._measured.per_device) for place in self._of}
        hours = {
            place: devices * (seconds - self._measured.ray) / 3600
            for place, seconds in wall.items()
        }
        out: dict[str, Any] = {"devices": devices}
        out |= _spread("device_hours", hours) | _spread("wall_seconds", wall)
        out |= {
            name: round(n)
            for name, n in _spread(
                "bytes", {place: self._bytes(place) for place in self._of}
            ).items()
        }
        out["evaluations_per_s"] = self._evaluations / wall["middle"]
        return out | (
            {}
            if price is None
            else _spread("money", {place: price * n for place, n in hours.items()})
        )

    def _each(self, kind: PairCost, place: str) -> _Each:
        def distance(other: PairCost) -> tuple[bool, float, float]:
            return (
                other != kind,
                abs(math.log(other.pixels / kind.pixels)),
                abs(other.work - kind.work),
            )

        near = min((s.kind for s in self._measured.samples), key=distance)
        found = [s for s in self._measured.samples if s.kind == near]
        larger = kind.work / near.work
        return _Each(
            larger * _end([s.device for s in found], place),
            kind.pixels / near.pixels * _end([s.host for s in found], place),
            self._row_bytes(kind, [s for s in found if s.settled], place),
        )

    def _row_bytes(self, kind: PairCost, settled: Sequence[SampleCost], place: str) -> float:
        if settled:
            return kind.pixels / settled[0].kind.pixels * _end([s.bytes for s in settled], place)
        share = {"low": 1 - UNSETTLED, "middle": 1.0, "high": 1 + UNSETTLED}[place]
        return share * kind.pixels * BYTES_PER_PIXEL[self._format] + CURVE_BYTES * kind.budget

    def _bytes(self, place: str) -> float:
        rows = sum(n * self._of[place][kind].bytes for kind, n in self._rows.items())
        return rows + self._measured.part_bytes * len(self._load.shards)

    def _wall(self, place: str, workers: int) -> float:
        of = self._of[place]
        seconds = [self._shard(mix, of) for mix in self._load.mixes]
        # What is hidden behind other shards is not for the first one's images and the last one's pictures.
        open_host = (
            0.0
            if self._measured.cpu
            else max((_sum(mix, of)[1] for mix in self._load.mixes), default=0.0)
        )
        fixed = self._measured.ray + self._measured.start + self._measured.warm_up + open_host
        return fixed + makespan((seconds[mix] for mix in self._load.shards), workers, self._depth)

    def _shard(self, mix: Mapping[PairCost, int], of: Mapping[PairCost, _Each]) -> float:
        device, host = _sum(mix, of)
        return device + host if self._measured.cpu else max(device, (device + host) / self._depth)


def _sum(mix: Mapping[PairCost, int], of: Mapping[PairCost, _Each]) -> tuple[float, float]:
    """Seconds of a shard on the device and off it."""
    return sum(n * of[kind].device for kind, n in mix.items()), sum(
        n * of[kind].host for kind, n in mix.items()
    )


def _end(values: Sequence[float], place: str) -> float:
    """The mean of `values`, or an end of their spread."""
    mean = sum(values) / len(values)
    return {
        "low": min(*values, (1 - SPREAD) * mean),
        "middle": mean,
        "high": max(*values, (1 + SPREAD) * mean),
    }[place]


def _spread(name: str, of: Mapping[str, float]) -> dict[str, float]:
    return {name: of["middle"], f"{name}_low": of["low"], f"{name}_high": of["high"]}
