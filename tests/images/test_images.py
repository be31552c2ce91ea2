"""Decoding, converting, resizing and encoding, against values computed apart from Pillow; every kind of bad input."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from nstray.errors import ErrorCode, PairError
from nstray.images import icc
from nstray.images.decode import decode as decode_bytes
from nstray.images.decode import read_header
from nstray.images.encode import encode, extension
from nstray.images.resize import fit, target_shape

RNG = np.random.default_rng(7)
NOISE = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)
# Smooth colours, so that JPEG's and WebP's losses stay small.
_Y, _X = np.mgrid[0:48, 0:64]
SMOOTH = np.stack([2 * _Y + 60, 3 * _X + 30, 200 - _Y - _X], axis=2).astype(np.uint8)


def decode(data: bytes, max_bytes: int = 10**7, max_pixels: int = 10**6) -> np.ndarray:
    return decode_bytes(data, what="content a.jpg", max_bytes=max_bytes, max_pixels=max_pixels)


def refused(data: bytes, code: ErrorCode, *words: str, **limits: int) -> None:
    with pytest.raises(PairError) as caught:
        decode(data, **limits)
    assert caught.value.code is code, caught.value
    assert caught.value.message.startswith("content a.jpg: ")
    for word in words:
        assert word in caught.value.message


def save(picture: Image.Image, image_format: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, image_format, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG written chunk by chunk; `rows` without filter bytes, all rows of one length."""
    stride = len(rows) // height
    raw = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[..., None].astype(float) / 255
    return np.floor(colour * a + 255 * (1 - a) + 0.5)


# Formats and conversions ----------------------------------------------------------------------------------------------


def test_plain_pictures():
    assert np.array_equal(decode(save(Image.fromarray(NOISE), "PNG")), NOISE)
    assert np.array_equal(decode(save(Image.fromarray(NOISE), "WEBP", lossless=True)), NOISE)
    for data in (save(Image.fromarray(SMOOTH), "JPEG", quality=95), save(Image.fromarray(SMOOTH), "WEBP", quality=95)):
        out = decode(data)
        assert out.dtype == np.uint8
        assert out.shape == SMOOTH.shape
        assert np.abs(out.astype(int) - SMOOTH).mean() < 3


def test_progressive_jpeg():
    assert np.abs(decode(save(Image.fromarray(SMOOTH), "JPEG", quality=95, progressive=True)).astype(int) - SMOOTH).mean() < 3


