"""Local files behind `nstray.storage`, listed in the order of S3 keys.

A file that is written is visible whole or not at all. Temporary files start with
``.nstray-put-``. A writer that is killed half-way leaves one behind; it is never listed, and
`sweep` removes it. Waits are bounded by LOCK_SECONDS. What a file system itself takes is not
bounded, such as NFS whose server is out of reach (mount it ``soft`` to get an error).
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import IO

from nstray.errors import AccessDenied, AlreadyExists, Changed, NotFound, StorageError, TooLarge

LEFT_SECONDS = 3600.0  # after which a temporary file counts as a dead writer's
LOCK_SECONDS = 60.0  # a lock is held while one file is written
TEMPORARY = ".nstray-put-"
# What a listing leaves out; the noun comes first.
LINK_TO_NOTHING, LINK_TO_ITSELF = "link to nothing", "link to itself"
LINK_UPWARDS, NO_REGULAR_FILE = "link to a folder above it", "file of another kind (pipe, socket)"
# What vfat, exFAT and several FUSE file systems answer to a hard link.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def errors(path: str) -> Iterator[None]:
    """Turn what the operating system raises into exceptions of `nstray.errors` that name `path`."""
    try:
        yield
    except OSError as error:
        raise _explain(error, path) from error


def _explain(error: OSError, path: str) -> StorageError:
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.ENOENT:
        return NotFound(f"{path}: no such file or folder")
    if error.errno == errno.ENOTDIR:
        return NotFound(f"{path}: not a folder, or below something that is a file")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"{path}: {reason}; check the owner and mode of the file and of its folders"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"{path}: disk full or quota used up ({reason}); free space or choose another place"
        )
    if error.errno == errno.EFBIG:
        return StorageError(
            f"{path}: {reason}: larger than the file system or a limit (ulimit -f) allows; "
            "raise it, or write less at once"
        )
    if error.errno == errno.EROFS:
        return AccessDenied(f"{path}: {reason}; mount it for writing or choose another place")
    if error.errno == errno.EISDIR:
        return StorageError(f"{path}: is a folder; a file is needed here")
    return StorageError(f"{path}: {reason}")


def etag(status: os.stat_result) -> str:
    """The version of a file: ``<mtime_ns>-<size>-<inode>``."""
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


def head(path: str) -> os.stat_result | None:
    """The status of the regular file at `path`; None if nothing is there, or a folder."""
    with errors(path):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
    return None if stat.S_ISDIR(status.st_mode) else _regular(path, status)


def read(path: str, max_bytes: int | None) -> bytes:
    """The whole file; raises `TooLarge` above `max_bytes`."""
    with open_input(path, io.DEFAULT_BUFFER_SIZE) as file, errors(path):
        size = os.fstat(file.fileno()).st_size
        if max_bytes is None:
            return file.read()
        if size <= max_bytes:
            data = file.read(max_bytes + 1)
            size = max(size, len(data))  # it may have grown
    if size > max_bytes:
        raise TooLarge(f"{path}: {size:,} bytes, more than the {max_bytes:,} allowed")
    return data


def read_range(
    path: str, start: int, length: int, version: str | None
) -> tuple[bytes, int, int, str]:
    """Bytes of a file, where they start, and the file's size and ETag; see `storage.read_range`.

    Raises `Changed` if the file has not the time and size of the ETag `version`.
    """
    with open_input(path, 1) as file, errors(path):
        status = os.fstat(file.fileno())
        if version is not None and etag(status).split("-")[:2] != version.split("-")[:2]:
            raise Changed(f"{path}: is not the version {version}: it was changed since")
        start = max(0, status.st_size - length) if start < 0 else start
        length = min(length, max(0, status.st_size - start))  # no more memory than there are bytes
        data = os.pread(file.fileno(), length, start) if length else b""
        while len(data) < length:  # Linux gives at most 2 GiB at once
            more = os.pread(file.fileno(), length - len(data), start + len(data))
            if not more:
                break
            data += more
        return data, start, status.st_size, etag(status)


def open_input(path: str, buffer: int) -> io.BufferedReader:
    """The regular file at `path`, open for reading."""
    with errors(path):
        _regular(path, os.stat(path))
        return io.BufferedReader(io.FileIO(path), buffer)


def _regular(path: str, status: os.stat_result) -> os.stat_result:
    """`status`, if it is a regular file's; else raises StorageError.

    A pipe or device would block its reader or never end.
    """
    if stat.S_ISDIR(status.st_mode):
        raise StorageError(f"{path}: is a folder; a file is needed here")
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(
            f"{path}: not a regular file (a pipe, socket or device); copy its contents into one"
        )
    return status


def walk(
    folder: str,
    recursive: bool,
    start: str = "",
    on_error: Callable[[str, StorageError], None] | None = None,
    on_left_out: Callable[[str, str], None] | None = None,
    above: tuple[tuple[int, int], ...] = (),
) -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of the regular files of a folder, in the byte order of their paths.

    Symbolic links are followed, except those that lead upwards.

    Args:
        start: what the names start with.
        on_error, on_left_out: as `nstray.storage.list_files` takes them.
        above: (device, inode) of the folders that this one is in.
    """
    try:
        found, inside = _entries(folder, start, above, on_left_out)
    except StorageError as error:
        if on_error is None:
            raise
        on_error(f"{folder}/", error)
        return
    for key, path, status in found:
        try:
            key.decode()
        except UnicodeDecodeError:
            what = "folder" if key.endswith(b"/") else "file"
            bad = StorageError(f"{os.fsencode(path)!r}: the name is not UTF-8; rename the {what}")
            if on_error is None:
                raise bad from None
            on_error(f"{path}/" if what == "folder" else path, bad)
            continue
        if not key.endswith(b"/"):
            yield path, status
        elif not recursive:
            continue
        elif (status.st_dev, status.st_ino) in inside:
            if on_left_out is not None:
                on_left_out(path, LINK_UPWARDS)
        else:
            yield from walk(path, True, "", on_error, on_left_out, inside)


