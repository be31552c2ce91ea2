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
    Progress,
    TaskID,
    TextColumn,
)

from nstray.cluster.eta import ShardTimes
from nstray.text import (
    counted,
    duration,
    event_line,
    is_terminal,
    print_log,
    printable,
    speed,
    stamped,
)

LINE_EVERY = 60.0  # seconds between two lines if there is no terminal
WORKING = "stylising"  # the phase in which workers are ready
LEAST_BAR = 10  # columns of the bar, with the spaces on both sides


@dataclass
class JobProgress:
    """Where a job stands.

    Attributes:
        total: rows of the manifest.
        resumed: rows that were committed before this run. done: rows that are committed now.
        errors: error rows among `done`, by code.
        evaluations: forward + backward passes of this run, times the pairs of each.
        expected_evaluations: those of the whole job.
        under_way: pairs' worth of work that is done and not committed.
        phase: what the run is at. stage: of the pair that is optimised, and how many there are;
            None if several are, or none is.
        guess: seconds that the run may take, before anything is known of it.
        busy: share of the workers' time in which their devices worked; None before it is known.
        workers: workers that have loaded the network.
        shard_times: of the last shards.
        started: when this run began. ready: when its first worker was. Both by time.monotonic.
    """

    total: int
    resumed: int = 0
    done: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    evaluations: int = 0
    expected_evaluations: float = 0.0
    under_way: float = 0.0
    phase: str = "starting"
    stage: tuple[int, int] | None = None
    guess: float | None = None
    busy: float | None = None
    workers: int = 0
    shard_times: ShardTimes = field(default_factory=ShardTimes)
    started: float = field(default_factory=time.monotonic)
    ready: float | None = None
    _worked: float = 0.0  # pairs' worth of work of this run
    _first: tuple[float, float] | None = None  # when some work was seen first, and how much
    _shown: float = 0.0  # evaluations that the bar has shown, at most

    def add(self, rows: int, errors: Mapping[str, int]) -> None:
        """Count committed rows, and the error rows among them by code."""
        self.done += rows
        for code, n in errors.items():
            self.errors[code] = self.errors.get(code, 0) + n

    def begin_work(self) -> None:
        """A worker is ready."""
        self.phase = WORKING
        self.ready = self.ready or time.monotonic()

    def note_work(self, worked: float, under_way: float) -> None:
        """Workers have done `worked` pairs' worth of work; `under_way` is not committed yet."""
        self.under_way = under_way
        self._worked = worked
        if self._first is None and worked > 0:
            self._first = time.monotonic(), worked

    @property
    def working_seconds(self) -> float:
        """Seconds since the first worker was ready; 0 before."""
        return 0.0 if self.ready is None else time.monotonic() - self.ready

    @property
    def rate(self) -> float:
        """Pairs per second of this run, since its first worker was ready."""
        passed = time.monotonic() - (self.ready or self.started)
        return (self.done - self.resumed) / max(1e-9, passed)

    @property
    def shown_rate(self) -> float:
        """`rate`; before a pair is committed, that of the work under way."""
        return self.rate if self.done > self.resumed else self._work_rate or 0.0

    @property
    def _work_rate(self) -> float | None:
        """Pairs' worth of work per second since some was seen first; None before there is more."""
        if self._first is None or self._worked <= self._first[1]:
            return None
        return (self._worked - self._first[1]) / max(1e-3, time.monotonic() - self._first[0])

    @property
    def shown_evaluations(self) -> float:
        """Of the job's expected evaluations, those that are done; it never falls.

        Those of the rows that are committed count as expected, because a pair may stop early, or
        be an error row.
        """
        share = min(1.0, (self.done + self.under_way) / max(1, self.total))
        self._shown = max(self._shown, self.expected_evaluations * share)
        return self._shown

    @property
    def eta(self) -> float | None:
        """Seconds to go; None while nothing has moved.

        They follow from the times of the last shards. Until there are enough of those they follow
        from the work that workers have done, which moves before the first pair is committed, or
        from rows and evaluations.
        """
        rows = self.total - self.done
        if (known := self.shard_times.eta(rows, self.workers)) is not None:
            return known.seconds
        if rows and self._work_rate:
            return max(0.0, rows - self.under_way) / self._work_rate
        passed = time.monotonic() - (self.ready or self.started)
        left = max(1, self.total - self.resumed)
        expected = self.expected_evaluations * left / self.total
        share = max(
            self.evaluations / expected if expected else 0.0, (self.done - self.resumed) / left
        )
        if self._first is not None and rows and self.done == self.resumed:
            return None  # the next poll knows
        return passed * (1 - min(1.0, share)) / share if share > 0 else None

    def fields(self) -> dict[str, str]:
        """The fields of the log's ``event=progress``."""
        found = {"done": f"{self.done}", "total": f"{self.total}"}
        found |= {"pairs_per_s": f"{self.shown_rate:.3g}", "eta": duration(self.eta)}
        found |= {"evaluations": f"{self.evaluations}", "workers": f"{self.workers}"}
        if self.busy is not None:
            found["busy"] = f"{self.busy:.2f}"
        return found | {f"error_{code}": f"{n}" for code, n in sorted(self.errors.items())}

    def words(self, columns: int) -> str:
        """What stands beside the bar, in `columns` at most if they are 60 or more."""
        parts = [f"{self.done:,}/{counted(self.total, 'pair')}"]
        if errors := sum(self.errors.values()):
            parts.append(f"[red]{counted(errors, 'error')}[/red]")
        if self.ready is None:
            return ", ".join(parts + ([f"guess {duration(self.guess)}"] if self.guess else []))
        if self.shown_rate:
            parts.append(speed(self.shown_rate))
        if self.phase == WORKING:  # a run that stops or ends does not do the rest
            parts.append(f"ETA {duration(self.eta)}")
        extra = []
        if self.stage is not None and self.stage[1] > 1:
            extra.append(f"stage {self.stage[0]}/{self.stage[1]}")
        if self.busy is not None:
            extra.append(f"busy {self.busy:.0%}")
        for each in extra:
            if len(", ".join([*parts, each])) <= columns:
                parts.append(each)
        return ", ".join(parts)


