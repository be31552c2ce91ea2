"""Files cut short at every joint, and with bits flipped."""

from __future__ import annotations

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from corpus.case import ANY_DAMAGE, BROKEN, NO_IMAGE, Case, base, either, jpeg_edges, png_edges, save, webp_edges
from nstray.errors import ErrorCode

FLIPS = 24
EMPTY = frozenset({ErrorCode.EMPTY_FILE})


def wholes() -> dict[str, bytes]:
    """The files that are damaged: with all that a file of the format may hold."""
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngInfo()
    text.add_text("Title", "a picture", zip=True)
    profile = bytes(128) + b"no profile" * 20
    return {
        "baseline.jpg": save(base(), "JPEG", quality=90, exif=exif, comment=b"here"),
        "progressive.jpg": save(base(), "JPEG", quality=90, progressive=True, icc_profile=profile),
        "restarts.jpg": save(base(), "JPEG", quality=90, restart_marker_blocks=3),
        "plain.png": save(base(), "PNG", exif=exif, pnginfo=text, icc_profile=profile),
        "palette.png": save(base().quantize(16), "PNG", transparency=3, bits=4),
        "lossy.webp": save(base(), "WEBP", quality=80, exif=exif, icc_profile=profile),
        "lossless.webp": save(base("RGBA"), "WEBP", lossless=True),
        "alpha.webp": save(base("RGBA"), "WEBP", quality=60),
    }


_EDGES = {"jpg": jpeg_edges, "png": png_edges, "webp": webp_edges}


def cases() -> list[Case]:
    out = []
    rng = np.random.default_rng(5)
    for name, data in wholes().items():
        stem, ending = name.split(".")
        # The end may be missing: the pixels are all there.
        out += [
            either(f"{stem}-cut-at-{at}.{ending}", data[:at], BROKEN | (EMPTY if at == 0 else NO_IMAGE if at < 12 else BROKEN), size=None)
            for at in _EDGES[ending](data)
        ]
        for k in range(FLIPS):
            flipped = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(0, len(data) if k % 2 else min(len(data), 120), 1 + k % 4)
            flipped[places] ^= (1 << rng.integers(0, 8, places.size)).astype(np.uint8)
            out.append(either(f"{stem}-flipped-{k}.{ending}", flipped.tobytes(), ANY_DAMAGE, size=None))
    return out
