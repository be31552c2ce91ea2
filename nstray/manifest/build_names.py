"""A name for each picture that ids are made of: its stem, and digits of a hash of its path."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

MAX_SLUG = 63  # characters; two slugs and "--" make an id of at most 128
HASH_DIGITS = 8

Hashes = npt.NDArray[np.uint64]


def slugs(stems: Sequence[str], paths: Sequence[str]) -> list[str]:
    """A distinct name for each path: its stem, and 8 hex digits of a hash of the path.

    A name depends on its path alone, with one exception: paths of the same stem and the same 8
    digits get 16. Of two given paths of one stem this happens once in 4 thousand million. So a
    picture that is added does not rename another, and a name never comes to mean another picture.
    A path whose stem has no letter or digit of ASCII has 16 digits and no stem.

    A name never holds ``--`` and never starts or ends with ``-``, so two names joined by ``--`` can
    be told apart again.
    """
    clean = [_clean(stem) for stem in stems]
    digits = [HASH_DIGITS if stem else 2 * HASH_DIGITS for stem in clean]
    while True:
        found = [_hashed(*each) for each in zip(clean, paths, digits, strict=True)]
        repeated = {slug for slug, number in Counter(found).items() if number > 1}
        if not repeated:
            return found
        digits = [
            n + HASH_DIGITS if s in repeated else n for n, s in zip(digits, found, strict=True)
        ]


def first_slugs(stems: Iterable[str], paths: Iterable[str]) -> list[str]:
    """What `slugs` gives paths of which no two get the same name at first."""
    return [
        _hashed(clean, path, HASH_DIGITS if clean else 2 * HASH_DIGITS)
        for clean, path in zip(map(_clean, stems), paths, strict=True)
    ]


def hashes(texts: Iterable[str]) -> Hashes:
    """64 bits of a hash of each text."""
    joined = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, dtype=np.uint64)


def repeated(found: Hashes) -> Hashes:
    """The values that occur more than once, sorted."""
    ordered = np.sort(found)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _clean(stem: str) -> str:
    """A stem as far as an id may hold it."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._-]+", "-", stem)).strip("._-")


def _hashed(stem: str, path: str, digits: int) -> str:
    """`stem`, shortened to fit, with `digits` hex digits of a hash of `path`."""
    mark = hashlib.blake2b(path.encode()).hexdigest()[:digits]
    return f"{stem[: MAX_SLUG - digits - 1].rstrip('._-')}-{mark}".lstrip("-")
