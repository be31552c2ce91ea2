"""What a run shows while it goes on: metrics, the file of `nstray status`, a log line per shard."""

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
from nstray.output.live_status import Live, LiveFile
from nstray.worker.messages import ShardReport


class Reporter:
    """Shows where a run stands, and never holds it up.

    Args:
        pool: the run's workers.
        display: gets the lines; its progress is what is shown.
        waiting: gives the number of shards that wait for a worker.
    """

    def __init__(
        self,
        output: Output,
        pool: worker_pool.WorkerPool,
        display: Display,
        waiting: Callable[[], int],
    ) -> None:
        self._pool, self._display, self._waiting = pool, display, waiting
        self._job_progress = display.job_progress
        self._metrics = JobMetrics(str(output))
        self._file = LiveFile(output, display.log)
        self._begun = datetime.now(UTC).replace(microsecond=0)
        # when the file was written last, and the evaluations by then
        self._evaluated: tuple[float, int] | None = None

    async def watch(self) -> None:
        """Show where the run stands at every poll; never returns."""
        while True:
            await asyncio.sleep(worker_pool.POLL)
            self._set_metrics()
            self._write_file()

    def committed(
        self, worker: WorkerHandle, shard: Shard, report: ShardReport, took: float
    ) -> None:
        """A worker has committed a shard after `took` seconds.

        Its device worked for `report.seconds` of them.
        """
        self._metrics.committed(report.rows, report.errors)
        if worker.isolated is None:
            self._job_progress.shard_times.add(took, report.rows)
        speed = f"{report.evaluations / report.seconds:.4g}" if report.seconds > 0 else "0"
        self._display.note_event(
            "shard",
            part=shard.name,
            rows=report.rows,
            ok=report.ok,
            errors=report.rows - report.ok,
            worker=worker.name,
            node=worker.node,
            seconds=f"{took:.3f}",
            device_seconds=f"{report.seconds:.3f}",
            evaluations_per_second=speed,
            mb=f"{report.size / 1e6:.3f}",
        )

    def end(self) -> None:
        """Set the metrics once more and remove the file. Takes a few seconds at most."""
        self._set_metrics()
        self.remove_file()

    def remove_file(self) -> None:
        """Remove the file of `nstray status`, from any thread. Takes a few seconds at most."""
        self._file.end()

    def _set_metrics(self) -> None:
        self._metrics.set_state(
            rows=self._job_progress.total,
            done=self._job_progress.done,
            backlog=self._waiting(),
            in_flight=self._pool.in_flight,
            ready=self._pool.ready,
        )

    def _write_file(self) -> None:
        if not self._file.due():
            return
        try:
            self._file.write(self._live())
        except ValueError as error:  # the file can't hold it, such as a device's name of a page
            self._file.failed(error)

    def _live(self) -> Live:
        job, now, rate = self._job_progress, time.monotonic(), None
        if self._evaluated is not None:
            when, before = self._evaluated
            rate = max(0, job.evaluations - before) / (now - when)
        self._evaluated = now, job.evaluations
        spread = job.shard_times.eta(job.total - job.done, job.workers)
        return Live(
            writer=self._file.writer,
            host=socket.gethostname(),
            begun_at=self._begun,
            written_at=datetime.now(UTC),
            rows=job.total,
            rows_done=job.done,
            backlog_shards=self._waiting(),
            in_flight_shards=self._pool.in_flight,
            pairs_per_second=job.shown_rate,
            evaluations_per_second=rate,
            busy=job.busy,
            median_shard_seconds=job.shard_times.median,
            eta_seconds=job.eta,
            eta_low_seconds=None if spread is None else spread.low,
            eta_high_seconds=None if spread is None else spread.high,
            workers=self._pool.statuses(),
        )
