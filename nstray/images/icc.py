"""Embedded ICC profiles: out of the file, and a picture through one to sRGB; with `nstray.images.decode` the only importer of Pillow.

Relative colorimetric intent with black point compensation: every colour that sRGB has stays itself, matrix profiles know no
other intent, and a perceptual table re-renders to its maker's taste. Profiles are untrusted: one that cannot be used is ignored.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

from nstray.images import containers

_MAX_BYTES = 4 << 20  # the tables of a large press profile take 2 to 3 MiB
_MAX_KEPT = 16  # transforms; the largest, of a CMYK profile, take about 2 MiB each
# A mode's colour space as profiles spell it (ICC.1:2022, table 19), and the levels a channel is probed at.
_MODES = {"L": (b"GRAY", 256), "RGB": (b"RGB ", 18), "CMYK": (b"CMYK", 9)}
_CLASSES = (
    b"scnr",
    b"mntr",
    b"prtr",
    b"spac",
)  # the ones that say what device colours look like (table 18)
# Without LittleCMS's one-pixel cache a transform has no state that changes: its author's terms for sharing one between threads.
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE

Transform = Callable[[Image.Image], Image.Image]
_kept: OrderedDict[tuple[bytes, str], Transform | None] = OrderedDict()
_lock = threading.Lock()


def split(data: bytes, image_format: str) -> tuple[bytes, bytes | None]:
    """The file without the profile it carries, and that profile, None where it has none that is whole and at most 4 MiB.

    Pillow reads profiles too, but gives up the picture for some: a PNG's of more than 1 MiB or with a wrong checksum, a JPEG's
    that is cut short. A WebP's does no harm; it is left for Pillow to read.
    """
    if image_format == "png" and b"iCCP" in data:
        return _split_png(data)
    if image_format == "jpeg" and b"ICC_PROFILE\0" in data:
        return _split_jpeg(data)
    return data, None


def to_rgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """`picture`, of mode L, RGB or CMYK, as RGB: through `profile` to sRGB.

    By Pillow's own rule (grey to all three channels, (1 - C)(1 - K)) where there is no profile, or one that is broken, larger
    than 4 MiB, of another colour space than the picture, or within one level of sRGB.
    """
    transform = _transform(profile, picture.mode) if profile else None
    return picture.convert("RGB") if transform is None else transform(picture)


def _transform(profile: bytes, mode: str) -> Transform | None:
    """From `profile` to sRGB, kept from one picture to the next; None where `profile` is not to be applied."""
    if (
        len(profile) > _MAX_BYTES
        or profile[16:20] != _MODES[mode][0]
        or profile[12:16] not in _CLASSES
    ):
        return None
    key = hashlib.sha256(profile).digest(), mode
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    built = _build(
        profile, mode
    )  # outside the lock; two threads that build the same one build equals
    with _lock:
        _kept[key] = built
        while len(_kept) > _MAX_KEPT:
            _kept.popitem(last=False)
    return built


def _build(profile: bytes, mode: str) -> Transform | None:
    # LittleCMS's own short cut for grey misses linear light by up to 10 levels; of 256 greys a table is exact and as fast.
    flags = _FLAGS | ImageCms.Flags.NOOPTIMIZE if mode == "L" else _FLAGS
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        built = ImageCms.ImageCmsTransform(
            source, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=flags
        )
    except (OSError, TypeError, ValueError):  # what Pillow makes of LittleCMS's refusals
        return None
    steps = _MODES[mode][1]
    levels = np.linspace(0, 255, steps).round().astype(np.uint8)
    bands = Image.getmodebands(mode)
    grid = np.stack(np.meshgrid(*[levels] * bands, indexing="ij"), axis=-1)
    probe = Image.frombytes(mode, (steps, steps ** (bands - 1)), grid.tobytes())
    out = np.asarray(built.apply(probe), dtype=np.int16).reshape(-1, 3)
    if np.ptp(out, axis=0).max() < 64:  # all colours become about one: the picture would be lost
        return None
    if (
        mode != "CMYK" and np.abs(out - grid.reshape(-1, bands)).max() <= 1
    ):  # sRGB itself: no pixel changes
        return None
    if mode == "L":
        table = out.astype(np.uint8)
        return lambda grey: Image.fromarray(table[np.asarray(grey)])
    return built.apply


def _split_png(data: bytes) -> tuple[bytes, bytes | None]:
    """By PNG (third edition), sections 5.3 and 11.3.2.3: the first iCCP before the pixels counts, all are taken out."""
    kept: list[bytes] = []
    found: list[bytes] = []
    start, pixels = 0, False
    for kind, at, end in containers.chunks(data):
        pixels = pixels or kind == b"IDAT"
        if kind == b"iCCP":
            kept.append(data[start:at])
            start = end
            if not pixels:
                found.append(data[at + 4 : end])
    return b"".join([*kept, data[start:]]), _inflated(found[0]) if found else None


def _inflated(chunk: bytes) -> bytes | None:
    """The profile in an iCCP chunk (kind, name, zero, method 0, zlib data, checksum), unpacked as far as the cap and no further."""
    _, _, packed = chunk[4:-4].partition(b"\0")
    if zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:], "big") or packed[:1] != b"\0":
        return None
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(packed[1:], _MAX_BYTES + 1)
    except zlib.error:
        return None
    return profile if inflater.eof and len(profile) <= _MAX_BYTES else None


def _split_jpeg(data: bytes) -> tuple[bytes, bytes | None]:
    """By ICC.1:2022, annex B.4: APP2 segments of a signature, a number from 1, how many there are, and that part of the profile."""
    kept: list[bytes] = []
    parts: list[bytes] = []
    at, start = 2, 0
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3:
        marker = data[at + 1]
        if (
            marker == 0xFF or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8
        ):  # fill, or a marker without a length
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xDA, 0xD9) or end > len(data):  # the pixels, the end, or a cut
            break
        if marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", at + 4, end):
            kept.append(data[start:at])
            parts.append(data[at + 16 : end])
            start = end
        at = end
    parts.sort(key=lambda part: part[:1])
    whole = [list(part[:2]) for part in parts] == [
        [number + 1, len(parts)] for number in range(len(parts))
    ]
    profile = b"".join(part[2:] for part in parts) if parts and whole else None
    return b"".join([*kept, data[start:]]), profile if profile is None or len(
        profile
    ) <= _MAX_BYTES else None
