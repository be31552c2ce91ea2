"""The counters and gauges that Prometheus gets from driver and workers.

Ray exports them, and puts ``ray_`` before each name. Every metric has the label ``out``, the
redacted URI of the output. Ray takes only ASCII there, so other letters are percent-encoded. A
counter starts with its process, so sum it over the cluster. Ray sends values to the node's own
agent every 10 s, and once more when a process ends. The last 10 s of counts of a worker that is
killed can be lost.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Metric

from nstray.text import ascii_label
from nstray.worker.messages import WorkerProgress

BUSY_OVER = 1.0  # the least seconds that the busy share is taken over


class JobMetrics:
    """The driver's metrics: rows committed, shards that wait, workers at work."""

    def __init__(self, out: str) -> None:
        self._pairs = Counter(
            "nstray_pairs_total", "Rows that this run has committed, error rows included", ("out",)
        )
        self._errors = Counter(
            "nstray_error_rows_total",
            "Error rows that this run has committed, by error_code",
            ("out", "code"),
        )
        self._rows = Gauge("nstray_manifest_rows", "Rows of the manifest", ("out",))
        self._done = Gauge(
            "nstray_done_rows", "Rows that are committed, those of earlier runs included", ("out",)
        )
        self._backlog = Gauge(
            "nstray_backlog_shards", "Shards that are planned and wait for a worker", ("out",)
        )
        self._in_flight = Gauge("nstray_in_flight_shards", "Shards that workers have", ("out",))
        self._ready = Gauge(
            "nstray_ready_workers", "Workers that have loaded the network", ("out",)
        )
        _label(
            out,
            self._pairs,
            self._errors,
            self._rows,
            self._done,
            self._backlog,
            self._in_flight,
            self._ready,
        )

    def committed(self, rows: int, errors: Mapping[str, int]) -> None:
        """Count the rows of a part, and the error rows among them by code."""
        self._pairs.inc(rows)
        for code, number in errors.items():
            self._errors.inc(number, {"code": code})

    def set_state(self, *, rows: int, done: int, backlog: int, in_flight: int, ready: int) -> None:
        """Where the job stands now."""
        for gauge, value in zip(
            (self._rows, self._done, self._backlog, self._in_flight, self._ready),
            (rows, done, backlog, in_flight, ready),
            strict=True,
        ):
            gauge.set(value)


class WorkerMetrics:
    """A worker's metrics: evaluations, seconds of each phase, busy share of its device.

    Methods may be called from several threads.

    Args:
        pid: of the worker's process.
        begun: what the worker says at its beginning.
    """

    def __init__(self, out: str, pid: int, begun: WorkerProgress) -> None:
        self._evaluations = Counter(
            "nstray_evaluations_total",
            "Forward + backward passes, times the pairs of each",
            ("out",),
        )
        self._phases = Counter(
            "nstray_stage_seconds_total", "Seconds of a worker's threads by stage", ("out", "stage")
        )
        # The label pid is the one of the log's event=worker_ready. It is needed: some versions of
        # Ray drop the label WorkerId and keep one value per node.
        self._busy = Gauge(
            "nstray_device_busy_ratio",
            "Share of the time since the last look that the device worked",
            ("out", "pid"),
        )
        _label(out, self._evaluations, self._phases)
        self._busy.set_default_tags({"out": ascii_label(out), "pid": str(pid)})
        self._lock = threading.Lock()
        self._last = self._busy_from = begun

    def export(self, now: WorkerProgress) -> None:
        """Raise the metrics to what the worker says `now`."""
        with self._lock:
            if now.now < self._last.now:  # another thread has exported later values
                return
            if (more := now.evaluations - self._last.evaluations) > 0:
                self._evaluations.inc(more)
            for phase, seconds in now.phase_seconds.items():
                if (more_s := seconds - self._last.phase_seconds.get(phase, 0.0)) > 0:
                    self._phases.inc(more_s, {"stage": phase})
            self._last = now
            if (passed := now.now - self._busy_from.now) >= BUSY_OVER:
                self._busy.set(min(1.0, (now.busy - self._busy_from.busy) / passed))
                self._busy_from = now


def _label(out: str, *metrics: Metric) -> None:
    for metric in metrics:
        metric.set_default_tags({"out": ascii_label(out)})
