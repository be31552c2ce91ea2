"""A picture whose pixels are whole is a picture, whatever stands beside them; a picture that lacks pixels never is."""

from __future__ import annotations

import contextlib
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from corpus.case import SIGNATURE, base, chunk, header, riff, save, segment
from PIL import Image

from nstray.errors import ErrorCode, PairError
from nstray.images.decode import decode

RGB = base()
PNG, JPEG, WAVES = save(RGB, "PNG"), save(RGB, "JPEG", quality=90), save(RGB, "JPEG", quality=90, progressive=True)
RESTARTS, GREY = save(RGB, "JPEG", restart_marker_blocks=1), save(RGB.convert("L"), "JPEG")
LOSSY, LOSSLESS = save(RGB, "WEBP", quality=80), save(RGB, "WEBP", lossless=True)
PALETTE = save(RGB.quantize(16), "PNG")
ROWS = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(RGB)))
NOISE = np.random.default_rng(3).bytes(4000)


def pixels(data: bytes) -> Any:
    return decode(data, what="x", max_bytes=2**30, max_pixels=10**7)


def lacks(data: bytes) -> str:
    with pytest.raises(PairError) as caught:
        pixels(data)
    assert caught.value.code == ErrorCode.DECODE_FAILED
    return caught.value.message


def wrong_sum(kind: bytes, body: bytes = b"") -> bytes:
    good = chunk(kind, body)
    return good[:-1] + bytes([good[-1] ^ 1])


def png(*pieces: bytes) -> bytes:
    return SIGNATURE + header(*RGB.size) + b"".join(pieces)


IDAT, END = chunk(b"IDAT", ROWS), chunk(b"IEND")
LONG = zlib.compress(bytes(70 << 20), 9)
ANCILLARY = {
    b"tEXt": b"Title\0x",
    b"zTXt": b"a\0\0junk",
    b"iTXt": b"a\0\1\0\0\0junk",
    b"eXIf": b"II*\0" + bytes(20),
    b"iCCP": b"a\0\0junk",
    b"gAMA": bytes(4),
    b"cHRM": b"x",
    b"sRGB": b"",
    b"pHYs": bytes(9),
    b"tIME": b"x",
    b"bKGD": b"",
    b"sBIT": b"xx",
    b"hIST": b"x",
    b"PLTE": bytes(7),
    b"acTL": b"x",
    b"fcTL": bytes(26),
    b"fdAT": bytes(30),
    b"caBX": b"x" * 100,
    b"prVt": b"x",
    b"XXXX": b"a critical chunk of unknown kind",
    b"\0\0\0\0": b"",
}
PNGS = {
    **{f"{kind!r} before": png(chunk(kind, body), IDAT, END) for kind, body in ANCILLARY.items()},
    **{f"{kind!r} behind": png(IDAT, chunk(kind, body), END) for kind, body in ANCILLARY.items()},
    **{f"{kind!r} of a wrong sum before": png(wrong_sum(kind, body), IDAT, END) for kind, body in ANCILLARY.items()},
    **{f"{kind!r} of a wrong sum behind": png(IDAT, wrong_sum(kind, body), END) for kind, body in ANCILLARY.items()},
    "transparency of a wrong sum": png(wrong_sum(b"tRNS", bytes(6)), IDAT, END),
    "text of 70 MB": png(chunk(b"tEXt", b"a\0" + bytes(70 << 20)), IDAT, END),
    "packed text of 70 MB": png(chunk(b"zTXt", b"a\0\0" + LONG), IDAT, END),
    "international text of 70 MB": png(chunk(b"iTXt", b"a\0\1\0\0\0" + LONG), IDAT, END),
    "100 texts of 1 MB": png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 100, IDAT, END),
    "EXIF of 3 MB": png(chunk(b"eXIf", b"II*\0" + bytes(3 << 20)), IDAT, END),
    "text of a wrong length": png(struct.pack(">I", 5) + b"tEXta\0" + bytes(100), IDAT, END),
    "text of a huge length": png(struct.pack(">I", 2**31 - 1) + b"tEXta\0" + bytes(100), IDAT, END),
    "text between pixels": png(chunk(b"IDAT", ROWS[:500]), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", ROWS[500:]), END),
    "empty pixels first": png(chunk(b"IDAT"), IDAT, END),
    "bytes behind the pixels": png(chunk(b"IDAT", ROWS + b"junk"), END),
    "text cut short behind": png(IDAT, chunk(b"tEXt", b"a\0" + bytes(100))[:50]),
    "no end": png(IDAT),
    "half an end": png(IDAT, END[:6]),
    "an end of a wrong sum": png(IDAT, END[:-1] + b"\0"),
    "no sum of the pixels": png(IDAT[:-4]),
    "no sum inside the pixels": png(IDAT[:-8]),
    "a megabyte behind the end": png(IDAT, END, bytes(1 << 20)),
}


