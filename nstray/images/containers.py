"""The chunks of a PNG and the segments and scans of a JPEG, checked before Pillow reads them.

What is refused here Pillow would warn about, read wrongly, or work on for hours.
"""

from __future__ import annotations

import re
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


def check_png(data: bytes) -> bytes:
    """The file without animation headers that are invalid.

    A header is invalid if it announces no frames or too many, or if it is not the only one. Such a
    PNG is a still picture (PNG third edition, section 13.13), and Pillow warns about it.

    Raises: ValueError if IHDR is not the first chunk, which Pillow does not check.
    """
    if len(data) >= 16 and data[12:16] != b"IHDR":
        raise ValueError("the first chunk is not IHDR")
    if b"acTL" not in data:
        return data
    headers = [(at, end) for kind, at, end in chunks(data) if kind == b"acTL"]
    if len(headers) == 1:
        start = headers[0][0]
        frames = int.from_bytes(data[start + 8 : start + 12], "big")
        if 1 <= frames < 2**31:
            return data
    edges = [0, *(edge for span in headers for edge in span), len(data)]
    return b"".join(data[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))


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
