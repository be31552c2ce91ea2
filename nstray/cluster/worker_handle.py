"""A worker as the driver sees it: what it has, what it says, and the calls to its actor."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, cast

import ray

from nstray.cluster.eta import ShardTimes
from nstray.cluster.scheduling import ShardKey
from nstray.manifest.shards import Shard
from nstray.output.live_status import WorkerState, WorkerStatus
from nstray.worker.messages import ShardReport, WorkerProgress

RECENT_STYLES = 8  # styles a worker is taken to have cached


@dataclass(eq=False)
class WorkerHandle:
    """A worker as the driver sees it.

    Attributes:
        node, host, device: Ray's id of its node, its name, its device; None before it is ready.
        isolated: the shard that it runs pair by pair; it then has no other.
        in_flight: the shards that it has otherwise; it works on the first one.
        recent_styles: styles that it is taken to have cached, the latest last.
        latest: what it said last.
        moved: when its work moved on last. since: when it turned to the shard that it works on.
        stalled: it was killed, because its work stood still.
        leaving: its node is about to go. It finishes what is on its device and takes nothing more.
        born: when its process began; None before it is ready. All times are of time.monotonic.
    """

    name: str
    actor: Any
    node: str | None = None
    host: str | None = None
    device: str | None = None
    ready: bool = False
    isolated: Shard | None = None
    in_flight: dict[ShardKey, Shard] = field(default_factory=dict)
    recent_styles: dict[tuple[str, ...], None] = field(default_factory=dict)
    latest: WorkerProgress = field(default_factory=WorkerProgress)
    moved: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.monotonic)
    stalled: bool = False
    leaving: bool = False
    born: float | None = None

    # what it has

    @property
    def free(self) -> bool:
        """Whether it may be handed shards."""
        return self.ready and not self.isolated and not self.stalled and not self.leaving

    @property
    def shards(self) -> int:
        """How many shards it has."""
        return len(self.in_flight) + bool(self.isolated)

    @property
    def current(self) -> Shard | None:
        """The shard that it works on."""
        return self.isolated or next(iter(self.in_flight.values()), None)

    @property
    def age(self) -> float:
        """Seconds since its process began; 0 before it is ready."""
        return 0.0 if self.born is None else time.monotonic() - self.born

    @property
    def state(self) -> WorkerState:
        """What it is doing, in a word."""
        if not self.ready:
            return "starting"
        if self.stalled:
            return "stalled"
        if self.leaving:
            return "leaving"
        return "busy" if self.current else "idle"

    def status(self, shard_times: ShardTimes) -> WorkerStatus:
        """What `nstray status` shows of it; `shard_times` tell whether it is a straggler."""
        shard, now = self.current, time.monotonic()
        return WorkerStatus(
            name=self.name,
            state=self.state,
            node=self.node,
            host=self.host,
            device=self.device,
            evaluations=self.latest.evaluations,
            part=None if shard is None else shard.name,
            rows=None if shard is None else shard.table.num_rows,
            seconds=None if shard is None else now - self.since,
            quiet=None if shard is None else now - self.moved,
            pairs=self.latest.pairs,
            straggler=shard is not None and shard_times.straggles(now - self.since),
        )

    def assign(self, shard: Shard) -> None:
        """Count a shard as in flight."""
        if not self.in_flight:
            self.moved = self.since = time.monotonic()
        self.in_flight[shard.window, shard.number] = shard
        self.recent_styles.pop(shard.style_key, None)
        self.recent_styles[shard.style_key] = None
        if len(self.recent_styles) > RECENT_STYLES:
            self.recent_styles.pop(next(iter(self.recent_styles)))

    def assign_isolated(self, shard: Shard) -> None:
        """Count a shard as run pair by pair."""
        self.isolated = shard
        self.moved = self.since = time.monotonic()

    def release(self, shard: Shard) -> None:
        """Count a shard as in flight no more."""
        self.in_flight.pop((shard.window, shard.number), None)

    def turn_to_next(self) -> float:
        """End the shard that it worked on; returns the seconds that it took."""
        now = time.monotonic()
        took, self.since = now - self.since, now
        return took

    # calls to its actor: each raises what Ray raises

    async def start(self) -> dict[str, Any]:
        """See `WorkerActor.ready`."""
        return cast(dict[str, Any], await self.actor.ready.remote())

    async def progress(self) -> WorkerProgress:
        """See `Worker.progress`."""
        return cast(WorkerProgress, await self.actor.progress.remote())

    async def process(self, shard: Shard, attempt: int) -> ShardReport:
        """See `Worker.process`."""
        return cast(ShardReport, await self.actor.process.remote(shard, attempt))

    async def process_single(
        self, shard: Shard, index: int, attempt: int, lost: tuple[str, str] | None
    ) -> dict[str, Any]:
        """See `WorkerActor.process_single`."""
        row = await self.actor.process_single.remote(shard, index, attempt, lost)
        return cast(dict[str, Any], row)

    async def commit_isolated(
        self, shard: Shard, rows: list[dict[str, Any]], started: float, attempt: int
    ) -> ShardReport:
        """See `Worker.commit_isolated`."""
        report = await self.actor.commit_isolated.remote(shard, rows, started, attempt)
        return cast(ShardReport, report)

    def drain(self) -> None:
        """See `Worker.drain`; does not wait for it."""
        self.actor.drain.remote()

    def kill(self) -> None:
        """End its process."""
        ray.kill(self.actor)
