"""Connecting to Ray and leaving it, and every use of what Ray does not promise to keep.

Private modules of Ray and the English of its errors are read here alone, each by one small
function. tests/cluster/test_private_ray.py fails for the function whose part of Ray has changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import ray
import ray.exceptions as rex
from ray import _raylet
from ray._private import ray_constants, services
from ray._private.state import state as ray_state
from ray.job_config import JobConfig

from nstray import storage
from nstray.cluster import own_cluster, ray_address
from nstray.errors import JobFailed, UsageError
from nstray.system import torch_threads
from nstray.text import log_event, redact

log = logging.getLogger("nstray.cluster")
CLOSE_SECONDS = 2.0  # seconds that workers have at the end of a run to release what they share
# Bytes of the longest folder that Ray can keep its sockets in. The path of a socket has at most 107
# bytes (103 on macOS), and Ray 2.60 appends 64 at most:
# /session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store.
FOLDER_BYTES = (103 if sys.platform == "darwin" else 107) - 64
_UNUSABLE = re.compile(r"""[^ -~]|["'\\]""")  # with one of these Ray 2.60 does not start
SHORT_FOLDER = "/tmp"


# the session


def start_ray() -> None:
    """Connect to the cluster of RAY_ADDRESS or of `ray job submit`, or start one on this machine.

    Raises UsageError if the environment has to be set otherwise, and JobFailed.
    """
    address = _address()
    leave_out_token_notice()
    options: dict[str, Any] = {}
    if address == "local":
        # An existing cluster listens where its owner wants it to, and has its own tokens.
        bind_to_loopback()
        own_cluster.require_loopback()
        keep_workers_in_our_environment()
        torch_threads.let_sleep()
        options["_temp_dir"] = own_cluster.make_folder(_ray_folder())
    try:
        if address == "local":
            ensure_token()
        # A cluster of our own gets no dashboard: its ten processes cost a machine of two cores 5 to
        # 10 %. An existing cluster keeps its own.
        ray.init(
            address,
            logging_level=logging.WARNING,
            include_dashboard=False,
            job_config=job_config_without_folders(),
            **options,
        )
    except Exception as error:  # Ray raises plain Exception too, if its processes do not come up
        raise JobFailed(f"Ray did not start: {_start_reason(error)}") from None


def _address() -> str | None:
    """The address for ray.init; None for the cluster that was started last on this machine.

    "local" if a cluster has to be started. Raises UsageError for an address that is none, and
    JobFailed if no cluster answers there.
    """
    address = ray_address.given()
    if not address:
        os.environ.pop("RAY_ADDRESS", None)  # Ray takes white space for an address
        # Without an address Ray takes the last cluster that was started here. Its head may have
        # died without `ray stop`.
        try:
            last = bootstrap_address(None)
            why = _silent(last) if last else None
        except ValueError as error:
            last, why = "?", error
        if why:
            log_event(
                "ray_gone",
                log.warning,
                address=last,
                error=why,
                next="a Ray of this machine alone; ray stop forgets the old one",
            )
            last = None
        return None if last else "local"
    if address == "local":
        return address
    found: str | None = address
    if address == "auto":
        try:
            found = bootstrap_address(address)
        except ConnectionError:
            raise JobFailed(
                "RAY_ADDRESS auto: no Ray head runs on this machine; start one (ray start --head), "
                "or unset RAY_ADDRESS"
            ) from None
    if found and (why := _silent(found)):
        raise JobFailed(
            f"RAY_ADDRESS {redact(address)}: no Ray head answers there ({why}); start one, correct "
            "the address, or unset it"
        )
    return address