@pytest.mark.parametrize("name", PNGS)
def test_whole_pixels_of_a_png(name: str) -> None:
    assert np.array_equal(pixels(PNGS[name]), np.asarray(RGB))


def test_a_png_of_one_frame_is_still_and_of_two_is_not() -> None:
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, *RGB.size, 0, 0, 1, 10, 0, 0))
    one, two = (chunk(b"acTL", struct.pack(">II", n, 0)) for n in (1, 2))
    for whole in (png(one, frame, IDAT, END), png(one, IDAT, END), png(frame, IDAT, END), png(two, two, frame, IDAT, END)):
        assert np.array_equal(pixels(whole), np.asarray(RGB))
    data = chunk(b"fdAT", bytes(4) + ROWS)
    for moving in (png(two, frame, IDAT, frame, data, END), png(two, IDAT, END), png(one, IDAT, frame, data, END)):
        with pytest.raises(PairError, match="animated PNG"):
            pixels(moving)


def test_a_png_that_lacks_pixels() -> None:
    flipped = bytearray(IDAT)
    flipped[len(flipped) // 2] ^= 1
    assert "a chunk of pixels (IDAT) has a wrong checksum" in lacks(png(bytes(flipped), END))
    assert "wrong checksum" in lacks(png(wrong_sum(b"IDAT", ROWS), END))
    assert "wrong checksum" in lacks(png(chunk(b"IDAT", ROWS[:500]), wrong_sum(b"IDAT", ROWS[500:]), END))
    assert "wrong checksum" in lacks(png(bytes(flipped), chunk(b"tEXt", b"a\0b"), END))
    for cut in (60, 200, len(IDAT) // 2, len(IDAT) - 9):
        lacks(png(IDAT[:-cut]))
        lacks(png(chunk(b"IDAT", ROWS[:-cut]), END))
    lacks(png(chunk(b"IDAT", ROWS[:400]), END, chunk(b"IDAT", ROWS[400:])))
    lacks(png(END))
    lacks(SIGNATURE + wrong_sum(b"IHDR", header(*RGB.size)[8:-4]) + IDAT + END)


def test_a_palette_is_part_of_the_pixels() -> None:
    at = PALETTE.index(b"PLTE") - 4
    end = at + 12 + int.from_bytes(PALETTE[at : at + 4], "big")
    assert "palette" in lacks(PALETTE[:at] + PALETTE[end:])
    assert "palette" in lacks(PALETTE[: end - 1] + bytes([PALETTE[end - 1] ^ 1]) + PALETTE[end:])
    assert pixels(PALETTE).shape == (*RGB.size[::-1], 3)


def test_a_png_s_orientation_and_transparency_stay() -> None:
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    for pieces in ((chunk(b"eXIf", exif), IDAT), (IDAT, chunk(b"eXIf", exif))):
        assert pixels(png(*pieces, END)).shape == (*RGB.size, 3)
    colour = tuple(int(v) for v in np.asarray(RGB)[3, 5])
    clear = pixels(png(chunk(b"tRNS", struct.pack(">HHH", *colour)), IDAT, END))
    assert clear[3, 5].tolist() == [255, 255, 255]


HEADERS = {
    "EXIF that is junk": segment(0xE1, b"Exif\0\0junk"),
    "EXIF that is noise": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + NOISE),
    "XMP cut short": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x"),
    "an index of pictures that is junk": segment(0xE2, b"MPF\0junk"),
    "an index of pictures of none": segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + bytes(40)),
    "a profile that is junk": segment(0xE2, b"ICC_PROFILE\0\1\1junk"),
    "JFIF cut short": segment(0xE0, b"JFIF\0"),
    "JFIF cut later": segment(0xE0, b"JFIF\0\1\2\1"),
    "Adobe cut short": segment(0xEE, b"Adobe\0"),
    "Adobe cut later": segment(0xEE, b"Adobe\0\x64\0\0"),
    "Photoshop's that is junk": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\xff\xff\xff\xffx"),
    "content credentials": segment(0xEB, b"JP\0\0" + NOISE),
    "an empty segment": segment(0xE5),
    "a reserved marker": segment(0x02, b"ab"),
    "a marker of JPEG extensions": segment(0xF8, b"ab"),
    "a comment of 64 KB": segment(0xFE, bytes(65_000)),
    "fill": b"\xff" * 100,
}


