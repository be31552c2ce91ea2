"""The command line under signals, on local files: what is committed stays, a rerun completes, no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest

from nstray import dataset

PAIRS = 15


class Run:
    """``nstray run`` of a small job, as often as a test asks."""

    def __init__(self, base: Path, ray: str) -> None:
        self.out, self.log, self.env = str(base / "out"), base / "log", {**jobs.LOCAL_RAY, "RAY_TMPDIR": ray}
        manifest, weights = jobs.write_inputs(str(base / "in"))
        settings = {**jobs.SETTINGS, "weights": weights, "evaluations": 100}
        self.words = ["run", manifest, self.out, *jobs.options(settings)]
        self.started: list[subprocess.Popen[Any]] = []

    def start(self) -> subprocess.Popen[Any]:
        self.started.append(jobs.start_cli(self.words, self.log, self.env))
        return self.started[-1]

    def start_and_wait_for_part(self) -> subprocess.Popen[Any]:
        before = len(jobs.parts(self.out))
        process = self.start()
        jobs.until(lambda: len(jobs.parts(self.out)) > before, "a new part", alive=process)
        return process

    def finish(self, kept: dict[str, str | None]) -> None:
        """Run to the end: exit code 0, the parts that were there untouched, every pair once, verified."""
        process = self.start()
        assert process.wait(150) == 0, self.log.read_text()
        now = jobs.parts(self.out)
        assert {name: now[name] for name in kept} == kept
        rows = jobs.rows(self.out)
        assert [(r["pair_id"], r["status"]) for r in rows] == [(i, "ok") for i in jobs.all_pairs()]
        report = dataset.verify(self.out)
        assert (report.problems, report.rows) == ([], PAIRS)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with jobs.ray_folder() as folder:
        made = Run(tmp_path, folder)
        try:
            yield made
        finally:
            for process in made.started:
                jobs.end(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_a_rerun_completes(run: Run, number: signal.Signals) -> None:
    process = run.start_and_wait_for_part()
    below = jobs.descendants(process.pid)
    assert below
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C in a terminal does: to everything in the foreground
    else:
        process.send_signal(number)
    assert process.wait(120) == 4, run.log.read_text()
    kept = jobs.parts(run.out)
    assert 0 < len(kept) < PAIRS
    text = run.log.read_text()
    assert f"event=draining signal={number.name}" in text
    assert f"event=stopped rows_done={len(kept)} rows={PAIRS} hint=run_the_same_command_again_to_resume" in text
    assert "Traceback" not in text
    jobs.until(lambda: not jobs.alive(below), "Ray's processes to end", seconds=30)
    if number == signal.SIGTERM:
        run.finish(kept)


def test_killed_driver_leaves_nothing_behind_and_a_rerun_completes(run: Run) -> None:
    process = run.start_and_wait_for_part()
    below = jobs.descendants(process.pid)
    assert any("raylet" in Path(f"/proc/{pid}/cmdline").read_text() for pid in jobs.alive(below))
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    # Ray's servers end with their parent, and a worker when it notices that they did.
    try:
        jobs.until(lambda: not jobs.working(below), "Ray's processes to end", seconds=60)
    finally:
        jobs.kill(below)
    kept = jobs.parts(run.out)
    assert 0 < len(kept) < PAIRS
    run.finish(kept)
