"""A process of Ray that dies ends the run, and the last line says so; nothing of the run is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

import jobs
import pytest
from heads import Head
from runs import PAIRS, Run, begin, left, wait_for

from nstray.commands import verify
from nstray.output import live_status
from nstray.output.folder import Output

pytestmark = pytest.mark.slow


SAID = {"DashboardAgent": "dashboard_agent", "RuntimeEnvAgent": "runtime_env_agent"}


def find(process: subprocess.Popen[Any], name: str) -> int:
    def found() -> list[int]:
        below = jobs.alive(jobs.descendants(process.pid))
        return [pid for pid in below if (name in jobs.command(pid).split(" ")[0] if name in ("raylet", "gcs_server") else name in jobs.command(pid))]

    pids = jobs.until(found, name, alive=process)
    assert isinstance(pids, list)
    return int(pids[0])


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        *(("raylet", "event=devices"), ("raylet", "event=shard"), ("gcs_server", "event=worker_ready")),
        *(("DashboardAgent", "event=devices"), ("DashboardAgent", "event=shard"), ("RuntimeEnvAgent", "event=worker_ready")),
    ],
)
def test_a_process_of_ray_that_is_killed_ends_the_run_and_its_last_line_says_so(run: Run, name: str, moment: str) -> None:
    begin(run, evaluations=200)
    process = run.start()
    wait_for(run, process, moment, 0.0)
    jobs.until(lambda: live_status.read(Output(run.out)), "live.json", alive=process)
    pid = find(process, name)
    below = jobs.descendants(process.pid)
    os.kill(pid, signal.SIGKILL)
    assert process.wait(60) == 1, run.log.read_text()
    assert live_status.read(Output(run.out)) is None
    last = run.log.read_text().splitlines()[-1]
    assert time.strptime(last[:8], "%H:%M:%S")
    assert last[9:].startswith(f"event=ray_died process={SAID.get(name, name)} "), run.log.read_text()
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
    assert process.wait(400) == 0, run.log.read_text()
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
    assert run.log.read_text().splitlines()[-1][9:].startswith(("event=ray_died process=raylet ", f"event=ray_died process={name} "))
    assert verify.verify(run.out).problems == [] or len(jobs.parts(run.out)) < PAIRS
    assert left(run) == []
