"""The bar and the lines of an export; stdout stays empty."""

from __future__ import annotations

import pytest

from nstray.exports import progress
from nstray.exports.progress import ExportProgress


def test_a_line_a_minute_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with ExportProgress(terminal=False) as shown:
        shown.begin("reading", 10, 4)
        shown.step(1000)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
        shown.step(1000)
    out, err = capsys.readouterr()
    assert out == ""
    assert "event=export_progress phase=reading done=6 total=10 rows_per_s=" in err
    assert len(err.splitlines()) == 1


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with ExportProgress(terminal=True) as shown:
        shown.begin("reading", 2, 0)
        shown.step(10)
        shown.step(10)
        shown.begin("writing", 1, 0)
        shown.step(20)
    out, err = capsys.readouterr()
    assert out == ""
    assert "reading" in err
    assert "writing" in err
    assert "100%" in err


def test_what_is_left_is_judged_by_this_command_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with ExportProgress(terminal=False) as shown:
        shown.begin("writing", 100, 98)
        now[0] += 30
        shown.step(300)
    assert "done=99 total=100 rows_per_s=10 eta=30s" in capsys.readouterr().err
