"""The watch over the processes of a cluster of our own, without Ray's processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from nstray.cluster import ray_watch

# The raylet's agent starts two seconds after the watch, and ends three seconds later.
RAYLET = """
import subprocess, time
time.sleep(2)
subprocess.run(["dashboard" + "/agent.py", "3"], executable="sleep")
time.sleep(60)
"""
LATE = f"""
import subprocess, sys, time
from nstray.cluster import own_cluster, ray_watch
raylet = subprocess.Popen([sys.executable, "-c", {RAYLET!r}])
head = subprocess.Popen(["sleep", "60"])
own_cluster.processes = lambda: {{"raylet": raylet, "gcs_server": head}}
with ray_watch.RayWatch():
    time.sleep(30)
"""
# The raylet ends when its agent does and says so, as Ray's does; the last act takes a second longer.
SLOW_END = """
import subprocess, sys, threading, time
from pathlib import Path
from nstray.cluster import own_cluster, ray_watch
from nstray.system import stop_signals
folder = Path(sys.argv[1])
RAYLET = 'import subprocess, sys, time; subprocess.run(["dashboard" + "/agent.py", "3"], executable="sleep"); time.sleep(0.5)'
raylet = subprocess.Popen([sys.executable, "-c", RAYLET])
head = subprocess.Popen(["sleep", "60"])
def ended():
    raylet.wait()
    (folder / "ended").touch()
threading.Thread(target=ended, daemon=True).start()
def act():
    time.sleep(1.5)
    (folder / "acted").write_text(str((folder / "ended").exists()))
own_cluster.processes = lambda: {"raylet": raylet, "gcs_server": head}
own_cluster.remove_folder = lambda: (folder / "removed").touch()
stop_signals.install()
with stop_signals.last_act(act), ray_watch.RayWatch():
    time.sleep(30)
"""
# Its command names its agents, and its first child has not started another program yet.
FORKS = """
import os, subprocess, sys, time  # dashboard/agent.py runtime_env/agent/main.py
if os.fork() == 0:
    time.sleep(60)
subprocess.Popen(["dashboard" + "/agent.py", "60"], executable="sleep")
print("ready", flush=True)
time.sleep(60)
"""


def test_an_agent_that_starts_after_the_watch_is_watched() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert time.strptime(last[:8], "%H:%M:%S")
    assert last[9:].startswith("event=ray_died process=dashboard_agent "), done.stderr
    assert time.monotonic() - began < 30


def test_the_raylet_stands_still_until_all_is_removed(tmp_path: Path) -> None:
    """Its end would end the run, with what is left to do undone."""
    done = subprocess.run([sys.executable, "-c", SLOW_END, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "event=ray_died process=dashboard_agent" in done.stderr.splitlines()[-1]
    assert ((tmp_path / "acted").read_text(), (tmp_path / "removed").exists()) == ("False", True)


def test_a_child_that_has_started_no_program_yet_is_no_agent() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE, text=True) as raylet:
        assert raylet.stdout is not None
        assert raylet.stdout.readline() == "ready\n"
        children = ray_watch._children(raylet.pid)
        found = ray_watch._agents(raylet.pid)
        raylet.kill()
        for pid in children:
            subprocess.run(["kill", "-9", str(pid)], check=False)
    assert len(children) == 2
    assert found == {"dashboard_agent": max(children)}
