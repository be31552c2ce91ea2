"""Pictures as small JPEGs that fit into one page together."""

from __future__ import annotations

from collections.abc import Mapping

from nstray.images import Pixels
from nstray.images.encode import encode
from nstray.images.resize import fit

SIDE = 256  # of the longest side, pixels
# Of all JPEGs. A page has at most 5 MB and takes four bytes for three of theirs.
MOST_BYTES = 3_000_000
# Longest side and JPEG quality, the best first.
_STEPS = ((256, 80), (256, 65), (224, 60), (192, 55), (160, 50), (128, 45), (96, 40))


def jpegs(pictures: Mapping[str, Pixels], most: int = MOST_BYTES) -> dict[str, bytes]:
    """`pictures` as JPEGs of `SIDE` pixels or, if they have more than `most` bytes, smaller ones.

    Each step of size and quality is tried on every eighth picture before it is taken.
    """
    some = list(pictures.values())[::8]
    found: dict[str, bytes] = {}
    for side, quality in _STEPS:
        last = (side, quality) == _STEPS[-1]
        guess = sum(len(_jpeg(pixels, side, quality)) for pixels in some)
        if guess * len(pictures) > 1.1 * most * max(1, len(some)) and not last:
            continue
        found = {key: _jpeg(pixels, side, quality) for key, pixels in pictures.items()}
        if sum(map(len, found.values())) <= most:
            break
    return found


def _jpeg(pixels: Pixels, side: int, quality: int) -> bytes:
    return encode(fit(pixels, side, "longest", False, what="picture"), "jpeg", quality)
