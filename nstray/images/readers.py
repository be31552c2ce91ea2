"""Pillow's file readers by format, and the one private name of Pillow that nstray touches.

They are the plugins themselves, not `Image.open`. That one warns from 89 million pixels and refuses
from 179 million by a process-wide setting, whatever `max_pixels` says. It also opens a JPEG with a
second picture inside (as phones write them) as another format.
"""

from __future__ import annotations

from PIL import ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin


class JpegReader(JpegImagePlugin.JpegImageFile):
    """Pillow's JPEG reader without the resolution in EXIF.

    `_read_dpi_from_exif` is private: tests/images/test_image_readers.py fails if Pillow renames it.
    """

    def _read_dpi_from_exif(self) -> None:
        """Do nothing: no caller needs the resolution.

        On broken EXIF, Pillow's own warns, or loses the picture if warnings are errors.
        """


READERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegReader,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
}
