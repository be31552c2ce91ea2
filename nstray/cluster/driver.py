"""The driver: keeps every actor fed, blames whom it must, and stops when told. One asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import ray.exceptions as rex

from nstray import plan
from nstray.cluster.actors import Devices, devices, node_of, short
from nstray.cluster.intake import next_window
from nstray.cluster.slot import Slot
from nstray.errors import AccessDenied, ErrorCode, JobFailed, NstrayError, OutputError, StorageError, Unreachable
from nstray.manifest import Manifest
from nstray.output import Output, PartInfo, read_footer
from nstray.patience import patiently
from nstray.plan import Shard
from nstray.progress import Display
from nstray.record import Counts, total
from nstray.schedule import KILLS, Backlog, Careful, Nodes, ShardKey, Strikes, Window, fuse_blown
from nstray.spec import JobSpec, Progress, ShardReport

T = TypeVar("T")
POLL = 2.0  # seconds between looks at the workers
LOW_WATER = 512  # shards in the backlog below which the next window is planned
HEAD_GRACE = 10.0  # seconds without an answer from the cluster's head before that is said
NODE_GRACE = 30.0  # seconds for Ray to notice that a machine is gone
START_TRIES = 3  # workers in a row that fail to start before the job is given up
STORAGE_TRIES = 3  # shards in a row whose part can't be written before the job is given up
RECENT_STYLES = 8  # styles a worker is taken to have cached


@dataclass
class Outcome:
    """How a run ended: `complete`, or stopped before the end and resumable; and what all committed parts add up to."""

    complete: bool
    counts: Counts


class Stopped(Exception):
    """The job is to end, and what it waits for can be looked up by the next run."""


class Driver:
    """Feeds shards to actors until every one is committed. One asyncio loop; nothing in it blocks.

    Args:
        spec, manifest, output: the job.
        create: makes one actor; a benchmark passes one whose actors do nothing.
        display: told of everything.
    """

    def __init__(self, spec: JobSpec, manifest: Manifest, output: Output, create: Callable[[Devices], Any], display: Display) -> None:
        self.spec, self.manifest, self.output = spec, manifest, output
        self.config = spec.config
        self._create, self._display, self._tally = create, display, display.tally
        self._backlog = Backlog()
        self._careful: list[Careful] = []
        self._strikes = Strikes()
        self._nodes = Nodes()
        self._windows: dict[int, Window] = {}
        self._slots: list[Slot] = []
        self._counts = Counts()
        self._fed = self._stopping = False
        self._failure: NstrayError | None = None
        self._blown: JobFailed | None = None  # too many error rows: the reason, raised once what runs has committed
        self._made_rows = 0
        self._made_errors: dict[str, int] = {}
        self._example: str | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()  # with a shard in their hands
        self._starts: set[asyncio.Task[None]] = set()  # waiting for an actor, which the cluster may never place
        self._deaths = self._failed_starts = self._storage_failures = self._made = 0
        self._failed_nodes: set[str | None] = set()  # where workers failed to start since one did
        self._target: Devices | None = None
        self._buried_evaluations = 0
        self._not_before = 0.0  # when the next actor may be made, after one that failed to start

    # the run

    async def run(self) -> Outcome:
        """Run to the end or to SIGTERM; raises JobFailed, ConfigError, StorageError, OutputError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        helpers = [asyncio.create_task(self._guarded(task())) for task in (self._feed, self._watch)]
        try:
            while not self._over():
                self._dispatch()
                self._display.show()
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), POLL)
        finally:
            for task in (left := [*helpers, *self._starts, *self._tasks]):
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for slot in self._slots:
                ray.kill(slot.actor)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        if reason := self._failure or self._blown:
            raise reason
        for window in self._windows.values():
            self._counts.merge(total(window.parts))
        return Outcome(complete=self._counts.rows == self.spec.info.rows and not self._windows, counts=self._counts)

    def _over(self) -> bool:
        # A task holds its shard until it is committed or back in line, its worker's burial included.
        return bool(self._failure) or (not self._tasks and (self._stopping or (self._fed and not self._backlog and not self._careful)))

    def _on_signal(self, number: int) -> None:
        if self._stopping:
            self._display.log("event=killed reason=second_signal")
            os._exit(4)
        self._drain(f"signal={signal.Signals(number).name}")

    def _drain(self, why: str) -> None:
        """Hand out nothing more; what runs will commit."""
        self._display.log(f"event=draining {why} hint=what_runs_will_commit,_run_the_same_command_again_to_resume")
        self._stopping = True
        self._backlog.clear()
        for slot in self._slots:
            if slot.ready:
                slot.actor.drain.remote()
        self._changed.set()

    def _spawn(self, work: Any, among: set[asyncio.Task[None]]) -> None:
        def finished(task: asyncio.Task[None]) -> None:
            among.discard(task)
            self._changed.set()

        task = asyncio.create_task(self._guarded(work))
        among.add(task)
        task.add_done_callback(finished)

    async def _guarded(self, work: Any) -> None:
        """Anything unforeseen ends the job with its reason, never silently."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Stopped:
            self._display.log("event=left reason=stopped_while_storage_was_out_of_reach")
        except NstrayError as error:
            self._failure = self._failure or error
        except Exception as error:
            logging.getLogger("nstray").exception("driver")
            self._failure = self._failure or JobFailed(f"the driver met {type(error).__name__}: {error}")
        self._changed.set()

    # planning

    async def _feed(self) -> None:
        """Windows in order: what is committed already is counted, the rest goes to the backlog."""
        windows = plan.windows(self.manifest.tables(self.spec.info))
        while not self._stopping:
            if len(self._backlog) >= LOW_WATER:
                await asyncio.sleep(0.05)
                continue
            found = await asyncio.to_thread(next_window, windows, self.spec, self.output, self._wait_on)
            if found is None:
                break
            if found.finished is not None:
                self._counts.merge(found.finished)
                self._resumed(found.finished)
                continue
            window = self._windows[found.number] = Window(len(found.shards), list(found.present.values()))
            self._resumed(total(window.parts))
            self._backlog.extend(s for s in found.shards if s.number not in found.present)
            if window.complete:
                await self._close(found.number)
            self._changed.set()
        self._fed = True
        self._changed.set()

    def _resumed(self, counts: Counts) -> None:
        self._tally.resumed += counts.rows
        self._tally.done += counts.rows
        for code, n in counts.errors.items():
            self._tally.errors[code] = self._tally.errors.get(code, 0) + n

    async def _stored(self, what: str, call: Callable[[], T]) -> T:
        """What `call` to storage returns, with patience, in a thread."""
        return await asyncio.to_thread(patiently, what, Unreachable, call, self._wait_on)

    def _wait_on(self) -> None:
        if self._stopping:
            raise Stopped

    async def _close(self, number: int) -> None:
        """A window whose parts are all there: its index is written and its parts need not be remembered."""
        window = self._windows[number]
        await self._stored(f"index of window {number}", lambda: self.output.write_index(number, window.parts))
        self._counts.merge(total(window.parts))
        del self._windows[number]

    # handing out

    def _dispatch(self) -> None:
        if self._stopping or self._failure:
            return
        for careful in list(self._careful):
            slot = next((s for s in self._candidates(careful) if not s.inflight), None)
            if slot is None:
                continue
            self._careful.remove(careful)
            slot.careful = True
            slot.moved = time.monotonic()
            self._spawn(self._run_careful(slot, careful), self._tasks)
        # While a shard waits for an actor of its own, one actor is left to run dry.
        spared = min(self._candidates(self._careful[0]), key=lambda s: len(s.inflight), default=None) if self._careful else None
        while self._backlog:
            open_slots = [s for s in self._slots if s.free and s is not spared and len(s.inflight) < self.config.depth]
            if not open_slots:
                return
            slot = min(open_slots, key=lambda s: len(s.inflight))
            shard = self._backlog.take(slot.recent)
            if not slot.inflight:
                slot.moved = time.monotonic()
            slot.inflight[shard.window, shard.number] = shard
            slot.recent.pop(shard.style_key, None)
            slot.recent[shard.style_key] = None
            if len(slot.recent) > RECENT_STYLES:
                slot.recent.pop(next(iter(slot.recent)))
            self._spawn(self._run(slot, shard), self._tasks)

    def _candidates(self, careful: Careful) -> list[Slot]:
        """Actors that may take a shard alone: where it has killed one, those on other nodes, as long as there are any."""
        elsewhere = [s for s in self._slots if s.ready and not s.stalled and s.node not in careful.nodes]
        return [s for s in elsewhere or self._slots if s.free]

    async def _run(self, slot: Slot, shard: Shard) -> None:
        try:
            report: ShardReport = await slot.actor.process.remote(shard, self._strikes.of(shard) + 1)
        except Exception as error:
            slot.inflight.pop((shard.window, shard.number), None)
            await self._run_failed(slot, shard, error)
        else:
            slot.inflight.pop((shard.window, shard.number), None)
            await self._done(slot, shard, report)

    async def _done(self, slot: Slot, shard: Shard, report: ShardReport, *, whole: bool = True) -> None:
        """A shard is committed; `whole` where it took no worker along in the end."""
        if report.skipped:
            return
        if whole and slot.node:
            for node in self._nodes.finished(slot.node, (shard.window, shard.number)):
                self._give_up(node)
        self._deaths = self._storage_failures = self._failed_starts = 0
        self._strikes.forget(shard)
        uri = self.output.data_uri(shard.name)
        if report.won:
            part = PartInfo(uri, report.size, report.rows, report.ok, report.errors, report.footer)
        else:
            self._display.log(f"event=lost_race part={shard.name} reason=another_driver_or_a_worker_that_died_since_committed_it")
            part = await self._stored(shard.name, lambda: read_footer(uri))
        window = self._windows[shard.window]
        window.parts.append(part)
        self._tally.done += part.rows
        for code, n in part.errors.items():
            self._tally.errors[code] = self._tally.errors.get(code, 0) + n
        if window.complete:
            await self._close(shard.window)
        self._judge(report)

    def _judge(self, report: ShardReport) -> None:
        """Stop handing out work where this run makes more error rows than `max_error_rate` explains; what runs still commits."""
        self._made_rows += report.rows
        for code, n in report.errors.items():
            self._made_errors[code] = self._made_errors.get(code, 0) + n
        self._example = report.example or self._example
        errors, allowed = sum(self._made_errors.values()), self.config.max_error_rate
        last = self._fed and not self._backlog and not self._careful
        if self._stopping or last or not fuse_blown(self._made_rows, errors, allowed):
            return
        codes = ", ".join(f"{n} {code}" for code, n in sorted(self._made_errors.items(), key=lambda item: -item[1]))
        self._blown = JobFailed(
            f"{errors} of the {self._made_rows} rows made so far are error rows ({codes}), far above the share of {allowed:g} allowed "
            f"(max_error_rate); the last: {self._example}. What is written stays. Mend the cause and run "
            "the same command again, then nstray retry OUT for the error rows; or raise --max-error-rate"
        )
        self._drain("reason=max_error_rate")

    # when things break

    async def _run_failed(self, slot: Slot, shard: Shard, error: Exception) -> None:
        cause = getattr(error, "cause", None)
        if isinstance(error, rex.RayTaskError) and isinstance(cause, OutputError | AccessDenied):
            raise cause
        if isinstance(error, rex.RayTaskError) and isinstance(cause, StorageError):
            self._storage_trouble(shard, cause)
            self._backlog.put_back(shard)
            return
        if self._stopping and not isinstance(error, rex.RayTaskError):
            await self._bury(slot, error)
            return
        blameless = False
        if not isinstance(error, rex.RayTaskError):
            blameless = await self._bury(slot, error, [(shard.window, shard.number), *slot.inflight])
        if blameless:
            self._display.log(f"event=retry part={shard.name} reason=node_lost")
            self._backlog.put_back(shard)
        elif self._strikes.add(shard):
            self._display.log(f"event=careful part={shard.name} reason={short(error)!r}")
            self._careful.append(Careful(shard, self._strikes.of(shard) + 1, time.time()))
        else:
            self._display.log(f"event=retry part={shard.name} reason={short(error)!r}")
            self._backlog.put_back(shard)

    def _storage_trouble(self, shard: Shard, cause: StorageError) -> None:
        """A worker has run out of patience with the store; the job does where several have, with nothing committed between."""
        self._storage_failures += 1
        if self._storage_failures >= STORAGE_TRIES:
            raise cause
        self._display.log(f"event=retry part={shard.name} reason=storage error={str(cause)!r}")

    async def _bury(self, slot: Slot, error: Exception, aboard: Iterable[ShardKey] = ()) -> bool:
        """Retire a dead actor, once, and the shards that it had `aboard`; True where its node is gone too, so that none is to blame."""
        if slot in self._slots:
            self._slots.remove(slot)
            if slot.node:
                self._nodes.died(slot.node, aboard, short(error))
            self._buried_evaluations += slot.seen.evaluations
            self._deaths += 1
            with contextlib.suppress(Exception):
                ray.kill(slot.actor)
            limit = 8 + 4 * max(1, self._target.count if self._target else 1)
            if self._deaths > limit:
                self._failure = JobFailed(f"{self._deaths} workers died in a row without finishing anything; the last one: {short(error)}")
        if slot.stalled:
            return False
        if getattr(error, "preempted", False) or slot.node in self._nodes.given_up:
            return True
        # An actor that is only out of reach: its machine may be gone before Ray's health checks have said so.
        deadline = time.monotonic() + (NODE_GRACE if isinstance(error, rex.ActorUnavailableError) else 0.0)
        while True:
            if slot.node in await asyncio.to_thread(lambda: {n["NodeID"] for n in ray.nodes() if not n["Alive"]}):
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL)

    def _give_up(self, node: str) -> None:
        """Use a node no more: its workers end, and what they have on board goes back in line without blame."""
        self._display.log(f"event=node_given_up node={node} reason={self._nodes.given_up[node]!r}")
        for slot in [s for s in self._slots if s.node == node]:
            if slot.inflight or slot.careful:
                ray.kill(slot.actor)
            else:
                self._slots.remove(slot)
                self._buried_evaluations += slot.seen.evaluations
                ray.kill(slot.actor)

    async def _run_careful(self, slot: Slot, careful: Careful) -> None:
        """Pair by pair, each named before it is touched, by an actor that does nothing else."""
        shard = careful.shard
        try:
            while (index := careful.next()) is not None:
                lost = careful.lost.get(index)
                careful.touching = None if lost else index
                slot.moved = time.monotonic()
                careful.rows[index] = await slot.actor.one.remote(shard, index, careful.attempt, lost)
                careful.touching = None
                self._deaths = 0
                if self._stopping:
                    return
            rows = [careful.rows[i] for i in range(shard.table.num_rows)]
            report = await slot.actor.commit_rows.remote(shard, rows, careful.started, careful.attempt)
        except rex.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, StorageError) and not isinstance(cause, AccessDenied):
                self._storage_trouble(shard, cause)
                careful.touching = None
                self._careful.append(careful)
                return
            if careful.touching is None or isinstance(cause, NstrayError):
                raise cause if isinstance(cause, NstrayError) else JobFailed(f"{shard.name}: {short(error)}") from None
            careful.lost[careful.touching] = (ErrorCode.INTERNAL.value, short(error))
            self._careful.append(careful)
        except rex.RayError as error:
            await self._careful_died(slot, careful, error)
        else:
            await self._done(slot, shard, report, whole=not careful.lost)
        finally:
            slot.careful = False

    async def _careful_died(self, slot: Slot, careful: Careful, error: Exception) -> None:
        pair = None if careful.touching is None else careful.shard.table["pair_id"][careful.touching].as_py()
        self._display.log(f"event=worker_died part={careful.shard.name} pair={pair} reason={short(error)!r}")
        if await self._bury(slot, error, [(careful.shard.window, careful.shard.number)]):
            careful.touching = None
        elif careful.next() is None:
            careful.commit_deaths += 1
            if careful.commit_deaths >= KILLS:
                raise JobFailed(f"{careful.shard.name}: writing it took its worker along {KILLS} times ({short(error)}); use a smaller shard_size")
        if careful.touching is not None and slot.node:
            careful.nodes.add(slot.node)
        careful.blame(stalled=slot.stalled, reason=short(error))
        self._careful.append(careful)

    # the workers

    async def _watch(self) -> None:
        """Keep as many actors as the cluster holds, and look at what each is doing."""
        waiting_since = time.monotonic()
        while True:
            target = await self._answered(asyncio.create_task(asyncio.to_thread(devices, self.config, self._target, tuple(self._nodes.given_up))))
            if self._target is None:
                kind = "gpu" if target.kind != "cpu" else f"cpu threads_per_worker={target.threads}"
                self._display.log(f"event=devices kind={kind} workers={self.config.actors or target.count}")
            self._target = target
            if target.without and not target.count:
                raise JobFailed(f"no node is left: {'; '.join(f'{node} was given up: {why}' for node, why in self._nodes.given_up.items())}")
            # At least one actor waits where every machine is gone: that is what an autoscaler sees as demand.
            wanted = self.config.actors or max(1, target.count)
            while len(self._slots) < wanted and time.monotonic() >= self._not_before and not self._stopping and not self._fed_and_done():
                self._made += 1
                slot = Slot(f"stylist-{self._made}", self._create(target))
                self._slots.append(slot)
                self._spawn(self._start(slot), self._starts)
            await asyncio.gather(*(self._look(s) for s in list(self._slots) if s.ready))
            self._sum_up()
            if any(s.ready for s in self._slots):
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

    def _fed_and_done(self) -> bool:
        return self._fed and not self._backlog and not self._careful and not self._windows

    async def _start(self, slot: Slot) -> None:
        try:
            where = await slot.actor.ready.remote()
        except Exception as error:
            if slot not in self._slots or self._stopping:
                return
            cause = getattr(error, "cause", None)
            self._failed_starts += 1
            self._slots.remove(slot)
            ray.kill(slot.actor)  # alive where `ready` raised
            self._display.log(f"event=start_failed worker={slot.name} reason={short(error)!r}")
            self._not_before = time.monotonic() + min(60.0, 2.0 ** min(self._failed_starts, 6))
            # One bad machine is not the job's end while others work or may; where none does, the reason is the job's.
            node = await asyncio.to_thread(node_of, error)
            self._failed_nodes.add(node)
            alone = not any(s.ready for s in self._slots) and not (len(self._failed_nodes) == 1 and await self._room_without(node))
            counts = node is not None and not alone and not any(s.ready and s.node == node for s in self._slots)
            if node is not None and counts and self._nodes.did_not_start(node, short(error)):
                self._give_up(node)
            if alone and isinstance(cause, NstrayError):
                raise cause from None
            if alone and self._failed_starts >= START_TRIES:
                raise JobFailed(f"{START_TRIES} workers in a row failed to start; the last one: {short(error)}") from None
            return
        self._failed_starts = 0
        self._failed_nodes.clear()
        if where["node"] in self._nodes.given_up:  # placed before its node was
            self._slots.remove(slot)
            ray.kill(slot.actor)
            return
        slot.node, slot.ready, slot.moved = where["node"], True, time.monotonic()
        self._display.log(f"event=worker_ready worker={slot.name} device={where['device']!r} pid={where['pid']}")
        self._changed.set()

    async def _room_without(self, node: str | None) -> bool:
        """Whether a worker fits a node other than this one."""
        if node is None:
            return False
        return bool((await asyncio.to_thread(devices, self.config, self._target, (*self._nodes.given_up, node))).count)

    async def _look(self, slot: Slot) -> None:
        """One poll of an actor; kills it where nothing has moved for the stall timeout while it had work."""
        try:
            now: Progress = await asyncio.wait_for(_awaited(slot.actor.progress.remote()), POLL * 2)
            if now.steps != slot.seen.steps:
                slot.moved = time.monotonic()
            slot.seen = now
        except TimeoutError:
            pass
        except rex.RayError as error:
            # With work on board the work's own task learns of it, and finds out who is to blame.
            if isinstance(error, rex.ActorDiedError) and not slot.inflight and not slot.careful:
                self._display.log(f"event=worker_died worker={slot.name} part=none reason={short(error)!r}")
                await self._bury(slot, error)
        working = bool(slot.inflight or slot.careful)
        if working and not slot.stalled and time.monotonic() - slot.moved > self.config.stall_timeout:
            slot.stalled = True
            pairs = ",".join(slot.seen.pairs) or "none_on_the_device"
            self._display.log(f"event=stalled worker={slot.name} seconds={self.config.stall_timeout:g} pairs={pairs}")
            ray.kill(slot.actor)

    def _sum_up(self) -> None:
        seen = [s.seen for s in self._slots if s.seen.first is not None]
        self._tally.workers = sum(s.ready for s in self._slots)
        self._tally.evaluations = self._buried_evaluations + sum(p.evaluations for p in seen)
        spans = sum(p.now - (p.first or p.now) for p in seen)
        self._tally.busy = min(1.0, sum(p.busy for p in seen) / spans) if spans > 1 else None


async def _awaited(ref: Any) -> Any:
    return await ref
