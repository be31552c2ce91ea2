"""Files that are no JPEG, PNG or WebP: what they look like, for the message.

The names are values of the column ``error_message``: a new version may add names, not change them.
"""

from __future__ import annotations

from nstray.errors import ErrorCode, PairError
from nstray.text import counted

# Offset, magic bytes and name: images of formats that nstray does not read.
_OTHER_IMAGES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"BM", "BMP"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    *((0, b"P%d\n" % n, "Netpbm") for n in range(1, 8)),
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    *(
        (4, b"ftyp" + brand, "HEIC")
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    ),
)
# The same for files that are no images.
_NO_IMAGES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"PK\5\6", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd data"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PAR1", "a Parquet file"),
    (4, b"ftyp", "an MP4 or QuickTime video"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (0, b"RIFF", "a RIFF file that is not WebP (sound or video)"),
)


def refusal(data: bytes, what: str) -> PairError:
    """The error for a file that is no JPEG, PNG or WebP; it says what the file looks like.

    Its code is UNSUPPORTED_FORMAT for an image of another format, else NOT_AN_IMAGE.

    Args:
        what: role and URI of the file, for the message.
    """
    for offset, magic, name in _OTHER_IMAGES:
        if data.startswith(magic, offset):
            return _unsupported(what, name)
    for offset, magic, name in _NO_IMAGES:
        if data.startswith(magic, offset):
            return PairError(ErrorCode.NOT_AN_IMAGE, f"{what}: not an image, it looks like {name}")
    head = data[:4096]
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = head.decode(encoding, errors="ignore").lstrip().lower()
    printable = bool(text) and all(c.isprintable() or c.isspace() for c in text)
    name = f"{counted(len(data), 'byte')} of no known kind"
    if printable:
        name = "text"
        if text.startswith("version https://git-lfs"):
            name = "a Git LFS pointer (fetch the file itself with git lfs pull)"
        elif "<!doctype html" in text or "<html" in text:
            name = "an HTML page"
        elif "<svg" in text:
            return _unsupported(what, "SVG")
        elif text.startswith("<?xml"):
            name = "an XML document"
        elif text.startswith(("{", "[")):
            name = "JSON"
    return PairError(ErrorCode.NOT_AN_IMAGE, f"{what}: not an image, it looks like {name}")


def _unsupported(what: str, name: str) -> PairError:
    return PairError(
        ErrorCode.UNSUPPORTED_FORMAT,
        f"{what}: a picture of format {name}; convert it to JPEG, PNG or WebP",
    )
