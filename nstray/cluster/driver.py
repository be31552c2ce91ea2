"""The driver: keeps every actor fed, blames whom it must, and stops when told. One asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray.exceptions as rex

from nstray.cluster import worker_pool
from nstray.cluster.policy import (
    MAX_DEATHS,
    Backlog,
    ErrorRateBreaker,
    FailureCounter,
    IsolatedShard,
    Window,
)
from nstray.cluster.progress import Display
from nstray.cluster.ray_session import reason_of
from nstray.cluster.reporter import Reporter
from nstray.cluster.resources import Devices
from nstray.cluster.resume import pending_windows
from nstray.cluster.worker_handle import WorkerHandle
from nstray.cluster.worker_pool import WorkerPool
from nstray.errors import (
    AccessDenied,
    ErrorCode,
    JobFailed,
    NstrayError,
    OutputError,
    StorageError,
    Unreachable,
)
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import Shard, cut_windows
from nstray.output.folder import Output
from nstray.output.part import read_footer
from nstray.output.records import Counts, PartInfo, total
from nstray.storage.backoff import retry
from nstray.worker.messages import JobSpec, ShardReport

T = TypeVar("T")
LOW_WATER = 512  # shards in the backlog below which the next window is planned
STORAGE_TRIES = 3  # shards in a row whose part can't be written before the job is given up
RECENT_STYLES = 8  # styles a worker is taken to have cached


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        complete: every part is there; else it was stopped before the end and is resumable.
        counts: what all committed parts add up to; `before`, those that were there when it began and stayed.
        devices: the most in use at once. device_seconds: that workers held them, loading included, added up.
    """

    complete: bool
    counts: Counts
    before: Counts = field(default_factory=Counts)
    devices: int = 0
    device_seconds: float = 0.0


class Stopped(Exception):
    """The job is to end, and what it waits for can be looked up by the next run."""