def test_jpeg_with_a_second_picture_inside_gives_the_first():
    data = save(Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[Image.fromarray(255 - SMOOTH)], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert read_header(data) == ("jpeg", 64, 48)
    assert np.abs(decode(data).astype(int) - SMOOTH).mean() < 3


def test_grey_one_bit_and_palette():
    grey = NOISE[:, :, 0]
    assert np.array_equal(decode(save(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, axis=2))
    bits = grey > 127
    assert np.array_equal(decode(save(Image.fromarray(bits), "PNG")), np.stack([bits * np.uint8(255)] * 3, axis=2))
    grey_jpeg = decode(save(Image.fromarray(SMOOTH[:, :, 0]), "JPEG", quality=95))
    assert np.abs(grey_jpeg.astype(int) - SMOOTH[:, :, :1]).max() < 5
    colours = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    index = RNG.integers(0, 16, (10, 12), dtype=np.uint8)
    data = png(12, 10, 8, 3, index.tobytes(), chunk(b"PLTE", colours.tobytes()))
    assert np.array_equal(decode(data), colours[index])


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(image_format):
    alpha = RNG.integers(0, 256, (24, 40), dtype=np.uint8)
    data = save(Image.fromarray(np.dstack([NOISE, alpha])), image_format, **({"lossless": True, "exact": True} if image_format == "WEBP" else {}))
    out = decode(data)
    assert np.abs(out - on_white(NOISE, alpha)).max() <= 1
    assert (out[alpha == 0] == 255).all()
    assert np.array_equal(out[alpha == 255], NOISE[alpha == 255])


def test_grey_with_alpha():
    grey, alpha = RNG.integers(0, 256, (2, 8, 9), dtype=np.uint8)
    data = png(9, 8, 8, 4, np.dstack([grey, alpha]).tobytes())
    assert np.abs(decode(data) - on_white(np.stack([grey] * 3, axis=2), alpha)).max() <= 1
    deep = (np.dstack([grey, alpha]).astype(np.uint16) * 257).astype(">u2")
    assert np.abs(decode(png(9, 8, 16, 4, deep.tobytes())) - on_white(np.stack([grey] * 3, axis=2), alpha)).max() <= 1


def test_palette_with_transparency():
    colours = RNG.integers(0, 255, (4, 3), dtype=np.uint8)
    index = RNG.integers(0, 4, (10, 12), dtype=np.uint8)
    for alphas in (bytes([255, 0, 255, 255]), bytes([10, 0, 200, 255])):  # one clear entry; a graded palette
        data = png(12, 10, 8, 3, index.tobytes(), chunk(b"PLTE", colours.tobytes()), chunk(b"tRNS", alphas))
        alpha = np.frombuffer(alphas, np.uint8)[index]
        assert np.abs(decode(data) - on_white(colours[index], alpha)).max() <= 1


def test_one_transparent_colour():
    key = (10, 20, 30)
    pixels = NOISE.copy()
    pixels[3:6, 5:9] = key
    out = decode(png(40, 24, 8, 2, pixels.tobytes(), chunk(b"tRNS", struct.pack(">3H", *key))))
    expected = pixels.copy()
    expected[3:6, 5:9] = 255
    assert np.array_equal(out, expected)


@pytest.mark.parametrize(("depth", "values"), [(1, 2), (2, 4), (4, 16), (8, 256)])
def test_one_transparent_grey_at_every_depth(depth, values):
    level = RNG.integers(0, values, (6, 8))
    level[0, 0], clear = 0, 0  # black: on white it can't be mistaken for what it was
    packed = np.packbits(((level[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).reshape(6, -1), axis=1)
    out = decode(png(8, 6, depth, 0, packed.tobytes(), chunk(b"tRNS", struct.pack(">H", clear))))
    expected = np.where(level == clear, 255, level * 255 // (values - 1))
    assert np.array_equal(out, np.stack([expected] * 3, axis=2))
    opaque = decode(png(8, 6, depth, 0, packed.tobytes()))
    assert np.array_equal(opaque[:, :, 0], level * 255 // (values - 1))


def test_a_transparent_grey_that_is_not_black_at_four_bits():
    level = np.arange(16).reshape(2, 8)
    packed = (level[:, ::2] << 4 | level[:, 1::2]).astype(np.uint8)
    out = decode(png(8, 2, 4, 0, packed.tobytes(), chunk(b"tRNS", struct.pack(">H", 5))))
    assert np.array_equal(out[:, :, 1], np.where(level == 5, 255, level * 17))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = np.array([[0, 128, 129, 257, 300, 12345], [32768, 40000, 65278, 65406, 65407, 65535]], np.uint16)
    out = decode(png(6, 2, 16, 0, deep.astype(">u2").tobytes()))
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    assert expected.min() == 0
    assert expected.max() == 255
    assert np.array_equal(out, np.stack([expected] * 3, axis=2))
    clear = decode(png(6, 2, 16, 0, deep.astype(">u2").tobytes(), chunk(b"tRNS", struct.pack(">H", 12345))))
    expected[0, 5] = 255
    assert np.array_equal(clear[:, :, 0], expected)


def test_sixteen_bit_colour():
    deep = RNG.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    out = decode(png(7, 5, 16, 2, deep.astype(">u2").tobytes()))
    assert np.abs(out - deep / 257).max() <= 1
    exact = (NOISE[:5, :7].astype(np.uint16) * 257).astype(">u2")
    assert np.array_equal(decode(png(7, 5, 16, 2, exact.tobytes())), NOISE[:5, :7])
    exact[2, 3] = (0, 257 * 9, 257 * 200)
    out = decode(png(7, 5, 16, 2, exact.tobytes(), chunk(b"tRNS", struct.pack(">3H", *exact[2, 3]))))
    assert (out[2, 3] == 255).all()
    assert np.array_equal(out[0], NOISE[0, :7])


def _cmyk(quality: int = 100) -> tuple[np.ndarray, bytes]:
    inks = np.stack([_Y * 4, _X * 3, 250 - _Y * 3, _X + _Y], axis=2).astype(np.uint8)
    return inks, save(Image.fromarray(inks, "CMYK"), "JPEG", quality=quality, subsampling=0)


def test_cmyk_jpeg_with_adobe_inversion():
    inks, data = _cmyk()
    assert b"Adobe" in data  # the marker under which inks are stored inverted
    share = inks.astype(float) / 255
    expected = 255 * (1 - share[:, :, :3]) * (1 - share[:, :, 3:])
    out = decode(data)
    assert np.abs(out - expected).mean() < 2
    assert np.abs(out.astype(int) - expected).max() < 12


def test_ycck_jpeg():
    """The Adobe marker's transform 2: YCbCr of the inverted inks, K apart; written as the CMYK planes of such a conversion."""
    inks, _ = _cmyk()
    inverted = 255.0 - inks[:, :, :3]
    red, green, blue = np.moveaxis(inverted, 2, 0)
    # JFIF's YCbCr, of what the inverted inks are as RGB; libjpeg turns YCCK back into 255 - RGB, which is the stored (inverted) CMY
    red, green, blue = 255 - red, 255 - green, 255 - blue
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = np.stack([luma, 128 - 0.168736 * red - 0.331264 * green + 0.5 * blue, 128 + 0.5 * red - 0.418688 * green - 0.081312 * blue], axis=2)
    stored = np.dstack([planes, 255.0 - inks[:, :, 3]])
    # Pillow inverts what it writes under CMYK, so hand it the complement; then relabel the marker's transform byte.
    written = save(Image.fromarray(np.clip(255 - stored + 0.5, 0, 255).astype(np.uint8), "CMYK"), "JPEG", quality=100, subsampling=0)
    at = written.index(b"Adobe") + 11
    assert written[at] == 0
    data = written[:at] + b"\x02" + written[at + 1 :]
    share = inks.astype(float) / 255
    assert np.abs(decode(data) - 255 * (1 - share[:, :, :3]) * (1 - share[:, :, 3:])).mean() < 3


@pytest.mark.parametrize("colour", [(255, 0, 0), (7, 130, 255)])
def test_one_pixel(colour):
    data = save(Image.new("RGB", (1, 1), colour), "PNG")
    assert decode(data).tolist() == [[list(colour)]]
    assert fit(decode(data), 64, "longest", False, what="x").shape == (1, 1, 3)
    assert fit(decode(data), 64, "longest", True, what="x").tolist() == [[list(colour)] * 64] * 64


# Colour profiles ------------------------------------------------------------------------------------------------------

# RGB to XYZ of the D50 connection space, by Lindbloom's tables (columns: what R, G and B are).
ADOBE = np.array([[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]])
SRGB = np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]])
D50 = (0.9642, 1.0, 0.8249)
ADOBE_GAMMA = 563 / 256  # as the profile's number, of eight bits after the point, says it
# Every corner of the cube, greys, and colours between.
CHART = np.stack(np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3, indexing="ij"), axis=-1).reshape(64, 64, 3)


def linear(share: np.ndarray) -> np.ndarray:
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def companded(light: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: linear light, cut to [0, 1], to levels of 0 to 255."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def from_adobe(pixels: np.ndarray) -> np.ndarray:
    return companded((pixels / 255) ** ADOBE_GAMMA @ ADOBE.T @ np.linalg.inv(SRGB).T)


def curve(gamma: float | None) -> bytes:
    """A curve of one power, or sRGB's own as a table (ICC.1:2001-04, section 6.5.3)."""
    if gamma is not None:
        return struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256))
    table = (linear(np.linspace(0, 1, 1024)) * 65535).round().astype(">u2").tobytes()
    return struct.pack(">4sII", b"curv", 0, 1024) + table


def xyz(values) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(v * 65536) for v in values))


