"""How a PNG and a JPEG are put together: chunks, segments and scans, walked before Pillow reads them.

What is refused here is what Pillow would warn about, take wrongly, or work on for hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Each scan goes over all blocks anew, and needs but ten bytes: 64 MiB of them over 100 million pixels take hours. libjpeg writes 10 scans.
_MAX_SCANS = 100
_MAX_SEGMENTS = 4096  # a depth map of 64 MiB in extended XMP has 1,000
_MAX_EXIF = 64  # segments, 4 MiB; for each Pillow copies all the EXIF before it: 60 MB of it take half a minute. Cameras write one.
_MARKER = re.compile(
    rb"\xff[^\x00\x01\xd0-\xd8\xff]"
)  # one that has a length, or the end; no fill, stuffing or restart
_START_OF_SCAN, _END = 0xDA, 0xD9


def chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of every whole chunk of a PNG up to IEND (PNG third edition, section 5.3)."""
    at = 8
    while at + 12 <= len(png):
        kind, end = png[at + 4 : at + 8], at + 12 + int.from_bytes(png[at : at + 4], "big")
        if end > len(png) or kind == b"IEND":
            return
        yield kind, at, end
        at = end


def check_png(data: bytes) -> bytes:
    """The file without an animation's header that announces none: no frames, too many, or a second header.

    Such a PNG is a still picture (PNG third edition, section 13.13), and Pillow warns of it. Raises ValueError where IHDR is not
    first, which Pillow does not ask for.
    """
    if len(data) >= 16 and data[12:16] != b"IHDR":
        raise ValueError("the first chunk is not IHDR")
    if b"acTL" not in data:
        return data
    found = [(at, end) for kind, at, end in chunks(data) if kind == b"acTL"]
    if (
        len(found) == 1
        and 1 <= int.from_bytes(data[found[0][0] + 8 : found[0][0] + 12], "big") < 2**31
    ):
        return data
    edges = [0, *(edge for span in found for edge in span), len(data)]
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
