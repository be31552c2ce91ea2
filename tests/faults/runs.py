"""A run of the command line on local files, as often as a test asks."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jobs
import saboteur

from nstray.commands import verify

PAIRS = 15


class Run:
    """``nstray run`` of a small job, as often as a test asks."""

    def __init__(self, base: Path, ray: str) -> None:
        self.base, self.out, self.log, self.env = base, str(base / "out"), base / "log", {**jobs.LOCAL_RAY, "RAY_TMPDIR": ray}
        manifest, weights = jobs.write_inputs(str(base / "in"))
        settings = {**jobs.SETTINGS, "weights": weights, "evaluations": 100}
        self.words = ["run", manifest, self.out, *jobs.options(settings)]
        self.started: list[subprocess.Popen[Any]] = []

    def sabotage(self, faults: dict[str, str], **more: str) -> None:
        """Workers of runs that start from now on have these faults; see `saboteur.write`."""
        folder = saboteur.write(self.base / "site", faults, **more)
        self.env["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])

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
        assert process.wait(400) == 0, self.log.read_text()
        now = jobs.parts(self.out)
        assert {name: now[name] for name in kept} == kept
        rows = jobs.rows(self.out)
        assert [(r["pair_id"], r["status"]) for r in rows] == [(i, "ok") for i in jobs.all_pairs()]
        report = verify.verify(self.out)
        assert (report.problems, report.rows) == ([], PAIRS)


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
