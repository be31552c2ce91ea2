"""The driver: hands shards to workers until all are committed, and stops when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from nstray.cluster import worker_pool
from nstray.cluster.failures import ShardFailures
from nstray.cluster.isolated_shards import IsolatedRunner
from nstray.cluster.progress import Display
from nstray.cluster.reporter import Reporter
from nstray.cluster.resources import Devices
from nstray.cluster.scheduling import Backlog, ErrorRateBreaker, IsolatedShard
from nstray.cluster.windows import JobWindows, Stopped
from nstray.cluster.worker_handle import WorkerHandle
from nstray.cluster.worker_pool import WorkerPool
from nstray.errors import JobFailed, NstrayError
from nstray.manifest.manifest import Manifest
from nstray.manifest.shards import Shard
from nstray.output.folder import Output
from nstray.output.records import Counts, PartInfo
from nstray.system import stop_signals
from nstray.system.surroundings import shortage
from nstray.worker.messages import JobSpec, ShardReport


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        complete: whether every part is there. If not, the run was stopped and can be resumed.
        counts: what all committed parts add up to.
        before: the same for the parts that were there when the run began, and stayed.
        devices: devices in use at once, at most.
        device_seconds: how long workers held devices, loading included, added up.
    """

    complete: bool
    counts: Counts
    before: Counts = field(default_factory=Counts)
    devices: int = 0
    device_seconds: float = 0.0


