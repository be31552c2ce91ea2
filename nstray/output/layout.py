"""Names and numbers of parts: windows, shards per window, file names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

WINDOW_ROWS = 65_536
_PART = re.compile(r"part-([0-9]{5,})-([0-9]{4,})\.parquet")


def ids_digest(ids: Iterable[str]) -> str:
    """sha256 (hex) of pair ids in order, joined by newlines."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def part_name(window: int, number: int) -> str:
    """``part-00003-0017.parquet``; more digits if the numbers need them."""
    return f"part-{window:05d}-{number:04d}.parquet"


def parse_part(name: str) -> tuple[int, int] | None:
    """(window, number) of a part's file name; None for any other name."""
    match = _PART.fullmatch(name)
    if match is None:
        return None
    window, number = int(match[1]), int(match[2])
    return (window, number) if part_name(window, number) == name else None


def part_count(rows: int, shard_size: int) -> int:
    """Number of shards of a window of `rows` rows; the last one may be short."""
    return -(-rows // shard_size)


def parts_per_window(rows: int, shard_size: int, cuts: Sequence[int] = ()) -> list[int]:
    """Number of shards of each window of a manifest of `rows` rows, in order.

    Args:
        cuts: as `nstray.manifest.shards.cut_windows` takes them.
    """
    counts = []
    at = 0
    for size in window_sizes(cuts):
        if at >= rows:
            break
        counts.append(part_count(min(size, rows - at), shard_size))
        at += size
    return counts


def window_sizes(cuts: Sequence[int]) -> Iterator[int]:
    """Number of rows of each window of an endless manifest; a window ends at each of `cuts`."""
    at = 0
    for cut in cuts:
        while at < cut:
            yield min(WINDOW_ROWS, cut - at)
            at += min(WINDOW_ROWS, cut - at)
    while True:
        yield WINDOW_ROWS
