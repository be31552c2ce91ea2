"""Image files to pixels: decoded, upright, opaque, in sRGB.

Pixels are uint8 arrays of shape (H, W, 3), RGB, in sRGB. An embedded ICC profile is applied; a
picture without one is taken as sRGB. Masks are uint8 arrays of shape (H, W); white is 255.

Input is untrusted. Three formats are allowed, caps are checked on the header alone, then the whole
file is decoded. Whatever is wrong with a picture is a `PairError` with its code. A profile that is
wrong is ignored.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from nstray.errors import ErrorCode, PairError
from nstray.images import Mask, Pixels, containers, icc
from nstray.images.readers import READERS
from nstray.images.sniff import refusal

_ORIENTATION = 0x0112  # EXIF tag
_LARGE = 4_000_000  # pixels, above which a thumbnail is made of a fraction of them


def decode(
    data: bytes,
    *,
    what: str,
    max_bytes: int,
    max_pixels: int,
    own: bool = False,
    background: int = 255,
) -> Pixels:
    """The picture in `data`: upright, opaque, 8-bit sRGB.

    - EXIF orientation is applied.
    - Alpha and transparent colours are composited on `background`.
    - 16-bit grey is v / 257, rounded. 16-bit colour keeps its high byte.
    - CMYK becomes (1 - C)(1 - K). Grey, palette and 1-bit become RGB.
    - An embedded ICC profile of the picture's own colour space (RGB, grey, CMYK) takes the 8-bit
      colours to sRGB before they are composited; for CMYK it replaces the product above.
    - A profile that is sRGB to within one level changes no pixel.
    - A profile that is broken, larger than 4 MiB or of another colour space is ignored without a
      warning, because a warning for each picture of a dataset would hide the rest of the log.
    - PNG's own gAMA, cHRM and cICP, and EXIF's colour space, are not applied.
    - What stands beside the pixels never costs a picture, and a missing end marker does not either
      (`nstray.images.containers`). Missing pixels always do.
    - A JPEG of more scans or segments than any camera or encoder writes is refused before it is
      read, because reading can take hours (`nstray.images.containers`).

    Args:
        data: a JPEG, PNG or WebP file.
        what: role and URI of the picture, for messages (``content s3://b/k.jpg``).
        max_bytes: cap on the file, checked first.
        max_pixels: cap on width x height, checked on the header before anything is decoded.
        own: the file is from an output of nstray. Then TIFF as `encode` writes it is allowed too.
        background: the grey, 0 to 255, under transparent pixels; white unless given.

    Returns (H, W, 3) uint8. Raises `PairError`, nothing else.
    """
    if len(data) > max_bytes:
        raise PairError(
            ErrorCode.TOO_MANY_BYTES,
            f"{what}: {len(data)} bytes, the limit (max_bytes) is {max_bytes}",
        )
    with _failures(what):
        image, _ = _open(data, what, max_pixels, own)
        _load(image, data, what, max_pixels)
        return _upright(_rgb(image, data, background), _orientation(image.info.get("exif")))


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """A context in which whatever is wrong with a picture is a `PairError`."""
    try:
        yield
    except PairError:
        raise
    except Image.DecompressionBombError as error:
        # Pillow's WebP reader itself checks Pillow's own limit, 179 million pixels.
        raise PairError(ErrorCode.TOO_MANY_PIXELS, f"{what}: {error}") from None
    except MemoryError:
        raise PairError(
            ErrorCode.OUT_OF_MEMORY,
            f"{what}: decoding needs more memory than there is; "
            "lower max_pixels to refuse such pictures",
        ) from None
    except Exception as error:
        raise _failed(what, error) from None


def check(data: bytes, *, what: str, max_pixels: int, own: bool = False) -> None:
    """Raise `PairError` if the picture in `data` does not decode; arguments as for `decode`.

    Takes `decoding_bytes` of memory, where `decode` takes several copies of the pixels.
    """
    with _failures(what):
        image, _ = _open(data, what, max_pixels, own)
        _load(image, data, what, max_pixels)


def _load(image: ImageFile.ImageFile, data: bytes, what: str, max_pixels: int) -> None:
    """Decode the picture; raises ValueError for a JPEG that ends before its last block.

    libjpeg makes missing blocks mid-grey. A picture whose last pixel has that luminance is decoded
    again; its hue says less, since that of the blocks beside it reaches into it.
    """
    image.load()
    if image.format == "JPEG":
        last = np.ravel(image.getpixel((image.width - 1, image.height - 1)) or 0)
        grey = last[-1] if len(last) != 3 else last @ (0.299, 0.587, 0.114)
        if abs(grey - 128) < 3:
            _ended(containers.until_end(data), what, max_pixels)


def thumbnail(
    data: bytes, side: int, *, what: str, max_pixels: int, max_memory: int, own: bool = False
) -> Pixels:
    """The picture in `data`, as of `decode`, but a large one at a fraction of its size.

    Its longest side is at least twice `side` then. Raises `PairError`, also if decoding would take
    more than `max_memory` bytes.
    """
    with _failures(what):
        needed = decoding_bytes(data, own=own)
        if needed > max_memory:
            raise PairError(
                ErrorCode.TOO_MANY_PIXELS,
                f"{what}: decoding takes {needed:,} bytes of memory, more than the "
                f"{max_memory:,} that are given to one picture",
            )
        image, _ = _open(data, what, max_pixels, own)
        large = image.width * image.height > _LARGE
        if large:
            image.draft(image.mode, (2 * side, 2 * side))  # a JPEG is decoded at a fraction
        image.load()
        # An averaged colour is no longer the transparent one, and has no place in a palette.
        exact = image.mode not in ("L", "RGB", "RGBA", "CMYK") or "transparency" in image.info
        factor = max(image.size) // (2 * side)
        small: Image.Image = image
        if large and factor > 1:
            width, height = (max(1, s // factor) for s in image.size)
            if exact:
                small = image.resize((width, height), Image.Resampling.NEAREST)
            else:
                small = image.reduce(factor)
            small.info = image.info
        return _upright(_rgb(small, data, 255), _orientation(image.info.get("exif")))


def decoding_bytes(data: bytes, *, own: bool = False) -> int:
    """The memory that Pillow takes to decode a picture, in bytes, by its header.

    Measured with Pillow 13, in bytes a pixel: PNG and JPEG 4, a progressive JPEG 10, of CMYK 12,
    WebP 16, TIFF in one strip 7 at 8 and 10 at 16 bits a channel. Raises `PairError`.
    """
    with _failures("image"):
        image_format = format_of(data)
        if image_format == "webp":  # opening it takes the memory
            width, height = webp_size(data)
            return 16 * width * height
        image, _ = _open(data, "image", None, own)
        bands = len(image.getbands())
        bytes_a_pixel = {
            "jpeg": 2 * bands + (4 if bands > 1 else 1),  # of coefficients, and of pixels
            "tiff": 10,
        }.get(image_format or "", 4)
        return bytes_a_pixel * image.width * image.height


def decode_mask(data: bytes, *, what: str, max_bytes: int, max_pixels: int) -> Mask:
    """The luminance (ITU-R BT.601) of the picture in `data`.

    Formats, limits and errors are those of `decode`. Transparent pixels are black: they mark
    nothing. Returns (H, W) uint8.
    """
    pixels = decode(data, what=what, max_bytes=max_bytes, max_pixels=max_pixels, background=0)
    return np.array(Image.fromarray(pixels).convert("L"))


def read_header(data: bytes, *, own: bool = False) -> tuple[str, int, int]:
    """Format (``jpeg``, ``png``, ``webp``), width and height from the header.

    Width and height are as stored, before any EXIF orientation. With `own`, as for `decode`, the
    format may be ``tiff``. Raises `PairError`.
    """
    with _failures("image"):
        image, image_format = _open(data, "image", None, own)
    return image_format, image.width, image.height


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height of what `decode` returns, from the header; raises `PairError`."""
    with _failures("image"):
        image, _ = _open(data, "image", None, False)
        turned = _orientation(image.info.get("exif")) >= 5
    return (image.height, image.width) if turned else image.size


def _open(
    data: bytes, what: str, max_pixels: int | None, own: bool
) -> tuple[ImageFile.ImageFile, str]:
    """The file, opened but not decoded, and its format.

    Raises: `PairError` for an empty file, another format, a size over the cap or several frames;
        anything that Pillow raises for a broken header.
    """
    if not data:
        raise PairError(ErrorCode.EMPTY_FILE, f"{what}: the file is empty (0 bytes)")
    image_format = format_of(data)
    if image_format is None or (image_format == "tiff" and not own):
        raise refusal(data, what)
    if image_format == "webp":
        # Pillow's WebP reader allocates its frame buffers while it opens: check the size before.
        _check_pixels(*webp_size(data), what, max_pixels)
        data = containers.clean_webp(data)
    elif image_format == "png":
        data = containers.clean_png(data)
    elif image_format == "jpeg":
        containers.check_jpeg(data)
        data = containers.clean_jpeg(data)
        if max_pixels is not None and (end := containers.end_of_jpeg(data)) is not None:
            data = _ended(data[:end], what, max_pixels)
    data, profile = icc.split(data, image_format)
    image = READERS[image_format](io.BytesIO(data))
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


# Bytes that no decoder reads behind whole pixels; they differ in every bit.
_PADS = (b"\x55\x2a" * 512, b"\xaa\xd5" * 512)


def _ended(data: bytes, what: str, max_pixels: int) -> bytes:
    """A JPEG without an end marker, with one.

    libjpeg fills missing pixels up without a word, and takes what follows the coded pixels for more
    of them if it lacks some. So a picture is whole if it does not depend on what follows.

    Raises: ValueError for a picture that lacks pixels.
    """
    found, restarts = set(), containers.next_restarts(data)
    for pad in _PADS:
        more = pad.join((b"", *restarts, b"\xff\xd9"))
        image = READERS["jpeg"](io.BytesIO(data + more))
        _check_pixels(image.width, image.height, what, max_pixels)
        image.load()
        found.add(hashlib.sha256(image.tobytes()).digest())
    if len(found) > 1:
        raise ValueError("its pixels end too early")
    return data + b"\xff\xd9"


def _check_pixels(width: int, height: int, what: str, max_pixels: int | None) -> None:
    """Raise `PairError` for a size in a header that is empty or over the cap."""
    if width < 1 or height < 1:
        raise PairError(ErrorCode.DECODE_FAILED, f"{what}: its header says {width}x{height} pixels")
    if max_pixels is not None and width * height > max_pixels:
        raise PairError(
            ErrorCode.TOO_MANY_PIXELS,
            f"{what}: {width}x{height} = {width * height} pixels, "
            f"the limit (max_pixels) is {max_pixels}",
        )


def format_of(data: bytes) -> str | None:
    """The format by the file's first bytes; None if `READERS` has none for it."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"II*\0"):
        return "tiff"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def webp_size(data: bytes) -> tuple[int, int]:
    """Canvas width and height of a WebP file (RFC 9649, sections 2.5 to 2.7).

    Raises: ValueError for a broken header.
    """
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(body) == 10 and body[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[at : at + 2], "little") for at in (6, 8))
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("broken WebP header")


def _failed(what: str, error: Exception) -> PairError:
    return PairError(
        ErrorCode.DECODE_FAILED, f"{what}: truncated or corrupt ({type(error).__name__}: {error})"
    )


def _rgb(image: Image.Image, data: bytes, background: int) -> Pixels:
    """The loaded picture as (H, W, 3) uint8 in sRGB, on a grey `background`.

    Args:
        data: the file; byte 24 of a PNG is its bit depth.
    """
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
        canvas = Image.new("RGB", image.size, (background,) * 3)
        canvas.paste(
            icc.to_rgb(layered.convert(layered.mode[:-1]), profile), mask=layered.getchannel("A")
        )
        return np.array(canvas)
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = np.array(icc.to_rgb(image, profile))
    if isinstance(key, (int, tuple)):  # PNG's tRNS of grey or RGB: one colour is transparent
        stored = np.asarray(image).reshape(*pixels.shape[:2], -1)
        pixels[(stored == _eight_bit(key, data[24])).all(axis=2)] = background
    return pixels


def _eight_bit(key: int | tuple[int, ...], depth: int) -> npt.NDArray[np.int64]:
    """PNG's transparent colour in 8 bits, scaled as Pillow scales pixels of that bit depth."""
    values = np.atleast_1d(np.asarray(key, dtype=np.int64))
    # Pillow has scaled the key of a 1-bit picture itself, hence the minimum.
    return values >> 8 if depth == 16 else np.minimum(values * 255 // (2**depth - 1), 255)


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
    """EXIF orientation 1 to 8 (EXIF 2.3, section 4.6.2 and table 4).

    It is 1, upright, if `exif` is absent or broken or does not say it. Pillow's own reading is not
    used: for a fault in any other entry it drops the whole block, with warnings.
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
