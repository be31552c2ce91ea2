"""The chunks of a PNG or WebP and the segments of a JPEG: what decides the pixels is kept.

Everything else is left out before Pillow reads the file, because Pillow gives a picture up for a
fault in it: a text that is too long, a wrong checksum, a segment that is cut short. What is refused
here Pillow would read wrongly, or work on for hours.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

# A scan needs only ten bytes and goes over all blocks again: 64 MiB of scans over 100 million
# pixels take hours. libjpeg writes 10 scans.
_MAX_SCANS = 100
# A depth map of 64 MiB in extended XMP has 1,000 segments.
_MAX_SEGMENTS = 4096
# Segments of EXIF, 4 MiB. For each one Pillow copies all EXIF before it: 60 MB take half a minute.
# Cameras write one.
_MAX_EXIF = 64
# A marker with a length, or the end of the image; no fill, stuffing or restart.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_START_OF_SCAN, _END = 0xDA, 0xD9


def chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of every whole chunk of a PNG up to IEND.

    By PNG (third edition), section 5.3.
    """
    at = 8
    while at + 12 <= len(png):
        kind, end = png[at + 4 : at + 8], at + 12 + int.from_bytes(png[at : at + 4], "big")
        if end > len(png) or kind == b"IEND":
            return
        yield kind, at, end
        at = end


# What of a PNG decides the picture; iCCP and eXIf say how to show it.
_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"iCCP", b"acTL", b"fcTL"))
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_MOST_EXIF = 2**20  # bytes of a PNG's eXIf; the orientation stands near its start
_MOST_SEARCHES = 100  # for pixels behind a chunk of a wrong length


def clean_png(data: bytes) -> bytes:
    """The file with the chunks alone that decide the picture, and with an end.

    Left out are all other chunks, those of wrong checksums that the pixels do not need, and
    animation headers that are invalid: that announce no frames or too many, or that are not the
    only one (PNG third edition, section 13.13: such a PNG is a still picture). A last chunk that is
    cut short is left out unless it holds pixels, whose rows the decoder counts.

    Raises ValueError if IHDR is not the first chunk, if a palette is missing, or if a chunk of
    pixels has a wrong checksum.
    """
    if len(data) >= 16 and data[12:16] != b"IHDR":
        raise ValueError("the first chunk is not IHDR")
    kept: list[tuple[bytes, int, int]] = []
    for kind, at, end in _walk_png(data):
        whole = end <= len(data)
        right = whole and _checksum_is_right(data, at, end)
        if kind == b"IDAT" and whole and not right:
            raise ValueError("a chunk of pixels (IDAT) has a wrong checksum")
        if kind == b"IHDR":
            if kept:
                continue  # a second one
        elif kind != b"IDAT" and (
            not right or kind not in _PNG_KEPT or (kind == b"eXIf" and end - at > _MOST_EXIF)
        ):
            continue
        kept.append((kind, at, end))
    headers = [at for kind, at, end in kept if kind == b"acTL" and end - at == 20]
    frames = int.from_bytes(data[headers[0] + 8 : headers[0] + 12], "big") if headers else 0
    colours = data[25:26]  # 3: indices into a palette
    if colours == b"\3" and not any(kind == b"PLTE" for kind, _, _ in kept):
        raise ValueError("its palette (PLTE) is missing or has a wrong checksum")
    dropped = {b"PLTE"} if colours != b"\3" else set()
    kinds = [kind for kind, _, _ in kept]
    still = kinds.count(b"acTL") != 1 or not 1 <= frames < 2**31
    if frames == 1:  # the one frame is the picture itself if its header comes before the pixels
        still = still or b"fcTL" not in kinds or kinds.index(b"fcTL") < kinds.index(b"IDAT")
    if still:
        dropped |= {b"acTL", b"fcTL"}  # by fcTL Pillow counts frames
    pieces = [
        data[at:end] if end <= len(data) else _shortened(data, at, end)
        for kind, at, end in kept
        if kind not in dropped
    ]
    return b"".join([data[:8], *pieces, _PNG_END])


