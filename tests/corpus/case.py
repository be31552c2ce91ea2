"""A file of the corpus, and the pieces that files are made of."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from outputs import picture
from PIL import Image

from nstray.errors import ErrorCode

CAPS = {"max_bytes": 4 * 2**20, "max_pixels": 4_000_000}  # what the corpus is decoded with
WIDTH, HEIGHT = 40, 24
SIGNATURE = b"\x89PNG\r\n\x1a\n"
BROKEN = frozenset({ErrorCode.DECODE_FAILED})
NO_IMAGE = frozenset({ErrorCode.NOT_AN_IMAGE})
FOREIGN = frozenset({ErrorCode.UNSUPPORTED_FORMAT})
TOO_LARGE = frozenset({ErrorCode.TOO_MANY_PIXELS})
# What damage may do to a file, wherever it falls: a flipped bit may hit the signature, the size, or an animation's header.
ANY_DAMAGE = BROKEN | NO_IMAGE | FOREIGN | TOO_LARGE


@dataclass(frozen=True)
class Case:
    """A file, and what may become of it.

    Attributes:
        name: of the file, and of its test.
        size: width and height of the picture; None where it may have any.
        codes: of the errors it may end in; none where it must be a picture.
        may_be_picture: whether it may be one although it has codes.
    """

    name: str
    data: bytes
    size: tuple[int, int] | None = None
    codes: frozenset[ErrorCode] = frozenset()
    may_be_picture: bool = False

    def allows(self, shape: tuple[int, int] | None, code: ErrorCode | None) -> bool:
        """Whether a picture of `shape` (width, height), or an error of `code`, is as expected."""
        if code is not None:
            return code in self.codes
        return (not self.codes or self.may_be_picture) and (self.size is None or shape == self.size)


def good(name: str, data: bytes, width: int = WIDTH, height: int = HEIGHT) -> Case:
    return Case(name, data, (width, height))


def bad(name: str, data: bytes, codes: frozenset[ErrorCode] = BROKEN) -> Case:
    return Case(name, data, codes=codes)


def either(name: str, data: bytes, codes: frozenset[ErrorCode] = BROKEN, size: tuple[int, int] | None = (WIDTH, HEIGHT)) -> Case:
    return Case(name, data, size, codes, may_be_picture=True)


def base(mode: str = "RGB", width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A picture of `mode` with detail in it."""
    pixels = picture(11, width, height).astype(np.int16) + np.random.default_rng(11).integers(-20, 21, (height, width, 3))
    drawn = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if mode in ("LA", "RGBA"):
        drawn = drawn.convert(mode)
        drawn.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))))
    return drawn if drawn.mode == mode else drawn.convert(mode)


def save(image: Image.Image, image_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def png(head: bytes, rows: bytes, *extra: bytes) -> bytes:
    """A PNG of a header, chunks before the pixels, and rows with their filter bytes."""
    return SIGNATURE + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND")


def segment(marker: int, body: bytes = b"") -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP file of chunks."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def png_edges(data: bytes) -> list[int]:
    """Where the chunks of a PNG begin and end, and the parts of each."""
    at, edges = 8, [8]
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        edges += [at + 4, at + 8, at + 8 + length // 2, at + 8 + length, at + 12 + length]
        at += 12 + length
    return sorted(set(edges))


def jpeg_edges(data: bytes) -> list[int]:
    """Where the segments of a JPEG begin and end, restart markers among them."""
    at, edges = 2, [2]
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        edges += [at, at + 1, at + 2]
        at += 2
        if marker in (0, 0xFF) or 0xD0 <= marker <= 0xD9:
            edges = edges[:-3] if marker in (0, 0xFF) else edges
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        edges += [at + 2, at + length // 2, at + length]
        at += length
    return sorted({edge for edge in edges if edge < len(data)})


def webp_edges(data: bytes) -> list[int]:
    """Where the chunks of a WebP begin and end."""
    at, edges = 12, [4, 8, 12]
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        edges += [at + 4, at + 8, at + 8 + length // 4, at + 8 + length // 2, at + 7 + length, at + 8 + length]
        at += 8 + length + length % 2
    return sorted({edge for edge in edges if edge < len(data)})
