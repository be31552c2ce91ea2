"""Several hosts on one machine: network namespaces joined by a bridge, each with an address and a host name of its own.

Their disk is one and the same, as on NFS. Needs root and iproute2.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jobs

RAY = (sys.executable, "-m", "ray.scripts.scripts")
PORT = 6379
HEALTH = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "1000"}
# Ray's own limit of 60 s, so that a test of a silent head is no minute long.
RECONNECT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "20"}


def missing() -> str | None:
    """Why this machine can have no hosts; None where it can."""
    if os.geteuid():
        return "not root: network namespaces need it"
    if not shutil.which("ip"):
        return "no iproute2 (ip)"
    name = f"nst{os.getpid()}p"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return None


def sweep() -> None:
    """Remove what a run of tests that was itself killed has left: namespaces named after a process that is gone."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=20).stdout.splitlines()
    for name in [line.split()[0] for line in listed if line.strip()]:
        owner = re.fullmatch(r"nst(\d+)(-\d+)?", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, timeout=20).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


class Host:
    """A namespace with one interface on the network's bridge, and what runs in it."""

    def __init__(self, network: Network, number: int) -> None:
        self.network, self.name, self.address = network, f"host{number}", f"10.77.0.{number}"
        self.space, self.port = f"{network.name}-{number}", f"port{number}"
        self.processes: list[subprocess.Popen[bytes]] = []
        _ip("netns", "add", self.space)
        _ip("-n", network.name, "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        _ip("-n", network.name, "link", "set", self.port, "master", "bridge", "up")
        for words in ("link set lo up", f"addr add {self.address}/24 dev eth0", "link set eth0 up", "route add default via 10.77.0.254"):
            _ip("-n", self.space, *words.split())

    def start(self, words: tuple[str, ...] | list[str], log: Path, env: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
        """Run a command here, under this host's name; its output is appended to `log`."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        settings = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": self.network.temporary, **HEALTH, **RECONNECT}
        # A node's temporary files are its own; the driver's place is beside the head's.
        mount = "" if self is self.network.hosts[0] else 'mount -t tmpfs none "$RAY_TMPDIR" && '
        inside = ["ip", "netns", "exec", self.space, "unshare", "--uts", "sh", "-c", f'{mount}hostname "$0" && exec "$@"', self.name, *words]
        with log.open("ab") as file:
            process = subprocess.Popen(
                inside, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env={**inherited, **settings, **env}, start_new_session=True
            )
        self.processes.append(process)
        return process

    def ray(self, *words: str, env: Mapping[str, str] = {}, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """``ray start`` here; the first host is the head."""
        role = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self.network.temporary}"]
        join = [f"--address={self.network.hosts[0].address}:{PORT}"]
        common = ["start", "--block", f"--node-ip-address={self.address}", "--object-store-memory=80000000"]
        return self.start([*prefix, *RAY, *common, *(role if self is self.network.hosts[0] else join), *words], self.network.log, env)

    def cut(self) -> None:
        """Off the network."""
        _ip("-n", self.network.name, "link", "set", self.port, "down")

    def mend(self) -> None:
        """Back on it."""
        _ip("-n", self.network.name, "link", "set", self.port, "up")

    def below(self) -> dict[int, str]:
        """Every process here, with its start time."""
        found = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True, timeout=20).stdout.split()
        return {pid: now[1] for pid in map(int, found) if (now := jobs._stat(pid))}

    def workers(self) -> list[int]:
        """Processes of nstray's actors."""
        return [pid for pid in jobs.alive(self.below()) if jobs.command(pid).startswith("ray::WorkerActor")]

    def raylets(self) -> list[int]:
        return [pid for pid in jobs.alive(self.below()) if "raylet/raylet" in jobs.command(pid).split(" ")[0]]

    def signal(self, number: int, name: str) -> None:
        """To the processes here whose command line has `name` in it."""
        for pid in [pid for pid in jobs.alive(self.below()) if name in jobs.command(pid)]:
            os.kill(pid, number)

    def end(self) -> None:
        """Every process here, then the namespace."""
        for _ in range(20):
            if not (left := self.below()):
                break
            jobs.kill(left)
            time.sleep(0.1)
        for process in self.processes:
            process.wait(20)
        subprocess.run(["ip", "netns", "del", self.space], capture_output=True, timeout=20)


class Network:
    """A bridge in a namespace of its own, so that this machine's network is not touched; `end` removes everything."""

    def __init__(self, folder: str) -> None:
        self.folder, self.name, self.log = folder, f"nst{os.getpid()}", Path(folder) / "hosts.log"
        self.temporary = str(Path(folder) / "ray")
        os.mkdir(self.temporary)
        sweep()
        self.hosts: list[Host] = []
        self._count = 0
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.name, "link", "set", "bridge", "up")

    def host(self) -> Host:
        """One more."""
        self._count += 1
        self.hosts.append(Host(self, self._count))
        return self.hosts[-1]

    def head(self, *words: str) -> Host:
        """The first host with a Ray head on it that has no CPU to lend."""
        made = self.host()
        process = made.ray("--num-cpus=0", *words)
        jobs.until(lambda: self._answers(made), "the head", alive=process, every=0.3)
        return made

    def _answers(self, head: Host) -> bool:
        command = ["ip", "netns", "exec", head.space, sys.executable, "-c", f"import socket; socket.create_connection(('{head.address}', {PORT}), 1)"]
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0

    def node(self, *words: str, **more: Any) -> Host:
        """A host that joins the head's cluster with one CPU; further words of ``ray start`` come after that."""
        made = self.host()
        made.ray("--num-cpus=1", *words, **more)
        return made

    def nodes(self) -> dict[str, str]:
        """Ids of the nodes that the head takes for alive, by address."""
        head = self.hosts[0]
        ask = f"from ray._raylet import GcsClient; found = GcsClient('{head.address}:{PORT}').get_all_node_info(timeout=10).values()"
        tell = "import json; print(json.dumps({n.node_manager_address: n.node_id.hex() for n in found if n.state == 0}))"
        command = ["ip", "netns", "exec", head.space, sys.executable, "-c", f"import ray; {ask}; {tell}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def remove(self, host: Host) -> None:
        """One less."""
        self.hosts.remove(host)
        host.end()

    def clear(self) -> None:
        """Only the head is left, and knows it: on a node that it takes for alive the next test's workers would fail to start."""
        for host in self.hosts[1:]:
            host.signal(signal.SIGCONT, "ray")
            host.signal(signal.SIGTERM, "raylet/raylet")  # it signs off: the head need not find out by its health checks
        jobs.until(lambda: not any(host.raylets() for host in self.hosts[1:]), "the raylets' end", seconds=20, every=0.1)
        for host in self.hosts[1:]:
            self.remove(host)
        head = self.hosts[0]
        loop = f"while any(n.state == 0 and n.node_manager_address != {head.address!r} for n in client.get_all_node_info(timeout=10).values())"
        words = f"import time, ray; from ray._raylet import GcsClient; client = GcsClient('{head.address}:{PORT}')\n{loop}: time.sleep(0.2)"
        command = ["ip", "netns", "exec", head.space, sys.executable, "-c", words]
        subprocess.run(command, check=True, capture_output=True, timeout=90, env={**os.environ, "RAY_AUTH_MODE": "disabled"})

    def end(self) -> None:
        """Nothing stays, whatever happened."""
        for host in self.hosts:
            host.signal(signal.SIGCONT, "ray")
            host.end()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, timeout=20)
