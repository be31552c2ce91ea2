"""Bytes to pixels to bytes: decode, orient, convert, resize, encode; with `nstray.images.icc` the only importer of Pillow.

Pixels are uint8 arrays of shape (H, W, 3), RGB, in sRGB: an embedded ICC profile is applied, a picture without one is
taken to be sRGB. Only `quantize` and `encode` know uint16, for ``tiff``. Masks are uint8 arrays of shape (H, W), white is 255.
Input is untrusted: three formats, caps checked on the header alone, then a full decode; whatever is wrong with a picture
is a `PairError` with its code, and whatever is wrong with a profile makes it one that is not there.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from nstray.errors import ErrorCode, PairError
from nstray.images import Mask, Pixels, containers, icc
from nstray.images.sniff import refusal


class _Jpeg(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Not read: nothing here needs it, and on broken EXIF Pillow's reading warns, or loses the picture where warnings are errors."""


# The plugins themselves, not Image.open: that one warns from 89 and refuses from 179 million pixels by a process-wide
# setting, whatever `max_pixels` says, and opens a JPEG with a second picture inside (a phone's) as another format.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": _Jpeg,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
}
_ORIENTATION = 0x0112


def decode(
    data: bytes,
    *,
    what: str,
    max_bytes: int,
    max_pixels: int,
    own: bool = False,
    background: int = 255,
) -> Pixels:
    """The picture in `data`, upright, opaque, 8-bit sRGB.

    EXIF orientation is applied; alpha and transparent colours are composited on white; 16-bit grey is v / 257, rounded;
    16-bit colour keeps its high byte; CMYK becomes (1 - C)(1 - K); grey, palette and 1-bit become RGB.

    An embedded ICC profile of the picture's own colour space (RGB, grey; CMYK instead of the product above) takes the
    8-bit colours to sRGB, before they are composited. One that is sRGB to within a level changes no pixel. One that is
    broken, larger than 4 MiB or of another colour space is ignored without a word: a warning for each picture of a
    data set would bury the log. PNG's own gAMA, cHRM and cICP, and EXIF's colour space, are not applied.

    A JPEG of more scans or segments than any camera or encoder writes is refused unread (`nstray.images.containers`): it can take hours.

    Args:
        data: a JPEG, PNG or WebP file.
        what: role and URI of the picture, for messages (``content s3://b/k.jpg``).
        max_bytes: cap on the file, checked first.
        max_pixels: cap on width x height, checked on the header before anything is decoded.
        background: the grey, 0 to 255, that transparent pixels are composited on.
        own: the file is from an output of nstray's: TIFF as `encode` writes it is taken too.

    Returns (H, W, 3) uint8. Raises `PairError`, nothing else.
    """
    if len(data) > max_bytes:
        raise PairError(
            ErrorCode.TOO_MANY_BYTES,
            f"{what}: {len(data)} bytes, the limit (max_bytes) is {max_bytes}",
        )
    try:
        image, _ = _open(data, what, max_pixels, own)
        image.load()
        return _upright(_rgb(image, data, background), _orientation(image.info.get("exif")))
    except PairError:
        raise
    except (
        Image.DecompressionBombError
    ) as error:  # Pillow's WebP reader asks Pillow's own limit (179 million pixels) itself
        raise PairError(ErrorCode.TOO_MANY_PIXELS, f"{what}: {error}") from None
    except MemoryError:
        raise PairError(
            ErrorCode.OUT_OF_MEMORY,
            f"{what}: decoding needs more memory than the worker has; lower max_pixels to refuse such pictures",
        ) from None
    except Exception as error:
        raise _failed(what, error) from None


def decode_mask(data: bytes, *, what: str, max_bytes: int, max_pixels: int) -> Mask:
    """The luminance (ITU-R BT.601) of the picture that `decode` finds in `data`: same formats, limits and errors.

    Returns (H, W) uint8. What is transparent counts as black: it marks nothing.
    """
    pixels = decode(data, what=what, max_bytes=max_bytes, max_pixels=max_pixels, background=0)
    return np.array(Image.fromarray(pixels).convert("L"))


def read_header(data: bytes, *, own: bool = False) -> tuple[str, int, int]:
    """Format (``jpeg``, ``png``, ``webp``), width and height from the header, as stored: before any EXIF orientation.

    `own` as for `decode`: then ``tiff`` too. Raises `PairError`.
    """
    try:
        image, image_format = _open(data, "image", None, own)
    except PairError:
        raise
    except Exception as error:
        raise _failed("image", error) from None
    return image_format, image.width, image.height


