"""Notices that Ray itself has died on this machine, and ends the run with a line that says so.

Ray ends the driver of a dead raylet or head too, with the same exit code: at once, after 15 s or
after 60 s. But then the last line of the log is Ray's, and it does not say what to do.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

import ray

from nstray.cluster import own_cluster
from nstray.system import stop_signals
from nstray.system.surroundings import low_limits
from nstray.text import event_line, stamped

EVERY = 1.0  # seconds between two looks at what gives no sign of its own
REFUSALS = 3  # connections in a row that a raylet's port refuses before it counts as dead
# Seconds before Ray's own end of a driver whose head is silent (`_head_limit`).
EARLIER = 1.5
_NEEDED = ("raylet", "gcs_server")  # without its log monitor a run goes on
# A raylet ends when one of these dies, and its driver ends within a second (measured, Ray 2.60).
_AGENTS = {
    "ray::DashboardAgent": "dashboard_agent",
    "dashboard/agent.py": "dashboard_agent",
    "ray::RuntimeEnvAgent": "runtime_env_agent",
    "runtime_env/agent/main.py": "runtime_env_agent",
}
_LIMIT = "RAY_gcs_rpc_server_reconnect_timeout_s"  # Ray reads it
_HINT = "what is committed stays; run the same command again to resume"


class RayWatch:
    """Ends this process with exit code 1 once Ray has died. Use it as a context manager.

    It watches the processes of a cluster of our own. Of another cluster it watches the ports of
    the head and of this machine's raylet.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="ray-watch", daemon=True)
        self._refusals = 0
        self._silent_since: float | None = None
        self._own = own_cluster.processes()
        self._watched: dict[int, str] = {}  # names of processes, by descriptor
        self._head = self._raylet = None
        if not self._own:
            context = ray.get_runtime_context()
            self._head, here = _endpoint(str(context.gcs_address)), context.get_node_id()
            for node in ray.nodes():
                if node["NodeID"] == here:
                    self._raylet = node["NodeManagerAddress"], int(node["NodeManagerPort"])

    def __enter__(self) -> RayWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        os.write(self._wake[1], b"x")
        self._thread.join()
        for descriptor in self._wake:
            os.close(descriptor)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        try:
            while not self._over.is_set():
                self._watch(poll)
                ready = poll.poll(EVERY * 1000)
                ended = [self._watched[fd] for fd, _ in ready if fd in self._watched]
                if (found := self._dead(ended)) and not self._over.is_set():
                    self._end(found)
        finally:
            for descriptor in self._watched:
                os.close(descriptor)

    def _watch(self, poll: select.poll) -> None:
        """Watch those processes of our own cluster that are not watched yet.

        An agent may have started after `ray.init` returned.
        """
        known = set(self._watched.values())
        if not self._own or known.issuperset((*_NEEDED, *_AGENTS.values())):
            return
        pids = {name: self._own[name].pid for name in _NEEDED if name in self._own}
        if "raylet" in pids:
            pids |= _agents(pids["raylet"])
        for name, pid in pids.items():
            if name not in known:
                # Only Linux has these descriptors, which become readable when the process ends.
                with contextlib.suppress(OSError, AttributeError):
                    self._watched[descriptor := os.pidfd_open(pid)] = name
                    poll.register(descriptor, select.POLLIN)

    def _dead(self, ended: list[str]) -> dict[str, object]:
        """The fields of the event if Ray is dead."""
        for name in _NEEDED:
            if name in self._own and (code := self._own[name].poll()) is not None:
                how = {"exit_code": code}
                killed = {"killed_by": signal.Signals(-code).name} if code < 0 else how
                return {"process": name, **killed}
        for name in ended:
            return {"process": name}
        return {} if self._own else self._dead_port()

    def _dead_port(self) -> dict[str, object]:
        refused = self._raylet is not None and _refuses(self._raylet)
        self._refusals = self._refusals + 1 if refused else 0
        if self._raylet is not None and self._refusals >= REFUSALS:
            return {"process": "raylet", "address": "{}:{}".format(*self._raylet)}
        if self._head is None or not _refuses(self._head):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = time.monotonic()
        elif time.monotonic() - self._silent_since >= _head_limit():
            return {"process": "gcs_server", "address": "{}:{}".format(*self._head)}
        return {}

    def _end(self, fields: dict[str, object]) -> None:
        # A raylet or a head that ends takes this process with it within a second. While they stand
        # still they can't, however long on a busy machine the rest takes.
        self._signal_own(signal.SIGSTOP)
        if limits := low_limits():
            fields = {**fields, "limits": limits}
        line = stamped(event_line("ray_died", **fields, hint=_HINT))
        # This is the last line, whatever this process's other threads, Ray's C++ included, write.
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        stop_signals.begin_last_act()
        # Workers that outlive their raylet for a moment would write to the folder that goes.
        for pid in [pid for process in self._own.values() for pid in _children(process.pid)]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        own_cluster.remove_folder()
        stop_signals.await_last_act()
        self._signal_own(signal.SIGKILL)
        # Whoever ends a whole group of processes asks this one to stop too.
        stop_signals.leave(stop_signals.EXIT_STOPPED if stop_signals.received() else 1)

    def _signal_own(self, number: signal.Signals) -> None:
        for process in self._own.values():
            with contextlib.suppress(OSError):
                process.send_signal(number)


def _agents(raylet: int) -> dict[str, int]:
    """The agents that the raylet of this pid has started, where /proc tells."""
    found: dict[str, int] = {}
    parent = _command(raylet)
    for pid in _children(raylet):
        # The raylet's own command names its agents', and until it starts another program every
        # child of it, a worker too, has this command.
        if (command := _command(pid)) != parent:
            found |= {name: pid for key, name in _AGENTS.items() if key in command}
    return found


def _command(pid: int) -> str:
    """The command of a process, where /proc tells."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _children(pid: int) -> list[int]:
    """The processes that a process has started, where /proc tells."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _head_limit() -> float:
    """Seconds for which a head may be silent: Ray ends a driver after its own limit."""
    try:
        limit = float(os.environ.get(_LIMIT, "60"))
    except ValueError:
        limit = 60.0
    return max(1.0, limit - EARLIER)


def _refuses(endpoint: tuple[str, int]) -> bool:
    try:
        socket.create_connection(endpoint, timeout=2).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _endpoint(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None
