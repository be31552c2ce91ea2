"""A Ray cluster of the tests' own, started as a user starts one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import jobs
from ports import free_ports

RAY = (sys.executable, "-m", "ray.scripts.scripts")


class Head:
    """A head of the test's own: on loopback, two GPUs by name, without authentication; `more` goes into its environment."""

    def __init__(self, folder: str, **more: str) -> None:
        self.folder = folder
        gcs, dashboard = free_ports(1), free_ports(1)
        self.ray_address = f"127.0.0.1:{gcs}"
        self.address = f"http://127.0.0.1:{dashboard}"
        # A submitted job inherits the head's environment, not that of `ray job submit`.
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or the head refuses to listen on loopback alone
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": folder,
            **more,
        }
        words = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}", "--num-cpus=2", "--num-gpus=2"]
        words += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--dashboard-agent-listen-port=0"]
        self.log = Path(folder) / "head.log"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen([*RAY, *words], stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True)

    def wait(self) -> None:
        """Until jobs can be submitted."""

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{self.address}/api/jobs/", timeout=5) as reply:
                    return bool(reply.status == 200)
            except OSError:
                return False

        jobs.until(answers, f"the head's job server\n{self.log.read_text()}", every=0.5, alive=self.process)

    def job(self, *words: str, seconds: float = 150) -> subprocess.CompletedProcess[str]:
        """``ray job WORDS``; its own words first, ``-- ENTRYPOINT`` last."""
        verb, *rest = words
        command = [*RAY, "job", verb, "--address", self.address, *rest]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=self.env)

    def status(self, job_id: str) -> dict[str, object]:
        with urllib.request.urlopen(f"{self.address}/api/jobs/{job_id}", timeout=10) as reply:
            found = json.load(reply)
        assert isinstance(found, dict)
        return found

    def workers(self) -> list[int]:
        """Processes of nstray's actors."""
        below = jobs.descendants(self.process.pid)
        return [pid for pid in jobs.alive(below) if jobs.command(pid).startswith("ray::WorkerActor")]

    def end(self) -> None:
        """Every process of this head, and no other Ray's."""
        below = jobs.descendants(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
        jobs.kill(below)
