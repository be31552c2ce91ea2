"""nstray.cluster.progress: the line and the bar; stdout stays empty, it is for data."""

from __future__ import annotations

import time

import pytest

from nstray.cluster import progress
from nstray.cluster.eta import LEAST
from nstray.cluster.progress import Display, JobProgress
from nstray.text import duration


def started_ago(seconds: float, **more: object) -> JobProgress:
    job_progress = JobProgress(**more)  # type: ignore[arg-type]
    job_progress.started = time.monotonic() - seconds
    return job_progress


def test_the_rate_leaves_out_what_was_there_before() -> None:
    assert started_ago(10, total=100, resumed=40, done=60).rate == pytest.approx(2, rel=0.05)


def test_the_eta_goes_by_pairs_or_by_evaluations_whichever_is_further() -> None:
    assert started_ago(10, total=100).eta is None
    assert started_ago(10, total=100, done=50).eta == pytest.approx(10, rel=0.05)
    assert started_ago(10, total=100, resumed=50, done=75).eta == pytest.approx(10, rel=0.05)
    assert started_ago(10, total=100, evaluations=100, expected_evaluations=400.0).eta == pytest.approx(30, rel=0.05)
    assert started_ago(10, total=100, done=100).eta == 0
    assert started_ago(10, total=100, evaluations=500, expected_evaluations=400.0).eta == 0


def test_a_line_is_words_of_key_and_value() -> None:
    job_progress = started_ago(10, total=100, resumed=10, done=30, errors={"not_found": 2, "decode_failed": 1}, busy=0.875, workers=3)
    words = job_progress.fields()
    assert words["done"] == "30"
    assert words["total"] == "100"
    assert float(words["pairs_per_s"]) == pytest.approx(2, rel=0.05)
    assert words["eta"] in ("34s", "35s", "36s")
    assert words["workers"] == "3"
    assert words["busy"] in ("0.87", "0.88")
    assert (words["error_decode_failed"], words["error_not_found"]) == ("1", "2")
    assert "busy" not in JobProgress(total=1).fields()
    assert JobProgress(total=1).fields()["eta"] == "?"


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (65, "1m05s"), (3599.6, "1h00m"), (7260, "2h01m"), (90_000, "25h00m")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_gets_a_line_a_minute_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Display(JobProgress(total=10), terminal=False) as display:
        for _ in range(130):
            now[0] += 1
            display.job_progress.done += 1 if display.job_progress.done < 10 else 0
            display.show()
        display.log("event=hello [not markup]")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len([x for x in lines if "event=progress done=10 total=10" in x]) == 2
    assert lines[-1].endswith(" event=hello [not markup]")


def test_a_terminal_gets_a_bar_with_errors_and_log_lines_above_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with Display(JobProgress(total=8, resumed=2, done=2), terminal=True) as display:
        display.log("event=hello path=/a/[b]/c")
        display.job_progress.done, display.job_progress.busy = 8, 0.5
        display.job_progress.errors["not_found"] = 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "event=hello path=/a/[b]/c" in err
    for words in ("8/8", "3 errors", "busy 50%", "pairs/s"):
        assert words in err


def test_the_eta_goes_by_the_last_shards_once_there_are_some() -> None:
    job_progress = started_ago(1000, total=100, done=60, workers=2)
    for _ in range(LEAST):
        job_progress.shard_times.add(4.0, 10)
    assert job_progress.eta == pytest.approx(40 / 10 * 4 / 2)


def test_a_note_is_for_a_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for terminal in (False, True):
        with Display(JobProgress(total=8), terminal=terminal) as display:
            display.note_event("shard", part="x")
        assert ("event=shard" in capsys.readouterr().err) is not terminal
