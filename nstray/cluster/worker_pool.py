"""The workers of a job: as many as the cluster has room for, polled, and replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import ray.exceptions as rex

from nstray.cluster.polling import pause, sum_up
from nstray.cluster.progress import Display
from nstray.cluster.ray_session import reason_of, shutdown_actors
from nstray.cluster.resources import Devices, dead_nodes, devices
from nstray.cluster.scheduling import NodeHealth, ShardKey
from nstray.cluster.start_failures import StartFailures
from nstray.cluster.worker_handle import WorkerHandle
from nstray.config import JobConfig
from nstray.errors import JobFailed
from nstray.manifest.shards import Shard
from nstray.output.live_status import WorkerStatus

POLL = 2.0  # seconds between two polls of the workers
HEAD_GRACE = 10.0  # seconds without an answer from the cluster's head before that is said
NODE_GRACE = 30.0  # seconds for Ray to notice that a machine is gone
WAITING_EVERY = 60.0  # seconds between two lines that say that no worker is ready


class WorkerPool:
    """The workers of a job; their number follows the cluster as it grows and shrinks.

    Methods run on the driver's event loop and don't block.

    Args:
        create: makes one actor.
        changed: set when a worker has become ready.
    """

    def __init__(
        self,
        config: JobConfig,
        create: Callable[[Devices], Any],
        display: Display,
        changed: asyncio.Event,
    ) -> None:
        self.config = config
        self._create, self._display, self._changed = create, display, changed
        self._job_progress = display.job_progress
        self._workers: list[WorkerHandle] = []
        self._nodes = NodeHealth()
        self._any_ready = asyncio.Event()
        self._growing = True
        self._target: Devices | None = None  # what the cluster had room for when it was asked last
        self._made = 0  # actors so far
        self._most = 0  # workers that were ready at once, at most
        # of workers that are gone
        self._past_seconds = 0.0
        self._past_evaluations = 0
        # of failures in a row
        self._deaths = 0
        self._start_failures = StartFailures(config, display, self._nodes)

    # what there is

    @property
    def ready(self) -> int:
        """Workers that have loaded the network."""
        return sum(w.ready for w in self._workers)

    @property
    def in_flight(self) -> int:
        """Shards that workers have."""
        return sum(w.shards for w in self._workers)

    @property
    def devices(self) -> int:
        """Devices in use at once, at most."""
        return -(-self._most // self._per_device)

    @property
    def device_seconds(self) -> float:
        """How long workers have held their devices, loading included, added up."""
        return (self._past_seconds + sum(w.age for w in self._workers)) / self._per_device

    @property
    def _per_device(self) -> int:
        return self._target.per_device if self._target else 1

    def statuses(self) -> tuple[WorkerStatus, ...]:
        """What `nstray status` shows of each worker."""
        return tuple(w.status(self._job_progress.shard_times) for w in self._workers)

    def free_workers(self, avoid: Collection[str] = ()) -> list[WorkerHandle]:
        """Workers that may be handed shards.

        Those on the nodes `avoid` are among them only if no worker is ready elsewhere.
        """
        if not avoid:  # asked for every shard that is handed out
            return [w for w in self._workers if w.free]
        elsewhere = [
            w
            for w in self._workers
            if w.ready and not w.stalled and not w.leaving and w.node not in avoid
        ]
        return [w for w in elsewhere or self._workers if w.free]

    # what the driver tells

    def note_finished(self, worker: WorkerHandle, shard: Shard, *, whole: bool) -> None:
        """A worker has finished a shard; `whole` if every pair of it ran in the end.

        What went wrong before is no longer in a row. Nodes whose faults this proves are excluded.
        """
        if whole and worker.node:
            for node in self._nodes.finished(worker.node, (shard.window, shard.number)):
                self._exclude(node)
        self._deaths = 0
        self._start_failures.note_finished()

    def note_pair(self) -> None:
        """A worker has finished a pair: the deaths before it are no longer in a row."""
        self._deaths = 0

    def stop_growing(self) -> None:
        """Start no further worker: there is no more work for one."""
        self._growing = False

    def drain(self) -> None:
        """Let every worker hand back what has not reached its device; start no further one."""
        self.stop_growing()
        for worker in self._workers:
            if worker.ready:
                worker.drain()

    async def shutdown(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if not worker.ready:
                worker.kill()
        if ready := [w.actor for w in self._workers if w.ready]:
            await asyncio.to_thread(shutdown_actors, ready)

    async def remove_dead(
        self, worker: WorkerHandle, error: Exception, in_flight: Iterable[ShardKey] = ()
    ) -> bool:
        """Remove a dead worker. Returns True if its node was lost; then no shard is blamed.

        Raises JobFailed if too many workers have died in a row.

        Args:
            error: what a call to it has raised.
            in_flight: the shards that it had.
        """
        if worker in self._workers:
            self._remove(worker)
            if worker.node:
                self._nodes.died(worker.node, in_flight, reason_of(error))
            self._past_evaluations += worker.latest.evaluations
            self._deaths += 1
            with contextlib.suppress(Exception):
                worker.kill()
            if self._deaths > 8 + 4 * max(1, self._target.count if self._target else 1):
                raise JobFailed(
                    f"{self._deaths} workers died in a row without finishing anything; "
                    f"the last one: {reason_of(error)}"
                )
        if worker.stalled:
            return False
        excluded = worker.node in self._nodes.excluded
        if getattr(error, "preempted", False) or worker.leaving or excluded:
            return True
        # A worker that is only out of reach may be on a machine that is gone, before Ray's health
        # checks have said so.
        unavailable = isinstance(error, rex.ActorUnavailableError)
        deadline = time.monotonic() + (NODE_GRACE if unavailable else 0.0)
        while True:
            if worker.node in await asyncio.to_thread(dead_nodes):
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL)

    # following the cluster

    async def watch(self) -> None:
        """Keep as many workers as the cluster has room for, and poll them.

        Never returns. Raises what ends the job: JobFailed, or what keeps workers from starting.
        """
        try:
            async with asyncio.TaskGroup() as starts:
                await self._follow_cluster(starts)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _follow_cluster(self, starts: asyncio.TaskGroup) -> None:
        waiting_since = time.monotonic()
        while True:
            target = await self._ask_cluster()
            if self._target is None:
                about: dict[str, object] = {"kind": "gpu"}
                if target.kind == "cpu":
                    about = {"kind": "cpu", "threads_per_worker": target.threads}
                self._display.log_event(
                    "devices", **about, workers=self.config.actors or target.count
                )
            self._target = target
            if target.excluded and not target.count and not target.draining:
                reasons = "; ".join(
                    f"{node} was given up: {why}" for node, why in self._nodes.excluded.items()
                )
                raise JobFailed(f"no node is left: {reasons}")
            # If every machine is gone, one actor waits: an autoscaler sees it as demand.
            wanted = self.config.actors or max(1, target.count)
            self._leave(target.draining)
            while (
                sum(not w.leaving for w in self._workers) < wanted
                and time.monotonic() >= self._start_failures.not_before
                and self._growing
            ):
                self._made += 1
                worker = WorkerHandle(f"worker-{self._made}", self._create(target))
                self._workers.append(worker)
                starts.create_task(self._start(worker))
            await self.poll()
            if self.ready:
                waiting_since = time.monotonic()
            elif time.monotonic() - waiting_since > WAITING_EVERY:
                self._display.log_event(
                    "waiting",
                    workers=0,
                    wanted=wanted,
                    hint="no free resources for a worker, or it is slow to load: see ray status",
                )
                waiting_since = time.monotonic()
            await self._poll_until_asked()

    async def _ask_cluster(self) -> Devices:
        """What the cluster has room for now; says so if its head is silent.

        Ray ends the process of a driver after a time of its own (60 s) without an answer.
        """
        excluded = tuple(self._nodes.excluded)
        asked = asyncio.create_task(asyncio.to_thread(devices, self.config, self._target, excluded))
        silent = not (await asyncio.wait({asked}, timeout=HEAD_GRACE))[0]
        if silent:
            self._display.log_event(
                "head_silent",
                seconds=f"{HEAD_GRACE:g}",
                hint="Ray ends this run if its head stays away, with exit code 1; what is "
                "committed stays; run the same command again on a new head to resume",
            )
        found = await asked
        if silent:
            self._display.log_event("head_answers")
        return found

    def _leave(self, draining: Collection[str]) -> None:
        """End the workers on nodes that are about to go, once they have finished what they had."""
        for worker in list(self._workers):
            if worker.ready and worker.node in draining and not worker.leaving:
                worker.leaving = True
                self._display.log_event(
                    "worker_leaving", worker=worker.name, reason="node_draining", node=worker.node
                )
                worker.drain()
            elif worker.leaving and not worker.shards:
                self._retire(worker)
                self._display.log_event("worker_left", worker=worker.name)

    def _exclude(self, node: str) -> None:
        """Use a node no more: its workers end, and what they have is put back without blame."""
        self._display.log_event("node_given_up", node=node, reason=self._nodes.excluded[node])
        for worker in [w for w in self._workers if w.node == node]:
            if worker.shards:
                worker.kill()  # the task that waits for its work removes it
            else:
                self._retire(worker)

    def _retire(self, worker: WorkerHandle) -> None:
        """End a worker that has no shard."""
        self._remove(worker)
        self._past_evaluations += worker.latest.evaluations
        worker.kill()

    def _remove(self, worker: WorkerHandle) -> None:
        self._workers.remove(worker)
        self._past_seconds += worker.age

    # polling

    async def poll(self) -> None:
        """Ask every worker what it has done so far."""
        await asyncio.gather(*(self._poll(w) for w in list(self._workers) if w.ready))
        self._job_progress.workers = self.ready
        sum_up(self._job_progress, self._workers, self._past_evaluations)

    async def _poll(self, worker: WorkerHandle) -> None:
        """Poll one worker; kill it if its work has stood still for the stall timeout."""
        try:
            now = await asyncio.wait_for(worker.progress(), POLL * 2)
            if now.steps != worker.latest.steps:
                worker.moved = time.monotonic()
            worker.latest = now
        except TimeoutError:
            pass
        except rex.RayError as error:
            # If it has a shard, the shard's own task learns of the death and decides what is to
            # blame.
            died = isinstance(error, rex.ActorDiedError)
            if worker in self._workers and died and not worker.shards:
                self._display.log_event(
                    "worker_died", worker=worker.name, part="none", reason=reason_of(error)
                )
                await self.remove_dead(worker, error)
        quiet = time.monotonic() - worker.moved
        if worker.shards and not worker.stalled and quiet > self.config.stall_timeout:
            worker.stalled = True
            self._display.log_event(
                "stalled",
                worker=worker.name,
                seconds=f"{self.config.stall_timeout:g}",
                pairs=",".join(worker.latest.pairs) or "none_on_the_device",
            )
            worker.kill()

    async def _poll_until_asked(self) -> None:
        """Poll until it is time to ask the cluster again: often while workers are few."""
        until = time.monotonic() + POLL
        while (left := until - time.monotonic()) > 0:
            await pause(self._any_ready, self._job_progress, self.ready, left)
            await self.poll()
            self._display.show()

    # starting

    async def _start(self, worker: WorkerHandle) -> None:
        """Wait for a new worker, which the cluster may never place.

        Raises what ends the job: workers in a row failed to start, and none works.
        """
        try:
            about = await self._until_ready(worker)
        except Exception as error:
            if worker in self._workers and self._growing:
                self._remove(worker)
                worker.kill()  # it lives if `ready` raised
                node = await self._start_failures.add(worker, error, self._workers, self._target)
                if node is not None:
                    self._exclude(node)
            return
        self._start_failures.note_started()
        if about["node"] in self._nodes.excluded:  # it was placed before its node was excluded
            self._remove(worker)
            worker.kill()
            return
        worker.node, worker.host, worker.device = about["node"], about["host"], about["device"]
        worker.ready, worker.moved = True, time.monotonic()
        worker.born = worker.moved - about["seconds"]
        self._most = max(self._most, self.ready)
        self._job_progress.begin_work()
        self._any_ready.set()
        self._display.log_event(
            "worker_ready",
            worker=worker.name,
            device=worker.device,
            node=worker.node,
            host=worker.host,
            pid=about["pid"],
        )
        if worker.device == "cpu" and self._target is not None and self._target.kind != "cpu":
            self._display.log_event(
                "gpu_not_used",
                worker=worker.name,
                node=worker.node,
                reason="torch_there_sees_none",
                hint="--device cuda forbids it",
            )
        self._changed.set()

    async def _until_ready(self, worker: WorkerHandle) -> dict[str, Any]:
        """What a new worker says of itself.

        A worker that is only out of reach is asked again, until Ray knows whether its machine is
        gone.
        """
        deadline = math.inf
        while True:
            try:
                return await worker.start()
            except rex.ActorUnavailableError:
                deadline = min(deadline, time.monotonic() + NODE_GRACE)
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(POLL)
