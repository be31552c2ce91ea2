"""What driver and workers tell each other: the job, a shard's report, a worker's progress. Plain data, no torch: the driver stays small."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from nstray.config import JobConfig
from nstray.manifest.pair import ManifestInfo
from nstray.output.schema import part_schema


@dataclass(frozen=True)
class JobSpec:
    """What every worker needs to know of the job; travels once to each."""

    config: JobConfig
    out: str
    fingerprint: str
    weights_id: str
    info: ManifestInfo
    init: str  # content, noise, style, or the absolute URI of an image
    retry: tuple[
        str, ...
    ] = ()  # codes of the error rows that are made again; empty: an ordinary run
    cuts: tuple[
        int, ...
    ] = ()  # rows that the manifest had before each time it grew (`nstray.manifest.shards.cut_windows`)
    trial: bool = False  # parts are made and dropped: a probe
    run: str = field(default_factory=lambda: uuid.uuid4().hex)  # a name of this run alone

    @property
    def schema(self) -> pa.Schema:
        """The schema of the job's parts."""
        return part_schema(self.info.carried_schema)


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard: `won` is False where another driver's part was there first.

    `skipped`: the worker was draining before the shard reached the device; nothing was written.
    """

    window: int
    number: int
    rows: int
    ok: int
    errors: dict[str, int]
    evaluations: int
    seconds: float
    size: int
    won: bool = True
    skipped: bool = False
    footer: dict[str, Any] = field(default_factory=dict)
    example: str | None = None  # pair and reason of one of its error rows


@dataclass
class WorkerProgress:
    """What a worker is doing: `steps` grows with every piece of work done, so a worker whose steps stand still is stuck.

    Attributes:
        evaluations: forward + backward passes so far, times the pairs of each.
        stages: seconds spent by stage, see `nstray.worker.timing`.
        first, now: when the device first had work and when this was said, on the worker's own clock.
        pairs: what is on the device.
    """

    steps: int = 0
    evaluations: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    first: float | None = None
    now: float = 0.0
    pairs: tuple[str, ...] = ()

    @property
    def busy(self) -> float:
        """Seconds that the device has worked."""
        return self.stages.get("optimise", 0.0)
