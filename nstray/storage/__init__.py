"""One small interface over local files and S3, and the only way the rest of nstray reaches either.

A URI is ``s3://bucket/key``, ``file:///absolute/path`` or a plain local path
(`nstray.storage.uri`). Credentials are the ambient AWS chain alone; if it has none, requests are
not signed. ``AWS_ENDPOINT_URL`` selects MinIO, Ceph, R2 and the like. Whatever botocore or the
operating system raises reaches the caller as an exception of `nstray.errors` that names the
redacted URI and says what to do.

The two writes carry the commit protocol. `put_new` creates or fails. `put_over` replaces, on demand
only one known version. ETags have no quotes here; a local file's is ``<mtime_ns>-<size>-<inode>``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nstray.errors import StorageError, UsageError
from nstray.storage import local, s3, s3_listing
from nstray.storage.s3_client import request_payer
from nstray.storage.uri import absolute, is_uri, join, name, parent, resolve, split
from nstray.text import redact

__all__ = [
    "BLOCK",
    "LIST_THREADS",
    "ObjectInfo",
    "absolute",
    "delete",
    "head",
    "is_uri",
    "join",
    "list_files",
    "list_prefix",
    "name",
    "open_input",
    "parent",
    "put_new",
    "put_over",
    "read",
    "read_start",
    "redact",
    "request_payer",
    "resolve",
    "split",
    "sweep",
]

# Listings at once: a store takes 40 to 200 ms for an answer of a thousand keys, and Python reads
# one answer at a time, in 20 ms.
LIST_THREADS = 6
BLOCK = 256 * 1024  # bytes of a buffered or range read: a Parquet footer usually fits
WHOLE = 8 * 2**20  # bytes up to which an object that is opened comes whole, and is compared


@dataclass(frozen=True)
class ObjectInfo:
    """A stored file: its canonical URI, size in bytes, version, and last change in unix seconds."""

    uri: str
    size: int
    etag: str | None
    modified: float


def head(uri: str) -> ObjectInfo | None:
    """What is stored under `uri`; None if nothing is, or a folder.

    A missing bucket gives None too: S3 does not tell a HEAD more.
    """
    bucket, key = _split_object(uri)
    if bucket is not None:
        stored = s3.head(bucket, key)
        return None if stored is None else _s3_info(bucket, stored)
    status = local.head(key)
    return None if status is None else _local_info(key, status)


def read(uri: str, *, max_bytes: int | None = None) -> bytes:
    """The whole object.

    Raises `NotFound`, `AccessDenied`, `Unreachable`, `StorageError`, and `TooLarge` before it reads
    more than `max_bytes`.
    """
    bucket, key = _split_object(uri)
    if bucket is None:
        return local.read(key, max_bytes)
    return s3.get(bucket, key, max_bytes=max_bytes).data


def open_input(uri: str, *, tail: int = WHOLE) -> io.BufferedReader:
    """A seekable binary file over `uri`, read by ranges, as pyarrow and csv want it.

    Raises as `read` does. An object that is replaced while it is open raises `Changed`; a local
    file stays the one that was opened. An object that came damaged raises `Corrupt` if it was
    read from its first byte to its last, or has at most `tail` bytes, which the first request asks
    for.
    """
    bucket, key = _split_object(uri)
    if bucket is None:
        return local.open_input(key, BLOCK)
    return io.BufferedReader(s3.Input(bucket, key, BLOCK, tail), BLOCK)


def read_start(uri: str, size: int) -> bytes:
    """The first `size` bytes of an object, or all if it has fewer; raises as `read` does."""
    bucket, key = _split_object(uri)
    if bucket is None:
        with local.open_input(key, size) as file, local.errors(key):
            return file.read(size)
    # A store that ignores ranges sends everything.
    return s3.get(bucket, key, span=f"bytes=0-{size - 1}").data[:size]


def list_files(
    folder_or_prefix: str,
    *,
    recursive: bool = True,
    on_error: Callable[[str, StorageError], None] | None = None,
) -> Iterator[ObjectInfo]:
    """Every file below a folder, in the order of S3 keys (bytes of the UTF-8 path).

    Local symbolic links are followed; what is neither file nor folder is left out. Raises
    `NotFound`, at the first step, if the folder or bucket does not exist. A prefix without keys in
    an existing bucket is an empty folder.

    Args:
        on_error: called with the path of a local folder that can't be listed, or of a local file
            or folder whose name is not UTF-8, and the error that is raised without it. A folder's
            path ends with a slash. The listing goes on without that file or folder.
    """
    bucket, path = split(folder_or_prefix)
    if bucket is None:
        return (_local_info(*found) for found in local.walk(path, recursive, on_error=on_error))
    return (
        _s3_info(bucket, stored)
        for stored in s3_listing.walk(
            bucket, path if not path or path.endswith("/") else f"{path}/", recursive
        )
    )


def list_prefix(uri_prefix: str) -> Iterator[ObjectInfo]:
    """Files of one folder whose names start with the last component of `uri_prefix`, sorted.

    Files of folders below it are left out. A missing folder is empty; a missing bucket raises
    `NotFound`.
    """
    bucket, path = resolve(uri_prefix)
    if bucket is not None:
        return (_s3_info(bucket, stored) for stored in s3_listing.walk(bucket, path, False))
    folder, slash, start = path.rpartition("/")
    folder = os.path.abspath(folder + slash)
    return (
        _local_info(*found)
        for found in (local.walk(folder, False, start) if os.path.isdir(folder) else ())
    )


def put_new(uri: str, data: bytes) -> str:
    """Create `uri` holding `data`, or fail: of several writers exactly one succeeds.

    Returns the ETag. If the same bytes are there, the put succeeds, since a retry of our own meets
    them; other bytes raise `AlreadyExists`. A missing local folder is made. On S3 this is one
    PutObject with If-None-Match. Locally it is a temporary file, fsync, a hard link, and fsync of
    the folder.
    """
    bucket, key = _split_object(uri)
    return (
        local.put_new(key, data) if bucket is None else s3.put(bucket, key, data, condition="new")
    )


def put_over(uri: str, data: bytes, *, if_match: str | None = None) -> str:
    """Replace `uri` by `data`; returns the new ETag.

    Args:
        if_match: the ETag that is replaced; raises `Changed` if `uri` has another one or is gone.
    """
    bucket, key = _split_object(uri)
    version = None if if_match is None else if_match.strip('"')
    if bucket is None:
        return local.put_over(key, data, version)
    return s3.put(bucket, key, data, condition="any" if version is None else ("match", version))


def delete(uri: str) -> None:
    """Remove `uri`; no error if it is gone already."""
    bucket, key = _split_object(uri)
    if bucket is None:
        local.delete(key)
    else:
        s3.delete(bucket, key)


def sweep(folder: str) -> None:
    """Remove from a local folder what killed writers left behind more than an hour ago.

    A store keeps nothing of such a put.
    """
    bucket, path = split(folder)
    if bucket is None:
        local.sweep(path)


def _split_object(uri: str) -> tuple[str | None, str]:
    """`split` of something that can be read or written, which a bucket by itself can't."""
    bucket, key = split(uri)
    if bucket is not None and not key:
        raise UsageError(f"{redact(uri)} names a bucket; an object is s3://BUCKET/KEY")
    return bucket, key


def _local_info(path: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(path, status.st_size, local.etag(status), status.st_mtime)


def _s3_info(bucket: str, stored: s3_listing.Stored) -> ObjectInfo:
    return ObjectInfo(f"s3://{bucket}/{stored.key}", stored.size, stored.etag, stored.modified)
