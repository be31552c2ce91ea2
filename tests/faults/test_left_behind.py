"""Nothing of a run is left in TMPDIR or Ray's folder, whoever killed it and whoever reads its log."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import time

import jobs
import pytest
from runs import PAIRS, Run, begin, left, wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("moment", "seconds"), [("", 1.5), ("event=job", 0.5), ("event=job", 2.0), ("event=devices", 0.5), ("event=shard", 0.0)])
def test_the_next_run_removes_what_a_killed_one_left(run: Run, moment: str, seconds: float) -> None:
    begin(run, evaluations=50)
    process = run.start()
    if moment:
        wait_for(run, process, moment, seconds)
    else:
        time.sleep(seconds)
    below = jobs.descendants(process.pid)
    process.kill()
    process.wait(30)
    jobs.kill(below)
    if "event=devices" in run.log.read_text():
        assert left(run)  # or the test shows nothing
    run.finish(jobs.parts(run.out))
    assert left(run) == []


def test_two_runs_at_once_do_not_remove_each_others_folders(run: Run) -> None:
    begin(run, evaluations=50)
    first = run.start_and_wait_for_part()
    out, log, run.out, run.log = run.out, run.log, str(run.base / "other"), run.base / "other.log"
    run.words[2] = run.out
    second = run.start()
    assert second.wait(400) == 0, run.log.read_text()
    assert first.wait(400) == 0, log.read_text()
    assert [len(jobs.parts(folder)) for folder in (out, run.out)] == [PAIRS, PAIRS]
    assert left(run) == []


SHELLS = {
    "stderr closed": '"$@" 2>&-',
    "stdout and stderr closed": '"$@" >&- 2>&-',
    "all closed": '"$@" <&- >&- 2>&-',
    "stderr full": '"$@" 2> /dev/full',
    "both full": '"$@" > /dev/full 2>&1',
    "reader gone at once": '"$@" 2> >(exec true)',
    "reader gone after a line": '"$@" 2> >(exec head -1 > /dev/null)',
    "reader gone in the middle": '"$@" 2> >(exec head -6 > /dev/null)',
    "both readers gone": '"$@" > >(exec head -1 > /dev/null) 2>&1',
}


@pytest.mark.parametrize("shell", SHELLS.values(), ids=SHELLS)
def test_a_log_that_nobody_takes_costs_nothing(run: Run, shell: str) -> None:
    begin(run)
    words = ["bash", "-c", f"{shell}; exit $?", "bash", *jobs.NSTRAY, *run.words]
    done = subprocess.run(words, env={**os.environ, **run.env}, timeout=400, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, done.stderr
    run.finish(jobs.parts(run.out))
    assert len(jobs.parts(run.out)) == PAIRS
    assert left(run) == []


@pytest.mark.parametrize("moment", [1, 12])
def test_a_terminal_that_goes_away_costs_nothing(run: Run, moment: int) -> None:
    """With a bar, whose own thread draws it."""
    begin(run, evaluations=50)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*jobs.NSTRAY, *run.words], stdin=slave, stdout=slave, stderr=slave, env={**os.environ, **run.env}, start_new_session=True
    )
    run.started.append(process)
    os.close(slave)
    os.set_blocking(master, False)
    shown = b""

    def committed() -> bool:
        nonlocal shown
        with contextlib.suppress(BlockingIOError):
            shown += os.read(master, 1 << 16)
        return len(jobs.parts(run.out)) >= moment

    jobs.until(committed, "parts", alive=process)
    os.close(master)
    assert process.wait(400) == 0
    assert b"stylising" in shown
    assert len(jobs.parts(run.out)) == PAIRS
    assert left(run) == []