def _open(
    data: bytes, what: str, max_pixels: int | None, own: bool
) -> tuple[ImageFile.ImageFile, str]:
    """The file's header read, its format known, its size within the cap, one frame; nothing decoded yet."""
    if not data:
        raise PairError(ErrorCode.EMPTY_FILE, f"{what}: the file is empty (0 bytes)")
    image_format = _format(data)
    if image_format is None or (image_format == "tiff" and not own):
        raise refusal(data, what)
    if (
        image_format == "webp"
    ):  # Pillow's WebP reader sets up its frame buffers while it opens: look before it does
        _check_pixels(*_webp_size(data), what, max_pixels)
    elif image_format == "png":
        data = containers.check_png(data)
    elif image_format == "jpeg":
        containers.check_jpeg(data)
    data, profile = icc.split(data, image_format)
    image = _READERS[image_format](io.BytesIO(data))
    if profile is not None:
        image.info["icc_profile"] = profile
    _check_pixels(image.width, image.height, what, max_pixels)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        name = {"png": "PNG", "webp": "WebP"}.get(image_format, image_format)
        raise PairError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"{what}: an animated {name} of {frames} frames; give one still picture",
        )
    return image, image_format


def _check_pixels(width: int, height: int, what: str, max_pixels: int | None) -> None:
    if width < 1 or height < 1:
        raise PairError(ErrorCode.DECODE_FAILED, f"{what}: its header says {width}x{height} pixels")
    if max_pixels is not None and width * height > max_pixels:
        raise PairError(
            ErrorCode.TOO_MANY_PIXELS,
            f"{what}: {width}x{height} = {width * height} pixels, the limit (max_pixels) is {max_pixels}",
        )


def _format(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"II*\0"):
        return "tiff"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas width and height of a WebP file (RFC 9649, sections 2.5 to 2.7); ValueError where the header is not one."""
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(body) == 10 and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(
            body[8:10], "little"
        ) & 0x3FFF
    raise ValueError("broken WebP header")


def _failed(what: str, error: Exception) -> PairError:
    return PairError(
        ErrorCode.DECODE_FAILED, f"{what}: truncated or corrupt ({type(error).__name__}: {error})"
    )


def _rgb(image: Image.Image, data: bytes, background: int) -> Pixels:
    """The loaded picture as (H, W, 3) uint8, in sRGB, on a grey `background`."""
    key, profile = image.info.get("transparency"), image.info.get("icc_profile")
    if image.mode in ("I", "I;16", "I;16B"):
        deep = np.asarray(image)
        grey = ((np.clip(deep, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)
        pixels = np.array(icc.to_rgb(Image.fromarray(grey), profile))
        if isinstance(key, int):
            pixels[deep == key] = background
        return pixels
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and key is not None):
        layered = image if image.mode == "LA" else image.convert("RGBA")
        paper = Image.new("RGB", image.size, (background,) * 3)
        paper.paste(
            icc.to_rgb(layered.convert(layered.mode[:-1]), profile), mask=layered.getchannel("A")
        )
        return np.array(paper)
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = np.array(icc.to_rgb(image, profile))
    if isinstance(key, (int, tuple)):  # PNG's tRNS of grey or RGB: one colour is transparent
        stored = np.asarray(image).reshape(*pixels.shape[:2], -1)
        pixels[(stored == _eight_bit(key, data[24])).all(axis=2)] = background
    return pixels


def _eight_bit(key: int | tuple[int, ...], depth: int) -> npt.NDArray[np.int64]:
    """PNG's transparent colour, stored at the file's bit depth, as Pillow scales the pixels of that depth."""
    values = np.atleast_1d(np.asarray(key, dtype=np.int64))
    return (
        values >> 8 if depth == 16 else np.minimum(values * 255 // (2**depth - 1), 255)
    )  # Pillow scales a 1-bit key itself


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """`pixels` turned and mirrored as the EXIF orientation (1 to 8) says."""
    if orientation >= 5:  # stored with rows and columns exchanged
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _orientation(exif: bytes | None) -> int:
    """EXIF orientation 1 to 8 (EXIF 2.3, section 4.6.2 and table 4); 1, upright, where `exif` is absent, broken or silent.

    Read here rather than by Pillow, which gives up on the whole block, with warnings, for a fault in any other entry.
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    orders: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
    order = orders.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    start = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[start : start + 2], order)
    for at in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        if int.from_bytes(tiff[at : at + 2], order) == _ORIENTATION:
            value = int.from_bytes(tiff[at + 8 : at + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1
