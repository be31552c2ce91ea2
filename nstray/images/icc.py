"""Embedded ICC profiles: taken out of a file, and applied to bring a picture to sRGB.

The intent is relative colorimetric with black point compensation. It leaves every colour that sRGB
has as it is, it is the only intent of matrix profiles, and a perceptual table would change colours
to its maker's taste. Profiles are untrusted: one that can't be used is ignored.
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
_CACHE_SIZE = 16  # transforms; the largest, of a CMYK profile, take about 2 MiB each
# The colour space of a mode as profiles spell it (ICC.1:2022, table 19), and at how many levels
# of each channel a profile is tried.
_MODES = {"L": (b"GRAY", 256), "RGB": (b"RGB ", 18), "CMYK": (b"CMYK", 9)}
# The profile classes that say what the colours of a device look like (table 18).
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")
# Without LittleCMS's one-pixel cache a transform has no state that changes. This is its author's
# condition for sharing a transform between threads.
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE

Transform = Callable[[Image.Image], Image.Image]
_cache: OrderedDict[tuple[bytes, str], Transform | None] = OrderedDict()
_lock = threading.Lock()


def split(data: bytes, image_format: str) -> tuple[bytes, bytes | None]:
    """The file without its profile, and the profile.

    The profile is None if the file has none, or none that is whole and at most 4 MiB.

    Pillow reads profiles too, but for some it fails to read the picture: for a PNG's profile of
    more than 1 MiB or with a wrong checksum, and for a JPEG's that is cut short. It reads any
    profile of a WebP, so that one stays in the file.
    """
    if image_format == "png" and b"iCCP" in data:
        return _split_png(data)
    if image_format == "jpeg" and b"ICC_PROFILE\0" in data:
        return _split_jpeg(data)
    return data, None


def to_rgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """`picture`, of mode L, RGB or CMYK, as RGB in sRGB, by its profile.

    Pillow's own rule (grey to all three channels, (1 - C)(1 - K)) is used if there is no profile,
    or if the profile is broken, larger than 4 MiB, of another colour space than the picture, or
    within one level of sRGB.
    """
    transform = _transform(profile, picture.mode) if profile else None
    return picture.convert("RGB") if transform is None else transform(picture)


def _transform(profile: bytes, mode: str) -> Transform | None:
    """The transform from `profile` to sRGB, cached; None if `profile` is not to be applied."""
    if (
        len(profile) > _MAX_BYTES
        or profile[16:20] != _MODES[mode][0]
        or profile[12:16] not in _CLASSES
    ):
        return None
    key = hashlib.sha256(profile).digest(), mode
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    # Outside the lock: if two threads build the same transform, they build equal ones.
    built = _build(profile, mode)
    with _lock:
        _cache[key] = built
        while len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    return built


def _build(profile: bytes, mode: str) -> Transform | None:
    """The transform from `profile` to sRGB; None if `profile` is not to be applied."""
    # LittleCMS's optimisation for grey is off by up to 10 levels on linear light. A table of all
    # 256 greys is exact and as fast.
    flags = _FLAGS | ImageCms.Flags.NOOPTIMIZE if mode == "L" else _FLAGS
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        built = ImageCms.ImageCmsTransform(
            source, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=flags
        )
    except (OSError, TypeError, ValueError):  # what Pillow raises if LittleCMS refuses a profile
        return None
    steps = _MODES[mode][1]
    levels = np.linspace(0, 255, steps).round().astype(np.uint8)
    bands = Image.getmodebands(mode)
    grid = np.stack(np.meshgrid(*[levels] * bands, indexing="ij"), axis=-1)
    trial = Image.frombytes(mode, (steps, steps ** (bands - 1)), grid.tobytes())
    out = np.asarray(built.apply(trial), dtype=np.int16).reshape(-1, 3)
    if np.ptp(out, axis=0).max() < 64:  # all colours become nearly one: the picture would be lost
        return None
    if mode != "CMYK" and np.abs(out - grid.reshape(-1, bands)).max() <= 1:
        return None  # the profile is sRGB itself: no pixel changes
    if mode == "L":
        table = out.astype(np.uint8)
        return lambda grey: Image.fromarray(table[np.asarray(grey)])
    return built.apply


def _split_png(data: bytes) -> tuple[bytes, bytes | None]:
    """As `split`, by PNG (third edition), sections 5.3 and 11.3.2.3.

    All iCCP chunks are removed; the first one before the pixels counts.
    """
    rest: list[bytes] = []
    profiles: list[bytes] = []
    start, in_pixels = 0, False
    for kind, at, end in containers.chunks(data):
        in_pixels = in_pixels or kind == b"IDAT"
        if kind == b"iCCP":
            rest.append(data[start:at])
            start = end
            if not in_pixels:
                profiles.append(data[at + 4 : end])
    return b"".join([*rest, data[start:]]), _inflate(profiles[0]) if profiles else None


def _inflate(chunk: bytes) -> bytes | None:
    """The profile in an iCCP chunk, inflated up to the cap and no further.

    A chunk has kind, name, zero, method 0, zlib data and checksum. None if it is broken or larger.
    """
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
    """As `split`, by ICC.1:2022, annex B.4.

    The profile is in APP2 segments: a signature, a number from 1, how many there are, and that part
    of the profile.
    """
    rest: list[bytes] = []
    parts: list[bytes] = []
    at, start = 2, 0
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3:
        marker = data[at + 1]
        if marker == 0xFF or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            # Fill, or a marker without a length.
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xDA, 0xD9) or end > len(data):  # the pixels, the end, or a cut file
            break
        if marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", at + 4, end):
            rest.append(data[start:at])
            parts.append(data[at + 16 : end])
            start = end
        at = end
    parts.sort(key=lambda part: part[:1])
    numbers = [list(part[:2]) for part in parts]
    complete = numbers == [[number + 1, len(parts)] for number in range(len(parts))]
    profile = b"".join(part[2:] for part in parts) if parts and complete else None
    if profile is not None and len(profile) > _MAX_BYTES:
        profile = None
    return b"".join([*rest, data[start:]]), profile