def icc_profile(space: bytes, tags: dict[bytes, bytes], *, pcs: bytes = b"XYZ ", kind: bytes = b"mntr", padding: int = 0) -> bytes:
    """An ICC profile of version 2 (ICC.1:2001-04, section 6): header, table of tags, tags."""
    text = b"made for a test"
    tags = {b"desc": struct.pack(">4sII", b"desc", 0, len(text) + 1) + text + bytes(1 + 4 + 4 + 2 + 1 + 67), b"wtpt": xyz(D50), **tags}
    tags[b"cprt"] = b"text" + bytes(4) + b"none\0" + bytes(padding)
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02100000, kind, space, pcs)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def matrix_profile(matrix: np.ndarray, gamma: float | None, **options) -> bytes:
    colorants = {name + b"XYZ": xyz(column) for name, column in zip((b"r", b"g", b"b"), matrix.T, strict=True)}
    return icc_profile(b"RGB ", {**colorants, **{name + b"TRC": curve(gamma) for name in (b"r", b"g", b"b")}}, **options)


def grey_profile(gamma: float) -> bytes:
    return icc_profile(b"GRAY", {b"kTRC": curve(gamma)})


def ink_profile() -> bytes:
    """CMYK to Lab with one cell: cyan prints a red of Lab (60, 51, 40), magenta and yellow nothing, black black (lut8Type)."""
    corners = bytearray()
    for inks in np.ndindex(2, 2, 2, 2):
        lab = (0, 0, 0) if inks[3] else (60, 51, 40) if inks[0] else (100, 0, 0)
        corners += bytes((round(lab[0] * 2.55), lab[1] + 128, lab[2] + 128))
    ramp = bytes(range(256))
    head = struct.pack(">4sI4B9i", b"mft1", 0, 4, 3, 2, 0, *(65536 * (i % 4 == 0) for i in range(9)))
    return icc_profile(b"CMYK", {b"A2B0": head + ramp * 4 + bytes(corners) + ramp * 3}, pcs=b"Lab ", kind=b"prtr")


ADOBE_PROFILE = matrix_profile(ADOBE, 2.2)
SWAPPED_PROFILE = matrix_profile(SRGB[:, ::-1], None)  # sRGB with red and blue exchanged
LINEAR_GREY = grey_profile(1.0)
LCMS_SRGB, LCMS_LAB, LCMS_XYZ = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "LAB", "XYZ"))
OPTIONS = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 100, "subsampling": 0}}


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"a name\0\0" + zlib.compress(profile))


def with_segments(*bodies: bytes) -> bytes:
    data = save(Image.fromarray(SMOOTH), "JPEG", **OPTIONS["JPEG"])
    return data[:2] + b"".join(b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body for body in bodies) + data[2:]


@pytest.mark.parametrize("image_format", OPTIONS)
def test_adobe_rgb_becomes_srgb(image_format):
    picture = CHART if image_format != "JPEG" else SMOOTH
    plain = decode(save(Image.fromarray(picture), image_format, **OPTIONS[image_format]))
    data = save(Image.fromarray(picture), image_format, icc_profile=ADOBE_PROFILE, **OPTIONS[image_format])
    out, expected = decode(data), from_adobe(plain)
    assert np.abs(out - expected).max() <= 2
    assert np.abs(out - expected).mean() < 0.5
    assert np.abs(expected - plain).mean() > 5  # the effect is there to be seen
    assert np.array_equal(decode(data), out)
    assert read_header(data) == (image_format.lower(), picture.shape[1], picture.shape[0])


@pytest.mark.parametrize("image_format", OPTIONS)
def test_a_profile_that_exchanges_red_and_blue(image_format):
    plain = decode(save(Image.fromarray(SMOOTH), image_format, **OPTIONS[image_format]))
    out = decode(save(Image.fromarray(SMOOTH), image_format, icc_profile=SWAPPED_PROFILE, **OPTIONS[image_format]))
    assert np.abs(out.astype(int) - plain[:, :, ::-1]).max() <= 1


@pytest.mark.parametrize("image_format", OPTIONS)
@pytest.mark.parametrize("profile", [LCMS_SRGB, matrix_profile(SRGB, None)], ids=["LittleCMS's own", "a table"])
def test_srgb_changes_no_pixel(image_format, profile):
    for picture in (CHART, SMOOTH):
        plain = decode(save(Image.fromarray(picture), image_format, **OPTIONS[image_format]))
        assert np.array_equal(decode(save(Image.fromarray(picture), image_format, icc_profile=profile, **OPTIONS[image_format])), plain)


def test_grey_profile():
    level = np.arange(256, dtype=np.uint8).reshape(8, 32)
    expected = companded(level / 255)[:, :, None]  # the profile's levels are linear light
    assert np.abs(decode(png(32, 8, 8, 0, level.tobytes(), iccp(LINEAR_GREY))) - expected).max() <= 1
    deep = (level.astype(np.uint16) * 257).astype(">u2").tobytes()
    assert np.array_equal(decode(png(32, 8, 16, 0, deep, iccp(LINEAR_GREY))), decode(png(32, 8, 8, 0, level.tobytes(), iccp(LINEAR_GREY))))
    plain = decode(save(Image.fromarray(SMOOTH[:, :, 0]), "JPEG", quality=100))
    out = decode(save(Image.fromarray(SMOOTH[:, :, 0]), "JPEG", quality=100, icc_profile=LINEAR_GREY))
    assert np.abs(out - companded(plain / 255)).max() <= 1
    bits = np.packbits(level > 99, axis=1).tobytes()
    assert np.array_equal(decode(png(32, 8, 1, 0, bits, iccp(LINEAR_GREY))), decode(png(32, 8, 1, 0, bits)))  # black and white stay


