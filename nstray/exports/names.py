"""Names of folders and files from classes, splits, contents and styles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from nstray.errors import OutputError
from nstray.sources.reference import TAR, kind_of, parse_cell, split_member

_SPLIT = re.compile(r"\w+(\.\w+)*")  # what Hugging Face's datasets takes as the name of a split
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\%]")
_LONGEST = 200  # bytes of a name; file systems take 255


def safe_name(text: str) -> str:
    """`text` as the name of one folder or file, the same text for the same name.

    ``/``, ``\\``, ``%``, control characters and a dot at the beginning are percent-encoded, so
    ``..`` is ``%2E.``. Raises `OutputError` for an empty text and for more than 200 bytes.
    """
    name = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", text)
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if not name or len(name.encode()) > _LONGEST:
        what = f"{text[:60]!r}... is too long" if name else "an empty text is nothing"
        raise OutputError(f"{what} for the name of a folder; use another column, or --join")
    return name


def check_split(name: str) -> None:
    """Raise `OutputError` for a name of a split that Hugging Face's datasets refuses."""
    if not _SPLIT.fullmatch(name) or len(name.encode()) > _LONGEST:
        raise OutputError(
            f"split {name[:60]!r}: a split's name has letters, digits, _ and single dots between "
            "them; bring other names by --join, or use --split-by"
        )


def stem(uri: str, split: str, label: str) -> str:
    """The name of a content relative to its class folder, without its ending.

    It is what follows SPLIT/LABEL or LABEL/SPLIT in its path, else what follows the last folder
    called LABEL, else its last component. Components are safe names with slashes between them.
    """
    path = _path(uri)
    parts = [
        p for p in re.split(r"/|::", path.partition("://")[2] or path) if p not in ("", ".", "..")
    ]
    begin = _behind(parts[:-1], split, label)
    rest = parts[begin:] or [label]
    rest[-1] = rest[-1].rpartition(".")[0] or rest[-1]
    return "/".join(map(_shortened, rest))


def _path(uri: str) -> str:
    """A URI; of a cell ``data/x.parquet::image[17]``, which has no name, ``data/x-17.parquet``."""
    found = split_member(uri)
    if found is None or kind_of(found[0]) == TAR:
        return uri
    try:
        _, row = parse_cell(found[1])
    except ValueError:
        return uri
    name, _, ending = found[0].rpartition(".")
    return f"{name}-{row}.{ending}"


def _behind(folders: Sequence[str], split: str, label: str) -> int:
    """The index behind the class folder in a path; that of the file itself if there is none."""
    for i, pair in enumerate(pairwise(folders)):
        if pair in ((split, label), (label, split)):
            return i + 2
    found = [i + 1 for i, folder in enumerate(folders) if folder == label]
    return found[-1] if found else len(folders)


def style_name(uris: Sequence[str] | None) -> str:
    """The names of the styles of a pair, without their endings and with + between them."""
    names = [re.split(r"/|::", _path(uri))[-1] for uri in uris or ()]
    return _shortened("+".join(name.rpartition(".")[0] or name for name in names) or "no-style")


def _shortened(text: str) -> str:
    """A safe name of at most 60 characters; what is cut off makes two names alike at most."""
    return safe_name(text[:60].encode()[:120].decode("utf-8", "ignore") or "_")
