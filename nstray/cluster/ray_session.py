"""The actor that holds a device; how many of them the cluster has room for; and the cluster itself: connecting and leaving."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Sequence
from typing import Any

import ray
import ray.exceptions as rex
from ray._private import ray_constants, services

from nstray import storage
from nstray.errors import JobFailed

log = logging.getLogger("nstray.cluster")
CLOSE_SECONDS = (
    2.0  # seconds that workers are given at the end of a run to leave their machines in order
)


def shutdown_actors(actors: Sequence[Any]) -> None:
    """End workers; those that answer soon give up first what they share on their machines."""
    try:
        with contextlib.suppress(rex.RayError):
            ray.wait(
                [actor.leave.remote() for actor in actors],
                num_returns=max(1, len(actors)),
                timeout=CLOSE_SECONDS,
            )
    finally:
        for actor in actors:
            ray.kill(actor)


def failed_node(error: BaseException) -> str | None:
    """The id of the node that a worker failed on, by the address that Ray's error names; None where that is not one node's."""
    named = re.search(r"\bip[=:] ?([0-9a-fA-F.:]*[0-9a-fA-F])", str(error))
    found = [
        n["NodeID"]
        for n in ray.nodes()
        if n["Alive"] and named and n["NodeManagerAddress"] == named[1]
    ]
    return found[0] if len(found) == 1 else None


def lost_node(error: BaseException) -> str | None:
    """The id of the node that died with a worker on it, by the one that Ray's error names; None where it names none, or one that lives."""
    named = re.search(r"\bNode Id: ([0-9a-f]+)", str(error))
    alive = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
    return named[1] if named and named[1] not in alive else None


def start_ray() -> None:
    """Connect to the cluster of RAY_ADDRESS or of `ray job submit`, or start one on this machine; raises JobFailed."""
    address = os.environ.get("RAY_ADDRESS", "")
    if why := _silent(address):
        raise JobFailed(
            f"RAY_ADDRESS {address}: no Ray head answers there ({why}); start one, correct the address, or unset it"
        )
    # where none is named Ray takes the last one started here, though it may have died without `ray stop`
    if (
        not address
        and (last := services.canonicalize_bootstrap_address(None))
        and (why := _silent(last))
    ):
        log.warning(
            "event=ray_gone address=%s error=%r next='a Ray of this machine alone; ray stop forgets the old one'",
            last,
            str(why),
        )
        address = "local"
    try:
        _stay_on_loopback(address)
        # No dashboard for a cluster of our own: its ten processes cost a machine of two cores 5 to 10 % (an existing cluster keeps its own).
        ray.init(address or None, logging_level=logging.WARNING, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError, rex.RayError) as error:
        raise JobFailed(f"Ray did not start: {reason_of(error)}") from None


def _silent(address: str) -> OSError | None:
    """Why nothing takes connections at [SCHEME://]HOST:PORT; None where something does, or `address` is no such thing.

    ray.init retries a dead address for minutes without a word.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            return error
    return None


def _stay_on_loopback(address: str) -> None:
    """Let a cluster that is about to be started here listen on loopback only; an existing one is as its owner made it."""
    if (
        address not in ("", "local")
        or services.canonicalize_bootstrap_address(address or None) is not None
    ):
        return
    # Its processes read the variable; this one has read it already, as it imported ray, and would give them the machine's address.
    if os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0") == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False


def stop_ray() -> None:
    """Leave the cluster; a local one ends."""
    ray.shutdown()


def reason_of(error: BaseException) -> str:
    """The line that says why: Ray's errors carry whole tracebacks, and the reason of a death below what it died of."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return storage.redact(f"{type(error).__name__}: {lines[-1] if lines else ''}")[:400]