def test_sixteen_bit_colour_with_a_profile():
    deep = (CHART.astype(np.uint16) * 257).astype(">u2").tobytes()
    assert np.abs(decode(png(64, 64, 16, 2, deep, iccp(ADOBE_PROFILE))) - from_adobe(CHART)).max() <= 2


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_colours_are_converted_before_they_are_composited(image_format):
    alpha = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    alpha[:2] = 255
    out = decode(save(Image.fromarray(np.dstack([CHART, alpha])), image_format, icc_profile=ADOBE_PROFILE, **OPTIONS[image_format]))
    assert np.abs(out - on_white(from_adobe(CHART), alpha)).max() <= 2
    assert (out[alpha == 0] == 255).all()


def test_grey_with_alpha_and_a_profile():
    grey, alpha = RNG.integers(0, 256, (2, 8, 9), dtype=np.uint8)
    out = decode(png(9, 8, 8, 4, np.dstack([grey, alpha]).tobytes(), iccp(LINEAR_GREY)))
    assert np.abs(out - on_white(companded(np.stack([grey] * 3, axis=2) / 255), alpha)).max() <= 2


def test_palette_and_transparent_colours_with_a_profile():
    colours = RNG.integers(0, 255, (16, 3), dtype=np.uint8)
    index = RNG.integers(0, 16, (10, 12), dtype=np.uint8)
    palette = chunk(b"PLTE", colours.tobytes())
    assert np.abs(decode(png(12, 10, 8, 3, index.tobytes(), iccp(ADOBE_PROFILE), palette)) - from_adobe(colours[index])).max() <= 2
    out = decode(png(12, 10, 8, 3, index.tobytes(), iccp(ADOBE_PROFILE), palette, chunk(b"tRNS", b"\0\x80")))
    alpha = np.array([0, 128] + [255] * 14, np.uint8)[index]
    assert np.abs(out - on_white(from_adobe(colours[index]), alpha)).max() <= 2
    key = (10, 20, 30)  # a colour as the file has it
    pixels = NOISE.copy()
    pixels[3:6, 5:9] = key
    out = decode(png(40, 24, 8, 2, pixels.tobytes(), iccp(ADOBE_PROFILE), chunk(b"tRNS", struct.pack(">3H", *key))))
    expected = from_adobe(pixels)
    expected[3:6, 5:9] = 255
    assert np.abs(out - expected).max() <= 2
    level = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for depth, rows, clear in ((8, level, 7), (16, level.astype(">u2") * 257, 7 * 257)):
        out = decode(png(32, 8, depth, 0, rows.tobytes(), iccp(LINEAR_GREY), chunk(b"tRNS", struct.pack(">H", clear))))
        assert np.abs(out - np.where(level == 7, 255, companded(level / 255))[:, :, None]).max() <= 1


def test_cmyk_goes_through_its_profile():
    inks = np.zeros((16, 64, 4), np.uint8)
    inks[:, 16:32, 0], inks[:, 32:48, 3], inks[:, 48:, 1:3] = 255, 255, 255  # paper, cyan, black, magenta and yellow
    data = save(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0, icc_profile=ink_profile())
    assert b"Adobe" in data  # under which inks are stored inverted
    light = (60 + 16) / 116
    red = np.array([(light + 51 / 500) ** 3, light**3, (light - 40 / 200) ** 3]) * D50  # Lab to XYZ
    expected = [(255, 255, 255), companded(np.linalg.inv(SRGB) @ red), (0, 0, 0), (255, 255, 255)]
    out = decode(data)
    for i, colour in enumerate(expected):
        assert np.abs(out[4:12, 16 * i + 4 : 16 * i + 12] - colour).max() <= 3
    plain = decode(save(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0))
    assert np.abs(plain[8, 24].astype(int) - (0, 255, 255)).max() <= 2  # without it, cyan
    mismatched = save(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0, icc_profile=SWAPPED_PROFILE)
    assert np.array_equal(decode(mismatched), plain)


def test_orientation_and_profile_together():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(STORED[6](SMOOTH))
    assert np.abs(decode(save(Image.fromarray(stored), "PNG", exif=exif, icc_profile=SWAPPED_PROFILE)).astype(int) - SMOOTH[:, :, ::-1]).max() <= 1


USELESS = {
    "nothing": b"",
    "words": b"this is no profile" * 20,
    "header alone": SWAPPED_PROFILE[:128],
    "cut in the tags": SWAPPED_PROFILE[:600],
    "no curves": icc_profile(b"RGB ", {}),
    "black for everything": matrix_profile(np.zeros((3, 3)), 2.2),
    "grey": LINEAR_GREY,
    "inks": ink_profile(),
    "Lab": LCMS_LAB,
    "XYZ": LCMS_XYZ,
    "a device link": matrix_profile(SRGB[:, ::-1], None, kind=b"link"),
    "more than 4 MiB": matrix_profile(SRGB[:, ::-1], None, padding=4 << 20),
}


