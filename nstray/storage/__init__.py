"""One small interface over local files and stores: the only way the rest of nstray reaches them.

A URI is ``s3://bucket/key``, ``file:///absolute/path`` or a plain local path
(`nstray.storage.uri`). Credentials are the ambient AWS chain alone; if it has none, requests are
not signed. ``AWS_ENDPOINT_URL`` selects MinIO, Ceph, R2 and the like. Whatever botocore or the
operating system raises reaches the caller as an exception of `nstray.errors` that names the
redacted URI and says what to do.

``gs://``, ``az://`` and ``hf://`` are read through fsspec, if `allow_remote` names them; nothing is
written there (`nstray.storage.remote`).

Two writes carry the commit protocol. `put_new` creates or fails. `put_over` replaces, on demand
only one known version. ETags have no quotes here; a local file's is ``<mtime_ns>-<size>-<inode>``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from nstray.errors import ShortRead, StorageError, TooLarge, UsageError
from nstray.storage import local, remote, s3, s3_listing, s3_ranges
from nstray.storage.local import LINK_TO_NOTHING, TEMPORARY
from nstray.storage.s3_client import payer_agreed, request_payer
from nstray.storage.schemes import allow_remote, refuse_to_write, remote_allowed
from nstray.storage.uri import (
    absolute,
    ending,
    is_folder_name,
    is_uri,
    join,
    name,
    parent,
    resolve,
    root,
    split,
)
from nstray.text import redact

__all__ = [
    "BLOCK",
    "LINK_TO_NOTHING",
    "LIST_THREADS",
    "TEMPORARY",
    "ObjectInfo",
    "Piece",
    "absolute",
    "allow_remote",
    "delete",
    "ending",
    "head",
    "is_folder_name",
    "is_uri",
    "join",
    "list_files",
    "list_prefix",
    "name",
    "open_input",
    "parent",
    "payer_agreed",
    "put_file",
    "put_new",
    "put_over",
    "read",
    "read_range",
    "read_start",
    "redact",
    "refuse_to_write",
    "remote_allowed",
    "request_payer",
    "resolve",
    "root",
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


@dataclass(frozen=True)
class Piece:
    """Bytes of an object from `start` on; `size` and `etag` are those of the whole object."""

    data: bytes
    start: int
    size: int
    etag: str


def head(uri: str) -> ObjectInfo | None:
    """What is stored under `uri`; None if nothing is, or a folder.

    A missing bucket gives None too: S3 does not tell a HEAD more.
    """
    bucket, key = _split_object(uri)
    if bucket is not None:
        stored = remote.head(bucket, key) if remote.is_store(bucket) else s3.head(bucket, key)
        return None if stored is None else _stored_info(bucket, stored)
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
    if remote.is_store(bucket):
        return remote.read(bucket, key, max_bytes)
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
    if remote.is_store(bucket):
        return io.BufferedReader(remote.Input(bucket, key, BLOCK, tail), BLOCK)
    return io.BufferedReader(s3_ranges.Input(bucket, key, BLOCK, tail), BLOCK)


def read_start(uri: str, size: int) -> bytes:
    """The first `size` bytes of an object, or all if it has fewer; raises as `read` does."""
    bucket, key = _split_object(uri)
    if bucket is None:
        with local.open_input(key, size) as file, local.errors(key):
            return file.read(size)
    if remote.is_store(bucket):
        return remote.read_start(bucket, key, size)
    # A store that ignores ranges sends everything.
    return s3.get(bucket, key, span=f"bytes=0-{size - 1}").data[:size]


def read_range(
    uri: str, start: int, length: int, *, max_bytes: int, if_match: str | None = None
) -> Piece:
    """`length` bytes of an object from `start` on, by one request; of a store of `remote`, by two.

    Raises `TooLarge` for a length above `max_bytes`, and asks for nothing then; `ShortRead` if
    the object ends before; `Changed` if it is not the version `if_match`; else as `read` does.

    Args:
        start: below 0, the last `length` bytes are read, or all if the object has fewer.
        if_match: an ETag. Of that of a local file, its time and size count, so that a copy that
            keeps both is the same version.
    """
    if length > max_bytes:
        raise TooLarge(f"{redact(uri)}: {length:,} bytes, more than the {max_bytes:,} allowed")
    bucket, key = _split_object(uri)
    version = None if if_match is None else if_match.strip('"')
    if bucket is None:
        found = Piece(*local.read_range(key, start, length, version))
    elif remote.is_store(bucket):
        found = Piece(*remote.read_range(bucket, key, start, length, version))
    else:
        body = s3_ranges.get_range(
            bucket, key, start, length, max_bytes=max_bytes, if_match=version
        )
        found = Piece(body.data, body.start, body.size, body.etag)
    if start >= 0 and len(found.data) != length:
        raise ShortRead(
            f"{redact(uri)}: ends before its byte {start + length:,}: it is truncated, or another "
            "file than was expected"
        )
    return found


def list_files(
    folder_or_prefix: str,
    *,
    recursive: bool = True,
    on_error: Callable[[str, StorageError], None] | None = None,
    on_left_out: Callable[[str, str], None] | None = None,
) -> Iterator[ObjectInfo]:
    """Every file below a folder, in the order of S3 keys (bytes of the UTF-8 path).

    Local symbolic links are followed; what is neither file nor folder is left out. Raises
    `NotFound`, at the first step, if the folder or bucket does not exist. A prefix without keys in
    an existing bucket of S3 is an empty folder.

    Args:
        on_error: called with the path of a local folder that can't be listed, or of a local file
            or folder whose name is not UTF-8, and the error that is raised without it. A folder's
            path ends with a slash. The listing goes on without that file or folder.
        on_left_out: called with the path of what is left out of a local folder, and what it is,
            such as "link to nothing".
    """
    bucket, path = split(folder_or_prefix)
    if bucket is None:
        return (
            _local_info(*found) for found in local.walk(path, recursive, "", on_error, on_left_out)
        )
    prefix = path if not path or path.endswith("/") else f"{path}/"
    list_all = remote.walk if remote.is_store(bucket) else s3_listing.walk
    return (_stored_info(bucket, stored) for stored in list_all(bucket, prefix, recursive))


def list_prefix(uri_prefix: str) -> Iterator[ObjectInfo]:
    """Files of one folder whose names start with the last component of `uri_prefix`, sorted.

    Files of folders below it are left out. A missing folder is empty; a missing bucket raises
    `NotFound`.
    """
    bucket, path = resolve(uri_prefix)
    folder, slash, start = path.rpartition("/")
    if bucket is not None:
        found = (
            remote.walk(bucket, folder + slash, False, path)
            if remote.is_store(bucket)
            else s3_listing.walk(bucket, path, False)
        )
        return (_stored_info(bucket, stored) for stored in found)
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
    bucket, key = _split_written(uri)
    return (
        local.put_new(key, data) if bucket is None else s3.put(bucket, key, data, condition="new")
    )


def put_over(uri: str, data: bytes, *, if_match: str | None = None) -> str:
    """Replace `uri` by `data`; returns the new ETag.

    Args:
        if_match: the ETag that is replaced; raises `Changed` if `uri` has another one or is gone.
    """
    bucket, key = _split_written(uri)
    version = None if if_match is None else if_match.strip('"')
    if bucket is None:
        return local.put_over(key, data, version)
    return s3.put(bucket, key, data, condition="any" if version is None else ("match", version))


def put_file(uri: str, file: IO[bytes], *, new: bool = False) -> str:
    """Replace `uri` by what a seekable file holds, which is never in memory as a whole.

    Returns the new ETag.

    Args:
        new: create `uri` or fail, as `put_new` does.
    """
    bucket, key = _split_written(uri)
    if bucket is None:
        return local.put_new(key, file) if new else local.put_over(key, file, None)
    return s3.put(bucket, key, file, condition="new" if new else "any")


def delete(uri: str) -> None:
    """Remove `uri`; no error if it is gone already."""
    bucket, key = _split_written(uri)
    if bucket is None:
        local.delete(key)
    else:
        s3.delete(bucket, key)


def sweep(folder: str, *, before: float | None = None, recursive: bool = False) -> None:
    """Remove from a local folder what killed writers left behind more than an hour ago.

    A store keeps nothing of such a put.

    Args:
        before: what they left before this time, in unix seconds.
        recursive: also in the folders below it.
    """
    bucket, path = split(folder)
    if bucket is None:
        local.sweep(path, before, recursive)


def _split_object(uri: str) -> tuple[str | None, str]:
    """`split` of something that can be read or written, which a bucket by itself can't."""
    bucket, key = split(uri)
    if bucket is not None and not key:
        scheme = root(bucket).partition("://")[0]
        raise UsageError(f"{redact(uri)} names a bucket; an object is {scheme}://BUCKET/KEY")
    return bucket, key


def _split_written(uri: str) -> tuple[str | None, str]:
    """`_split_object` of what is written; raises `UsageError` for a store that is only read."""
    refuse_to_write(uri)
    return _split_object(uri)


def _local_info(path: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(path, status.st_size, local.etag(status), status.st_mtime)


def _stored_info(bucket: str, stored: s3_listing.Stored) -> ObjectInfo:
    return ObjectInfo(f"{root(bucket)}/{stored.key}", stored.size, stored.etag, stored.modified)
