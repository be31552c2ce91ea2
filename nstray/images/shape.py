"""The shape of a picture from the first bytes of its file."""

from __future__ import annotations

from nstray.errors import PairError
from nstray.images import decode

_EXIF_FLAG = 0x08  # of a WebP's VP8X chunk (RFC 9649, section 2.7.1): an EXIF chunk follows


def shape_of_start(data: bytes, *, whole: bool = False) -> tuple[int, int] | None:
    """Width and height as `decode` returns the picture, upright; None if `data` does not tell.

    The orientation of a PNG counts if it stands before the pixels, unless the file is whole.

    Args:
        data: the file's first bytes.
        whole: there are no more. Then a WebP may have an orientation at its end.
    """
    try:
        if decode.format_of(data) == "webp" and not whole:
            rotated = data[12:16] == b"VP8X" and data[20] & _EXIF_FLAG
            return None if rotated else decode.webp_size(data)
        return decode.upright_size(data)
    except (PairError, ValueError, IndexError):
        return None
