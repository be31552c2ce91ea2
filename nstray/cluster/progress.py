"""What a person sees while a job runs: a bar on a terminal, or a line a minute in a log.

All of it goes to stderr, because stdout is data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from nstray.cluster.eta import ShardTimes
from nstray.text import duration, event_line, print_log, printable, stamped

LINE_EVERY = 60.0  # seconds between two lines if there is no terminal


@dataclass
class JobProgress:
    """Where a job stands.

    Attributes:
        total: rows of the manifest.
        resumed: rows that were committed before this run. done: rows that are committed now.
        errors: error rows among `done`, by code.
        evaluations: forward + backward passes of this run, times the pairs of each.
        expected_evaluations: those of the whole job.
        busy: share of the workers' time in which their devices worked; None before it is known.
        workers: workers that have loaded the network.
        shard_times: of the last shards. started: when this run began, by time.monotonic.
    """

    total: int
    resumed: int = 0
    done: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    evaluations: int = 0
    expected_evaluations: float = 0.0
    busy: float | None = None
    workers: int = 0
    shard_times: ShardTimes = field(default_factory=ShardTimes)
    started: float = field(default_factory=time.monotonic)

    def add(self, rows: int, errors: Mapping[str, int]) -> None:
        """Count committed rows, and the error rows among them by code."""
        self.done += rows
        for code, n in errors.items():
            self.errors[code] = self.errors.get(code, 0) + n

    @property
    def rate(self) -> float:
        """Pairs per second of this run."""
        return (self.done - self.resumed) / max(1e-9, time.monotonic() - self.started)

    @property
    def eta(self) -> float | None:
        """Seconds to go; None while nothing has moved.

        They follow from the times of the last shards. Until there are enough of those they follow
        from rows and evaluations, because evaluations move before the first pair is done.
        """
        if (known := self.shard_times.eta(self.total - self.done, self.workers)) is not None:
            return known.seconds
        passed = time.monotonic() - self.started
        left = max(1, self.total - self.resumed)
        expected = self.expected_evaluations * left / self.total
        share = max(
            self.evaluations / expected if expected else 0.0, (self.done - self.resumed) / left
        )
        return passed * (1 - min(1.0, share)) / share if share > 0 else None

    def fields(self) -> dict[str, str]:
        """The fields of the log's ``event=progress``."""
        found = {"done": f"{self.done}", "total": f"{self.total}"}
        found |= {"pairs_per_s": f"{self.rate:.3g}", "eta": duration(self.eta)}
        found["workers"] = f"{self.workers}"
        if self.busy is not None:
            found["busy"] = f"{self.busy:.2f}"
        return found | {f"error_{code}": f"{n}" for code, n in sorted(self.errors.items())}


class Display:
    """Shows a `JobProgress`, and writes the log of the driver.

    Use it as a context manager, and call `show` often.

    Args:
        terminal: whether stderr is a terminal; None finds out.
    """

    def __init__(self, job_progress: JobProgress, *, terminal: bool | None = None) -> None:
        self.job_progress = job_progress
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._last = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
        if self._terminal:
            self._bar = Progress(
                TextColumn("stylising"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[words]}"),
                console=Console(stderr=True),
                transient=False,
            )
            self._task = self._bar.add_task(
                "", total=self.job_progress.total, completed=self.job_progress.done, words=""
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.show()
        if self._bar:
            self._bar.stop()

    def show(self) -> None:
        """Redraw the bar; without one, write a line if the last one is a minute old."""
        now = self.job_progress
        if self._bar is not None and self._task is not None:
            errors = sum(now.errors.values())
            words = f"{now.rate:.3g} pairs/s  ETA {duration(now.eta)}"
            words += f"  busy {now.busy:.0%}" if now.busy is not None else ""
            words += f"  [red]{errors} errors[/red]" if errors else ""
            self._bar.update(self._task, completed=now.done, words=words)
        elif time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            self.log_event("progress", **now.fields())

    def log_event(self, name: str, /, **fields: object) -> None:
        """Write the line of an event; see `nstray.text.event_line`."""
        self.log(event_line(name, **fields))

    def note_event(self, name: str, /, **fields: object) -> None:
        """Write the line of an event, but not on a terminal: the bar says as much."""
        if self._bar is None:
            self.log_event(name, **fields)

    def log(self, line: str) -> None:
        """Write one line of the log, redacted; on a terminal it stands above the bar."""
        line = stamped(printable(line))
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print_log(line)
