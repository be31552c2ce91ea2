"""What a run shows while it goes on: metrics, the file behind `nstray status`, a line of the log for each shard."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

from nstray.cluster import worker_pool
from nstray.cluster.metrics import JobMetrics
from nstray.cluster.progress import Display
from nstray.cluster.worker_handle import WorkerHandle
from nstray.manifest.shards import Shard
from nstray.output.folder import Output
from nstray.output.live import Live, LiveFile, WorkerStatus
from nstray.worker.messages import ShardReport


class Reporter:
    """Tells where a run stands, and never holds it up.

    Args:
        workers: the crew.
        waiting: how many shards wait for one.
        display: gets the lines; its tally is what is told.
    """

    def __init__(
        self,
        output: Output,
        workers: worker_pool.WorkerPool,
        display: Display,
        waiting: Callable[[], int],
    ) -> None:
        self._crew, self._display, self._tally, self._waiting = (
            workers,
            display,
            display.tally,
            waiting,
        )
        self._metrics = JobMetrics(str(output))
        self._file = LiveFile(output, display.log)
        self._begun = datetime.now(UTC).replace(microsecond=0)
        self._evaluated: tuple[float, int] | None = (
            None  # when the file was written last, and the evaluations by then
        )

    async def watch(self) -> None:
        """Keep telling."""
        while True:
            await asyncio.sleep(worker_pool.POLL)
            self._tell()

    def committed(self, slot: WorkerHandle, shard: Shard, report: ShardReport, took: float) -> None:
        """A worker has committed a shard after `took` seconds, of which its device worked `report.seconds`."""
        self._metrics.committed(report.rows, report.errors)
        if slot.careful is None:
            self._tally.pace.add(took, report.rows)
        speed = f"{report.evaluations / report.seconds:.4g}" if report.seconds > 0 else "0"
        self._display.note(
            f"event=shard part={shard.name} rows={report.rows} ok={report.ok} errors={report.rows - report.ok} worker={slot.name} node={slot.node} "
            f"seconds={took:.3f} device_seconds={report.seconds:.3f} evaluations_per_second={speed} mb={report.size / 1e6:.3f}"
        )

    def end(self) -> None:
        """The run is over. Takes a few seconds at most."""
        self._standing()
        self._file.end()

    def _tell(self) -> None:
        self._standing()
        if self._file.due():
            try:
                self._file.write(self._live())
            except (
                ValueError
            ) as error:  # what the file can't hold, such as a device's name of a page's length
                self._file.failed(error)

    @property
    def _in_flight(self) -> int:
        return sum(len(slot.inflight) + bool(slot.careful) for slot in self._crew.slots)

    def _standing(self) -> None:
        ready = sum(slot.ready for slot in self._crew.slots)
        self._metrics.standing(
            rows=self._tally.total,
            done=self._tally.done,
            backlog=self._waiting(),
            in_flight=self._in_flight,
            ready=ready,
        )

    def _live(self) -> Live:
        tally, now, rate = self._tally, time.monotonic(), None
        if self._evaluated is not None:
            when, before = self._evaluated
            rate = max(0, tally.evaluations - before) / (now - when)
        self._evaluated = now, tally.evaluations
        spread = tally.pace.eta(tally.total - tally.done, tally.workers)
        return Live(
            writer=self._file.writer,
            host=socket.gethostname(),
            begun_at=self._begun,
            written_at=datetime.now(UTC),
            rows=tally.total,
            rows_done=tally.done,
            backlog_shards=self._waiting(),
            in_flight_shards=self._in_flight,
            pairs_per_second=tally.rate,
            evaluations_per_second=rate,
            busy=tally.busy,
            median_shard_seconds=tally.pace.median,
            eta_seconds=tally.eta,
            eta_low_seconds=None if spread is None else spread.low,
            eta_high_seconds=None if spread is None else spread.high,
            workers=tuple(self._worker(slot, now) for slot in self._crew.slots),
        )

    def _worker(self, slot: WorkerHandle, now: float) -> WorkerStatus:
        shard, has = slot.at_hand, now - slot.since
        return WorkerStatus(
            name=slot.name,
            state=slot.state,
            node=slot.node,
            host=slot.host,
            device=slot.device,
            evaluations=slot.seen.evaluations,
            part=None if shard is None else shard.name,
            rows=None if shard is None else shard.table.num_rows,
            seconds=None if shard is None else has,
            quiet=None if shard is None else now - slot.moved,
            pairs=slot.seen.pairs,
            straggler=shard is not None and self._tally.pace.straggles(has),
        )