def _entries(
    folder: str,
    start: str,
    above: tuple[tuple[int, int], ...],
    on_left_out: Callable[[str, str], None] | None,
) -> tuple[list[tuple[bytes, str, os.stat_result]], tuple[tuple[int, int], ...]]:
    """The files and folders of a folder in order, and `above` with the folder itself.

    Of each: the bytes of its name, with a slash after a folder's; its path; its status.
    """
    found: list[tuple[bytes, str, os.stat_result]] = []
    with errors(folder):
        here = os.stat(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(start) or entry.name.startswith(TEMPORARY):
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        raise
                    if on_left_out is not None and entry.is_symlink():  # else removed meanwhile
                        itself = error.errno == errno.ELOOP
                        on_left_out(entry.path, LINK_TO_ITSELF if itself else LINK_TO_NOTHING)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    found.append((os.fsencode(entry.name) + b"/", entry.path, status))
                elif stat.S_ISREG(status.st_mode):
                    found.append((os.fsencode(entry.name), entry.path, status))
                elif on_left_out is not None:
                    on_left_out(entry.path, NO_REGULAR_FILE)
    found.sort(key=lambda item: item[0])
    return found, (*above, (here.st_dev, here.st_ino))


def put_new(path: str, data: bytes | IO[bytes]) -> str:
    """See `nstray.storage.put_new`, and `put_file` for a file."""
    folder = os.path.dirname(path)
    with errors(path):
        _make_folder(folder)
        with _temporary(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                if not _same(path, data):
                    raise AlreadyExists(f"{path} exists already, with other contents") from None
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                raise StorageError(
                    f"{path}: the file system of {folder} has no hard links, "
                    "which nstray commits with; use another, or s3://"
                ) from None
        _sync_folder(folder)
        return etag(os.stat(path))


def put_over(path: str, data: bytes | IO[bytes], if_match: str | None) -> str:
    """See `nstray.storage.put_over`, and `put_file` for a file, which goes without `if_match`."""
    folder = os.path.dirname(path)
    with errors(path):
        _make_folder(folder)
        with _lock(path) or nullcontext() as file:
            status = os.fstat(file.fileno()) if file else None
            if (
                if_match is not None
                and (status is None or etag(status) != if_match)
                and not (isinstance(data, bytes) and _same(path, data))
            ):
                became = "is gone" if status is None else "was changed"
                raise Changed(f"{path} {became} since version {if_match} was read")
            with _temporary(path, data) as temporary:
                version = etag(os.stat(temporary))
                os.replace(temporary, path)
        _sync_folder(folder)
        return version


def delete(path: str) -> None:
    """Remove the file at `path`; no error if it is gone already."""
    with errors(path), suppress(FileNotFoundError):
        os.unlink(path)
        _sync_folder(os.path.dirname(path))


def sweep(folder: str, before: float | None = None, recursive: bool = False) -> None:
    """Remove temporary files from a folder, as far as possible: their writers died.

    Args:
        before: those that were changed before this time, in unix seconds; None is LEFT_SECONDS ago.
        recursive: also from the folders below it, but not through links.
    """
    last = time.time() - LEFT_SECONDS if before is None else before
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if recursive and entry.is_dir(follow_symlinks=False):
                sweep(entry.path, last, recursive)
            elif (
                entry.name.startswith(TEMPORARY)
                and entry.stat(follow_symlinks=False).st_mtime < last
            ):
                with suppress(OSError):
                    os.unlink(entry.path)


def _same(path: str, data: bytes | IO[bytes]) -> bool:
    try:
        if isinstance(data, bytes):
            return read(path, len(data)) == data
        with open_input(path, io.DEFAULT_BUFFER_SIZE) as stored:
            return _same_file(stored, data)
    except (TooLarge, NotFound):
        return False


def _same_file(stored: IO[bytes], file: IO[bytes]) -> bool:
    """Whether two files, the second from its start, hold the same bytes."""
    file.seek(0)
    while piece := file.read(2**20):
        if stored.read(len(piece)) != piece:
            return False
    return not stored.read(1)


@contextmanager
def _temporary(path: str, data: bytes | IO[bytes]) -> Iterator[str]:
    """A file beside `path` holding `data`, written through to the disk.

    It is removed at the end unless it was renamed.
    """
    temporary = os.path.join(os.path.dirname(path), TEMPORARY + uuid.uuid4().hex)
    try:
        with open(temporary, "xb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                data.seek(0)
                shutil.copyfileobj(data, file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _lock(path: str) -> io.BufferedRandom | None:
    """The file at `path`, locked against every other `put_over` until it is closed.

    None if there is no such file. Raises StorageError after LOCK_SECONDS.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            file = open(path, "r+b")  # noqa: SIM115 - for writing: NFS grants an exclusive lock only then
        except FileNotFoundError:
            return None
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.close()
                    raise StorageError(
                        f"{path}: another process has held its lock for {LOCK_SECONDS:g} s; "
                        "is one of them stopped? end it and try again"
                    ) from None
                time.sleep(0.02)
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()  # it was replaced during the wait: lock the new one


def _make_folder(folder: str) -> None:
    if os.path.isdir(folder):
        return
    _make_folder(os.path.dirname(folder))
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    _sync_folder(os.path.dirname(folder))


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that sync no folders
            raise
    finally:
        os.close(descriptor)
