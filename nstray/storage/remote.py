"""Objects of other stores than S3, read through fsspec; nothing is ever written.

fsspec's file systems differ in what they raise, what they call a version and what they cache. Here
each has one version of an object (`_version`), and every read of a range ends with the question
whether that version is still there.

A store is named by its root, such as ``gs://bucket``; a key is what follows the slash behind it.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from nstray.errors import (
    BadCredentials,
    Changed,
    NotFound,
    NstrayError,
    ShortRead,
    StorageError,
    TooLarge,
)
from nstray.storage.remote_errors import explain
from nstray.storage.s3_listing import Stored
from nstray.storage.schemes import STORES, Store, require_packages
from nstray.storage.seekable import BlockFile
from nstray.text import redact

# What the file systems call the version of an object, the surest first. The ETag of Google Cloud
# Storage changes with an object's metadata; its generation does not.
_VERSIONS = ("generation", "blob_id", "etag", "ETag", "md5Hash", "xet_hash")
_TIMES = ("mtime", "updated", "last_modified", "LastModified", "modified", "uploaded_at", "created")
_ETAG = re.compile(r"[!-~]{1,200}")

_lock = threading.Lock()
_systems: dict[tuple[int, type[Any]], Any] = {}


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held the old one at the fork


os.register_at_fork(after_in_child=_after_fork)


def is_store(root: str) -> bool:
    """Whether `root` names a store that is read here, and no bucket of S3."""
    return "://" in root


def head(root: str, key: str) -> Stored | None:
    """What is stored under `key`; None if nothing is, or a folder."""
    try:
        return _head(root, key)
    except NotFound:
        return None


def read(root: str, key: str, max_bytes: int | None) -> bytes:
    """The whole object; raises `TooLarge` above `max_bytes`."""
    found = _head(root, key)
    _bound(root, key, found.size, max_bytes)
    data = _get(root, key) if found.size else b""
    _bound(root, key, len(data), max_bytes)  # it may have been replaced
    if len(data) < found.size and _head(root, key).etag == found.etag:
        raise _short(root, key, len(data), found.size)
    return data


def read_start(root: str, key: str, size: int) -> bytes:
    """The first `size` bytes, or all if the object has fewer."""
    end = min(size, _head(root, key).size)
    return _get(root, key, 0, end) if end else b""


def read_range(
    root: str, key: str, start: int, length: int, if_match: str | None
) -> tuple[bytes, int, int, str]:
    """(bytes, where they start, size of the object, its version); see `nstray.storage.read_range`.

    No store is asked for a range of one version. So the version is asked for after the bytes came;
    `Changed` is raised if it is not the one that was known before.
    """
    version, end = if_match, start + length
    if start < 0 or version is None:
        found = _head(root, key)
        version = version or found.etag
        _compare(root, key, found, version)
        start = max(0, found.size - length) if start < 0 else start
        end = min(start + length, found.size)
    data, failed = b"", None
    if end > start:
        try:
            data = _get(root, key, start, end)[: end - start]
        except NotFound:
            raise
        except NstrayError as error:
            failed = error  # some stores refuse a range behind the end
    found = _head(root, key)
    _compare(root, key, found, version)
    if failed is not None and start < found.size:
        raise failed
    if start + len(data) < min(end, found.size):
        raise _short(root, key, len(data), min(end, found.size) - start)
    return data, start, found.size, version


def walk(root: str, prefix: str, recursive: bool, start: str = "") -> Iterator[Stored]:
    """Every object below the folder `prefix`, in the order of the UTF-8 bytes of their keys.

    One request for each folder. Raises `NotFound` if nothing is there.

    Args:
        prefix: with a slash at its end, or empty.
        start: what the names in this folder begin with.
    """
    pending = [iter(_entries(root, prefix))]
    while pending:
        for name, entry in pending[-1]:
            if not name.startswith(start) and len(pending) == 1:
                continue
            if entry is not None:
                yield _stored(root, name, entry)
            elif recursive:
                with contextlib.suppress(NotFound):  # gone meanwhile
                    pending.append(iter(_entries(root, name)))
                    break
        else:
            pending.pop()


def _entries(root: str, folder: str) -> list[tuple[str, Mapping[str, Any] | None]]:
    """(key, what its store says) of what a folder holds; (key/, None) of a folder."""
    path = _path(root, folder)
    system = file_system(root)
    with errors(root, folder):
        listed = system.ls(path, detail=True, **_store(root).listed_with)
    found: dict[str, Mapping[str, Any] | None] = {}
    for entry in listed:
        full = str(entry["name"])
        name = full.rstrip("/").rpartition("/")[2]
        if not name or full.strip("/") == path.strip("/"):
            continue  # the folder itself, or a file that was asked for as one
        if entry.get("type") == "directory":
            found[f"{folder}{name}/"] = None
        elif not full.endswith("/"):  # an empty object that a console made to show a folder
            found[f"{folder}{name}"] = entry
    return sorted(found.items(), key=lambda item: item[0].encode(errors="surrogateescape"))


class Input(BlockFile):
    """An object as a seekable file that reads ranges of one version of it.

    The first request brings the last `tail` bytes.
    """

    def __init__(self, root: str, key: str, block: int, tail: int) -> None:
        data, start, size, self._etag = read_range(root, key, -1, tail, None)
        super().__init__(size, data, start, block)
        self._root, self._key = root, key

    def _fetch(self, start: int, length: int) -> tuple[bytes, int]:
        data, start, _, _ = read_range(self._root, self._key, start, length, self._etag)
        return data, start


def file_system(root: str) -> Any:
    """This process's file system of fsspec for the scheme of `root`; raises `UsageError`."""
    scheme = root.partition("://")[0]
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        require_packages(scheme)
        raise StorageError(f"{scheme}:// can't be read: {error}") from None
    with _lock:
        made = _systems.get((os.getpid(), kind))
        if made is None:
            made = _systems[os.getpid(), kind] = _make(root, kind)
        return made


