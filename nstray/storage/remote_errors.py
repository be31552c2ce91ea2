"""What the file systems of fsspec raise, as exceptions of `nstray.errors`."""

from __future__ import annotations

import errno
from typing import Any

from nstray.errors import (
    AccessDenied,
    BadCredentials,
    NotFound,
    NstrayError,
    StorageError,
    Unreachable,
)
from nstray.text import redact

_NETWORK = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
# Parts of the names of exceptions that aiohttp, azure, google, httpx and requests raise. They have
# no base in common, and nstray needs none of these packages.
_CREDENTIALS = ("Credential", "Authentication", "RefreshError", "LocalToken")
_UNREACHABLE = (
    *("Timeout", "Connection", "ConnectError", "Disconnected", "TransportError", "NetworkError"),
    *("ServiceRequestError", "ServiceResponseError", "ReadError", "PayloadError", "ProtocolError"),
    "gaierror",
)
_SHOWN = 500  # characters of what a store said: some send pages


def explain(error: Exception, uri: str, credentials: str) -> NstrayError:
    """What to raise for an exception of a file system.

    Args:
        credentials: where those of this store come from.
    """
    where, said = redact(uri), _text(error, uri)
    names = [kind.__name__ for kind in type(error).__mro__]
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return NotFound(f"{where}: no such file or folder, or none that may be seen ({said})")
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return NotFound(f"{where}: is a folder, or lies below a file ({said})")
    if status == 401 or _any(names, _CREDENTIALS):
        return BadCredentials(f"{where}: {said}; credentials come from {credentials}")
    # gcsfs raises an OSError without a status.
    if isinstance(error, PermissionError) or status == 403 or str(error).startswith("Forbidden"):
        return AccessDenied(
            f"{where}: {said}; the credentials do not allow this, or there are none ({credentials})"
        )
    if (
        isinstance(error, TimeoutError | ConnectionError)
        or (isinstance(error, OSError) and error.errno in _NETWORK)
        or (status is not None and (status in (408, 429) or status >= 500))
        or (status is None and _any(names, _UNREACHABLE))
    ):
        return Unreachable(f"{where}: {said}; check the network, and try again later")
    return StorageError(f"{where}: {said}")


def _text(error: Exception, uri: str) -> str:
    # `redact` finds the secrets of a URI, and file systems name objects without their scheme.
    bare, shown = (text.partition("://")[2] for text in (uri, redact(uri)))
    text = " ".join(redact(str(error).replace(bare, shown)).split())
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _status(error: Any) -> int | None:
    """The status of HTTP that an exception has, by one of the names that packages give it."""
    response = getattr(error, "response", None)
    for owner, name in (
        (error, "status_code"),
        (error, "status"),
        (error, "code"),
        (response, "status_code"),
        (response, "status"),
    ):
        value = getattr(owner, name, None)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if type(value) is int and 100 <= value <= 599:
            return value
    return None


def _any(names: list[str], parts: tuple[str, ...]) -> bool:
    return any(part in name for name in names for part in parts)
