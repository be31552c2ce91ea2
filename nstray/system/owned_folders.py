"""Temporary folders that living processes use, and the end of those that none uses any more.

A process that uses such a folder holds a shared lock on a file in it. The kernel releases the lock
when the process dies, however it dies. So whoever gets the lock for itself alone may remove the
folder. A folder is of one user alone (mode 0700); another user's folder stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
from pathlib import Path

_IN_USE = "in-use"
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def join(path: Path) -> int:
    """A descriptor that marks a folder as used; the folder is made if it is missing.

    Raises OSError.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        try:
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "no folder", str(path))
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise PermissionError(errno.EACCES, "not a folder of this user alone", str(path))
            use = os.open(path / _IN_USE, _OPEN, 0o600)
        except FileNotFoundError:  # removed since, by a process that found it unused
            continue
        if locked(use, fcntl.LOCK_SH) and _same(use, path / _IN_USE):
            return use
        os.close(use)


def leave(path: Path, use: int) -> None:
    """Give up the folder that `join` returned `use` for; the last process removes it."""
    os.close(use)
    remove_unused(path)


def remove_unused(path: Path) -> None:
    """Remove a folder that no process uses; another user's folder stays."""
    try:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return
        # A process that died early has made no file, and one that died late has removed it.
        use = os.open(path / _IN_USE, _OPEN, 0o600)
    except OSError:
        return
    try:
        # The file that is locked may be that of a folder which was removed and made again since.
        if locked(use, fcntl.LOCK_EX) and _same(use, path / _IN_USE):
            # Under another name nobody joins it while it goes.
            gone = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
            with contextlib.suppress(OSError):
                path = path.rename(gone)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(use)


def remove_all_unused(parent: Path, prefix: str, *, keep: Path | None = None) -> None:
    """Remove the folders below `parent` whose names begin with `prefix` and that nobody uses.

    The folder `keep` stays.
    """
    with contextlib.suppress(OSError):
        for path in sorted(parent.glob(f"{prefix}*")):
            if path != keep:
                remove_unused(path)


def locked(descriptor: int, kind: int) -> bool:
    """Whether the lock could be taken at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
