"""nstray.cluster.progress: the line and the bar; stdout stays empty, it is for data."""

from __future__ import annotations

import re
import sys
import time

import pytest
from terminal import Terminal

from nstray.cluster import polling, progress
from nstray.cluster.eta import LEAST
from nstray.cluster.progress import Display, JobProgress
from nstray.cluster.worker_handle import WorkerHandle
from nstray.text import duration
from nstray.worker.messages import WorkerProgress


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
    for words in ("8/8 pairs", "3 errors"):
        assert words in err


def at_work(worked: float = 0.0, under_way: float = 0.0, seconds: float = 100.0, **more: object) -> JobProgress:
    """A run whose first worker has been ready for so many seconds, and did its first work 10 s later."""
    job_progress = started_ago(seconds + 50, **{"total": 32, "expected_evaluations": 3200.0, **more})
    job_progress.begin_work()
    job_progress.ready = time.monotonic() - seconds
    if worked:
        job_progress.note_work(0.5, 0.5)
        job_progress._first = time.monotonic() - seconds + 10, 0.5
        job_progress.note_work(worked, under_way)
    return job_progress


def test_the_eta_goes_by_the_work_of_the_first_pairs() -> None:
    assert at_work().eta is None
    job_progress = at_work()
    job_progress.note_work(0.01, 0.01)
    assert job_progress.eta is None  # one look tells no rate
    now = at_work(worked=5.0, under_way=0.5, done=4)
    assert now.eta == pytest.approx((28 - 0.5) / (4.5 / 90), rel=0.02)
    assert now.shown_rate == pytest.approx(4 / 100, rel=0.02)
    assert at_work(worked=0.95, under_way=0.95).shown_rate == pytest.approx(0.45 / 90, rel=0.02)  # before a pair is committed
    assert at_work(worked=33.0, done=32).eta == 0
    died = at_work(worked=5.0, done=4)
    died.note_work(0.0, 0.0)  # its only worker died, and the next one has begun
    assert died.eta is not None


def test_the_bar_goes_by_evaluations_and_never_back() -> None:
    now = at_work(worked=1.5, under_way=0.5, done=4)
    assert now.shown_evaluations == pytest.approx(450)
    now.note_work(2.0, 0.0)  # what was under way is being written
    assert now.shown_evaluations == pytest.approx(450)
    now.done = 5
    assert now.shown_evaluations == pytest.approx(500)
    now.done, now.under_way = 32, 3.0
    assert now.shown_evaluations == 3200


def test_words_beside_the_bar() -> None:
    assert JobProgress(total=1).words(80) == "0/1 pair"
    assert JobProgress(total=32, guess=600.0).words(80) == "0/32 pairs, guess 10m00s"
    now = at_work(worked=5.0, under_way=0.5, done=4, errors={"not_found": 1}, stage=(2, 3), busy=0.97)
    now.ready = time.monotonic() - 100
    said = "4/32 pairs, [red]1 error[/red], 2.4 pairs/min, ETA 9m10s"
    assert now.words(100).startswith(said[:40])
    assert now.words(100).endswith(", stage 2/3, busy 97%")
    assert now.words(60).endswith(", stage 2/3") or "stage" not in now.words(60)
    assert len(now.words(60)) <= 60 + len("[red][/red]")
    now.phase = "stopping"
    assert "ETA" not in now.words(100)
    assert "4/32 pairs" in now.words(100)


SHOW = """
import sys, time
from nstray.cluster.progress import Display, JobProgress
now = JobProgress(10_000_000, expected_evaluations=1e9, guess=7000.0)
with Display(now) as display:
    display.begin("loading the network")
    time.sleep(0.3)
    now.begin_work()
    now.done, now.errors, now.busy, now.stage = 1_200_000, {"not_found": 12345}, 0.97, (2, 3)
    now.ready = time.monotonic() - 10_000
    display.log("event=shard part=" + "x" * 200)
    display.show()
    time.sleep(0.3)
"""


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}], ids=str)
def test_a_terminal_of_80_columns_shows_whole_words(env: dict[str, str]) -> None:
    shown = Terminal(sys.executable, "-c", SHOW, **env)
    assert shown.end() == 0
    lines = shown.lines()
    assert all(len(line) <= 80 for line in lines if "event=" not in line and "xxx" not in line)
    last = lines[-1]
    assert "1,200,000/10,000,000 pairs, 12,345 errors, 120 pairs/s, ETA" in last
    assert not last.endswith("…")
    assert any("loading the network" in line and "guess 1h56m" in line for line in lines)
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", shown.text)) is (env == {})
    assert "event=shard part=" + "x" * 200 in shown.text.replace("\r\n", "")


def test_a_terminal_that_can_t_be_redrawn_gets_the_lines_of_a_log() -> None:
    shown = Terminal(sys.executable, "-c", SHOW, TERM="dumb")
    assert shown.end() == 0
    assert "\x1b" not in shown.text
    assert " event=progress done=1200000 total=10000000 " in shown.text


def test_in_a_log_the_first_eta_is_a_line_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(JobProgress(total=32), terminal=False) as display:
        display.show()
        display.job_progress.begin_work()
        display.show()
        display.job_progress.note_work(0.01, 0.01)
        display.show()
        assert capsys.readouterr().err == ""
        display.job_progress.note_work(0.02, 0.02)
        display.show()
        display.show()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert re.search(r" event=progress done=0 total=32 pairs_per_s=\S+ eta=\S+ evaluations=0 workers=0$", lines[0])


def test_workers_are_polled_often_until_the_end_is_known_and_where_they_are_few() -> None:
    known = at_work(worked=5.0, under_way=0.5, done=4)
    begun = at_work(seconds=1.0)
    assert polling.interval(begun, 1, 2.0) == polling.FIRST
    assert polling.interval(known, 1, 2.0) == polling.OFTEN
    assert polling.interval(begun, polling.FEW + 1, 2.0) == 2.0
    assert polling.interval(at_work(seconds=polling.FIRST_SECONDS + 1), 1, 2.0) == polling.OFTEN  # it waits for something else
    assert polling.interval(begun, 1, 0.01) == 0.01


def test_what_workers_say_adds_up() -> None:
    now = JobProgress(total=10)
    workers = [WorkerHandle(f"worker-{i}", None) for i in range(3)]
    workers[0].latest = WorkerProgress(
        evaluations=30, first=1.0, now=11.0, phase_seconds={"optimise": 5.0}, worked=1.25, under_way=0.25, stage=(2, 3)
    )
    workers[1].latest = WorkerProgress(evaluations=10, first=1.0, now=11.0, phase_seconds={"optimise": 10.0}, worked=0.5, under_way=0.5)
    polling.sum_up(now, workers, 100)
    assert (now.evaluations, now.busy, now.under_way, now.stage) == (140, 0.75, 0.75, (2, 3))
    workers[1].latest.stage = (1, 3)
    polling.sum_up(now, workers, 100)
    assert now.stage is None  # there are several


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