class Driver:
    """Feeds shards to actors until every one is committed. One asyncio loop; nothing in it blocks.

    Args:
        spec, manifest, output: the job.
        create: makes one actor; a benchmark passes one whose actors do nothing.
        display: told of everything.
    """

    def __init__(
        self,
        spec: JobSpec,
        manifest: Manifest,
        output: Output,
        create: Callable[[Devices], Any],
        display: Display,
    ) -> None:
        self.spec, self.manifest, self.output = spec, manifest, output
        self.config = spec.config
        self._display, self._tally = display, display.tally
        self._crew = WorkerPool(
            spec.config,
            create,
            display,
            needed=lambda: not self._stopping and not self._fed_and_done(),
            begin=lambda work: self._spawn(work, self._starts),
            changed=lambda: self._changed.set(),
        )
        self._backlog = Backlog()
        self._careful: list[IsolatedShard] = []
        self._strikes = FailureCounter()
        self._windows: dict[int, Window] = {}
        self._counts, self._before = Counts(), Counts()
        self._fed = self._stopping = False
        self._failure: NstrayError | None = None
        self._blown: JobFailed | None = (
            None  # too many error rows: the reason, raised once what runs has committed
        )
        self._fuse = ErrorRateBreaker(spec.config.max_error_rate)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()  # with a shard in their hands
        self._starts: set[asyncio.Task[None]] = (
            set()
        )  # waiting for an actor, which the cluster may never place
        self._storage_failures = 0
        self._beacon = Reporter(
            output, self._crew, display, waiting=lambda: len(self._backlog) + len(self._careful)
        )

    # the run

    async def run(self) -> Outcome:
        """Run to the end or to SIGTERM; raises JobFailed, ConfigError, StorageError, OutputError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        helpers = [
            asyncio.create_task(self._guarded(task()))
            for task in (self._feed, self._crew.watch, self._beacon.watch)
        ]
        try:
            while not self._over():
                self._dispatch()
                self._display.show()
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), worker_pool.POLL)
            with contextlib.suppress(
                JobFailed
            ):  # for what was done since the last look; all that was to be committed is
                await self._crew.look()
            devices, device_seconds = self._crew.devices, self._crew.device_seconds
        finally:
            for task in (left := [*helpers, *self._starts, *self._tasks]):
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self._crew.dismiss()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            self._beacon.end()
        if reason := self._failure or self._blown:
            raise reason
        for window in self._windows.values():
            self._counts.merge(total(window.parts))
        complete = self._counts.rows == self.spec.info.rows and not self._windows
        return Outcome(complete, self._counts, self._before, devices, device_seconds)

    def _over(self) -> bool:
        # A task holds its shard until it is committed or back in line, its worker's burial included.
        return bool(self._failure) or (
            not self._tasks
            and (self._stopping or (self._fed and not self._backlog and not self._careful))
        )

    def _on_signal(self, number: int) -> None:
        if self._stopping:
            self._display.log("event=killed reason=second_signal")
            os._exit(4)
        self._drain(f"signal={signal.Signals(number).name}")

    def _drain(self, why: str) -> None:
        """Hand out nothing more; what runs will commit."""
        self._display.log(
            f"event=draining {why} hint=what_runs_will_commit,_run_the_same_command_again_to_resume"
        )
        self._stopping = True
        self._backlog.clear()
        for slot in self._crew.slots:
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
            self._failure = self._failure or JobFailed(
                f"the driver met {type(error).__name__}: {error}"
            )
        self._changed.set()

    def _fed_and_done(self) -> bool:
        return self._fed and not self._backlog and not self._careful and not self._windows

    # planning

    async def _feed(self) -> None:
        """Windows in order: what is committed already is counted, the rest goes to the backlog."""
        windows = cut_windows(self.manifest.tables(self.spec.info), self.spec.cuts)
        looked_at = pending_windows(windows, self.spec, self.output, self._wait_on)
        while not self._stopping:
            if len(self._backlog) >= LOW_WATER:
                await asyncio.sleep(0.05)
                continue
            found = await asyncio.to_thread(next, looked_at, None)
            if found is None:
                break
            if found.finished is not None:
                self._counts.merge(found.finished)
                self._resumed(found.finished)
                continue
            window = self._windows[found.number] = Window(
                len(found.shards), list(found.present.values())
            )
            self._resumed(total(window.parts))
            self._backlog.extend(s for s in found.shards if s.number not in found.present)
            if window.complete:
                await self._close(found.number)
            self._changed.set()
        self._fed = True
        self._changed.set()

    def _resumed(self, counts: Counts) -> None:
        self._before.merge(counts)
        self._tally.resumed += counts.rows
        self._tally.done += counts.rows
        for code, n in counts.errors.items():
            self._tally.errors[code] = self._tally.errors.get(code, 0) + n

    async def _stored(self, what: str, call: Callable[[], T]) -> T:
        """What `call` to storage returns, with patience, in a thread."""
        return await asyncio.to_thread(retry, what, Unreachable, call, self._wait_on)

    def _wait_on(self) -> None:
        if self._stopping:
            raise Stopped

    async def _close(self, number: int) -> None:
        """A window whose parts are all there: its index is written and its parts need not be remembered."""
        window = self._windows[number]
        await self._stored(
            f"index of window {number}", lambda: self.output.indexes.write(number, window.parts)
        )
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
            slot.careful = careful.shard
            slot.moved = slot.since = time.monotonic()
            self._spawn(self._run_careful(slot, careful), self._tasks)
        # While a shard waits for an actor of its own, one actor is left to run dry.
        spared = (
            min(self._candidates(self._careful[0]), key=lambda s: len(s.inflight), default=None)
            if self._careful
            else None
        )
        while self._backlog:
            open_slots = [
                s
                for s in self._crew.slots
                if s.free and s is not spared and len(s.inflight) < self.config.depth
            ]
            if not open_slots:
                return
            slot = min(open_slots, key=lambda s: len(s.inflight))
            shard = self._backlog.take(slot.recent)
            if not slot.inflight:
                slot.moved = slot.since = time.monotonic()
            slot.inflight[shard.window, shard.number] = shard
            slot.recent.pop(shard.style_key, None)
            slot.recent[shard.style_key] = None
            if len(slot.recent) > RECENT_STYLES:
                slot.recent.pop(next(iter(slot.recent)))
            self._spawn(self._run(slot, shard), self._tasks)

    def _candidates(self, careful: IsolatedShard) -> list[WorkerHandle]:
        """Actors that may take a shard alone: where it has killed one, those on other nodes, as long as there are any."""
        elsewhere = [
            s
            for s in self._crew.slots
            if s.ready and not s.stalled and not s.leaving and s.node not in careful.nodes
        ]
        return [s for s in elsewhere or self._crew.slots if s.free]

    async def _run(self, slot: WorkerHandle, shard: Shard) -> None:
        try:
            report: ShardReport = await slot.actor.process.remote(
                shard, self._strikes.of(shard) + 1
            )
        except Exception as error:
            slot.inflight.pop((shard.window, shard.number), None)
            slot.turn_to_next()
            await self._run_failed(slot, shard, error)
        else:
            slot.inflight.pop((shard.window, shard.number), None)
            await self._done(slot, shard, report)

    async def _done(
        self, slot: WorkerHandle, shard: Shard, report: ShardReport, *, whole: bool = True
    ) -> None:
        """A shard is committed; `whole` where it took no worker along in the end."""
        if report.skipped:  # its worker's node is about to go, or the job stops
            if not self._stopping:
                self._backlog.put_back(shard)
            return
        if whole and slot.node:
            for node in self._crew.nodes.finished(slot.node, (shard.window, shard.number)):
                self._crew.give_up(node)
        self._crew.finished_something()
        self._storage_failures = 0
        self._strikes.forget(shard)
        uri = self.output.data_uri(shard.name)
        took = slot.turn_to_next()
        if report.won:
            self._beacon.committed(slot, shard, report, took)
            part = PartInfo(uri, report.size, report.rows, report.ok, report.errors, report.footer)
        else:
            self._display.log(
                f"event=lost_race part={shard.name} reason=another_driver_or_a_worker_that_died_since_committed_it"
            )
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
        self._fuse.add(report.rows, report.errors, report.example)
        last = self._fed and not self._backlog and not self._careful
        if self._stopping or last or not self._fuse.blown:
            return
        self._blown = JobFailed(str(self._fuse))
        self._drain("reason=max_error_rate")

    # when things break

    async def _run_failed(self, slot: WorkerHandle, shard: Shard, error: Exception) -> None:
        cause = getattr(error, "cause", None)
        if isinstance(error, rex.RayTaskError) and isinstance(cause, OutputError | AccessDenied):
            raise cause
        if isinstance(error, rex.RayTaskError) and isinstance(cause, StorageError):
            self._storage_trouble(shard, cause)
            self._backlog.put_back(shard)
            return
        if self._stopping and not isinstance(error, rex.RayTaskError):
            await self._crew.bury(slot, error)
            return
        blameless = False
        if not isinstance(error, rex.RayTaskError):
            blameless = await self._crew.bury(
                slot, error, [(shard.window, shard.number), *slot.inflight]
            )
        if blameless:
            self._display.log(f"event=retry part={shard.name} reason=node_lost")
            self._backlog.put_back(shard)
        elif self._strikes.add(shard):
            self._display.log(f"event=careful part={shard.name} reason={reason_of(error)!r}")
            self._careful.append(IsolatedShard(shard, self._strikes.of(shard) + 1, time.time()))
        else:
            self._display.log(f"event=retry part={shard.name} reason={reason_of(error)!r}")
            self._backlog.put_back(shard)

    def _storage_trouble(self, shard: Shard, cause: StorageError) -> None:
        """A worker has run out of patience with the store; the job does where several have, with nothing committed between."""
        self._storage_failures += 1
        if self._storage_failures >= STORAGE_TRIES:
            raise cause
        self._display.log(f"event=retry part={shard.name} reason=storage error={str(cause)!r}")

    async def _run_careful(self, slot: WorkerHandle, careful: IsolatedShard) -> None:
        """Pair by pair, each named before it is touched, by an actor that does nothing else."""
        shard = careful.shard
        try:
            while (index := careful.next()) is not None:
                lost = careful.lost.get(index)
                careful.touching = None if lost else index
                slot.moved = time.monotonic()
                careful.rows[index] = await slot.actor.one.remote(
                    shard, index, careful.attempt, lost
                )
                careful.touching = None
                self._crew.deaths = 0
                if self._stopping:
                    return
                if slot.leaving:
                    self._careful.append(careful)
                    return
            rows = [careful.rows[i] for i in range(shard.table.num_rows)]
            report = await slot.actor.commit_rows.remote(
                shard, rows, careful.started, careful.attempt
            )
        except rex.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, StorageError) and not isinstance(cause, AccessDenied):
                self._storage_trouble(shard, cause)
                careful.touching = None
                self._careful.append(careful)
                return
            if careful.touching is None or isinstance(cause, NstrayError):
                raise (
                    cause
                    if isinstance(cause, NstrayError)
                    else JobFailed(f"{shard.name}: {reason_of(error)}")
                ) from None
            careful.lost[careful.touching] = (ErrorCode.INTERNAL.value, reason_of(error))
            self._careful.append(careful)
        except rex.RayError as error:
            await self._careful_died(slot, careful, error)
        else:
            await self._done(slot, shard, report, whole=not careful.lost)
        finally:
            slot.careful = None

    async def _careful_died(
        self, slot: WorkerHandle, careful: IsolatedShard, error: Exception
    ) -> None:
        pair = (
            None
            if careful.touching is None
            else careful.shard.table["pair_id"][careful.touching].as_py()
        )
        self._display.log(
            f"event=worker_died part={careful.shard.name} pair={pair} reason={reason_of(error)!r}"
        )
        if await self._crew.bury(slot, error, [(careful.shard.window, careful.shard.number)]):
            careful.touching = None
        elif careful.next() is None:
            careful.commit_deaths += 1
            if careful.commit_deaths >= MAX_DEATHS:
                raise JobFailed(
                    f"{careful.shard.name}: writing it took its worker along {MAX_DEATHS} times ({reason_of(error)}); use a smaller shard_size"
                )
        if careful.touching is not None and slot.node:
            careful.nodes.add(slot.node)
        careful.blame(stalled=slot.stalled, reason=reason_of(error))
        self._careful.append(careful)
