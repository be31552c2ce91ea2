"""How a run ends: a true exit code and a last line that says so, whenever it is told to stop, whatever of Ray dies, whoever reads its log;
and nothing of it is left in TMPDIR or Ray's folder."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jobs
import pytest
from heads import Head
from runs import PAIRS, Run

from nstray.commands import verify

pytestmark = pytest.mark.slow
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
LAST = f"{PAIRS} x event=shard "
ENDS = ("event=complete rows=15 ok=15 errors=0", "event=stopped ", "nstray: interrupted; run the same command again to resume")


def begin(run: Run, *, evaluations: int = 4) -> None:
    """Few evaluations, so that every part of a run takes its share of the time; temporary files where the test sees them."""
    run.words += ["--evaluations", str(evaluations)]
    (run.base / "temporary").mkdir()
    run.env["TMPDIR"] = str(run.base / "temporary")


def left(run: Run) -> list[str]:
    """What is left of runs: in the temporary folder and in Ray's, but for the files by which Ray's processes on one machine meet."""
    found = [p for root in (run.env["TMPDIR"], run.env["RAY_TMPDIR"]) for p in Path(root).rglob("*")]
    return sorted(str(p) for p in found if p.name != "ray")


def wait_for(run: Run, process: subprocess.Popen[Any], moment: str, seconds: float) -> None:
    """Until the log holds `moment` (``N x TEXT``: so often), and so many seconds more."""
    times, _, text = moment.rpartition(" x ")
    jobs.until(lambda: run.log.exists() and run.log.read_text().count(text) >= int(times or 1), moment, every=0.02, alive=process)
    time.sleep(seconds)


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
    code = process.wait(120)
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
    jobs.until(lambda: not jobs.alive(below), "Ray's processes to end", seconds=30)
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
    assert second.wait(150) == 0, run.log.read_text()
    assert first.wait(150) == 0, log.read_text()
    assert [len(jobs.parts(folder)) for folder in (out, run.out)] == [PAIRS, PAIRS]
    assert left(run) == []


SAID = {"DashboardAgent": "dashboard_agent", "RuntimeEnvAgent": "runtime_env_agent"}


def find(process: subprocess.Popen[Any], name: str) -> int:
    def found() -> list[int]:
        below = jobs.alive(jobs.descendants(process.pid))
        return [pid for pid in below if (name in jobs.command(pid).split(" ")[0] if name in ("raylet", "gcs_server") else name in jobs.command(pid))]

    pids = jobs.until(found, name, alive=process)
    assert isinstance(pids, list)
    return int(pids[0])


@pytest.mark.parametrize("moment", ["event=devices", "event=worker_ready", "event=shard"])
@pytest.mark.parametrize("name", ["raylet", "gcs_server", "DashboardAgent", "RuntimeEnvAgent"])
def test_a_process_of_ray_that_is_killed_ends_the_run_and_its_last_line_says_so(run: Run, name: str, moment: str) -> None:
    begin(run, evaluations=200)
    process = run.start()
    wait_for(run, process, moment, 0.0)
    pid = find(process, name)
    below = jobs.descendants(process.pid)
    os.kill(pid, signal.SIGKILL)
    assert process.wait(30) == 1, run.log.read_text()
    last = run.log.read_text().splitlines()[-1]
    assert last.startswith(f"event=ray_died process={SAID.get(name, name)} "), run.log.read_text()
    assert last.endswith('hint="what is committed stays; run the same command again to resume"')
    jobs.until(lambda: not jobs.working(below), "Ray's processes to end", seconds=60)
    assert left(run) == []
    kept = jobs.parts(run.out)
    jobs.kill(below)
    run.finish(kept)


def test_a_helper_of_ray_without_which_a_run_can_go_on(run: Run) -> None:
    begin(run, evaluations=50)
    process = run.start()
    wait_for(run, process, "event=worker_ready", 0.0)
    os.kill(find(process, "log_monitor.py"), signal.SIGKILL)
    assert process.wait(150) == 0, run.log.read_text()
    assert left(run) == []


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_process_of_an_existing_cluster_that_is_killed(run: Run, name: str) -> None:
    begin(run, evaluations=200)
    sooner = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15"}
    with jobs.ray_folder() as folder:
        head = Head(folder, **sooner)
        try:
            head.wait()
            run.env |= {**sooner, "RAY_ADDRESS": head.ray_address, "RAY_AUTH_MODE": "disabled"}
            process = run.start_and_wait_for_part()
            os.kill(find(head.process, name), signal.SIGKILL)
            assert process.wait(60) == 1, run.log.read_text()
        finally:
            head.end()
    # `ray start --block` ends its raylet when its head process dies.
    assert run.log.read_text().splitlines()[-1].startswith(("event=ray_died process=raylet ", f"event=ray_died process={name} "))
    assert verify.verify(run.out).problems == [] or len(jobs.parts(run.out)) < PAIRS
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
    done = subprocess.run(words, env={**os.environ, **run.env}, timeout=150, stdin=subprocess.DEVNULL, capture_output=True)
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
    assert process.wait(150) == 0
    assert b"stylising" in shown
    assert len(jobs.parts(run.out)) == PAIRS
    assert left(run) == []
