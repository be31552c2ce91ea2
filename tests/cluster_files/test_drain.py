"""cluster/drain.py against a real Ray: the head's jobs are stopped and waited for, a worker's node is drained and waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import jobs
import pytest
from heads import Head
from ports import free_ports

pytestmark = pytest.mark.slow
DRAIN = Path(__file__).parent.parent.parent / "cluster" / "drain.py"
# It stays 30 s after the last job's end, for whom the job server's answers are; here nobody asks.
SOONER = f"import sys; sys.path.insert(0, {str(DRAIN.parent)!r}); import drain; drain._SEEN_S = 1; sys.exit(drain.main())"
# A job that ends a while after it was told to stop, as nstray does; the one called driver is connected to Ray.
SLOW_TO_STOP = """
import pathlib, signal, sys, time
_, folder, name = sys.argv
if name == "driver":
    import ray
    ray.init(log_to_driver=False)
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
pathlib.Path(folder, name + "-begun").touch()
while not told:
    time.sleep(0.1)
time.sleep(5)
pathlib.Path(folder, name + "-committed").touch()
sys.exit(4)
"""
# Two nodes, of which the second holds an actor that leaves once its node is told to drain, as nstray's driver has it leave.
TWO_NODES = """
import os, subprocess, sys, time
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": int(sys.argv[1])})
worker = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address)

@ray.remote(num_cpus=1)
class Holder:
    def ready(self):
        return True

holder = Holder.remote()
ray.get(holder.ready.remote())
def drain(seconds):
    words = [sys.executable, sys.argv[2], "worker", "--seconds", str(seconds), "--node", worker.node_id]
    return subprocess.Popen(words, env={**os.environ, "RAY_ADDRESS": cluster.address})

assert drain(2).wait() == 1, "a node at work is not idle"
draining = drain(60)
time.sleep(3)
assert draining.poll() is None
ray.kill(holder)
assert draining.wait() == 0
assert worker.all_processes["raylet"][0].process.poll() == 0
"""


def drain_head(head: Head, seconds: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", SOONER, "head", "--address", head.address, "--seconds", str(seconds)]
    return subprocess.run(words, capture_output=True, text=True, timeout=400, env=head.env)


def test_the_head_waits_until_its_jobs_have_committed(head: Head, tmp_path: Path) -> None:
    assert drain_head(head, 60).returncode == 0  # nothing runs
    script = tmp_path / "slow.py"
    script.write_text(SLOW_TO_STOP)
    wait = '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}'
    names = ("driver", "program")
    for name in names:
        command = (sys.executable, str(script), str(tmp_path), name)
        head.job("submit", "--no-wait", f"--submission-id=slow-{name}", "--runtime-env-json", wait, "--", *command)
    jobs.until(lambda: all((tmp_path / f"{name}-begun").exists() for name in names), "the jobs", every=0.2, alive=head.process)
    done = drain_head(head, 60)
    assert done.returncode == 0, done.stderr
    assert all(f"stopping job slow-{name}" in done.stdout for name in names)
    assert all((tmp_path / f"{name}-committed").exists() for name in names)
    assert head.status("slow-driver")["status"] == "FAILED"  # so that KubeRay goes on with it
    assert head.status("slow-driver")["driver_exit_code"] == 4
    assert head.status("slow-program")["status"] == "STOPPED"


def test_a_worker_waits_until_its_node_is_idle_and_gone(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    # With a token, as in the pods.
    environment |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid.uuid4().hex,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    words = [sys.executable, "-c", TWO_NODES, str(free_ports(1)), str(DRAIN)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not done in time" in done.stdout