def _shortened(data: bytes, at: int, end: int) -> bytes:
    """A chunk of pixels whose end is not there, with what there is of it."""
    body = data[at + 4 : end - 4]
    size, checksum = len(body) - 4, zlib.crc32(body)
    return size.to_bytes(4, "big") + body + checksum.to_bytes(4, "big")


def _checksum_is_right(data: bytes, at: int, end: int) -> bool:
    found = zlib.crc32(memoryview(data)[at + 4 : end - 4])
    return found == int.from_bytes(data[end - 4 : end], "big")


def _walk_png(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of every chunk up to IEND; the last may end beyond the file.

    Behind a chunk of a wrong length the walk goes on with the next chunk of pixels.
    """
    at, searches = 8, 0
    while at + 8 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND":
            return
        if kind == b"IDAT" or _is_framed(data, at, end):
            yield kind, at, end
            at = end
            continue
        place = at + 4
        while (place := data.find(b"IDAT", place + 1)) >= 0 and searches < _MOST_SEARCHES:
            searches += 1
            start = place - 4
            end = start + 12 + int.from_bytes(data[start : start + 4], "big")
            if end <= len(data) and _checksum_is_right(data, start, end):
                at = start
                break
        else:
            return


def _is_framed(data: bytes, at: int, end: int) -> bool:
    """Whether the length of a chunk can be believed: another chunk follows, or its sum is right."""
    if end > len(data):
        return False
    following = data[end + 4 : end + 8]
    return (following.isalpha() and following.isascii()) or _checksum_is_right(data, at, end)


def check_jpeg(data: bytes) -> None:
    """Raise ValueError for a JPEG of more segments or scans than any camera or encoder writes."""
    if data.count(b"\xff") <= min(_MAX_SCANS, _MAX_SEGMENTS, _MAX_EXIF):
        return
    segments = scans = exif = 0
    at = 2
    while (marker := _MARKER.search(data, at)) and data[marker.start() + 1] != _END:
        segments += 1
        scans += data[marker.start() + 1] == _START_OF_SCAN
        exif += data.startswith(b"Exif\0\0", marker.end() + 2)
        for count, most, name in (
            (scans, _MAX_SCANS, "scans"),
            (exif, _MAX_EXIF, "segments of EXIF"),
            (segments, _MAX_SEGMENTS, "segments"),
        ):
            if count > most:
                raise ValueError(f"a JPEG of more than {most} {name}")
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")


# Segments of a JPEG's header that say how its pixels are coded, or how colours are stored: JFIF of
# 14 bytes and Adobe of 12, as libjpeg takes them for one. EXIF holds the orientation.
_JPEG_KEPT = ((0xE0, b"JFIF\0", 14), (0xEE, b"Adobe", 12), (0xE1, b"Exif\0\0", 6))
_ICC = b"ICC_PROFILE\0"
# Tables and frames (ITU-T T.81, table B.1). Other markers are comments, application data, or
# reserved.
_JPEG_CODING = frozenset((*range(0xC0, 0xD0), *range(0xDA, 0xE0)))


def clean_jpeg(data: bytes) -> bytes:
    """The file without the segments before its pixels that do not decide the picture."""
    pieces: list[bytes] = []
    at = start = 2
    while marker := _MARKER.search(data, at):
        kind, body = data[marker.start() + 1], marker.end() + 2
        length = int.from_bytes(data[marker.end() : body], "big")
        at = marker.end() + length
        if kind in (_START_OF_SCAN, _END) or length < 2 or at > len(data):
            break
        if kind in _JPEG_CODING or (kind == 0xE2 and data.startswith(_ICC, body)):
            continue
        if any(
            kind == one and data.startswith(name, body) and length - 2 >= least
            for one, name, least in _JPEG_KEPT
        ):
            continue
        pieces.append(data[start : marker.start()])
        start = at
    return b"".join([data[:2], *pieces, data[start:]]) if pieces else data


def end_of_jpeg(data: bytes) -> int | None:
    """Where the pixels of a JPEG without an end marker end; None if it has the marker.

    Bytes of 0 behind the pixels, as a disk fills a file up, are no pixels.

    Raises ValueError for such a JPEG if one of its scans is missing.
    """
    if data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda"):  # an end behind the last scan's start
        return None
    scans: list[tuple[int, int]] = []
    frame = at = 0
    for marker in _MARKER.finditer(data, 2):
        if marker.start() < at:
            continue
        kind = data[marker.start() + 1]
        if kind == _END:
            return None
        if kind in (0xC0, 0xC1, 0xC2):
            frame = marker.start()
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        at = marker.end() + length
        if kind == _START_OF_SCAN:
            scans.append((marker.end(), at))
    _check_scans(data, frame, scans)
    end = len(data)
    while end and data[end - 1] == 0:
        end -= 1
    if data[end - 1 : end] == b"\xff":  # half a marker, or a byte of pixels and what follows it
        end += 1 if end < len(data) else -1
    return end


def until_end(data: bytes) -> bytes:
    """A JPEG without its end marker and what follows it."""
    at, in_scan = 2, False
    while marker := _MARKER.search(data, at):
        kind = data[marker.start() + 1]
        if kind == _END and in_scan:
            return data[: marker.start()]
        in_scan = in_scan or kind == _START_OF_SCAN
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return data


def next_restarts(data: bytes) -> tuple[bytes, bytes]:
    """The two restart markers that come next in the last scan of a JPEG that ends in it.

    They count from 0 to 7 and begin again (ITU-T T.81, section E.1.4).
    """
    seen = re.findall(rb"\xff([\xd0-\xd7])", data[data.rfind(b"\xff\xda") :])
    number = seen[-1][0] + 1 if seen else 0xD0
    return bytes((0xFF, 0xD0 | number & 7)), bytes((0xFF, 0xD0 | (number + 1) & 7))


def _check_scans(data: bytes, frame: int, scans: list[tuple[int, int]]) -> None:
    """Raise ValueError unless the scans give every bit of every coefficient."""
    components = data[frame + 9] if frame else 0
    names = [data[frame + 10 + 3 * i] for i in range(components) if frame + 10 + 3 * i < len(data)]
    progressive = data[frame + 1] == 0xC2
    done: dict[int, set[int]] = {name: set() for name in names}
    for start, end in scans:
        body = data[start + 2 : end]
        if len(body) < 4 or len(body) < 4 + 2 * body[0]:
            break
        first, last, low = body[-3], body[-2], body[-1] & 15
        for i in range(body[0]):
            if not progressive:
                first, last, low = 0, 63, 0
            if low == 0 and body[1 + 2 * i] in done:
                done[body[1 + 2 * i]] |= set(range(first, min(last, 63) + 1))
    if not names or any(len(found) < 64 for found in done.values()):
        raise ValueError("it ends before its last scan")


def clean_webp(data: bytes) -> bytes:
    """The file with the chunks alone that decide a still picture, and with a right length.

    An animation, and a file without whole pixels, are given back as they are.
    """
    found: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        kind, end = data[at : at + 4], at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if kind in (b"ANMF", b"ANIM"):
            return data
        if kind in (b"VP8X", b"ICCP", b"ALPH", b"VP8 ", b"VP8L", b"EXIF") and end <= len(data):
            behind = b"VP8 " in found or b"VP8L" in found
            if kind not in found and not (behind and kind != b"EXIF"):
                found[kind] = data[at:end] + b"\0" * (end % 2)
        at = end + end % 2
    pixels = found.get(b"VP8 ") or found.get(b"VP8L")
    if pixels is None:
        return data
    if (canvas := found.get(b"VP8X")) is None or len(canvas) < 18:
        chunks_ = [pixels]
    else:
        kept = {0x10: True, 0x20: b"ICCP" in found, 0x08: b"EXIF" in found}
        flags = canvas[8] & sum(bit for bit, there in kept.items() if there)
        order = (b"ICCP", b"ALPH", b"VP8 ", b"VP8L", b"EXIF")
        header = canvas[:4] + b"\x0a\0\0\0" + bytes((flags, 0, 0, 0)) + canvas[12:18]
        chunks_ = [header, *(found[kind] for kind in order if kind in found)]
    size = 4 + sum(map(len, chunks_))
    return b"".join([b"RIFF", size.to_bytes(4, "little"), b"WEBP", *chunks_])
