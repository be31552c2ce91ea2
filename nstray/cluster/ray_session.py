"""Connecting to Ray and leaving it, and every use of what Ray does not promise to keep.

Private modules of Ray and the English of its errors are read here alone, each by one small
function. tests/cluster/test_private_ray.py fails for the function whose part of Ray has changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.exceptions as rex
from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants, services
from ray._private.state import state as ray_state

from nstray import storage
from nstray.cluster import own_cluster, ray_watch
from nstray.errors import JobFailed, NstrayError
from nstray.system import stop_signals, surroundings
from nstray.text import log_event
from nstray.worker import style_cache

log = logging.getLogger("nstray.cluster")
CLOSE_SECONDS = 2.0  # seconds that workers have at the end of a run to release what they share


# the session


def start_ray() -> None:
    """Connect to the cluster of RAY_ADDRESS or of `ray job submit`, or start one on this machine.

    Raises JobFailed.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if why := _silent(address):
        raise JobFailed(
            f"RAY_ADDRESS {address}: no Ray head answers there ({why}); start one, correct the "
            "address, or unset it"
        )
    # Without an address Ray takes the last cluster that was started here. Its head may have died
    # without `ray stop`.
    if not address and (last := bootstrap_address(None)) and (why := _silent(last)):
        log_event(
            "ray_gone",
            log.warning,
            address=last,
            error=why,
            next="a Ray of this machine alone; ray stop forgets the old one",
        )
        address = "local"
    options: dict[str, Any] = {}
    try:
        # An existing cluster listens where its owner wants it to.
        if address in ("", "local") and bootstrap_address(address or None) is None:
            bind_to_loopback()
            own_cluster.require_loopback()
            options["_temp_dir"] = own_cluster.make_folder(get_default_system_temp_dir())
        # A cluster of our own gets no dashboard: its ten processes cost a machine of two cores 5 to
        # 10 %. An existing cluster keeps its own.
        ray.init(address or None, logging_level=logging.WARNING, include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError, rex.RayError) as error:
        raise JobFailed(f"Ray did not start: {reason_of(error)}") from None


def stop_ray() -> None:
    """Leave the cluster; a local one ends, and its folder with it."""
    own_cluster.keep_signal_handlers_at_shutdown()
    ray.shutdown()
    own_cluster.remove_folder()


@contextlib.contextmanager
def ray_running() -> Iterator[None]:
    """A context with Ray. No signal interrupts its start and end, and `RayWatch` watches it.

    Raises JobFailed and UsageError, and StopRequested if a signal came before Ray was there.
    """
    with stop_signals.deferred():
        stop_signals.check()
        style_cache.remove_unused()
        try:
            with own_cluster.keeping_signal_handlers():
                _start()
            stop_signals.check()
            with ray_watch.RayWatch():
                yield
        finally:
            stop_ray()


def _start() -> None:
    try:
        start_ray()
    except NstrayError as error:
        if isinstance(error, JobFailed) and (limits := surroundings.low_limits()):
            raise JobFailed(f"{error}; {limits}: that may be too low for Ray") from None
        raise
    except Exception as error:  # plain Exception, if Ray's processes do not come up
        why = surroundings.shortage(error) or f"Ray did not start: {reason_of(error)}"
        limits = surroundings.low_limits() or "the machine may be short of memory or processors"
        raise JobFailed(f"{why}; {limits}") from None


def shutdown_actors(actors: Sequence[Any]) -> None:
    """End workers. Those that answer within `CLOSE_SECONDS` first release what they share."""
    try:
        with contextlib.suppress(rex.RayError):
            ray.wait(
                [actor.close.remote() for actor in actors],
                num_returns=max(1, len(actors)),
                timeout=CLOSE_SECONDS,
            )
    finally:
        for actor in actors:
            ray.kill(actor)


def _silent(address: str) -> OSError | None:
    """Why nothing takes connections at [SCHEME://]HOST:PORT.

    None if something does, or if `address` has another form. This is asked before ray.init, which
    retries a dead address for minutes without a word.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            return error
    return None


# private modules


def bootstrap_address(address: str | None) -> str | None:
    """HOST:PORT of the cluster that ray.init would connect to; None if it would start one.

    Without an address ray.init reads RAY_ADDRESS and then the file that `ray start` has written.
    """
    found: str | None = services.canonicalize_bootstrap_address(address)
    return found


def bind_to_loopback() -> None:
    """Let a cluster that this process starts listen on loopback only.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER in the environment decides if it is set.
    """
    # Ray's processes read the variable. This one has read it already, when it imported ray, and
    # would give them the machine's address.
    if os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0") == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False


def draining_nodes() -> list[str]:
    """Ids of the nodes that are about to go, sorted: Ray starts nothing new there.

    Ray's own libraries ask this way; nothing public says it (2.60).
    """
    return sorted(ray_state.get_draining_nodes())


# the words of errors


def failed_node(error: BaseException) -> str | None:
    """The id of the node that a worker failed on, by the address in Ray's error.

    None if there is no such address, or not exactly one live node has it.
    """
    named = re.search(r"\bip[=:] ?([0-9a-fA-F.:]*[0-9a-fA-F])", str(error))
    found = [
        n["NodeID"]
        for n in ray.nodes()
        if n["Alive"] and named and n["NodeManagerAddress"] == named[1]
    ]
    return found[0] if len(found) == 1 else None


def lost_node(error: BaseException) -> str | None:
    """The id of the node that died with a worker on it, by the id in Ray's error.

    None if there is no id in it, or the node lives.
    """
    named = re.search(r"\bNode Id: ([0-9a-f]+)", str(error))
    alive = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
    return named[1] if named and named[1] not in alive else None


def reason_of(error: BaseException) -> str:
    """Why a call to a worker failed, without the tracebacks that Ray's errors carry.

    If the worker's own code raised, that is the exception in `cause`. Otherwise the reason is the
    last line of the error, redacted and cut at 400 characters.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return storage.redact(f"{type(error).__name__}: {lines[-1] if lines else ''}")[:400]
