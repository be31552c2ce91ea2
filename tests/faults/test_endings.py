"""How a run ends that is told to stop: a true exit code and a last line that says so, at whatever moment; and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import jobs
import pytest
from runs import PAIRS, Run, begin, left, wait_for

pytestmark = pytest.mark.slow
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
LAST = f"{PAIRS} x event=shard "
ENDS = ("event=complete rows=15 ok=15 errors=0", "event=stopped ", "nstray: interrupted; run the same command again to resume")


MOMENTS = [
    ("", 0.15),
    ("", 0.6),
    ("", 1.5),
    ("", 2.5),
    ("event=job", 0.0),
    ("event=job", 0.5),
    ("event=job", 1.5),
    ("event=job", 2.5),
    ("event=devices", 0.0),
    ("event=devices", 1.5),
    ("event=worker_ready", 0.0),
    ("event=shard", 0.0),
    ("5 x event=shard ", 0.1),
    (LAST, 0.0),
    (LAST, 0.3),
    (LAST, 0.8),
    (LAST, 1.3),
    (LAST, 2.0),
]


@pytest.mark.parametrize(("number", "moment", "seconds"), [(SIGNALS[i % 3], *moment) for i, moment in enumerate(MOMENTS)])
def test_told_to_stop_at_any_moment(run: Run, number: signal.Signals, moment: str, seconds: float) -> None:
    begin(run)
    process = run.start()
    below: dict[int, str] = {}
    if moment:
        wait_for(run, process, moment, seconds)
        below = jobs.descendants(process.pid)
    else:
        time.sleep(seconds)
    process.send_signal(number)
    code = process.wait(400)
    text = run.log.read_text()
    assert code in (0, 4), text
    assert "Traceback" not in text
    assert any(end in text.splitlines()[-1] for end in ENDS), text
    assert ("event=complete" in text) == (code == 0)
    kept = jobs.parts(run.out)
    if len(kept) == PAIRS:
        assert (Path(run.out) / ".nstray" / "summary.json").exists() == (code == 0)
    if moment == LAST:
        assert code == 0, text
    jobs.until(lambda: not jobs.alive(below), "Ray's processes to end", seconds=120)
    assert left(run) == []
    run.finish(kept)


@pytest.mark.parametrize("moment", ["event=job", "event=devices", "event=shard"])
def test_everything_of_it_told_to_stop_at_once(run: Run, moment: str) -> None:
    """As a service manager does: SIGTERM to the driver, to Ray's processes and to its workers. Ray may end the driver first, with 1."""
    begin(run, evaluations=50)
    process = run.start()
    wait_for(run, process, moment, 0.5)
    below = jobs.descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    for pid in jobs.alive(below):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    assert process.wait(60) in (1, 4), run.log.read_text()
    jobs.until(lambda: not jobs.working(below), "Ray's processes to end", seconds=60)
    # Where Ray ends the driver, or its start waits in vain for its processes, the folder is left to the next run.
    run.finish(jobs.parts(run.out))
    assert left(run) == []