class Driver:
    """Hands shards to workers until every one is committed. One asyncio loop; nothing in it blocks.

    Args:
        spec, manifest, output: the job.
        create: makes one actor. A benchmark passes one whose actors do nothing.
        display: gets the log, and shows the progress.
    """

    def __init__(
        self,
        spec: JobSpec,
        manifest: Manifest,
        output: Output,
        create: Callable[[Devices], Any],
        display: Display,
    ) -> None:
        self.spec, self.output, self.config = spec, output, spec.config
        self._display = display
        self._changed = asyncio.Event()  # there may be something to hand out, or the run is over
        self._stopping = threading.Event()  # hand out nothing more; threads read it too
        self._failure: NstrayError | None = None
        self._too_many_errors: JobFailed | None = None  # raised once what runs has committed
        self._error_rate = ErrorRateBreaker(spec.config.max_error_rate)
        self._tasks: set[asyncio.Task[None]] = set()  # each has one shard
        self._backlog = Backlog()
        self._isolated: list[IsolatedShard] = []  # these wait for a worker
        self._windows = JobWindows(
            spec,
            manifest,
            output,
            backlog=self._backlog,
            job_progress=display.job_progress,
            stopping=self._stopping,
            changed=self._changed,
        )
        self._pool = WorkerPool(spec.config, create, display, self._changed)
        self._failures = ShardFailures(self._pool, display, self._stopping)
        self._isolated_runner = IsolatedRunner(self._pool, display, self._failures, self._stopping)
        self._reporter = Reporter(
            output, self._pool, display, waiting=lambda: len(self._backlog) + len(self._isolated)
        )

    # the run

    async def run(self) -> Outcome:
        """Run to the end or to SIGTERM.

        Raises JobFailed, ConfigError, StorageError, OutputError.
        """
        call = asyncio.get_running_loop().call_soon_threadsafe
        with (
            stop_signals.last_act(self._reporter.remove_file),
            stop_signals.handled_by(lambda number: call(self._on_signal, number)),
        ):
            return await self._run_to_end()

    async def _run_to_end(self) -> Outcome:
        helpers = [
            asyncio.create_task(self._guarded(work))
            for work in (self._open_windows(), self._pool.watch(), self._reporter.watch())
        ]
        try:
            while not self._over():
                self._dispatch()
                self._display.show()
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), worker_pool.POLL)
            # This poll gets the evaluations since the last one. Everything is committed, so a
            # worker's death is no failure any more.
            with contextlib.suppress(JobFailed):
                await self._pool.poll()
            devices, device_seconds = self._pool.devices, self._pool.device_seconds
        finally:
            for task in (left := [*helpers, *self._tasks]):
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            try:
                await self._pool.shutdown()
            finally:
                self._reporter.end()
        if reason := self._failure or self._too_many_errors:
            raise reason
        windows = self._windows
        return Outcome(windows.complete, windows.counts(), windows.before, devices, device_seconds)

    def _over(self) -> bool:
        # A task has its shard until it is committed or waits again, and its dead worker is removed.
        return bool(self._failure) or (
            not self._tasks and (self._stopping.is_set() or self._all_handed_out())
        )

    def _all_handed_out(self) -> bool:
        return self._windows.all_opened and not self._backlog and not self._isolated

    async def _open_windows(self) -> None:
        await self._windows.open_all()
        self._stop_growing_if_done()

    def _stop_growing_if_done(self) -> None:
        if self._windows.all_closed:
            self._pool.stop_growing()

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            return
        again = "Ctrl-C" if number == signal.SIGINT else "signal"
        self._drain(
            f"a second {again} ends it at once: then that work is lost, and nothing that is "
            "committed",
            signal=number.name,
            shards=f"{self._pool.in_flight}",
        )

    def _drain(self, more: str = "", **why: str) -> None:
        """Hand out nothing more; workers commit what they run."""
        hint = "what runs will commit; run the same command again to resume"
        self._display.log_event("draining", **why, hint=f"{hint}; {more}" if more else hint)
        self._display.begin("stopping")
        self._stopping.set()
        self._backlog.clear()
        self._pool.drain()
        self._changed.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        def finished(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._changed.set()

        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(finished)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`; what it raises ends the job with its reason, never silently."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Stopped:
            self._display.log_event("left", reason="stopped_while_storage_was_out_of_reach")
        except NstrayError as error:
            self._failure = self._failure or error
        except Exception as error:
            if (why := shortage(error)) is None:
                logging.getLogger("nstray").exception("driver")
                why = f"the driver met {type(error).__name__}: {error}"
            self._failure = self._failure or JobFailed(why)
        self._changed.set()

    # handing out

    def _dispatch(self) -> None:
        if self._stopping.is_set() or self._failure:
            return
        for isolated in list(self._isolated):
            idle = [w for w in self._pool.free_workers(isolated.nodes) if not w.in_flight]
            if not idle:
                continue
            self._isolated.remove(isolated)
            idle[0].assign_isolated(isolated.shard)
            self._spawn(self._run_isolated(idle[0], isolated))
        # While a shard waits for a worker of its own, one worker gets nothing more.
        reserved = None
        if self._isolated:
            candidates = self._pool.free_workers(self._isolated[0].nodes)
            reserved = min(candidates, key=lambda w: len(w.in_flight), default=None)
        while self._backlog:
            open_workers = [
                w
                for w in self._pool.free_workers()
                if w is not reserved and len(w.in_flight) < self.config.depth
            ]
            if not open_workers:
                return
            worker = min(open_workers, key=lambda w: len(w.in_flight))
            shard = self._backlog.take(worker.recent_styles)
            worker.assign(shard)
            self._spawn(self._run(worker, shard))

    async def _run(self, worker: WorkerHandle, shard: Shard) -> None:
        try:
            report = await worker.process(shard, self._failures.attempt(shard))
        except Exception as error:
            worker.release(shard)
            worker.turn_to_next()
            self._put_back(await self._failures.add(worker, shard, error))
        else:
            worker.release(shard)
            await self._done(worker, shard, report)

    async def _run_isolated(self, worker: WorkerHandle, isolated: IsolatedShard) -> None:
        try:
            report = await self._isolated_runner.run(worker, isolated)
            if report is None:
                self._put_back(isolated)
            else:
                await self._done(worker, isolated.shard, report, whole=not isolated.lost)
        finally:
            worker.isolated = None

    def _put_back(self, work: Shard | IsolatedShard | None) -> None:
        if self._stopping.is_set() or work is None:
            return
        if isinstance(work, IsolatedShard):
            self._isolated.append(work)
        else:
            self._backlog.put_back(work)

    async def _done(
        self, worker: WorkerHandle, shard: Shard, report: ShardReport, *, whole: bool = True
    ) -> None:
        """Count a shard that is committed; `whole` if every pair of it ran in the end."""
        if report.skipped:  # the node of its worker is about to go, or the run stops
            self._put_back(shard)
            return
        self._pool.note_finished(worker, shard, whole=whole)
        self._failures.committed(shard)
        took = worker.turn_to_next()
        if report.won:
            self._reporter.committed(worker, shard, report, took)
            uri = self.output.data_uri(shard.name)
            part = PartInfo(uri, report.size, report.rows, report.ok, report.errors, report.footer)
        else:
            self._display.log_event(
                "lost_race",
                part=shard.name,
                reason="another_driver_or_a_worker_that_died_since_committed_it",
            )
            part = await self._windows.read_part(shard)
        await self._windows.add_part(shard, part)
        self._stop_growing_if_done()
        self._check_error_rate(report)

    def _check_error_rate(self, report: ShardReport) -> None:
        """Stop the run if it makes more error rows than `max_error_rate` explains.

        What runs still commits. A run that has handed out everything is not stopped.
        """
        self._error_rate.add(report.rows, report.errors, report.example)
        if self._stopping.is_set() or self._all_handed_out() or not self._error_rate.tripped:
            return
        self._too_many_errors = JobFailed(str(self._error_rate))
        self._drain(reason="max_error_rate")