def _make(root: str, kind: type[Any]) -> Any:
    store = _store(root)
    try:
        with errors(root, ""):
            return kind(skip_instance_cache=True, **store.made_with)
    except StorageError as error:
        if type(error) is not StorageError:
            raise
        # Nothing was asked for yet: it is the credentials that a file system may lack.
        raise BadCredentials(f"{error}; credentials come from {store.credentials}") from error


@contextlib.contextmanager
def errors(root: str, key: str) -> Iterator[None]:
    """Turn what fsspec raises into exceptions of `nstray.errors` that name the redacted URI."""
    try:
        yield
    except NstrayError:
        raise
    except Exception as error:
        raise explain(error, f"{root}/{key}", _store(root).credentials) from error


def _store(root: str) -> Store:
    return STORES[root.partition("://")[0]]


def _path(root: str, key: str) -> str:
    """What fsspec calls an object or folder."""
    return f"{root.partition('://')[2]}/{key}".rstrip("/")


def _head(root: str, key: str) -> Stored:
    """What is stored under `key`; raises `NotFound` if nothing is, or a folder."""
    system = file_system(root)
    with errors(root, key):
        found = system.info(_path(root, key), **_store(root).asked_with)
    if found.get("type") == "directory" or key.endswith("/"):
        raise NotFound(f"{_shown(root, key)}: is a folder; a file is needed here")
    return _stored(root, key, found)


def _get(root: str, key: str, start: int | None = None, end: int | None = None) -> bytes:
    options: dict[str, Any] = {}
    if end is not None and _store(root).whole_file:
        options = {"cache_type": "none", "size": end}
    system = file_system(root)
    with errors(root, key):
        return bytes(system.cat_file(_path(root, key), start=start, end=end, **options))


def _stored(root: str, key: str, found: Mapping[str, Any]) -> Stored:
    size = found.get("size")
    if not isinstance(size, int) or size < 0:
        raise StorageError(f"{_shown(root, key)}: its store does not say how large it is")
    modified = next((t for n in _TIMES if (t := _seconds(found.get(n))) is not None), 0.0)
    return Stored(key, size, _version(found, size, modified), modified)


def _version(found: Mapping[str, Any], size: int, modified: float) -> str:
    """The version of an object as its store has it, or else made of its size and time."""
    for name in _VERSIONS:
        text = str(found.get(name) or "").strip('"')
        if _ETAG.fullmatch(text):
            return text
    return f"{round(modified * 1e6)}-{size}"


def _seconds(time: Any) -> float | None:
    """A time as a store gives it, in unix seconds; None if it is none."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            return None
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return float(time) if isinstance(time, int | float) else None


def _bound(root: str, key: str, size: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size > max_bytes:
        raise TooLarge(f"{_shown(root, key)}: {size:,} bytes, more than the {max_bytes:,} allowed")


def _compare(root: str, key: str, found: Stored, version: str) -> None:
    if found.etag != version:
        raise Changed(
            f"{_shown(root, key)}: is not the version {version}: it was changed since, or while it "
            "was read"
        )


def _short(root: str, key: str, came: int, size: int) -> ShortRead:
    return ShortRead(
        f"{_shown(root, key)}: its store sent {came:,} of {size:,} bytes; try again later"
    )


def _shown(root: str, key: str) -> str:
    return redact(f"{root}/{key}")
