"""Small files that grow, or that keep a decoder busy, and headers that promise what no file holds."""

from __future__ import annotations

import struct
import zlib

from corpus.case import (
    BROKEN,
    HEIGHT,
    SIGNATURE,
    TOO_LARGE,
    WIDTH,
    Case,
    bad,
    base,
    chunk,
    either,
    good,
    header,
    png,
    riff,
    save,
    segment,
)
from nstray.errors import ErrorCode

ROWS = (b"\0" + bytes(3 * WIDTH)) * HEIGHT
NO_TYPES = ((0, 0), (3, 0), (4, 2), (16, 3), (8, 1), (8, 7), (255, 255))  # depth and colour type
SIDES = (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


def _zeros(size: int) -> bytes:
    """`size` zeros, packed twice as tightly as one call would, without holding them."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join([packer.compress(block) for _ in range(size >> 20)] + [packer.flush()])


def _sides(width: int, height: int) -> frozenset[ErrorCode]:
    return TOO_LARGE if 0 not in (width, height) and width * height > 4_000_000 else BROKEN


def _sof(width: int, height: int, marker: int = 0xC0, depth: int = 8, components: int = 3) -> bytes:
    parts = b"".join(bytes((i + 1, 0x11, 0)) for i in range(components))
    return segment(marker, struct.pack(">BHHB", depth, height, width, components) + parts)


def _pngs() -> list[Case]:
    head, size = header(WIDTH, HEIGHT), (WIDTH, HEIGHT)
    sides = [(w, h) for w in SIDES for h in SIDES if 1 not in (w, h)]  # pixels that end after a whole row of the file are taken for all
    out = [bad(f"header-{w}x{h}.png", png(header(w, h), ROWS), _sides(w, h)) for w, h in sides]
    out += [either(f"header-{w}x{h}.png", png(header(w, h), ROWS), _sides(w, h), (w, h)) for w in SIDES for h in SIDES if 1 in (w, h)]
    packed = _zeros(64 << 20)
    return [
        *out,
        bad("black-20000x20000.png", SIGNATURE + header(20_000, 20_000, 1, 0) + chunk(b"IDAT", packed) + chunk(b"IEND"), TOO_LARGE),
        good("rows-without-end.png", SIGNATURE + head + chunk(b"IDAT", packed) + chunk(b"IEND")),
        either("ztxt-bomb.png", png(head, ROWS, chunk(b"zTXt", b"a\0\0" + packed)), size=size),
        either("itxt-bomb.png", png(head, ROWS, chunk(b"iTXt", b"a\0\1\0\0\0" + packed)), size=size),
        either("ztxt-bombs.png", png(head, ROWS, chunk(b"zTXt", b"a\0\0" + _zeros(1 << 20)) * 100), size=size),
        good("iccp-bomb.png", png(head, ROWS, chunk(b"iCCP", b"a\0\0" + packed))),
        good("iccp-bombs.png", png(head, ROWS, chunk(b"iCCP", b"a\0\0" + packed) * 8)),
        good("many-chunks.png", png(head, ROWS, chunk(b"tEXt", b"a\0b") * 20_000)),
        good("many-idats.png", SIGNATURE + head + b"".join(chunk(b"IDAT", bytes((b,))) for b in zlib.compress(ROWS)) + chunk(b"IEND")),
        bad("endless-chunk.png", SIGNATURE + head + struct.pack(">I", 2**31 - 1) + b"IDAT" + bytes(100)),
        bad("negative-chunk.png", SIGNATURE + head + struct.pack(">i", -1) + b"tEXt" + bytes(100)),
        bad("no-pixels.png", SIGNATURE + head + chunk(b"IEND")),
        bad("no-header.png", SIGNATURE + chunk(b"IDAT", zlib.compress(ROWS)) + chunk(b"IEND")),
        bad("text-before-header.png", SIGNATURE + chunk(b"tEXt", b"a\0" + bytes(20)) + head + chunk(b"IDAT", zlib.compress(ROWS)) + chunk(b"IEND")),
        either("two-headers.png", png(head, ROWS, header(4, 4)), size=None),
        either("header-behind-pixels.png", png(head, ROWS)[:-12] + header(3000, 3000) + chunk(b"IEND"), size=size),
        *(
            bad(f"depth-{d}-colour-{c}.png", png(header(WIDTH, HEIGHT, d, c), ROWS))
            for d, c in ((0, 0), (3, 0), (4, 2), (16, 3), (8, 1), (8, 7), (255, 255))
        ),
        bad("short-header.png", SIGNATURE + chunk(b"IHDR", bytes(5)) + chunk(b"IDAT", zlib.compress(ROWS)) + chunk(b"IEND")),
        either("wrong-checksum.png", png(head, ROWS)[:-16] + bytes(4) + chunk(b"IEND"), size=size),
        bad("wrong-filter.png", png(head, (b"\x09" + bytes(3 * WIDTH)) * HEIGHT)),
        bad("no-zlib.png", SIGNATURE + head + chunk(b"IDAT", b"no zlib at all") + chunk(b"IEND")),
    ]


def _jpegs() -> list[Case]:
    whole = save(base(), "JPEG", quality=90)
    waves = save(base(), "JPEG", quality=90, progressive=True)
    at = whole.index(b"\xff\xc0")
    last = waves.rindex(b"\xff\xda")
    scan = waves[last : waves.index(b"\xff\xd9", last)]
    frame = len(_sof(1, 1))
    out = []
    for w, h in ((0, 0), (0, 24), (65_535, 65_535), (1, 65_535), (65_500, 61), (40, 1)):
        codes = TOO_LARGE if w * h > 4_000_000 else BROKEN
        data = whole[:at] + whole[at : at + 5] + struct.pack(">HH", h, w) + whole[at + 9 :]
        out.append(either(f"header-{w}x{h}.jpg", data, codes, size=(w, h)))
    return [
        *out,
        bad("countless-scans.jpg", waves[:-2] + scan * 150 + b"\xff\xd9"),
        good("twenty-scans-more.jpg", waves[:-2] + scan * 20 + b"\xff\xd9"),
        bad("empty-scans.jpg", waves[:-2] + scan[:10] * 5000 + b"\xff\xd9"),
        bad("countless-exif.jpg", whole[:2] + segment(0xE1, b"Exif\0\0" + bytes(10)) * 50_000 + whole[2:]),
        bad("countless-comments.jpg", whole[:2] + segment(0xFE) * 50_000 + whole[2:]),
        good("large-comments.jpg", whole[:2] + segment(0xFE, bytes(65_533)) * 50 + whole[2:]),
        good("fill.jpg", whole[:2] + b"\xff" * 100_000 + whole[2:]),
        *(either(f"depth-{d}.jpg", whole[:at] + _sof(WIDTH, HEIGHT, depth=d) + whole[at + frame :]) for d in (0, 1, 12, 16, 255)),
        *(either(f"components-{c}.jpg", whole[:at] + _sof(WIDTH, HEIGHT, components=c) + whole[at + frame :]) for c in (0, 1, 2, 4, 5, 255)),
        either("two-frames.jpg", whole[:at] + _sof(2000, 1000) + whole[at:], size=None),
        bad("segment-of-no-length.jpg", whole[:2] + b"\xff\xe1\0\0" + bytes(20)),
        bad("segment-beyond-the-end.jpg", whole[:2] + b"\xff\xe1\xff\xff" + bytes(20)),
        bad("no-tables.jpg", b"\xff\xd8" + _sof(WIDTH, HEIGHT) + segment(0xDA, b"\3\1\0\2\0\3\0\0\x3f\0") + bytes(50) + b"\xff\xd9"),
        bad("only-markers.jpg", b"\xff\xd8" * 500),
    ]


def _webps() -> list[Case]:
    def canvas(width: int, height: int) -> bytes:
        return bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")

    lossless = save(base(), "WEBP", lossless=True)
    inner = lossless[20:]
    return [
        bad("extended-16384x16384.webp", riff((b"VP8X", canvas(16_384, 16_384))), TOO_LARGE),
        bad("extended-16777216x16777216.webp", riff((b"VP8X", canvas(2**24, 2**24))), TOO_LARGE),
        bad("lossless-16384x16384.webp", riff((b"VP8L", b"\x2f" + (0x3FFF | 0x3FFF << 14).to_bytes(4, "little") + b"\0")), TOO_LARGE),
        bad("lossy-16383x16383.webp", riff((b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383))), TOO_LARGE),
        bad("lossy-0x0.webp", riff((b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + bytes(4)))),
        bad("canvas-of-another-size.webp", riff((b"VP8X", canvas(2, 2)), (b"VP8L", inner))),
        bad("canvas-alone.webp", riff((b"VP8X", canvas(40, 24)))),
        either("wrong-length.webp", lossless[:4] + struct.pack("<I", 2**32 - 1) + lossless[8:]),
        either("length-zero.webp", lossless[:4] + bytes(4) + lossless[8:]),
        either("chunk-of-4-gib.webp", lossless[:16] + struct.pack("<I", 2**32 - 2) + lossless[20:]),
        bad("no-chunk.webp", riff()),
        bad("unknown-chunk.webp", riff((b"ABCD", bytes(40)))),
        either("many-chunks.webp", riff((b"VP8X", canvas(40, 24)), *[(b"ABCD", b"")] * 50_000, (b"VP8L", inner))),
    ]


def cases() -> list[Case]:
    return [
        *_pngs(),
        *_jpegs(),
        *_webps(),
        bad("over-the-byte-cap.png", png(header(WIDTH, HEIGHT), ROWS) + bytes(4 << 20), frozenset({ErrorCode.TOO_MANY_BYTES})),
    ]
