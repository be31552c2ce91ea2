"""What `nstray stylise` shows: the curve, the time to go, a display that is redrawn or lines alone."""

from __future__ import annotations

import io
import itertools
import re
import sys

import pytest

from nstray.commands import stylise_display
from nstray.commands.stylise_display import Curve, State, StyliseDisplay
from nstray.commands.stylise_eta import Eta
from nstray.system import terminal

BLOCKS = "▁▂▃▄▅▆▇█"


def state(evaluation: int, *, eta: float | None = 21.0) -> State:
    return State(evaluation, 220, 2, 3, (144, 192), 0.01234567, eta, 190.0)


def test_the_curve_falls_with_the_logarithm_of_the_loss() -> None:
    curve = Curve()
    for evaluation in range(1, 9):
        curve.add(evaluation, 10.0 ** (8 - evaluation))
    assert curve.draw(8, 8, BLOCKS) == BLOCKS[::-1]
    assert curve.draw(16, 8, BLOCKS) == "█▆▃▁"  # half of the evaluations: half of the width, each column's last loss
    assert curve.draw(8, 16, BLOCKS) == "██▇▇▆▆▅▅▄▄▃▃▂▂▁"


def test_a_curve_of_little() -> None:
    curve = Curve()
    assert curve.draw(5, 10, BLOCKS) == ""
    for loss in (float("nan"), float("inf"), 0.0):
        curve.add(1, loss)
    assert curve.draw(5, 10, BLOCKS) == ""
    curve.add(1, 3.0)
    curve.add(2, 3.0)
    assert curve.draw(5, 10, BLOCKS) == "▁▁▁"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def tty(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 80 columns; a test makes it stderr itself, because pytest sets that anew after the fixtures."""
    made = Terminal()
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return made


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb")])
def test_nothing_is_redrawn_for_those_who_ask_for_that(tty: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setattr(sys, "stderr", tty)
    assert terminal.redrawn()
    monkeypatch.setenv(name, value)
    assert not terminal.redrawn()


def test_a_pipe_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stylise_display, "LINE_EVERY", 0.0)
    with StyliseDisplay(6) as display:
        display.waiting("reading")
        display.begin("a--b", 2)
        assert display.due()
        display.show(state(57))
        monkeypatch.setattr(stylise_display, "LINE_EVERY", 1000.0)
        assert not display.due()
        display.done([5.0, 0.5], 31.25, "made/a--b.png")
        display.answer("made/a--b.png")
    out, err = capsys.readouterr()
    assert out == "made/a--b.png\n"
    lines = [line.split(" ", 1)[1] for line in err.splitlines()]
    assert lines == [
        "event=progress picture=a--b number=2 pictures=6 evaluation=57 evaluations=220 stage=2/3 loss=0.01235 eta=21s eta_all=3m10s",
        "event=picture picture=a--b loss=0.5 evaluations=2 seconds=31.2 file=made/a--b.png",
    ]
    assert "\x1b" not in err
    assert "\r" not in err


def test_a_terminal_gets_a_bar_and_the_curve_within_80_columns(
    tty: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", tty)
    with StyliseDisplay(6) as display:
        display.begin("a\x1b]0;evil\x07" + "long" * 40, 2)
        for evaluation in range(1, 111):
            display.curve.add(evaluation, 1000.0 / evaluation)
        display.show(state(110))
        drawn = tty.getvalue()
        display.answer("made/a--b.png")
        display.done([5.0, 0.5], 31.25, "made/a--b.png")
    assert "\x1b]0;evil" not in drawn
    assert f"{'━' * 20}" in drawn
    assert "110/220  ETA 21s  all 3m10s" in drawn
    assert "loss 0.01235  stage 2/3  192x144" in drawn
    plain = [line for line in drawn.replace("\r", "\n").split("\n") if "\x1b[2K" not in line]
    assert any("█" in line and "▁" in line for line in plain)
    assert capsys.readouterr().out == "made/a--b.png\n"
    assert "loss 0.5  2 evaluations  31s" in tty.getvalue()


def test_a_terminal_without_the_letters_gets_others(tty: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", tty)
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    with StyliseDisplay(1) as display:
        display.begin("a--b", 1)
        display.curve.add(1, 5.0)
        display.curve.add(110, 1.0)
        display.show(state(110))
    assert "#" * 20 + "-" * 20 in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", tty.getvalue())
    assert tty.getvalue().isascii()


def test_the_time_to_go_follows_from_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(100.0)
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    monkeypatch.setattr("nstray.commands.stylise_eta._OVERHEAD", 0)
    eta = Eta(3)
    eta.begin([(1000, 4), (4000, 2)])
    assert eta.seconds(1, 1) == (None, None)
    assert eta.seconds(2, 1) == (10.0, 34.0)  # 2 of 1 s, 2 of 4 s; two more pictures of 12 s
    assert eta.seconds(4, 1)[0] == pytest.approx(2 / 3 * 8)  # two evaluations in a second
    eta.done(20.0)
    eta.begin([(1000, 4), (4000, 2)])
    left, all_left = eta.seconds(5, 2)
    assert left is not None
    assert all_left == pytest.approx(left + 20.0)
    eta.skipped()
    assert eta.seconds(6, 2) == (0.0, 0.0)
