"""The Ray cluster that a run starts for itself: its folder, its processes, its signal handlers.

The folder is named for nstray and locked while the run lives (`nstray.system.owned_folders`). So
whatever a killed run has left there is known to be nstray's, and the next run removes it. Private
modules of Ray are read here by one small function each, as in `nstray.cluster.ray_session`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray._private import utils as ray_utils
from ray._private import worker as ray_worker

from nstray.errors import JobFailed
from nstray.system import owned_folders, stop_signals
from nstray.system.surroundings import shortage

PREFIX = "nstray-"
NAME_BYTES = len(PREFIX) + 4  # of a folder's name; Ray's sockets leave little room for it
# Bytes that Ray's logs of a start need: it wrote 0.4 MB, and never ended a start below 1 MB.
LEAST_FREE = 16 * 2**20
REMOVALS = 20  # tries: Ray's processes that are about to end may still write there

_held: tuple[Path, int] | None = None  # the folder, and what `owned_folders.join` gave for it


def make_folder(root: str) -> str:
    """A new folder below `root` for the sockets, logs and spilled objects of this run's cluster.

    Folders there of runs that were killed are removed. Raises JobFailed, which names what to set.
    """
    global _held
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    root = os.path.abspath(root)
    try:
        os.makedirs(root, exist_ok=True)
        owned_folders.remove_all_unused(Path(root), PREFIX)
        while os.path.lexists(path := Path(root) / f"{PREFIX}{secrets.token_hex(2)}"):
            pass
        _held = path, owned_folders.join(path)
        free = shutil.disk_usage(path).free
    except OSError as error:
        why = "not a folder" if os.path.isfile(root) else os.strerror(error.errno or errno.EIO)
        raise JobFailed(
            f"{name} {root}: {why}; Ray keeps its sockets and logs there; set RAY_TMPDIR to a "
            "folder that can be written"
        ) from None
    if free < LEAST_FREE:
        remove_folder()
        raise JobFailed(
            f"{name} {root}: {free / 2**20:.1f} MiB are free, and Ray's logs need at least "
            f"{LEAST_FREE / 2**20:.0f}; free some space there, or set RAY_TMPDIR to another folder"
        )
    return str(path)


def remove_folder() -> None:
    """Remove the folder of this run's cluster, once the cluster has ended."""
    global _held
    if _held is None:
        return
    (path, use), _held = _held, None
    owned_folders.leave(path, use)
    for _ in range(REMOVALS):
        # What is left has another name by then (`owned_folders.remove_unused`).
        if not any(path.parent.glob(f"{path.name}*")):
            return
        time.sleep(0.1)
        owned_folders.remove_all_unused(path.parent, path.name)


def require_loopback() -> None:
    """Raise JobFailed if this machine can't reach itself at 127.0.0.1."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        raise JobFailed(
            f"127.0.0.1: {shortage(error) or error.strerror or error}; Ray's processes talk to "
            "each other there: bring the loopback interface up (ip link set lo up)"
        ) from None


# private modules


def processes() -> dict[str, subprocess.Popen[Any]]:
    """The processes that ray.init has started, by Ray's names for them; none on another cluster."""
    node = ray_worker._global_node
    if node is None or not node.is_head():
        return {}
    return {kind: infos[0].process for kind, infos in node.all_processes.items() if infos}


@contextlib.contextmanager
def keeping_signal_handlers() -> Iterator[None]:
    """A context in which ray.init leaves nstray's handlers of signals in place.

    Ray's own handler of SIGTERM raises in the middle of whatever runs. The one that its C++ part
    adds prints a stack and lets the process abort 3 s later (measured, Ray 2.60).
    """
    if not stop_signals.installed():
        yield
        return
    set_handler, connect = ray_utils.set_sigterm_handler, ray_worker.connect
    ray_utils.set_sigterm_handler = lambda handler: None
    ray_worker.connect = _keeping_handlers(connect)
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler, ray_worker.connect = set_handler, connect


def keep_signal_handlers_at_shutdown() -> None:
    """Let the next ray.shutdown leave nstray's handlers of signals in place.

    The end of Ray's C++ part takes the handlers away, and ray.shutdown then goes on for a second
    (measured, Ray 2.60).
    """
    driver = ray_worker.global_worker
    if stop_signals.installed() and hasattr(driver, "core_worker"):
        driver.core_worker = _CoreWorker(driver.core_worker)


class _CoreWorker:
    """Ray's core worker, except for its end."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped
        self.shutdown_driver = _keeping_handlers(wrapped.shutdown_driver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def _keeping_handlers(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, after which the signals are handled as before it; they wait until it ends."""

    def wrapper(*args: Any, **options: Any) -> Any:
        # The calls start threads and no process, so nothing inherits the mask that should get the
        # signals.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals.SIGNALS)
        try:
            return call(*args, **options)
        finally:
            stop_signals.reinstall()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return wrapper
