"""``.nstray/latest/``: the pictures that were committed last, as plain files to look at.

Only a local output has them. They are copies of what the parts hold: nothing reads them, and a run
that can't write them goes on.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nstray import storage
from nstray.output.paths import Paths
from nstray.output.records import PICTURE_NAME

KEEP = 8  # pictures
EVERY = 1.0  # seconds between two writes of a worker


class LatestPictures:
    """The folder of the latest pictures of one output, as one worker writes it."""

    def __init__(self, paths: Paths) -> None:
        local = not storage.is_uri(paths.out)
        self._folder = Path(paths.latest_uri) if local else None
        self._written: float | None = None

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the last pictures of `rows`, and remove all but the `KEEP` newest files.

        Does nothing within `EVERY` of the last time, in an output on a store, and in one that was
        removed. Raises nothing.
        """
        now = time.monotonic()
        if self._folder is None or (self._written is not None and now - self._written < EVERY):
            return
        self._written = now
        pictures = [row["image"] for row in rows if row.get("image") is not None][-KEEP:]
        with contextlib.suppress(OSError):
            if pictures:
                with contextlib.suppress(FileExistsError):
                    self._folder.mkdir()  # not its parents: they go if the output is removed
            for picture in pictures:
                if PICTURE_NAME.fullmatch(picture["path"]):
                    _put(self._folder / picture["path"], picture["bytes"])
            _keep_newest(self._folder)


def _put(path: Path, data: bytes) -> None:
    """Write a file, which is seen whole or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=storage.TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _keep_newest(folder: Path) -> None:
    """Remove all but the `KEEP` newest pictures; other workers may do so at the same time."""
    ages = []
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            if PICTURE_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                ages.append((entry.stat().st_mtime_ns, entry.path))
    for _, path in sorted(ages)[:-KEEP]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
