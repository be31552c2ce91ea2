"""Style images, and indexes of archives, that the workers of one run share on one machine.

Each is fetched from its store once per machine, not once per worker. The cache is a folder of
this user alone below the temporary one (``TMPDIR``), with a file per image: SHA-256 of the bytes,
then the bytes. The last worker that leaves removes the folder. If all of them were killed, the next
run's driver or worker on the machine does (`nstray.system.owned_folders`). The cache is of one run:
the next run asks the store again. Whatever goes wrong with the folder costs a fetch, never a pair.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nstray.system import owned_folders
from nstray.text import log_event

log = logging.getLogger(__name__)
BOUND = 2**30  # bytes of images on a machine; the least recently used leave first
RESERVE = 2 * 2**30  # bytes of the disk that stay free
WAIT = 5.0  # seconds that a worker waits for another one's fetch before it fetches itself
_PREFIX = "nstray-styles-"
_DIGEST = 32


def remove_unused(*, keep: Path | None = None) -> None:
    """Remove the caches of this user on this machine whose workers are all dead, except `keep`."""
    owned_folders.remove_all_unused(Path(tempfile.gettempdir()), _PREFIX, keep=keep)


class StyleCache:
    """Bytes of images by URI. Safe for threads, and for processes that name the same run.

    Args:
        run: a name that no other run has, of letters and digits.
        bound, reserve, wait: see the constants.
    """

    def __init__(
        self, run: str, *, bound: int = BOUND, reserve: int = RESERVE, wait: float = WAIT
    ) -> None:
        self._path = Path(tempfile.gettempdir()) / f"{_PREFIX}{run}"
        self._bound, self._reserve, self._wait = bound, reserve, wait
        self._lock = threading.Lock()
        self._use: int | None = None  # descriptor that holds the shared lock
        self._off = False

    def get(self, uri: str, fetch: Callable[[], bytes]) -> bytes:
        """The image's bytes, from the cache or from `fetch`, whose exceptions pass through."""
        name = hashlib.sha256(uri.encode()).hexdigest()
        if not self._joined():
            return fetch()
        if (data := self._find(name)) is not None:
            return data
        with self._alone(name):
            if (data := self._find(name)) is None:
                data = fetch()
                self._store(name, data)
        return data

    def forget(self, uri: str) -> None:
        """Drop an image, so that the next `get` fetches it."""
        with contextlib.suppress(OSError):
            (self._path / hashlib.sha256(uri.encode()).hexdigest()).unlink()

    def close(self) -> None:
        """Stop using the cache; the last process that leaves removes the folder."""
        with self._lock:
            self._off = True
            if self._use is not None:
                owned_folders.leave(self._path, self._use)
                self._use = None

    def _joined(self) -> bool:
        with self._lock:
            if self._use is None and not self._off:
                try:
                    remove_unused(keep=self._path)
                    self._use = owned_folders.join(self._path)
                except OSError as error:
                    self._off = True
                    log_event("style_cache_off", log.warning, reason=error)
            return self._use is not None

    def _find(self, name: str) -> bytes | None:
        """The image under a name; None if it is missing or damaged."""
        path = self._path / name
        try:
            data = path.read_bytes()
            if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
                path.unlink()
                return None
            os.utime(path)
        except OSError:
            return None
        return data[_DIGEST:]

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Hold off other workers' fetches of the image, until they have waited for WAIT."""
        try:
            lock = os.open(
                self._path / f"lock-{name[:2]}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError:
            yield
            return
        try:
            until = time.monotonic() + self._wait
            while not owned_folders.locked(lock, fcntl.LOCK_EX) and time.monotonic() < until:
                time.sleep(0.02)
            yield
        finally:
            os.close(lock)

    def _store(self, name: str, data: bytes) -> None:
        if len(data) > self._bound // 4:
            return
        try:
            if shutil.disk_usage(self._path).free - len(data) < self._reserve:
                return
            with tempfile.NamedTemporaryFile(dir=self._path, prefix="new-", delete=False) as file:
                try:
                    file.write(hashlib.sha256(data).digest() + data)
                    file.close()
                    os.replace(file.name, self._path / name)
                except OSError:
                    os.unlink(file.name)
                    raise
            self._make_room()
        except OSError as error:
            log_event("style_not_kept", log.debug, reason=error)

    def _make_room(self) -> None:
        with os.scandir(self._path) as entries:
            images = sorted(
                (e.stat().st_mtime_ns, e.stat().st_size, e.path)
                for e in entries
                if len(e.name) == 2 * _DIGEST
            )
        used = sum(size for _, size, _ in images)
        for _, size, path in images:
            if used <= self._bound:
                return
            os.unlink(path)
            used -= size
