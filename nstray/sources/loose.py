"""Files that are a picture each."""

from __future__ import annotations

from nstray import storage
from nstray.sources.reference import file_of


def read(uri: str, max_bytes: int) -> bytes:
    """The whole file; raises as `storage.read` does."""
    return storage.read(file_of(uri), max_bytes=max_bytes)
