"""`ray job submit -- nstray run ...` against a head started with `ray start`: its exit code, its log, and `ray job stop`."""

from __future__ import annotations

import json
from pathlib import Path

import jobs
from heads import Head

from nstray.commands import verify

PAIRS = 15


def _entrypoint(base: Path, evaluations: int) -> tuple[str, list[str]]:
    manifest, weights = jobs.write_inputs(str(base / "in"))
    out = str(base / "out")
    settings = {**jobs.SETTINGS, "weights": weights, "evaluations": evaluations}
    return out, [*jobs.NSTRAY, "run", manifest, out, *jobs.options(settings)]


def _check(out: str) -> None:
    assert [(r["pair_id"], r["status"]) for r in jobs.rows(out)] == [(i, "ok") for i in jobs.all_pairs()]
    assert verify.verify(out).problems == []


def test_submitted_job_completes(head: Head, tmp_path: Path) -> None:
    out, entrypoint = _entrypoint(tmp_path, 5)
    done = head.job("submit", "--submission-id", "completes", "--", *entrypoint)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    state = head.status("completes")
    assert (state["status"], state["driver_exit_code"]) == ("SUCCEEDED", 0)
    for line in (f"event=job rows={PAIRS} ", "event=worker_ready worker=worker-1 device=cpu", f"event=complete rows={PAIRS} ok={PAIRS} errors=0"):
        assert line in log
    assert "Traceback" not in log
    _check(out)


def test_stopped_job_drains_and_a_rerun_completes(head: Head, tmp_path: Path) -> None:
    out, entrypoint = _entrypoint(tmp_path, 100)
    environment = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}})
    started = head.job("submit", "--submission-id", "stopped", "--no-wait", "--runtime-env-json", environment, "--", *entrypoint)
    assert started.returncode == 0, started.stdout + started.stderr
    jobs.until(lambda: jobs.parts(out) or head.status("stopped")["status"] not in ("PENDING", "RUNNING"), "the first part")
    stopped = head.job("stop", "stopped")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    jobs.until(lambda: head.status("stopped")["status"] not in ("PENDING", "RUNNING"), "the job's end", every=0.5)
    log = head.job("logs", "stopped").stdout
    assert head.status("stopped")["status"] == "STOPPED", log
    kept = jobs.parts(out)
    assert 0 < len(kept) < PAIRS
    assert "event=draining signal=SIGTERM" in log
    assert f"event=stopped rows_done={len(kept)} rows={PAIRS}" in log  # it ended by itself, not by Ray's SIGKILL
    again = head.job("submit", "--submission-id", "again", "--", *entrypoint)
    assert again.returncode == 0, again.stdout + again.stderr
    now = jobs.parts(out)
    assert {name: now[name] for name in kept} == kept
    assert len(now) == PAIRS
    _check(out)


def test_failing_job_says_so(head: Head, tmp_path: Path) -> None:
    done = head.job("submit", "--submission-id", "fails", "--", *jobs.NSTRAY, "run", str(tmp_path / "no.csv"), "out")
    assert done.returncode == 1
    state = head.status("fails")
    assert (state["status"], state["driver_exit_code"]) == ("FAILED", 2)
    assert "Traceback" not in done.stdout
    assert f"nstray: {tmp_path}/no.csv" in done.stdout
