"""A picture in tiles, evaluated one after the other: memory holds the activations of one alone.

Nothing is approximated. A tile's core holds the positions that count, its margin every pixel that
they depend on. Cores meet where pooling windows do. Sums over positions are sums over cores, and
the gradient is the sum of the tiles' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nstray.engine.network.vgg import block, stride
from nstray.engine.settings import BLOCKS

Slices = tuple[slice, slice]


@dataclass(frozen=True)
class Tile:
    """One tile; all slices are (rows, columns).

    Attributes:
        crop: of the picture: what is computed.
        core: of the picture: what counts.
    """

    crop: Slices
    core: Slices

    def of_crop(self, tap: str) -> Slices:
        """The core's positions in the activations of the crop at `tap`."""
        return self._at(tap, [c.start for c in self.crop])

    def of_picture(self, tap: str) -> Slices:
        """The core's positions in the activations of the whole picture at `tap`."""
        return self._at(tap, [0, 0])

    def _at(self, tap: str, origin: Sequence[int]) -> Slices:
        factor = 2 ** (block(tap) - 1)
        rows, columns = (
            slice((c.start - o) // factor, c.stop // factor - o // factor)
            for c, o in zip(self.core, origin, strict=True)
        )
        return rows, columns


def margin(taps: Sequence[str]) -> int:
    """Pixels around a position's own block that the deepest of `taps` depends on.

    Rounded up to whole blocks: 80 for conv5_1. Each convolution reaches one position further, which
    is 2^(b-1) pixels in block b. Pooling reaches no further than its block.
    """
    reach = max(
        sum(
            (n << b - 1)
            for b, n in enumerate((*BLOCKS[: block(t) - 1], int(t.removeprefix("pre:")[6:])), 1)
        )
        for t in taps
    )
    grain: int = stride(taps)
    return -(-reach // grain) * grain


def split(height: int, width: int, side: int, taps: Sequence[str]) -> list[Tile]:
    """Tiles with cores of about `side` pixels.

    One tile if `side` is 0 or the picture is no larger.
    """
    grain, around = stride(taps), margin(taps)
    rows, columns = _spans(height, side, grain), _spans(width, side, grain)

    def crop(core: slice, length: int) -> slice:
        return slice(max(0, core.start - around), min(length, core.stop + around))

    return [Tile((crop(r, height), crop(c, width)), (r, c)) for r in rows for c in columns]


def _spans(length: int, side: int, grain: int) -> list[slice]:
    """0 .. length in spans of about one size, near `side`, that begin at multiples of `grain`."""
    if not side or length <= side:
        return [slice(0, length)]
    step = max(grain, side // grain * grain)
    number = -(-length // step)
    even = -(-length // number // grain) * grain  # the same number of tiles, of about one size
    # The last few pixels may be less than a position of the deepest layer: they belong to the tile
    # before.
    starts = [s for s in range(0, length, even) if s == 0 or length - s >= grain]
    return [slice(s, e) for s, e in zip(starts, [*starts[1:], length], strict=True)]
