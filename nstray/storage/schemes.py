"""Which URIs are read through fsspec, and which of them this process may read."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from nstray.errors import UsageError
from nstray.text import redact


@dataclass(frozen=True)
class Store:
    """A scheme that fsspec reads.

    Attributes:
        package: what has to be installed, and is imported by the same name.
        credentials: where they come from, for messages.
        made_with: options of its file system.
        asked_with, listed_with: options of ``info`` and ``ls``. Neither may answer from a cache: an
            object that was replaced has to be noticed. Both have to say the same version of it.
        whole_file: whether a range is read through a file that is opened. Then fsspec must not read
            ahead, and is told the size, which it would else take from its cache.
    """

    package: str
    credentials: str
    made_with: Mapping[str, Any] = field(default_factory=dict)
    asked_with: Mapping[str, Any] = field(default_factory=dict)
    listed_with: Mapping[str, Any] = field(default_factory=dict)
    whole_file: bool = False


STORES = {
    "gs": Store(
        "gcsfs",
        "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
        made_with={"access": "read_only", "use_listings_cache": False},
    ),
    "az": Store(
        "adlfs",
        "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
        made_with={"use_listings_cache": False},
    ),
    "hf": Store(
        "huggingface_hub",
        "HF_TOKEN, or `hf auth login`",
        asked_with={"refresh": True, "expand_info": True},  # else it leaves out blob_id
        listed_with={"refresh": True},
        whole_file=True,
    ),
}
_WEB = ("http", "https", "ftp", "ftps")
_HADOOP = ("s3a", "s3n")  # its names for s3
_allowed: frozenset[str] = frozenset()


def allow_remote(names: Collection[str], *, installed: bool = True) -> None:
    """Which of `STORES` this process may read from now on; none at its start.

    Args:
        installed: raise `UsageError` if a package is missing that one of them needs.
    """
    global _allowed
    if installed:
        for name in names:
            require_packages(name)
    _allowed = frozenset(names)


def remote_allowed() -> tuple[str, ...]:
    """What `allow_remote` was told last, for a process that works for this one."""
    return tuple(sorted(_allowed))


def is_allowed(scheme: str) -> bool:
    """Whether this process may read URIs of `scheme`."""
    return scheme in _allowed


def require_packages(scheme: str) -> None:
    """Raise `UsageError`, which says what to install, if `scheme` can't be read for want of it."""
    if importlib.util.find_spec("fsspec") is None:
        raise UsageError(f"{scheme}:// is read through fsspec: pip install 'nstray[remote]'")
    package = STORES[scheme].package
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{scheme}:// is read through {package}: pip install {package}")


def refuse_scheme(scheme: str, uri: str) -> UsageError:
    """What to raise for a URI of a scheme that is not read."""
    where = f"{redact(uri)}: {scheme}:// is not supported"
    if scheme in STORES:
        return UsageError(
            f"{where} without --allow-remote {scheme}, which commands that read pictures take; "
            "or reach the store through its S3 endpoint: s3:// and AWS_ENDPOINT_URL"
        )
    if scheme in _HADOOP:
        return UsageError(f"{where}; write s3://")
    read = "nstray reads local paths, file:// and s3://"
    if scheme in _WEB:
        return UsageError(
            f"{where}; {read}. No --allow-remote lifts this: whoever writes a manifest could have "
            "any host asked that this machine reaches. Download the files, or put them on s3://"
        )
    return UsageError(
        f"{where}; {read} (other stores through their S3 endpoint: AWS_ENDPOINT_URL), and "
        f"{', '.join(f'{name}://' for name in STORES)} with --allow-remote"
    )


def refuse_to_write(uri: str) -> None:
    """Raise `UsageError` for a URI that nothing is written to, whatever may be read."""
    scheme, colon, _ = uri.partition("://")
    if colon and scheme.lower() in STORES:
        raise UsageError(
            f"{redact(uri)}: nothing is written to {scheme.lower()}://, which is only read; write "
            "to a local folder or to s3:// (other stores through their S3 endpoint: "
            "AWS_ENDPOINT_URL)"
        )
