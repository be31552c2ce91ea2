"""What a person sees while `nstray stylise` works: a bar, the loss as a curve, or lines in a log.

All of it goes to stderr, because stdout is data. It imports no torch: it is there before torch is.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from nstray.system import terminal
from nstray.text import duration, event_line, print_log, printable, stamped

LINE_EVERY = 15.0  # seconds between two lines if nothing is redrawn
DRAW_EVERY = 0.2  # seconds between two drawings
WIDTH = 40  # columns of the bar and of the curve
_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.,-=+*#"
_BAR, _REST = "━", "─"


@dataclass(frozen=True)
class State:
    """Where the picture at work stands.

    Attributes:
        evaluation, evaluations, stage, stages: as of `nstray.engine.progress.Progress`.
        loss: of the stage's best point.
        eta: seconds until this picture is done; None if unknown.
        eta_all: the same of all pictures.
    """

    evaluation: int
    evaluations: int
    stage: int
    stages: int
    shape: tuple[int, int]
    loss: float
    eta: float | None
    eta_all: float | None


class Curve:
    """The loss over the evaluations of all stages, as a line of block letters.

    Each stage has a loss of its own size: where a stage begins the curve jumps.
    """

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []

    def add(self, evaluation: int, loss: float) -> None:
        """The loss after an evaluation; evaluations come in order, some may be missing."""
        if math.isfinite(loss) and loss > 0:
            self._points.append((evaluation, loss))

    def draw(self, evaluations: int, width: int, letters: str) -> str:
        """The curve of `evaluations` in `width` columns, the logarithm of the loss as height.

        It ends with the column of the last point.
        """
        if not self._points:
            return ""
        columns: dict[int, float] = {}
        for evaluation, loss in self._points:
            columns[min(width - 1, (evaluation - 1) * width // evaluations)] = math.log(loss)
        low, high = min(columns.values()), max(columns.values())
        drawn, value = "", columns[min(columns)]
        for column in range(max(columns) + 1):
            value = columns.get(column, value)
            share = (value - low) / (high - low) if high > low else 0.0
            drawn += letters[round(share * (len(letters) - 1))]
        return drawn


class StyliseDisplay:
    """Shows how pictures are made. Use it as a context manager.

    Args:
        total: pictures to make.
        redrawn: whether the display may be redrawn in place; None finds out.
    """

    def __init__(self, total: int, *, redrawn: bool | None = None) -> None:
        self._total = total
        self._redrawn = terminal.redrawn() if redrawn is None else redrawn
        self._letters = _BLOCKS if terminal.shows(_BLOCKS + _BAR + _REST) else _ASCII
        self._name, self._number = "", 0
        self.curve = Curve()
        self._state: State | None = None
        self._last_line = self._last_draw = time.monotonic()
        if self._redrawn:
            from rich.console import Console
            from rich.live import Live

            # stdout is not redirected: it may be a file, and is data
            self._live = Live(
                console=Console(stderr=True),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def __enter__(self) -> StyliseDisplay:
        if self._redrawn:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._redrawn:
            self._live.stop()

    def due(self) -> bool:
        """Whether `show` would draw or write now: until then no loss has to be known."""
        last, every = (
            (self._last_draw, DRAW_EVERY) if self._redrawn else (self._last_line, LINE_EVERY)
        )
        return time.monotonic() - last >= every

    def waiting(self, what: str) -> None:
        """Say on a terminal what is done before the first evaluation."""
        if self._redrawn:
            from rich.text import Text

            self._live.update(Text(f"{what} ..."), refresh=True)

    def begin(self, name: str, number: int) -> None:
        """The picture `name` begins, as the `number`-th."""
        self._name, self._number, self.curve, self._state = name, number, Curve(), None

    def show(self, state: State) -> None:
        """Draw where the picture stands; without a terminal, write a line."""
        self._state = state
        if self._redrawn:
            self._last_draw = time.monotonic()
            self._draw(state)
            return
        self._last_line = time.monotonic()
        fields = {} if self._total == 1 else {"number": self._number, "pictures": self._total}
        self._log(
            "progress",
            picture=self._name,
            **fields,
            evaluation=state.evaluation,
            evaluations=state.evaluations,
            stage=f"{state.stage}/{state.stages}",
            loss=f"{state.loss:.4g}",
            eta=duration(state.eta),
            **({} if self._total == 1 else {"eta_all": duration(state.eta_all)}),
        )

    def done(self, losses: Sequence[float], seconds: float, file: str) -> None:
        """A picture is in `file`; `losses` after each of its evaluations."""
        if not self._redrawn:
            self._log(
                "picture",
                picture=self._name,
                loss=f"{losses[-1]:.4g}",
                evaluations=len(losses),
                seconds=f"{seconds:.1f}",
                file=file,
            )
            return
        curve = Curve()
        for evaluation, loss in enumerate(losses, 1):
            curve.add(evaluation, loss)
        self._clear()
        self.note(self._title())
        self.note(
            f"{curve.draw(len(losses), WIDTH, self._letters)}  loss {losses[-1]:.4g}  "
            f"{len(losses)} evaluations  {duration(seconds)}"
        )

    def skipped(self, text: str) -> None:
        """Name a picture that can't be made."""
        if self._redrawn:
            self.note(f"skipped: {text}")
        else:
            self._log("skipped", reason=text)

    def warn(self, text: str) -> None:
        """Write a warning."""
        if self._redrawn:
            self.note(f"warning: {text}")
        else:
            self._log("warning", text=text)

    def note(self, text: str) -> None:
        """Write a line; on a terminal it stands above what is redrawn."""
        line = printable(text)
        if self._redrawn:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print_log(line)

    def answer(self, text: str) -> None:
        """Print a line to stdout."""
        from nstray.commands.printing import say

        if not self._redrawn:
            say(text)
            return
        self._live.stop()
        say(text)
        sys.stdout.flush()
        self._live.start()

    def _clear(self) -> None:
        from rich.text import Text

        self._live.update(Text(""), refresh=True)

    def _log(self, name: str, /, **fields: object) -> None:
        print_log(stamped(event_line(name, **fields)))

    def _title(self) -> str:
        name = printable(self._name).replace("\n", " ")
        return name if self._total == 1 else f"{self._number}/{self._total}  {name}"

    def _draw(self, state: State) -> None:
        from rich.console import Group
        from rich.text import Text

        height, width = state.shape
        filled = round(WIDTH * state.evaluation / state.evaluations)
        bar, rest = (_BAR, _REST) if self._letters is _BLOCKS else ("#", "-")
        stage = f"stage {state.stage}/{state.stages}  " if state.stages > 1 else ""
        every = "" if self._total == 1 else f"  all {duration(state.eta_all)}"
        drawn = self.curve.draw(state.evaluations, WIDTH, self._letters)
        lines = [
            Text(self._title(), style="bold"),
            Text.assemble(
                (bar * filled, "cyan"),
                (rest * (WIDTH - filled), "dim"),
                f"  {state.evaluation}/{state.evaluations}  ETA {duration(state.eta)}{every}",
            ),
            Text.assemble(
                (f"{drawn:<{WIDTH}}", "cyan"),
                f"  loss {state.loss:.4g}  {stage}{width}x{height}",
            ),
        ]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        self._live.update(Group(*lines), refresh=True)
