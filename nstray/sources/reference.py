"""What a reference to a member of an archive is, and where in its archive the member lies.

``ARCHIVE::MEMBER`` names a member. The archive's path or URI ends with .tar, .parquet or .arrow,
in any case; the first ``::`` behind such an ending separates. A member of a tar is its name there.
A member of a Parquet or Arrow file is ``COLUMN[ROW]``; ROW counts from 0 over the whole file.

A relative reference that begins with ``./`` is taken literally, whatever else is in it. Made
absolute it keeps the ``./`` if it would name a member without: ``/folder/./a.tar::b`` is the file
``a.tar::b``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TAR, PARQUET, ARROW = "tar", "parquet", "arrow"
KINDS = (TAR, PARQUET, ARROW)
# Reserved columns of a manifest: where contents and styles lie, and their archives' ETags.
AT_COLUMNS = {"content": "content_at", "style": "style_at"}
ETAG_COLUMNS = {"content": "content_etag", "style": "style_etag"}
PLACE_COLUMNS = (*AT_COLUMNS.values(), *ETAG_COLUMNS.values())

# What ends the name of an archive, with the separator behind it; also for RE2, in which Arrow
# matches whole columns.
SEPARATOR = r"(?i)\.(tar|parquet|arrow)::"
UNREAD_SEPARATOR = r"(?i)\.(tar\.\w+|tgz|tbz2?|txz|tzst|zip|7z|rar)::"
_MEMBER, _UNREAD = re.compile(SEPARATOR), re.compile(UNREAD_SEPARATOR)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CELL = re.compile(r"(.+)\[(\d{1,18})\]", re.DOTALL)
# Decimal numbers below 10**18, which an int64 holds.
_PLACE = re.compile(r"(\d{1,18}):(\d{1,18})(?::([0-9A-Fa-f]{8}))?", re.ASCII)
_PACKED = "is compressed as a whole, so that no member can be read without all before it"
_ADVICE = {
    "zip": "is a zip file, which nstray does not read: unpack it and name the files, or make a tar",
    "7z": "is a 7z file, which nstray does not read: unpack it and name the files, or make a tar",
    "rar": "is a rar file, which nstray does not read: unpack it and name the files, or make a tar",
}


def split_member(uri: str) -> tuple[str, str] | None:
    """(archive's URI, member) of a reference to a member of an archive; None of any other."""
    match = _MEMBER.search(uri)
    if match is None or uri.startswith("./") or is_literal(uri):
        return None
    if (unread := _UNREAD.search(uri)) is not None and unread.start() < match.start():
        return None
    return uri[: match.end() - 2], uri[match.end() :]


def kind_of(archive: str) -> str | None:
    """One of `KINDS` by the ending of a path or URI; None of anything that is no archive."""
    ending = archive.rpartition(".")[2].lower()
    return ending if ending in KINDS and "." in archive else None


def refusal(uri: str) -> str | None:
    """Why a reference names a member of an archive that can't be read, and what to do; else None.

    The text begins with a verb; what it is said of comes before it.
    """
    if uri.startswith("./") or (unread := _UNREAD.search(uri)) is None:
        return None
    if (match := _MEMBER.search(uri)) is not None and match.start() < unread.start():
        return None
    return unread_archive(uri[: unread.end() - 2])


def unread_archive(archive: str) -> str | None:
    """Why an archive is of a kind that can't be read by range, and what to do; else None."""
    match = _UNREAD.search(f"{archive}::")
    if match is None or match.end() != len(archive) + 2:
        return None
    ending = match[1].lower()
    return _ADVICE.get(ending, f"{_PACKED}: unpack it to a plain .tar, or to files")


def is_literal(uri: str) -> bool:
    """Whether an absolute reference has the ``./`` that makes it literal."""
    match = _MEMBER.search(uri)
    absolute = uri.startswith("/") or _SCHEME.match(uri) is not None
    return match is not None and absolute and "/./" in uri[: match.start()]


def file_of(uri: str) -> str:
    """The file that a reference leads to: the archive of a member, else the file itself."""
    if (found := split_member(uri)) is not None:
        return found[0]
    return uri.replace("/./", "/", 1) if is_literal(uri) else uri


def as_literal(uri: str) -> str:
    """The absolute reference to a file whose name looks like that of a member."""
    match = _MEMBER.search(uri)
    if match is None or is_literal(uri):
        return uri
    slash = uri.rfind("/", 0, match.start())
    return f"{uri[:slash]}/.{uri[slash:]}"


def parse_cell(member: str) -> tuple[str, int]:
    """(column, row) of a member of a Parquet or Arrow file; raises ValueError.

    A dot in the column's name is part of it: no child of a struct is named so.
    """
    match = _CELL.fullmatch(member)
    if match is None:
        raise ValueError(f"{member!r} is no cell: a member of such a file is COLUMN[ROW]")
    return match[1], int(match[2])


def check_member(uri: str) -> str | None:
    """What is wrong with the member that a reference names; None if nothing is, or it names none.

    A member of a tar is a relative path without ``..``.
    """
    found = split_member(uri)
    if found is None:
        return None
    archive, member = found
    if kind_of(archive) != TAR:
        try:
            parse_cell(member)
        except ValueError as error:
            return str(error)
        return None
    return check_tar_name(member)


def check_tar_name(name: str) -> str | None:
    """Why no member of this name is read from a tar; None if it is."""
    if not name:
        return "the member's name is empty"
    if name.startswith("/") or ".." in name.split("/"):
        return f"the member {name!r} leads out of its archive"
    if "\0" in name:
        return f"the member {name!r} has a NUL in its name"
    return None


@dataclass(frozen=True)
class Place:
    """Where a member lies in its archive, as the reserved columns of a manifest say it.

    Attributes:
        at: in a tar, offset of the member's data and its length, in bytes; in Parquet and Arrow,
            number of the row group or record batch and of the row inside it. None if only the
            archive's version is known.
        crc32: of the member's bytes (of the picture's, in Parquet and Arrow).
        etag: of the archive, as `nstray.storage.head` gives it.
    """

    at: tuple[int, int] | None = None
    crc32: int | None = None
    etag: str | None = None

    def __str__(self) -> str:
        """The text of the columns ``content_at`` and ``style_at``."""
        if self.at is None:
            return ""
        start, length = self.at
        return f"{start}:{length}" + ("" if self.crc32 is None else f":{self.crc32:08x}")


def parse_place(at: str | None, etag: str | None = None) -> Place | None:
    """The place that the values of the reserved columns name; None if they name none.

    Raises ValueError.
    """
    etag = etag.strip('"') if etag else None
    if at is None:
        return Place(etag=etag) if etag else None
    match = _PLACE.fullmatch(at)
    if match is None:
        raise ValueError(
            f"{at!r} is no place: it is OFFSET:LENGTH in a tar and GROUP:ROW in Parquet and Arrow, "
            "in decimal digits, with :CRC32 of 8 hexadecimal digits if there is one"
        )
    return Place((int(match[1]), int(match[2])), int(match[3], 16) if match[3] else None, etag)