class Display:
    """Shows a `JobProgress`, and writes the log of the driver.

    Use it as a context manager, and call `show` often.

    Args:
        terminal: whether stderr is a terminal that can be redrawn; None finds out.
    """

    def __init__(self, job_progress: JobProgress, *, terminal: bool | None = None) -> None:
        self.job_progress = job_progress
        self._terminal = is_terminal(sys.stderr) if terminal is None else terminal
        self._last = time.monotonic()
        self._knew = False  # when the job will end
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
        if self._terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[words]}"),
                console=Console(stderr=True),
                expand=True,
            )
            now = self.job_progress
            self._task = self._bar.add_task(now.phase, total=now.expected_evaluations, words="")
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
        """Redraw the bar; without one, write a line if the last one is a minute old.

        A line is also written as soon as it is known when the job will end.
        """
        now = self.job_progress
        if self._bar is not None and self._task is not None:
            columns = self._bar.console.width - len(now.phase) - LEAST_BAR
            # Without a number of evaluations the bar goes by rows.
            total, done = now.expected_evaluations, now.shown_evaluations
            self._bar.update(
                self._task,
                description=now.phase,
                total=total or now.total,
                completed=done if total else now.done,
                words=now.words(columns),
            )
            return
        knows = now.ready is not None and now.eta is not None and now.done < now.total
        if time.monotonic() - self._last >= LINE_EVERY or (knows and not self._knew):
            self._last = time.monotonic()
            self.log_event("progress", **now.fields())
        self._knew = self._knew or knows

    def begin(self, phase: str) -> None:
        """Show what the run is at now."""
        self.job_progress.phase = phase
        self.show()

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