@pytest.mark.parametrize("name", HEADERS)
def test_whole_pixels_of_a_jpeg(name: str) -> None:
    for data in (JPEG, WAVES, GREY):
        assert np.array_equal(pixels(data[:2] + HEADERS[name] + data[2:]), pixels(data))


@pytest.mark.parametrize("data", [JPEG, WAVES, GREY, RESTARTS], ids=["baseline", "progressive", "grey", "restarts"])
def test_a_jpeg_without_its_end_marker_is_whole_or_is_refused(data: bytes) -> None:
    whole = pixels(data)
    for end in (data[:-2], data[:-1], data[:-2] + bytes(5000), data + bytes(5000), data + NOISE, data + data):
        assert np.array_equal(pixels(end), whole)
    found = 0
    for cut in range(3, min(len(data) - 330, 500)):
        for tail in (b"", bytes(700)):
            with contextlib.suppress(PairError):
                assert np.array_equal(pixels(data[:-cut] + tail), whole), cut
                found += 1  # the last byte of some holds nothing but the end of a block
    assert found < 5


LARGE = {mode: base(mode, 163, 97) for mode in ("RGB", "L", "CMYK")}


@pytest.mark.parametrize(
    "data",
    [save(LARGE["RGB"], "JPEG"), save(LARGE["RGB"], "JPEG", restart_marker_blocks=2), save(LARGE["L"], "JPEG"), save(LARGE["CMYK"], "JPEG")],
    ids=["rgb", "restarts", "grey", "cmyk"],
)
def test_an_end_marker_that_comes_too_early_is_no_end(data: bytes) -> None:
    start = data.index(b"\xff\xda") + 20
    for cut in (start, (start + len(data)) // 2, len(data) - 250):
        kept = data[:cut].rstrip(b"\xff")
        assert "its pixels end too early" in lacks(kept + b"\xff\xd9")
        assert "its pixels end too early" in lacks(kept + b"\xff\xd9" + data)


def test_a_grey_picture_is_no_missing_one() -> None:
    for mode, colour in (("RGB", (128, 128, 128)), ("L", 128), ("RGB", (127, 127, 127)), ("CMYK", (127, 127, 127, 127))):
        data = save(Image.new(mode, (50, 30), colour), "JPEG")
        assert pixels(data).shape == (30, 50, 3)
        assert pixels(data + b"more").shape == (30, 50, 3)


def test_a_progressive_jpeg_that_ends_between_two_scans_is_refused() -> None:
    starts = [at for at in range(len(WAVES)) if WAVES.startswith(b"\xff\xda", at)]
    assert len(starts) > 5
    for at in starts[1:]:
        assert "it ends before its last scan" in lacks(WAVES[:at])


def test_a_jpeg_s_colours_follow_its_own_markers() -> None:
    assert np.array_equal(pixels(JPEG[:2] + JPEG[20:]), pixels(JPEG))  # without JFIF, which says nothing else
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")  # the three components are red, green and blue
    assert not np.array_equal(pixels(JPEG[:2] + adobe + JPEG[20:]), pixels(JPEG))
    cmyk = save(base("CMYK"), "JPEG")
    assert np.array_equal(pixels(cmyk[:2] + segment(0xE1, b"Exif\0\0junk") + cmyk[2:]), pixels(cmyk))


VP8 = (b"VP8 ", LOSSY[20 : 20 + int.from_bytes(LOSSY[16:20], "little")])


def extended(flags: int, *chunks: tuple[bytes, bytes]) -> bytes:
    width, height = (side - 1 for side in RGB.size)
    return riff((b"VP8X", bytes((flags, 0, 0, 0)) + width.to_bytes(3, "little") + height.to_bytes(3, "little")), *chunks)


def of_length(data: bytes, length: int) -> bytes:
    return data[:4] + struct.pack("<I", length) + data[8:]


WEBPS = {
    "EXIF that is junk": extended(8, VP8, (b"EXIF", b"junk")),
    "EXIF twice": extended(8, VP8, (b"EXIF", b"a"), (b"EXIF", b"b")),
    "EXIF announced and missing": extended(8, VP8),
    "EXIF cut short": extended(8, VP8, (b"EXIF", bytes(100)))[:-50],
    "EXIF of a wrong length": extended(8, VP8) + b"EXIF\xff\xff\xff\x7fabc",
    "no byte of padding": extended(8, VP8, (b"EXIF", b"abc"))[:-1],
    "XMP that is junk": extended(4, VP8, (b"XMP ", b"<x")),
    "a profile that is junk": extended(0x20, (b"ICCP", b"junk"), VP8),
    "a profile announced and missing": extended(0x20, VP8),
    "a profile behind the pixels": extended(0x20, VP8, (b"ICCP", b"junk")),
    "chunks of unknown kind": extended(0, (b"ABCD", b"abc"), VP8, (b"EFGH", b"x")),
    "reserved flags": extended(0xC1, VP8),
    "an animation announced and missing": extended(2, VP8),
    "length too large": of_length(LOSSY, len(LOSSY) + 1000),
    "length of 4 GiB": of_length(LOSSY, 2**32 - 1),
    "length too small": of_length(LOSSY, len(LOSSY) - 20),
    "length of zero": of_length(LOSSY, 0),
    "length too large, with EXIF": of_length(extended(8, VP8, (b"EXIF", b"junk")), 10**6),
    "length too small, with EXIF": of_length(extended(8, VP8, (b"EXIF", b"junk" * 20)), 100),
    "bytes behind": LOSSY + bytes(1000),
}


@pytest.mark.parametrize("name", WEBPS)
def test_whole_pixels_of_a_webp(name: str) -> None:
    assert np.array_equal(pixels(WEBPS[name]), pixels(LOSSY))


def test_a_webp_that_lacks_pixels() -> None:
    for data in (LOSSY, LOSSLESS, extended(8, VP8)):
        for cut in (5, 60, len(data) // 2):
            lacks(data[:-cut])
            lacks(of_length(data[:-cut], len(data) - cut - 8))


def test_alpha_and_orientation_of_a_webp_stay() -> None:
    clear = save(base("RGBA"), "WEBP", quality=60)
    assert np.array_equal(pixels(of_length(clear, 10**6)), pixels(clear))
    assert not np.array_equal(pixels(clear), pixels(LOSSY))
    turned = Image.Exif()
    turned[0x0112] = 6
    data = save(RGB, "WEBP", exif=turned)
    assert pixels(of_length(data, 0)).shape == (*RGB.size, 3)
