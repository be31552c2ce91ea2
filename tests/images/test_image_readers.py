"""nstray.images.readers against the installed Pillow: fails if a new version renames what it overrides."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from nstray.images.decode import decode
from nstray.images.readers import READERS, JpegReader

# The resolution's offset (tag 282, a rational) lies beyond the end of the block.
BROKEN_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x1a\0\x05\0\0\0\x01\0\0\xff\xff\0\0\0\0"


def jpeg(exif: bytes) -> bytes:
    """A JPEG without a density of its own, so that Pillow looks for one in its EXIF."""
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(out, format="jpeg", exif=exif)
    data = out.getvalue()
    at = data.index(b"JFIF\0") + 7
    return data[:at] + b"\0" + data[at + 1 :]  # density units: none


def test_pillow_reads_the_resolution_by_the_method_that_the_reader_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert issubclass(JpegReader, JpegImagePlugin.JpegImageFile)
    assert READERS["jpeg"] is JpegReader
    calls: list[object] = []
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "_read_dpi_from_exif", lambda image: calls.append(image))
    data = jpeg(BROKEN_EXIF)
    JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    assert len(calls) == 1, "Pillow no longer calls _read_dpi_from_exif while it opens a JPEG"
    JpegReader(io.BytesIO(data))
    assert len(calls) == 1


def test_broken_exif_warns_in_pillow_and_not_here() -> None:
    data = jpeg(BROKEN_EXIF)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        assert decode(data, what="content a.jpg", max_bytes=2**20, max_pixels=100).shape == (8, 8, 3)


@pytest.mark.parametrize("image_format", sorted(READERS))
def test_a_reader_opens_its_own_format(image_format: str) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(out, format=image_format)
    image = READERS[image_format](io.BytesIO(out.getvalue()))
    image.load()
    assert image.size == (6, 4)