@pytest.mark.parametrize("image_format", OPTIONS)
@pytest.mark.parametrize("name", USELESS)
def test_a_useless_profile_is_ignored(name, image_format):
    plain = decode(save(Image.fromarray(SMOOTH), image_format, **OPTIONS[image_format]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = save(Image.fromarray(SMOOTH), image_format, icc_profile=USELESS[name], **OPTIONS[image_format])
        assert np.array_equal(decode(data), plain)
        assert read_header(data) == (image_format.lower(), 64, 48)


def test_an_rgb_profile_on_grey_is_ignored():
    grey = np.ascontiguousarray(NOISE[:, :, 0])
    assert np.array_equal(decode(png(40, 24, 8, 0, grey.tobytes(), iccp(ADOBE_PROFILE)))[:, :, 1], grey)


@pytest.mark.parametrize(
    "faulty",
    [
        iccp(SWAPPED_PROFILE)[:-1] + b"\0",
        chunk(b"iCCP", b""),
        chunk(b"iCCP", b"a name and no end"),
        chunk(b"iCCP", b"a name\0"),
        chunk(b"iCCP", b"a name\0\x01" + zlib.compress(SWAPPED_PROFILE)),
        chunk(b"iCCP", b"a name\0\0" + zlib.compress(SWAPPED_PROFILE)[:-9]),
        chunk(b"iCCP", b"a name\0\0" + zlib.compress(SWAPPED_PROFILE)[:-1] + b"\0\0"),
        chunk(b"iCCP", b"a name\0\0no zlib data"),
        chunk(b"iCCP", b"a name\0\0" + zlib.compress(bytes(20 << 20))),
    ],
    ids=["checksum", "empty", "no zero", "no method", "another method", "cut", "inner checksum", "no zlib", "bomb"],
)
def test_a_faulty_profile_chunk_does_not_lose_a_png(faulty):
    data = png(64, 48, 8, 2, SMOOTH.tobytes(), faulty)
    assert np.array_equal(decode(data), SMOOTH)
    assert read_header(data) == ("png", 64, 48)


def test_where_a_png_may_have_its_profile():
    big = matrix_profile(SRGB[:, ::-1], None, padding=2 << 20)  # twice what Pillow reads
    assert np.abs(decode(png(64, 48, 8, 2, SMOOTH.tobytes(), iccp(big))).astype(int) - SMOOTH[:, :, ::-1]).max() <= 1
    first = decode(png(64, 48, 8, 2, SMOOTH.tobytes(), iccp(SWAPPED_PROFILE), iccp(ADOBE_PROFILE)))
    assert np.abs(first.astype(int) - SMOOTH[:, :, ::-1]).max() <= 1
    plain = png(64, 48, 8, 2, SMOOTH.tobytes())
    for late in (iccp(SWAPPED_PROFILE), chunk(b"iCCP", b"broken")):
        assert np.array_equal(decode(plain[:-12] + late + plain[-12:]), SMOOTH)
    assert np.array_equal(decode(png(64, 48, 8, 2, SMOOTH.tobytes(), chunk(b"gAMA", struct.pack(">I", 100_000)))), SMOOTH)
    refused(plain[:33] + iccp(SWAPPED_PROFILE)[:60], ErrorCode.DECODE_FAILED)


def test_segments_of_a_jpeg_profile():
    plain, sign = decode(with_segments()), b"ICC_PROFILE\0"
    a, b = SWAPPED_PROFILE[:900], SWAPPED_PROFILE[900:]
    for good in ((sign + b"\1\2" + a, sign + b"\2\2" + b), (sign + b"\2\2" + b, b"another", sign + b"\1\2" + a)):
        assert np.abs(decode(with_segments(*good)).astype(int) - plain[:, :, ::-1]).max() <= 1
    for bad in (
        (sign,),
        (sign + b"\1",),
        (sign + b"\1\2" + a,),
        (sign + b"\1\2" + a, sign + b"\1\2" + b),
        (sign + b"\1\2" + a, sign + b"\2\3" + b),
        (sign + b"\1\1" + SWAPPED_PROFILE, sign),
        (sign + b"\1\x2c",) * 300,
    ):
        assert np.array_equal(decode(with_segments(*bad)), plain)
    data = with_segments(sign + b"\1\1" + SWAPPED_PROFILE)
    padded = data[:2] + b"\xff\xff" + data[2:]  # fill before a marker
    assert np.abs(decode(padded).astype(int) - plain[:, :, ::-1]).max() <= 1


@pytest.mark.parametrize("image_format", OPTIONS)
def test_random_damage_to_a_profile_never_loses_the_picture(image_format):
    rng = np.random.default_rng(11)
    small = Image.fromarray(SMOOTH[:8, :8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(120):
            profile = np.frombuffer((ADOBE_PROFILE, matrix_profile(SRGB, None))[i % 2], np.uint8).copy()
            places = rng.integers(0, len(profile) if i % 3 else 400, rng.integers(1, 9))
            profile[places] = rng.integers(0, 256, places.size)
            if i % 5 == 0:
                profile = profile[: rng.integers(len(profile))]
            assert decode(save(small, image_format, icc_profile=profile.tobytes(), **OPTIONS[image_format])).shape == (8, 8, 3)


def test_transforms_are_shared_between_threads_and_few_are_kept():
    profiles = [matrix_profile(ADOBE, 1 + i / 16) for i in range(24)] + [ink_profile()]
    inks = RNG.integers(0, 256, (64, 64, 4), dtype=np.uint8)
    pictures = [Image.fromarray(CHART)] * 24 + [Image.fromarray(inks, "CMYK")]
    alone = [np.array(icc.to_rgb(p, profile)) for p, profile in zip(pictures, profiles, strict=True)]
    assert not np.array_equal(alone[0], alone[1])
    order = [int(i) for i in RNG.integers(0, 25, 400)] + [24, 3] * 40
    with ThreadPoolExecutor(8) as pool:
        for i, out in zip(order, pool.map(lambda i: np.array(icc.to_rgb(pictures[i], profiles[i])), order), strict=True):
            assert np.array_equal(out, alone[i])
    assert len(icc._cache) <= 16


# Orientation ----------------------------------------------------------------------------------------------------------

# What the stored picture is, given the upright one (EXIF 2.3: where row 0 and column 0 of the stored one lie).
STORED = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "JPEG"])
def test_exif_orientation(orientation, image_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = NOISE if image_format != "JPEG" else SMOOTH
    stored = np.ascontiguousarray(STORED[orientation](upright))
    options = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}[image_format]
    out = decode(save(Image.fromarray(stored), image_format, exif=exif, **options))
    assert out.shape == upright.shape
    assert np.abs(out.astype(int) - upright).max() <= (3 if image_format == "JPEG" else 0)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_both_byte_orders_and_behind_the_pixels(order):
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    stored = np.ascontiguousarray(np.rot90(NOISE, 1))
    before = png(24, 40, 8, 2, stored.tobytes(), chunk(b"eXIf", tiff))
    assert np.array_equal(decode(before), NOISE)
    plain = png(24, 40, 8, 2, stored.tobytes())
    assert np.array_equal(decode(plain[:-12] + chunk(b"eXIf", tiff) + plain[-12:]), NOISE)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(256)),
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",  # orientation 99
        b"Exif\0\0garbage and more garbage",
        b"Exif\0\0II*\0\x08\0\0\0\x02\0\x1a\x01\x05\0\x01\0\0\0\xf0\xf0\xf0\xf0",  # a resolution that lies beyond the end
    ],
)
def test_corrupt_exif_does_not_lose_the_picture(exif):
    data = save(Image.fromarray(SMOOTH), "JPEG", quality=95)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(decode(data).astype(int) - SMOOTH).mean() < 3


