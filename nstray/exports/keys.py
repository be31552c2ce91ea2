"""The order of an export: a number for each row, and the bucket that it falls into."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]


def number(*words: str) -> int:
    """A number of 64 bits that follows from words alone, the same on every machine."""
    digest = hashlib.blake2b("\0".join(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def shuffled(seed: int, rows: Iterable[tuple[str, bool]]) -> Keys:
    """Keys in a random order that follows from `seed` and the rows' ids.

    Args:
        rows: pair id, and whether it is the original.
    """
    words = (str(seed), "original")
    return np.array(
        [number(words[0], pair_id, *(words[1:] if original else ())) for pair_id, original in rows],
        np.uint64,
    )


def chosen(seed: int, pair_id: str, share: float) -> bool:
    """Whether the content of a pair is added, for `share` of all pairs."""
    return number("content", str(seed), pair_id) < share * 2**64


def hash_buckets(keys: Keys, buckets: int) -> npt.NDArray[np.int64]:
    """The bucket of each hash, in the order of the hashes."""
    return (((keys >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)).astype(np.int64)


def position_keys(positions: npt.NDArray[np.uint64], original: npt.NDArray[np.bool_]) -> Keys:
    """Keys in the order of the output; an original follows its picture."""
    return (positions << np.uint64(1)) | original.astype(np.uint64)


def position_buckets(keys: Keys, parts: int, buckets: int) -> npt.NDArray[np.int64]:
    """The bucket of each key of `position_keys`, in the order of the keys."""
    return ((keys >> np.uint64(18)) * np.uint64(buckets) // np.uint64(max(1, parts))).astype(
        np.int64
    )