def _ray_folder() -> str:
    """The folder in which a cluster of our own has its own (`own_cluster.make_folder`).

    It is the one that Ray would take. If Ray can't use TMPDIR, it is `SHORT_FOLDER`. Raises
    UsageError if Ray can't use RAY_TMPDIR.
    """
    chosen = os.environ.get("RAY_TMPDIR")
    parent = os.path.abspath(chosen or os.environ.get("TMPDIR") or "/tmp")
    room = FOLDER_BYTES - len("/") - own_cluster.NAME_BYTES
    if (length := len(os.fsencode(parent))) > room:
        fault = f"has {length} bytes, and Ray's sockets leave room for {room}"
    elif _UNUSABLE.search(parent):
        fault = "has characters that Ray's processes can't be given: beyond ASCII, or quotes"
    else:
        return parent
    if chosen or not os.access(SHORT_FOLDER, os.W_OK | os.X_OK):
        raise UsageError(
            f"{'RAY_TMPDIR' if chosen else 'TMPDIR'} {redact(parent)}: the path {fault}; "
            "set RAY_TMPDIR to another folder"
        )
    log_event(
        "ray_folder",
        log.warning,
        folder=SHORT_FOLDER,
        reason=f"TMPDIR {fault}",
        hint="RAY_TMPDIR names another one",
    )
    return SHORT_FOLDER


# What to set, by what Ray's error says.
_START_HINTS = {
    r"AF_UNIX": "set RAY_TMPDIR to a folder with a short path",
    r"Read-only file system|Permission denied|No space left|Disk quota": "set RAY_TMPDIR to a "
    "folder that can be written and has room",
    r"uv run|working_dir|Package size": "if every node has nstray, set "
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0, and Ray does not copy this folder to the nodes",
    r"(?i)authentication": "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token, "
    "or RAY_AUTH_MODE to its mode",
}


def _start_reason(error: BaseException) -> str:
    """The text of an error of ray.init and of its cause on one line, and what to set if known."""
    texts = [str(e) for e in (error, error.__cause__) if e is not None]
    whole = "\n".join(texts)
    hints = [hint for pattern, hint in _START_HINTS.items() if re.search(pattern, whole)]
    # Some of Ray's texts hold a traceback of their own, which ends with what was wrong.
    short = [
        f"{before.rstrip()} {rest.strip().splitlines()[-1]}" if rest.strip() else before
        for before, _, rest in (
            text.partition("Traceback (most recent call last):") for text in texts
        )
    ]
    reason = redact(f"{type(error).__name__}: {' '.join('; '.join(short).split())}")
    return "; ".join([reason[:400], *hints[:1]])


def stop_ray() -> None:
    """Leave the cluster; a local one ends, and its folder with it."""
    own_cluster.keep_signal_handlers_at_shutdown()
    ray.shutdown()
    own_cluster.remove_folder()


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


def _silent(address: str) -> Exception | None:
    """Why nothing takes connections at HOST:PORT; None if something does.

    This is asked before ray.init, which retries a dead address for minutes without a word.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, UnicodeError) as error:  # the latter: the host can't be a name
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


def ensure_token() -> None:
    """Give the cluster that this process starts a token, if it asks for one and the user has none.

    Ray 2.60 lets a new local cluster ask for a token, unless RAY_AUTH_MODE says otherwise. It would
    write a new one to the home folder, which may be read-only. This one is known to the processes
    of this cluster alone, by their environment.
    """
    loader = getattr(_raylet, "AuthenticationTokenLoader", None)  # older versions have no tokens
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or loader is None:
        return
    if not loader.instance().has_token(ignore_auth_mode=True):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        loader.instance().reset_cache()


def leave_out_token_notice() -> None:
    """Leave out Ray's notice that a cluster of this machine asks for a token."""
    logger = "ray._private.authentication.authentication_token_setup"
    logging.getLogger(logger).setLevel(logging.ERROR)


def keep_workers_in_our_environment() -> None:
    """Let the workers of a cluster that this process starts run with this process's Python.

    That is what they do anyway. But under `uv run` Ray would copy the current folder for them and
    start each of them by another `uv run`. RAY_ENABLE_UV_RUN_RUNTIME_ENV decides if it is set.
    """
    if "RAY_ENABLE_UV_RUN_RUNTIME_ENV" not in os.environ:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


class _NoFolders(list[str]):
    """A list that stays empty."""

    def extend(self, more: Iterable[str], /) -> None:
        """Add nothing."""


def job_config_without_folders() -> JobConfig:
    """Settings of a Ray job whose workers import nothing from the driver's folders.

    Ray would put the current folder of the driver, and that of its script, before all others in
    every worker's sys.path. What a runtime_env brings stays importable.
    """
    config = JobConfig()
    config._py_driver_sys_path = _NoFolders()
    return config


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