def test_orientation_survives_a_fault_in_another_entry():
    tiff = b"II*\0" + struct.pack("<IH", 8, 2) + struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0) + struct.pack("<HHII", 0x010F, 2, 10**9, 10**9)
    data = save(Image.fromarray(SMOOTH), "JPEG", quality=95)
    exif = b"Exif\0\0" + tiff
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert np.abs(decode(data).astype(int) - SMOOTH[::-1, ::-1]).mean() < 3


# Bad input ------------------------------------------------------------------------------------------------------------


def test_empty_file():
    refused(b"", ErrorCode.EMPTY_FILE, "0 bytes")


def test_bytes_cap_comes_before_everything():
    refused(b"<html>" * 100, ErrorCode.TOO_MANY_BYTES, "600 bytes", "max_bytes", "599", max_bytes=599)
    assert decode(save(Image.fromarray(NOISE), "PNG"), max_bytes=len(save(Image.fromarray(NOISE), "PNG"))).shape == NOISE.shape


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"<!DOCTYPE html>\n<html><body>404, with an inline <svg/></body></html>", "an HTML page"),
        (b"\xef\xbb\xbf  <HTML lang='de'><p>K\xc3\xbcche</p>", "an HTML page"),
        ("<html><body>Zürich".encode("utf-16"), "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML document"),
        (b'{"error": "forbidden"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
        (b"just words\n", "text"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip data"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PAR1" + bytes(40), "a Parquet file"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a RIFF file that is not WebP"),
        (b"\0\0\0\x20ftypisom" + bytes(40), "an MP4 or QuickTime video"),
        (bytes(range(128, 256)), "128 bytes of no known kind"),
        (b"\0", "1 byte of no known kind"),
    ],
)
def test_not_an_image(data, looks_like):
    refused(data, ErrorCode.NOT_AN_IMAGE, looks_like)


@pytest.mark.parametrize(
    ("image_format", "name"), [("GIF", "GIF"), ("TIFF", "TIFF"), ("BMP", "BMP"), ("ICO", "ICO"), ("PPM", "Netpbm"), ("AVIF", "AVIF")]
)
def test_unsupported_formats_that_pillow_writes(image_format, name):
    Image.init()
    if image_format not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {image_format}")
    refused(save(Image.fromarray(SMOOTH), image_format), ErrorCode.UNSUPPORTED_FORMAT, f"format {name};", "convert")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0" + bytes(40), "AVIF"),
        (b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<svg width='3'/>", "SVG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        (b"8BPS\0\1" + bytes(40), "Photoshop"),
    ],
)
def test_unsupported_formats_by_their_first_bytes(data, name):
    refused(data, ErrorCode.UNSUPPORTED_FORMAT, f"format {name};")


@pytest.mark.parametrize(("image_format", "name"), [("PNG", "PNG"), ("WEBP", "WebP")])
def test_animations(image_format, name):
    frames = [Image.fromarray(np.roll(SMOOTH, 9 * i, axis=1)) for i in range(3)]
    data = save(frames[0], image_format, save_all=True, append_images=frames[1:], duration=50)
    refused(data, ErrorCode.UNSUPPORTED_FORMAT, f"an animated {name} of 3 frames")


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated(image_format, share):
    data = save(Image.fromarray(NOISE), image_format)
    refused(data[: int(len(data) * share)], ErrorCode.DECODE_FAILED, "truncated or corrupt")


def test_corrupt_pixels_of_a_png():
    data = bytearray(save(Image.fromarray(NOISE), "PNG"))
    at = data.index(b"IDAT") + 4 + 700
    data[at : at + 8] = bytes(255 - b for b in data[at : at + 8])
    refused(bytes(data), ErrorCode.DECODE_FAILED)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "JPEG"])
def test_random_damage_is_a_picture_or_a_pair_error_and_nothing_else(image_format):
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    whole = save(Image.fromarray(NOISE), image_format, exif=exif)
    rng = np.random.default_rng(3)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(600):
            data = np.frombuffer(whole, np.uint8).copy()
            if i % 3 == 0:
                data = data[: rng.integers(len(data))]
            else:
                places = rng.integers(0, len(data) if i % 3 == 1 else 200, rng.integers(1, 9))
                data[places] = rng.integers(0, 256, places.size)
            try:
                assert decode(data.tobytes()).dtype == np.uint8
                outcomes.add("picture")
            except PairError as error:
                outcomes.add(error.code)
    assert ErrorCode.DECODE_FAILED in outcomes
    assert ErrorCode.INTERNAL not in outcomes


def test_a_png_whose_first_chunk_is_not_its_header_is_refused():
    data = save(Image.fromarray(NOISE), "PNG")
    refused(data[:8] + chunk(b"tEXt", b"a\0" + bytes(20)) + data[8:], ErrorCode.DECODE_FAILED, "IHDR")


