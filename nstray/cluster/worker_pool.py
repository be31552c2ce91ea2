"""The workers of a job: as many as the cluster holds, looked at, buried, and kept off machines that are broken."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, cast

import ray
import ray.exceptions as rex

from nstray.cluster.policy import NodeHealth, ShardKey
from nstray.cluster.progress import Display
from nstray.cluster.ray_session import failed_node, lost_node, reason_of, shutdown_actors
from nstray.cluster.resources import Devices, devices
from nstray.cluster.worker_handle import WorkerHandle
from nstray.config import JobConfig
from nstray.errors import JobFailed, NstrayError
from nstray.worker.messages import WorkerProgress

POLL = 2.0  # seconds between looks at the workers
HEAD_GRACE = 10.0  # seconds without an answer from the cluster's head before that is said
NODE_GRACE = 30.0  # seconds for Ray to notice that a machine is gone
START_TRIES = 3  # workers in a row that fail to start before the job is given up


class WorkerPool:
    """The actors of a job, which follow the cluster as it grows and shrinks. Its methods run on the driver's loop and don't block.

    Args:
        create: makes one actor.
        display: told of everything.
        needed: whether further workers are wanted: there is or may be work, and the job is not stopping.
        begin: runs a coroutine that waits for an actor, which the cluster may never place.
        changed: called when a worker became ready.

    Attributes:
        slots: the workers, ready or not.
        deaths: of workers since one finished anything.
        nodes: what is known of the machines.
    """

    def __init__(
        self,
        config: JobConfig,
        create: Callable[[Devices], Any],
        display: Display,
        *,
        needed: Callable[[], bool],
        begin: Callable[[Any], None],
        changed: Callable[[], None],
    ) -> None:
        self.config = config
        self._create, self._display, self._tally = create, display, display.tally
        self._needed, self._begin, self._changed = needed, begin, changed
        self.slots: list[WorkerHandle] = []
        self.nodes = NodeHealth()
        self.deaths = self._most = 0
        self._buried_seconds = 0.0
        self._failed_starts = self._made = 0
        self._failed_nodes: set[str | None] = set()  # where workers failed to start since one did
        self._lost_nodes: set[str] = (
            set()
        )  # that went away with workers which were starting there, since one did start
        self._target: Devices | None = None
        self._buried_evaluations = 0
        self._not_before = 0.0  # when the next actor may be made, after one that failed to start

    def finished_something(self) -> None:
        """A worker has: what went wrong before is no longer in a row."""
        self.deaths = self._failed_starts = 0

    @property
    def devices(self) -> int:
        """The most that were in use at once."""
        return -(-self._most // (self._target.per_device if self._target else 1))

    @property
    def device_seconds(self) -> float:
        """How long workers have held their devices, loading included, added up."""
        return (self._buried_seconds + sum(map(_age, self.slots))) / (
            self._target.per_device if self._target else 1
        )

    def _remove(self, slot: WorkerHandle) -> None:
        self.slots.remove(slot)
        self._buried_seconds += _age(slot)

    async def look(self) -> None:
        """See what every worker has done so far."""
        await asyncio.gather(*(self._look(s) for s in list(self.slots) if s.ready))
        self._sum_up()

    async def watch(self) -> None:
        """Keep as many actors as the cluster holds, and look at what each is doing."""
        waiting_since = time.monotonic()
        while True:
            target = await self._answered(
                asyncio.create_task(
                    asyncio.to_thread(
                        devices, self.config, self._target, tuple(self.nodes.given_up)
                    )
                )
            )
            if self._target is None:
                kind = "gpu" if target.kind != "cpu" else f"cpu threads_per_worker={target.threads}"
                self._display.log(
                    f"event=devices kind={kind} workers={self.config.actors or target.count}"
                )
            self._target = target
            if target.without and not target.count and not target.draining:
                raise JobFailed(
                    f"no node is left: {'; '.join(f'{node} was given up: {why}' for node, why in self.nodes.given_up.items())}"
                )
            # At least one actor waits where every machine is gone: that is what an autoscaler sees as demand.
            wanted = self.config.actors or max(1, target.count)
            self._leave(target.draining)
            while (
                sum(not s.leaving for s in self.slots) < wanted
                and time.monotonic() >= self._not_before
                and self._needed()
            ):
                self._made += 1
                slot = WorkerHandle(f"stylist-{self._made}", self._create(target))
                self.slots.append(slot)
                self._begin(self._start(slot))
            await self.look()
            if any(s.ready for s in self.slots):
                waiting_since = time.monotonic()
            elif time.monotonic() - waiting_since > 60:
                self._display.log(
                    f"event=waiting workers=0 wanted={wanted} hint=no_free_resources_for_a_worker,_or_it_is_slow_to_load:_see_ray_status"
                )
                waiting_since = time.monotonic()
            await asyncio.sleep(POLL)

    async def _answered(self, asked: asyncio.Task[Devices]) -> Devices:
        """What the cluster's head answers; says so where it is silent. After a time of its own (60 s) Ray ends the process."""
        silent = not (await asyncio.wait({asked}, timeout=HEAD_GRACE))[0]
        if silent:
            self._display.log(
                f"event=head_silent seconds={HEAD_GRACE:g} hint=Ray_ends_this_run_if_its_head_stays_away,_with_exit_code_1;"
                "_what_is_committed_stays,_run_the_same_command_again_on_a_new_head_to_resume"
            )
        found = await asked
        if silent:
            self._display.log("event=head_answers")
        return found

    def _leave(self, draining: Collection[str]) -> None:
        """Workers on nodes that are about to go take nothing more, and end once they have finished what they had."""
        for slot in list(self.slots):
            if slot.ready and slot.node in draining and not slot.leaving:
                slot.leaving = True
                self._display.log(
                    f"event=worker_leaving worker={slot.name} reason=node_draining node={slot.node}"
                )
                slot.actor.drain.remote()
            elif slot.leaving and not slot.inflight and not slot.careful:
                self._retire(slot)
                self._display.log(f"event=worker_left worker={slot.name}")

    async def dismiss(self) -> None:
        """End all of them: the run is over."""
        for slot in self.slots:
            if not slot.ready:
                ray.kill(slot.actor)
        if ready := [s.actor for s in self.slots if s.ready]:
            await asyncio.to_thread(shutdown_actors, ready)

    def _retire(self, slot: WorkerHandle) -> None:
        """End a worker that has nothing on board."""
        self._remove(slot)
        self._buried_evaluations += slot.seen.evaluations
        ray.kill(slot.actor)

    async def _ready(self, slot: WorkerHandle) -> dict[str, Any]:
        """A new worker's answer. One that is only out of reach is asked again, until Ray knows whether its machine is gone."""
        deadline = math.inf
        while True:
            try:
                return cast(dict[str, Any], await slot.actor.ready.remote())
            except rex.ActorUnavailableError:
                deadline = min(deadline, time.monotonic() + NODE_GRACE)
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(POLL)

    async def _start(self, slot: WorkerHandle) -> None:
        try:
            where = await self._ready(slot)
        except Exception as error:
            if slot not in self.slots or not self._needed():
                return
            cause = getattr(error, "cause", None)
            self._remove(slot)
            ray.kill(slot.actor)  # alive where `ready` raised
            if (gone := await asyncio.to_thread(lost_node, error)) is not None:
                # That says nothing of the job. Machines, not workers, make the pause longer: one may take eight along.
                self._lost_nodes.add(gone)
                self._pause(len(self._lost_nodes))
                self._display.log(
                    f"event=start_lost worker={slot.name} node={gone} nodes_in_a_row={len(self._lost_nodes)} reason={reason_of(error)!r}"
                )
                return
            self._failed_starts += 1
            self._display.log(f"event=start_failed worker={slot.name} reason={reason_of(error)!r}")
            self._pause(self._failed_starts)
            # One bad machine is not the job's end while others work or may; where none does, the reason is the job's.
            node = await asyncio.to_thread(failed_node, error)
            self._failed_nodes.add(node)
            alone = not any(s.ready for s in self.slots) and not (
                len(self._failed_nodes) == 1 and await self._room_without(node)
            )
            counts = (
                node is not None
                and not alone
                and not any(s.ready and s.node == node for s in self.slots)
            )
            if node is not None and counts and self.nodes.did_not_start(node, reason_of(error)):
                self.give_up(node)
            if alone and isinstance(cause, NstrayError):
                raise cause from None
            if alone and self._failed_starts >= START_TRIES:
                raise JobFailed(
                    f"{START_TRIES} workers in a row failed to start; the last one: {reason_of(error)}"
                ) from None
            return
        self._failed_starts = 0
        self._failed_nodes.clear()
        self._lost_nodes.clear()
        if where["node"] in self.nodes.given_up:  # placed before its node was
            self._remove(slot)
            ray.kill(slot.actor)
            return
        slot.node, slot.host, slot.device = where["node"], where["host"], where["device"]
        slot.ready, slot.moved = True, time.monotonic()
        slot.born = slot.moved - where["seconds"]
        self._most = max(self._most, sum(s.ready for s in self.slots))
        self._display.log(
            f"event=worker_ready worker={slot.name} device={slot.device!r} node={slot.node} host={slot.host} pid={where['pid']}"
        )
        if slot.device == "cpu" and self._target is not None and self._target.kind != "cpu":
            self._display.log(
                f"event=gpu_not_used worker={slot.name} node={slot.node} reason=torch_there_sees_none hint=--device_cuda_forbids_it"
            )
        self._changed()

    def _pause(self, failures: int) -> None:
        """No further worker for a while, longer after every failure in a row."""
        self._not_before = time.monotonic() + min(60.0, 2.0 ** min(failures, 6))

    async def _room_without(self, node: str | None) -> bool:
        """Whether a worker fits a node other than this one."""
        if node is None:
            return False
        return bool(
            (
                await asyncio.to_thread(
                    devices, self.config, self._target, (*self.nodes.given_up, node)
                )
            ).count
        )

    async def _look(self, slot: WorkerHandle) -> None:
        """One poll of an actor; kills it where nothing has moved for the stall timeout while it had work."""
        try:
            now: WorkerProgress = await asyncio.wait_for(
                _awaited(slot.actor.progress.remote()), POLL * 2
            )
            if now.steps != slot.seen.steps:
                slot.moved = time.monotonic()
            slot.seen = now
        except TimeoutError:
            pass
        except rex.RayError as error:
            # With work on board the work's own task learns of it, and finds out who is to blame.
            if (
                slot in self.slots
                and isinstance(error, rex.ActorDiedError)
                and not slot.inflight
                and not slot.careful
            ):
                self._display.log(
                    f"event=worker_died worker={slot.name} part=none reason={reason_of(error)!r}"
                )
                await self.bury(slot, error)
        working = bool(slot.inflight or slot.careful)
        if (
            working
            and not slot.stalled
            and time.monotonic() - slot.moved > self.config.stall_timeout
        ):
            slot.stalled = True
            pairs = ",".join(slot.seen.pairs) or "none_on_the_device"
            self._display.log(
                f"event=stalled worker={slot.name} seconds={self.config.stall_timeout:g} pairs={pairs}"
            )
            ray.kill(slot.actor)

    def _sum_up(self) -> None:
        seen = [s.seen for s in self.slots if s.seen.first is not None]
        self._tally.workers = sum(s.ready for s in self.slots)
        self._tally.evaluations = self._buried_evaluations + sum(p.evaluations for p in seen)
        spans = sum(p.now - (p.first or p.now) for p in seen)
        self._tally.busy = min(1.0, sum(p.busy for p in seen) / spans) if spans > 1 else None

    async def bury(
        self, slot: WorkerHandle, error: Exception, aboard: Iterable[ShardKey] = ()
    ) -> bool:
        """Retire a dead actor, once, and the shards that it had `aboard`; True where its node is gone too, so that none is to blame."""
        if slot in self.slots:
            self._remove(slot)
            if slot.node:
                self.nodes.died(slot.node, aboard, reason_of(error))
            self._buried_evaluations += slot.seen.evaluations
            self.deaths += 1
            with contextlib.suppress(Exception):
                ray.kill(slot.actor)
            limit = 8 + 4 * max(1, self._target.count if self._target else 1)
            if self.deaths > limit:
                raise JobFailed(
                    f"{self.deaths} workers died in a row without finishing anything; the last one: {reason_of(error)}"
                )
        if slot.stalled:
            return False
        if getattr(error, "preempted", False) or slot.leaving or slot.node in self.nodes.given_up:
            return True
        # An actor that is only out of reach: its machine may be gone before Ray's health checks have said so.
        deadline = time.monotonic() + (
            NODE_GRACE if isinstance(error, rex.ActorUnavailableError) else 0.0
        )
        while True:
            if slot.node in await asyncio.to_thread(
                lambda: {n["NodeID"] for n in ray.nodes() if not n["Alive"]}
            ):
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL)

    def give_up(self, node: str) -> None:
        """Use a node no more: its workers end, and what they have on board goes back in line without blame."""
        self._display.log(f"event=node_given_up node={node} reason={self.nodes.given_up[node]!r}")
        for slot in [s for s in self.slots if s.node == node]:
            if slot.inflight or slot.careful:
                ray.kill(slot.actor)  # its work's own task buries it
            else:
                self._retire(slot)


def _age(slot: WorkerHandle) -> float:
    return 0.0 if slot.born is None else time.monotonic() - slot.born


async def _awaited(ref: Any) -> Any:
    return await ref
