"""The S3 client of a process: its settings, its timeouts, and its log of repeated requests."""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config

from nstray.errors import UsageError
from nstray.storage import botocore_internals
from nstray.text import log_event, redact

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT = 10.0  # seconds, of each address of the endpoint; also for the peer to take 16 KiB
READ_TIMEOUT = 60.0  # seconds without a byte of the answer
ATTEMPTS = 5  # of one request, unless AWS_MAX_ATTEMPTS says otherwise

log = logging.getLogger("nstray.storage")
_lock = threading.Lock()
_clients: dict[tuple[object, ...], S3Client] = {}


_payer = False


def request_payer(pays: bool) -> None:
    """Whether this process says that the requester pays, to buckets that ask for it."""
    global _payer
    _payer = pays


def payer_agreed() -> bool:
    """What `request_payer` was told last, for a process that works for this one."""
    return _payer


def unsigned() -> bool:
    """Whether this process's client signs nothing, for want of credentials."""
    return any(
        getattr(made.meta.config, "signature_version", None) is UNSIGNED
        for made in list(_clients.values())
    )


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held the old one at the fork


os.register_at_fork(after_in_child=_after_fork)


def client() -> S3Client:
    """This process's client; a new one after a fork and when an ``AWS_*`` variable changes."""
    key = (os.getpid(), *sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    with _lock:
        if key not in _clients:
            _clients.clear()
            _clients[key] = _make_client()
        return _clients[key]


def forget_client() -> None:
    """Close this process's client; the next call makes another."""
    with _lock:
        for made in _clients.values():
            made.close()
        _clients.clear()


def _make_client() -> S3Client:
    core = botocore.session.get_session()
    session = boto3.Session(botocore_session=core)
    # A public bucket answers anyone. Credentials that are wrong or expired are never left out.
    anonymous = core.get_credentials() is None
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "max_pool_connections": 32,
        "tcp_keepalive": True,
    }
    if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & set(os.environ):
        options["retries"] = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    if anonymous:
        options["signature_version"] = UNSIGNED
    try:
        made = session.client("s3", config=Config(**options))
        host = urlsplit(made.meta.endpoint_url).hostname or ""
        if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return _prepared(made)
        # MinIO and Ceph serve s3.host/bucket, not bucket.s3.host. Their older versions know no
        # CRC32 trailers.
        if "addressing_style" not in (core.get_scoped_config().get("s3") or {}):
            options["s3"] = {"addressing_style": "path"}
        for side in ("request_checksum_calculation", "response_checksum_validation"):
            if f"AWS_{side.upper()}" not in os.environ:
                options[side] = "when_required"
        return _prepared(session.client("s3", config=Config(**options)))
    except ValueError as error:
        # a name and password may have no http:// before them
        said = re.sub(r"\S+@", "", redact(str(error)))
        raise UsageError(
            f"{said}; check AWS_ENDPOINT_URL (http://HOST:PORT or https://HOST) "
            "and AWS_DEFAULT_REGION"
        ) from None


def _say_who_pays(params: dict[str, Any], model: Any, **_: Any) -> None:
    if _payer and model.input_shape and "RequestPayer" in model.input_shape.members:
        params.setdefault("RequestPayer", "requester")


def _prepared(made: S3Client) -> S3Client:
    made.meta.events.register("before-parameter-build.s3", _say_who_pays)
    botocore_internals.read_listings(made)
    _log_repeats(made)
    return made


def _log_repeats(made: S3Client) -> None:
    """Log each request that botocore repeats, with the reason: what became of the one before."""

    def remember(
        request_dict: dict[str, Any], response: Any, caught_exception: Exception | None, **_: Any
    ) -> None:
        if caught_exception is None and response is not None:
            error = response[1].get("Error", {})
            reason = f"S3 answered {response[0].status_code} {error.get('Code', '')}".rstrip()
        else:
            reason = f"{type(caught_exception).__name__}: {caught_exception}"
        request_dict["context"]["nstray_reason"] = reason

    def tell(request: Any, **_: Any) -> None:
        attempt = botocore_internals.attempt_of(request)
        if attempt > 1:
            reason = request.context.get("nstray_reason")
            log_retry(f"{request.method} {request.url}", attempt - 1, reason)

    made.meta.events.register("needs-retry.s3", remember)
    made.meta.events.register("request-created.s3", tell)


def log_retry(what: str, attempt: int, reason: object) -> None:
    """Log that a request is made again, after which attempt and why."""
    log_event("storage_retry", log.warning, what=what, **{"try": attempt}, error=reason)