@pytest.mark.parametrize("frames", [(0,), (2**32 - 1,), (3, 3), (3, 0, 3)])
def test_a_png_with_a_broken_header_of_an_animation_is_a_still_picture(frames):
    data = save(Image.fromarray(NOISE), "PNG")
    headers = b"".join(chunk(b"acTL", struct.pack(">II", n, 0)) for n in frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode(data[:33] + headers + data[33:]), NOISE)


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def test_a_jpeg_of_countless_scans_or_segments_is_refused():
    """A scan of ten bytes goes over all blocks once more, and each segment of EXIF copies those before it: hours within the byte cap."""
    data = save(Image.fromarray(SMOOTH), "JPEG", quality=95, progressive=True)
    last = data.rindex(b"\xff\xda")
    again = data[last : data.index(b"\xff\xd9", last)]
    assert decode(data[:-2] + again * 20 + b"\xff\xd9").shape == SMOOTH.shape
    refused(data[:-2] + again * 100 + b"\xff\xd9", ErrorCode.DECODE_FAILED, "more than 100 scans")
    refused(data[:2] + segment(0xE1, b"Exif\0\0" + bytes(10)) * 65 + data[2:], ErrorCode.DECODE_FAILED, "more than 64 segments of EXIF")
    refused(data[:2] + segment(0xFE, b"") * 5000 + data[2:], ErrorCode.DECODE_FAILED, "more than 4096 segments")
    assert decode(data[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"\xff\xda" * 30_000) * 2 + data[2:]).shape == SMOOTH.shape
    assert decode(data + data * 30).shape == SMOOTH.shape  # what stands behind the end is not looked at


