"""Pixels to the bytes of a PNG, JPEG, WebP or TIFF file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nstray.config import check_quality
from nstray.errors import ErrorCode, PairError
from nstray.images import Pixels, Pixels16

_EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp", "tiff": "tiff"}
# The format of a picture's file by the ending of its name.
FORMATS = {
    "png": "png",
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "webp": "webp",
    "tif": "tiff",
    "tiff": "tiff",
}
_DEEP = {"tiff": np.uint16}  # the formats of more than 8 bits per channel
# libjpeg's JPEG_MAX_DIMENSION and libwebp's WEBP_MAX_DIMENSION.
_MAX_SIDE = {"jpeg": 65_500, "webp": 16_383}
# Measured on one core, on two pictures; each entry is level: KiB, ms.
# Brush strokes at 512 x 512 with the grain of an optimised picture:
# 1: 561, 50; 3: 561, 50; 4: 521, 65; 6: 521, 64; 9: 521, 64.
# A scanned painting of 402 x 512: 1: 369, 32; 4: 345, 69; 6: 343, 111; 9: 343, 125.
# So 4: its size is within 1 % of that of 9, and it is at most 1 ms slower than 6.
_PNG_LEVEL = 4
# Lossless WebP of the same two pictures; each entry is method: KiB, ms. libwebp's effort, which
# Pillow calls quality, is 0; at 50 it saves under 1 %.
# 0: 529, 24; 1: 501, 70; 2: 495, 133; 4: 490, 227; 6: 489, 1491.
# 0: 286, 14; 1: 260, 40; 2: 258, 93; 4: 256, 113.
# So 1: the methods above it save at most 2.4 % and take at least 1.9 times as long.
_WEBP_METHOD = 1
# 16-bit TIFF by Deflate of the demo's stylised pictures at 512 x 512; each entry is level: KiB, ms.
# As differences to the pixel on the left: 1: 1490, 50; 4: 1486, 60; 6: 1486, 60.
# As values: 1: 1517, 50; 6: 1514, 54. Uncompressed: 1536. The low bytes are noise.
# So differences, at level 1.
_TIFF_LEVEL = 1


def quantize(image: npt.NDArray[np.floating[Any]], image_format: str) -> Pixels | Pixels16:
    """A float image (H, W, 3) over 0..1, rounded to the levels of `image_format`, for `encode`.

    Values beyond 0..1 are clipped. Returns uint8, or uint16 for ``tiff``. Raises ValueError for an
    array that is not of floats, or for another format.
    """
    extension(image_format)
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"quantize takes floats over 0..1; got {image.dtype}")
    kind = _DEEP.get(image_format, np.uint8)
    top = int(np.iinfo(kind).max)
    return np.ascontiguousarray((image * top).round().clip(0, top).astype(kind))


def encode(pixels: Pixels | Pixels16, image_format: str, quality: int | None = None) -> bytes:
    """A file of `image_format`; the same pixels give the same bytes.

    Args:
        pixels: (H, W, 3) RGB, uint8, or uint16 for tiff: what `quantize` returns.
        image_format: ``png``; ``jpeg`` (4:4:4, quality 95 unless given); ``webp`` (lossless
            unless a quality is given); ``tiff`` (16 bits per channel, by Deflate).
        quality: 1 to 100; not for png and tiff.

    Raises `PairError` TOO_MANY_PIXELS for a side longer than the format can hold, and ValueError
    for other misuse.
    """
    extension(image_format)
    kind = np.dtype(_DEEP.get(image_format, np.uint8))
    if pixels.dtype != kind or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(
            f"encode takes (H, W, 3) {kind} for {image_format}; got {pixels.shape} {pixels.dtype}"
        )
    check_quality(image_format, quality)
    if image_format == "tiff":
        return _tiff(pixels)
    longest = max(pixels.shape)
    if longest > _MAX_SIDE.get(image_format, longest):
        raise PairError(
            ErrorCode.TOO_MANY_PIXELS,
            f"a side of {longest} pixels is more than a {image_format} file holds "
            f"({_MAX_SIDE[image_format]}); use image_format png",
        )
    options: dict[str, Any] = {}
    if image_format == "png":
        options = {"compress_level": _PNG_LEVEL}
    elif image_format == "jpeg":
        options = {"quality": 95 if quality is None else quality, "subsampling": 0}
    elif quality is None:
        options = {"lossless": True, "quality": 0, "method": _WEBP_METHOD}
    else:
        options = {"quality": quality}
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, format=image_format, **options)
    return out.getvalue()


def _tiff(pixels: npt.NDArray[Any]) -> bytes:
    """A TIFF without the tags that tifffile adds by default.

    These are its name and version, the time and the array's shape; they would change the bytes.
    """
    import tifffile

    out = io.BytesIO()
    compression: dict[str, Any] = {
        "compression": "zlib",
        "predictor": True,
        "compressionargs": {"level": _TIFF_LEVEL},
        "maxworkers": 1,
    }
    tifffile.imwrite(
        out,
        np.ascontiguousarray(pixels),
        byteorder="<",
        photometric="rgb",
        metadata=None,
        software=False,
        **compression,
    )
    return out.getvalue()


def extension(image_format: str) -> str:
    """``png``, ``jpg``, ``webp`` or ``tiff``, without a dot; ValueError for another format."""
    if image_format not in _EXTENSIONS:
        raise ValueError(f"image_format must be png, jpeg, webp or tiff; got {image_format!r}")
    return _EXTENSIONS[image_format]
