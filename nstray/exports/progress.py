"""What a person sees while an export runs: a bar on a terminal, or a line a minute in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from nstray.text import duration, event_line, print_log, stamped

LINE_EVERY = 60.0  # seconds between two lines if there is no terminal


class ExportProgress:
    """Shows how far a pass of an export is. Use it as a context manager.

    Args:
        terminal: whether stderr is a terminal; None finds out.
    """

    def __init__(self, *, terminal: bool | None = None) -> None:
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar: Progress | None = None
        self._phase, self._before, self._done, self._total, self._rows = "", 0, 0, 0, 0
        self._began = self._last = time.monotonic()

    def __enter__(self) -> ExportProgress:
        if self._terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[words]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, phase: str, total: int, done: int) -> None:
        """Begin a pass of `total` steps, of which an earlier command has `done` some."""
        self._phase, self._total, self._done, self._rows = phase, total, done, 0
        self._before = done
        self._began = time.monotonic()
        if self._bar is not None:
            self._task = self._bar.add_task(phase, total=total, completed=done, words="")

    def step(self, rows: int) -> None:
        """Count a step, and its rows."""
        self._done += 1
        self._rows += rows
        now = time.monotonic()
        rate = self._rows / max(1e-9, now - self._began)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, words=f"{rate:,.0f} rows/s")
        elif now - self._last >= LINE_EVERY:
            self._last = now
            per_step = (now - self._began) / (self._done - self._before)
            print_log(
                stamped(
                    event_line(
                        "export_progress",
                        phase=self._phase,
                        done=self._done,
                        total=self._total,
                        rows_per_s=f"{rate:.3g}",
                        eta=duration(per_step * (self._total - self._done)),
                    )
                )
            )