def test_header_bomb_is_refused_without_decoding():
    """20,000 x 20,000 in a file that holds no pixels at all: were it decoded, it would be DECODE_FAILED."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    refused(data, ErrorCode.TOO_MANY_PIXELS, "20000x20000", "400000000", "max_pixels", max_pixels=100_000_000)
    refused(data, ErrorCode.DECODE_FAILED, max_pixels=400_000_000)


@pytest.mark.parametrize(
    "body",
    [
        b"VP8X" + struct.pack("<I", 10) + bytes(4) + (15_999).to_bytes(3, "little") * 2,
        b"VP8L" + struct.pack("<I", 6) + b"\x2f" + (15_999 | 15_999 << 14).to_bytes(4, "little") + b"\0",
        b"VP8 " + struct.pack("<I", 10) + b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_000, 16_000),
    ],
    ids=["extended", "lossless", "lossy"],
)
def test_webp_header_bomb(body):
    data = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    refused(data, ErrorCode.TOO_MANY_PIXELS, "16000x16000")


def test_pixel_cap_is_inclusive():
    data = save(Image.fromarray(NOISE), "JPEG")
    assert decode(data, max_pixels=960).shape == NOISE.shape
    refused(data, ErrorCode.TOO_MANY_PIXELS, "40x24 = 960 pixels", max_pixels=959)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("limit", [500, 900])  # Pillow would raise above twice its limit, and warn above it
def test_pillows_own_limit_neither_interferes_nor_warns(monkeypatch, image_format, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit // 3)
    data = save(Image.fromarray(NOISE), image_format)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).shape == NOISE.shape


def test_pillows_own_limit_on_webp_is_a_pair_error(monkeypatch):
    data = save(Image.fromarray(NOISE), "WEBP")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    code = None  # a Pillow whose WebP reader does not ask
    try:
        decode(data)
    except PairError as error:
        code = error.code
    assert code in (None, ErrorCode.TOO_MANY_PIXELS)


def test_probe():
    assert read_header(save(Image.fromarray(NOISE), "PNG")) == ("png", 40, 24)
    assert read_header(save(Image.fromarray(NOISE), "JPEG")) == ("jpeg", 40, 24)
    assert read_header(save(Image.fromarray(NOISE), "WEBP")) == ("webp", 40, 24)
    with pytest.raises(PairError) as caught:
        read_header(b"GIF89a")
    assert caught.value.code is ErrorCode.UNSUPPORTED_FORMAT
    with pytest.raises(PairError) as caught:
        read_header(save(Image.fromarray(NOISE), "PNG")[:20])
    assert caught.value.code is ErrorCode.DECODE_FAILED


# Size -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "size", "rule", "upsample", "expected"),
    [
        (640, 480, 320, "longest", False, (320, 240)),
        (480, 640, 320, "longest", False, (240, 320)),
        (640, 480, 320, "shortest", False, (427, 320)),
        (640, 480, 320, "area", False, (370, 277)),
        (300, 300, 512, "longest", False, (300, 300)),
        (300, 300, 512, "shortest", False, (300, 300)),
        (600, 300, 512, "area", False, (600, 300)),
        (600, 300, 512, "area", True, (724, 362)),
        (300, 200, 600, "longest", True, (600, 400)),
        (300, 200, 600, "shortest", True, (900, 600)),
        (10_000, 1, 512, "longest", False, (512, 1)),
        (1, 10_000, 512, "area", True, (5, 51_200)),
        (640, 480, 256, "exact", False, (256, 256)),
        (640, 480, "320x200", "exact", False, (320, 200)),
        (640, 480, "640x480", "exact", False, (640, 480)),
        (100, 100, "320x200", "exact", True, (320, 200)),
    ],
)
def test_target_shape(width, height, size, rule, upsample, expected):
    assert target_shape(width, height, size, rule, upsample) == expected


@pytest.mark.parametrize(("width", "height"), [(319, 400), (400, 199), (10, 10)])
def test_exact_does_not_grow_a_picture_unasked(width, height):
    with pytest.raises(PairError) as caught:
        target_shape(width, height, "320x200", "exact", False)
    assert caught.value.code is ErrorCode.TOO_SMALL
    assert "set upsample" in caught.value.message
    with pytest.raises(PairError, match=r"content b\.png: .*set upsample"):
        fit(np.zeros((height, width, 3), np.uint8), "320x200", "exact", False, what="content b.png")


def test_a_rule_and_a_size_that_do_not_go_together():
    with pytest.raises(ValueError, match="needs size_rule exact"):
        target_shape(10, 10, "320x200", "longest", False)
    with pytest.raises(ValueError, match="longest, shortest, area or exact"):
        target_shape(10, 10, 5, "widest", False)


def test_fit_that_changes_nothing_returns_the_pixels():
    assert np.array_equal(fit(NOISE, 512, "longest", False, what="x"), NOISE)
    assert np.array_equal(fit(NOISE, "40x24", "exact", False, what="x"), NOISE)


def test_fit_scales():
    ramp = np.repeat(np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], 64, axis=0), 3, axis=2)
    out = fit(ramp, 32, "longest", False, what="x")
    assert out.shape == (16, 32, 3)
    # a linear ramp stays one: each output pixel is the mean of the four it covers (kernel symmetric; the ends feel the edge)
    assert np.abs(out[8, 3:-3, 0].astype(float) - ramp[0, :, 0].reshape(32, 4).mean(axis=1)[3:-3]).max() <= 1
    flat = np.full((50, 70, 3), (12, 200, 77), np.uint8)
    assert (fit(flat, 33, "area", False, what="x") == (12, 200, 77)).all()


def test_what_comes_out_can_be_written_to():
    data = save(Image.fromarray(NOISE), "PNG")
    for size, rule in ((16, "longest"), (512, "longest"), (12, "exact")):
        assert fit(decode(data), size, rule, False, what="x").flags.writeable  # torch.from_numpy warns where not


def test_exact_crops_the_centre():
    assert np.array_equal(fit(NOISE, "20x24", "exact", False, what="x"), NOISE[:, 10:30])
    assert np.array_equal(fit(NOISE, "40x11", "exact", False, what="x"), NOISE[6:17])
    # thirds of one colour each: scaled to cover 40 x 40, a 120 x 40 picture keeps its middle third
    thirds = np.repeat(np.repeat(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8), 80, axis=1), 80, axis=0)
    out = fit(thirds, 40, "exact", False, what="x")
    assert out.shape == (40, 40, 3)
    assert (out[:, 3:-3] == (0, 255, 0)).all()  # the outermost columns feel their neighbours, as in scaling first and cropping then
    assert out[20, 0, 0] == out[20, -1, 2] == 14


def test_growing_past_the_pixel_cap_is_refused():
    strip = np.zeros((1, 10_000, 3), np.uint8)
    with pytest.raises(PairError, match=r"style s\.png: 10000x1 would grow to 5120000x512") as caught:
        fit(strip, 512, "shortest", True, what="style s.png")
    assert caught.value.code is ErrorCode.TOO_MANY_PIXELS
    assert fit(strip, 512, "shortest", False, what="x", max_pixels=1).shape == strip.shape  # its own size is no growth


# Encoding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_lossless_round_trip(image_format):
    data = encode(NOISE, image_format, None)
    assert read_header(data) == (image_format, 40, 24)
    assert np.array_equal(decode(data), NOISE)
    assert np.array_equal(decode(encode(NOISE[::-1, ::2], image_format)), NOISE[::-1, ::2])  # a view, not contiguous


@pytest.mark.parametrize(("image_format", "quality"), [("jpeg", None), ("jpeg", 60), ("webp", 90), ("png", None), ("webp", None)])
def test_bytes_depend_on_the_pixels_alone(image_format, quality):
    assert encode(SMOOTH, image_format, quality) == encode(SMOOTH.copy(), image_format, quality)


def test_lossy():
    assert np.abs(decode(encode(SMOOTH, "jpeg")).astype(int) - SMOOTH).mean() < 2
    assert np.abs(decode(encode(SMOOTH, "webp", 95)).astype(int) - SMOOTH).mean() < 4
    assert encode(SMOOTH, "jpeg") == encode(SMOOTH, "jpeg", 95) != encode(SMOOTH, "jpeg", 94)
    assert len(encode(NOISE, "jpeg", 30)) < len(encode(NOISE, "jpeg"))
    assert len(encode(NOISE, "webp", 30)) < len(encode(NOISE, "webp", 95)) < len(encode(NOISE, "webp"))


def test_jpeg_keeps_full_colour_resolution():
    frame = encode(SMOOTH, "jpeg", 80)
    at = frame.index(b"\xff\xc0") + 2  # SOF0: length 2, precision 1, height 2, width 2, components 1, then id, sampling, table
    assert [frame[at + 8 + 3 * i + 1] for i in range(3)] == [0x11, 0x11, 0x11]


def test_sides_too_long_for_the_format():
    long = np.zeros((1, 16_384, 3), np.uint8)
    with pytest.raises(PairError, match=r"16384 .*webp .*16383.*png") as caught:
        encode(long, "webp")
    assert caught.value.code is ErrorCode.TOO_MANY_PIXELS
    assert decode(encode(long, "jpeg")).shape == long.shape
    with pytest.raises(PairError, match="65500"):
        encode(np.zeros((65_501, 1, 3), np.uint8), "jpeg")
    assert decode(encode(np.zeros((65_501, 1, 3), np.uint8), "png")).shape == (65_501, 1, 3)


def test_misuse_of_encode():
    for pixels in (NOISE.astype(np.float32), NOISE[:, :, 0], np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            encode(pixels, "png")
    with pytest.raises(ValueError, match="no meaning for png"):
        encode(NOISE, "png", 90)
    with pytest.raises(ValueError, match="png, jpeg, webp or tiff"):
        encode(NOISE, "gif")


def test_extension():
    assert [extension(f) for f in ("png", "jpeg", "webp", "tiff")] == ["png", "jpg", "webp", "tiff"]
    with pytest.raises(ValueError, match="png, jpeg, webp or tiff"):
        extension("jpg")
