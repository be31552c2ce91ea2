"""Widths and heights of loose pictures, from the first bytes of their files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from nstray import storage
from nstray.config import JobConfig
from nstray.errors import AccessDenied, NotFound, StorageError, TooLarge, Unreachable
from nstray.images.shape import shape_of_start

THREADS = 16
_STARTS = (64 * 1024, 2**20)  # bytes; those of nearly every picture tell by the first
_MAX_BYTES: int = JobConfig.model_fields["max_bytes"].default


def shapes(uris: Sequence[str]) -> list[tuple[int, int] | None]:
    """Width and height of each picture as the decoder counts them; None if its file doesn't tell.

    Raises: `StorageError` if a store can't be reached.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_shape, uris))


def _shape(uri: str) -> tuple[int, int] | None:
    try:
        for size in _STARTS:
            data = storage.read_start(uri, size)
            whole = len(data) < size
            if (found := shape_of_start(data, whole=whole)) is not None or whole:
                return found
        return shape_of_start(storage.read(uri, max_bytes=_MAX_BYTES), whole=True)
    except Unreachable:
        raise
    except (NotFound, AccessDenied, TooLarge, StorageError):
        return None
