"""What a person sees while a job runs: a bar on a terminal, a line a minute in a log. On stderr: stdout is data."""

from __future__ import annotations

import sys
import time
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
from nstray.text import duration, printable

LINE_EVERY = 60.0  # seconds between lines where there is no terminal


@dataclass
class JobProgress:
    """Where a job stands. `resumed` rows were there when it began; `busy` is the share of the workers' time on their devices."""

    total: int
    resumed: int = 0
    done: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    evaluations: int = 0
    expected_evaluations: float = 0.0
    busy: float | None = None
    workers: int = 0
    pace: ShardTimes = field(default_factory=ShardTimes)
    started: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Pairs per second of this run."""
        return (self.done - self.resumed) / max(1e-9, time.monotonic() - self.started)

    @property
    def eta(self) -> float | None:
        """Seconds to go: by the pace of the last shards, and before there are enough of those by evaluations, which move before
        the first pair is done; None while nothing has moved."""
        if (known := self.pace.eta(self.total - self.done, self.workers)) is not None:
            return known.seconds
        passed = time.monotonic() - self.started
        left = max(1, self.total - self.resumed)
        expected = self.expected_evaluations * left / self.total
        share = max(
            self.evaluations / expected if expected else 0.0, (self.done - self.resumed) / left
        )
        return passed * (1 - min(1.0, share)) / share if share > 0 else None

    def line(self) -> str:
        """``key=value`` words for a log."""
        words = [f"done={self.done}", f"total={self.total}", f"pairs_per_s={self.rate:.3g}"]
        words.append(f"eta={duration(self.eta)}")
        words.append(f"workers={self.workers}")
        if self.busy is not None:
            words.append(f"busy={self.busy:.2f}")
        words += [f"error_{code}={n}" for code, n in sorted(self.errors.items())]
        return " ".join(words)


class Display:
    """Shows a `Tally`; use as a context manager and call `show` often."""

    def __init__(self, tally: JobProgress, *, terminal: bool | None = None) -> None:
        self.tally = tally
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
                "", total=self.tally.total, completed=self.tally.done, words=""
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
        """Redraw, or write a line if the last one is a minute old."""
        tally = self.tally
        if self._bar is not None and self._task is not None:
            errors = sum(tally.errors.values())
            words = f"{tally.rate:.3g} pairs/s  ETA {duration(tally.eta)}"
            words += f"  busy {tally.busy:.0%}" if tally.busy is not None else ""
            words += f"  [red]{errors} errors[/red]" if errors else ""
            self._bar.update(self._task, completed=tally.done, words=words)
        elif time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            self.log(f"event=progress {tally.line()}")

    def note(self, line: str) -> None:
        """A line for a log alone: on a terminal the bar says as much."""
        if self._bar is None:
            self.log(line)

    def log(self, line: str) -> None:
        """One line of the log, above the bar where there is one; redacted."""
        line = printable(line)
        stamp = time.strftime("%H:%M:%S")
        if self._bar is not None:
            self._bar.console.print(
                f"{stamp} {line}", markup=False, highlight=False, soft_wrap=True
            )
        else:
            print(f"{stamp} {line}", file=sys.stderr, flush=True)
