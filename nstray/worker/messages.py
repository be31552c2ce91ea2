"""What driver and workers tell each other: the job, a shard's report, a worker's progress.

Plain data without torch: so the driver stays small.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from nstray.config import JobConfig
from nstray.manifest.pair import ManifestInfo
from nstray.manifest.shards import BY_STYLE
from nstray.output.schema import part_schema

# Pixels that the fixed cost of an evaluation stands for: with the compact network 256 x 192 pixels
# took 51.9 ms and 512 x 384 took 183.2 ms on two CPU cores (scripts/results/compact-cpu.txt).
FIXED_PIXELS = 9_000


@dataclass(frozen=True)
class JobSpec:
    """What every worker needs to know of the job; sent once to each.

    Attributes:
        init: content, noise, style, or the absolute URI of an image.
        retry: codes of the error rows that are made again; empty for an ordinary run.
        cuts: as `nstray.manifest.shards.cut_windows` takes them.
        order: of rows in a window, as `nstray.manifest.shards.cut_shards` takes it.
        base: the folder that the manifest's relative paths start from now.
        carried_changed: whether parts may hold other carried values than the manifest does now.
        trial: parts are made and dropped, for a probe.
        run: a name of this run alone.
        begun: ``created_at`` of the job's record as the driver sees it; None before there is one.
    """

    config: JobConfig
    out: str
    fingerprint: str
    weights_id: str
    info: ManifestInfo
    init: str
    retry: tuple[str, ...] = ()
    cuts: tuple[int, ...] = ()
    order: str = BY_STYLE
    base: str = ""
    carried_changed: bool = False
    trial: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    begun: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """The schema of the job's parts."""
        return part_schema(self.info.carried_schema)


@dataclass(frozen=True)
class ShardReport:
    """What became of one shard.

    Attributes:
        seconds: device-seconds.
        size: bytes of the part.
        won: False if another driver's part was there first.
        skipped: the worker was draining before the shard reached the device; nothing was written.
        footer: of the part.
        example: pair and reason of one of its error rows.
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
    example: str | None = None


@dataclass
class WorkerProgress:
    """What a worker is doing.

    Attributes:
        steps: grows with every piece of work, so a worker whose steps stand still is stuck.
        evaluations: forward + backward passes so far, times the pairs of each.
        phase_seconds: seconds by phase, see `nstray.worker.timing`.
        first: when the device first had work, on the worker's own clock.
        now: when this was said, on the same clock.
        pairs: what is on the device.
        worked: pairs' worth of work so far, the parts of pairs included.
        under_way: those of the shard that is on the device; 0 between two shards.
        stage: the stage of what is on the device, and how many there are; None before the first
            evaluation.
    """

    steps: int = 0
    evaluations: int = 0
    worked: float = 0.0
    under_way: float = 0.0
    stage: tuple[int, int] | None = None
    phase_seconds: dict[str, float] = field(default_factory=dict)
    first: float | None = None
    now: float = 0.0
    pairs: tuple[str, ...] = ()

    @property
    def busy(self) -> float:
        """Seconds that the device has worked."""
        return self.phase_seconds.get("optimise", 0.0)
