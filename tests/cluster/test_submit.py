"""`ray job submit -- nstray run ...` against a head started with `ray start`: its exit code, its log, and `ray job stop`."""

from __future__ import annotations

import json
import shlex
import sys
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
    out, entrypoint = _entrypoint(tmp_path, 200)
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
    done = head.job("submit", "--submission-id", "fails", "--", *jobs.NSTRAY, "run", str(tmp_path / "no.csv"), str(tmp_path / "out"))
    assert done.returncode == 1
    state = head.status("fails")
    assert (state["status"], state["driver_exit_code"]) == ("FAILED", 2)
    assert "Traceback" not in done.stdout
    assert f"nstray: {tmp_path}/no.csv" in done.stdout


def _project(folder: Path) -> list[str]:
    """A folder with its manifest, pictures and weights, all named relative to it; the words of a run without OUT."""
    jobs.write_inputs(str(folder), contents=1, styles=2)
    manifest = folder / "pairs.csv"
    manifest.write_text(manifest.read_text().replace(f"{folder}/", ""))
    return [*jobs.NSTRAY, "run", "pairs.csv", *jobs.options({**jobs.SETTINGS, "weights": "weights.safetensors"})]


def test_a_relative_out_is_refused_and_nothing_is_written(head: Head, tmp_path: Path) -> None:
    words = _project(tmp_path / "project")
    places = {"relative": ("out", "in Ray's own copy of a job's folder"), "inside": ("$PWD/new/out", "in Ray's own copy of a job's folder")}
    for name, (out, reason) in places.items():
        shell = " ".join(map(shlex.quote, words)) + f" -- {out}"
        done = head.job("submit", "--submission-id", name, "--working-dir", str(tmp_path / "project"), "--", "sh", "-c", shell)
        log = done.stdout + done.stderr
        state = head.status(name)
        assert (state["status"], state["driver_exit_code"]) == ("FAILED", 2), log
        assert reason in log
        assert "give s3://BUCKET/PREFIX, or the absolute path of a folder that all nodes mount" in log
        assert "Traceback" not in done.stdout
    assert [*Path(head.folder).rglob("job.json"), *(tmp_path / "project").rglob("job.json")] == []
    without = head.job("submit", "--submission-id", "without", "--", *words, "out")
    assert head.status("without")["driver_exit_code"] == 2
    assert "in a Ray job a relative path starts where the Ray head was started" in without.stdout + without.stderr


def test_a_relative_manifest_and_an_absolute_out(head: Head, tmp_path: Path) -> None:
    words = _project(tmp_path / "project")
    out = str(tmp_path / "résultats")
    done = head.job("submit", "--submission-id", "whole", "--working-dir", str(tmp_path / "project"), "--", *words, out)
    log = done.stdout + done.stderr
    assert head.status("whole")["driver_exit_code"] == 0, log
    assert [(r["pair_id"], r["status"]) for r in jobs.rows(out)] == [("c0-s0", "ok"), ("c0-s1", "ok")]
    begin, end = (next(line for line in log.splitlines() if f"event={name} " in line) for name in ("job", "complete"))
    assert f"output={out}" in begin
    assert end.endswith(f"output={out}")
    (tmp_path / "project" / "note.txt").write_text("Ray makes another copy of a folder that has changed")
    again = head.job("submit", "--submission-id", "again-whole", "--working-dir", str(tmp_path / "project"), "--", *words, out)
    assert "event=already_complete" in again.stdout, again.stdout + again.stderr


LOOKS = """
from nstray.cluster.ray_session import start_ray, stop_ray
start_ray()
import ray

@ray.remote
def look():
    import mine, theirs
    return mine.WHAT, theirs.WHAT

print("FOUND", *ray.get(look.remote()))
stop_ray()
"""


def test_working_dir_and_py_modules_stay_importable(head: Head, tmp_path: Path) -> None:
    """They are the user's own code, unlike the folder that a run happens to be started in."""
    for file in (tmp_path / "project" / "mine.py", tmp_path / "theirs" / "__init__.py"):
        file.parent.mkdir()
        file.write_text(f"WHAT = {file.parent.name!r}\n")
    (tmp_path / "project" / "look.py").write_text(LOOKS)
    environment = json.dumps({"py_modules": [str(tmp_path / "theirs")]})
    words = ["--runtime-env-json", environment, "--working-dir", str(tmp_path / "project"), "--", sys.executable, "look.py"]
    done = head.job("submit", "--submission-id", "looks", *words)
    assert "FOUND project theirs" in done.stdout, done.stdout + done.stderr
