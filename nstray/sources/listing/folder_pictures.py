"""The pictures below a folder, by their names or first bytes, and what was left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nstray import storage
from nstray.errors import AccessDenied, NotFound, StorageError
from nstray.images.decode import format_of
from nstray.sources.reference import kind_of, unread_archive
from nstray.storage import ObjectInfo
from nstray.text import counted

# The endings of JPEG (those of MDN's "Image file type and format guide", and .jpe of Debian's
# mime.types), PNG and WebP.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".webp")
# Folders without a dot in front that programs leave among pictures, in lower case: macOS's zip and
# file servers, Windows, Linux's file systems, Python, and network disks of Synology, QNAP and
# NetApp.
PROGRAM_FOLDERS = frozenset(
    (
        *("__macosx", "network trash folder", "temporary items"),
        *("$recycle.bin", "recycler", "system volume information"),
        *("lost+found", "__pycache__"),
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        "~snapshot",
    )
)
# What `datasets.save_to_disk` writes beside its Arrow files.
_DATASET_FILES = ("state.json", "dataset_info.json", "dataset_dict.json")
_HEAD = 16  # bytes that tell the format
_LISTED = 8  # endings or folders in a line at most


@dataclass
class LeftOut:
    """The files of a folder that are not taken, counted by their endings.

    Attributes:
        folders: names of the hidden folders and of `PROGRAM_FOLDERS`, with the number of files
            below each.
        unread: number of files and folders below them that can't be listed or named.
        below: files below them.
        hidden: other files whose names begin with a dot.
        named: other files whose endings are not those of pictures.
        others: files that are no pictures by their first bytes.
        odd: what is no file, such as links to nothing, by what it is.
    """

    folders: Counter[str] = field(default_factory=Counter)
    unread: int = 0
    below: Counter[str] = field(default_factory=Counter)
    hidden: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    odd: dict[str, Counter[str]] = field(default_factory=dict)

    def lines(self, hint: str = "") -> list[str]:
        """A line for each reason, for a person.

        Args:
            hint: what follows the line of files that were judged by their endings.
        """
        out = []
        if self.folders:
            names = sorted(self.folders, key=lambda name: (-self.folders[name], name))
            unread = f", and {self.unread} that can't be read" if self.unread else ""
            out.append(
                f"{_files(self.below)} in hidden folders and those that programs leave "
                f"({_first([_shown(name) for name in names])}){unread}{_endings(self.below)}"
            )
        if self.hidden:
            out.append(f"{_files(self.hidden)} with a dot in front{_endings(self.hidden)}")
        if self.named:
            out.append(
                f"{_files(self.named)} without an ending of JPEG, PNG or WebP"
                f"{_endings(self.named)}{hint}"
            )
        if self.others:
            out.append(
                f"{_files(self.others)} that do not begin as JPEG, PNG or WebP"
                f"{_endings(self.others)}"
            )
        for what, counts in sorted(self.odd.items()):
            noun, _, rest = what.partition(" ")
            fetched = " (was the data fetched?)" if what == storage.LINK_TO_NOTHING else ""
            out.append(f"{_number(counts, noun)} {rest}{fetched}{_endings(counts)}")
        return [f"left out {line}" for line in out]


@dataclass(frozen=True)
class FolderPictures:
    """The pictures below a folder, sorted by their URIs, and what was left out.

    Attributes:
        archives: tars, Parquet and Arrow files in the order of their URIs, if they were asked for.
        packed: URIs of archives that can't be read by range; they are counted in `left_out` too.
        states: URIs of files called state.json, which `datasets.save_to_disk` writes.
    """

    uris: list[str]
    left_out: LeftOut
    archives: list[ObjectInfo] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    def why_none(self, hint: str = "") -> str:
        """Why the folder has no pictures; `hint` as `LeftOut.lines` takes it."""
        return "; ".join(self.left_out.lines(hint)) or (
            f"no files lie below it; a picture's name ends with {', '.join(ENDINGS)}"
        )


def below(folder: str, uri: str) -> str:
    """The path of a file from a folder that it lies below, wherever the folder lies."""
    return uri[len(folder.rstrip("/")) + 1 :]


def is_picture_name(path: str) -> bool:
    """Whether a file is a picture by its name's ending."""
    return storage.ending(path.rpartition("/")[2]) in ENDINGS


def begins_as_picture(uri: str) -> bool:
    """Whether a file begins as a JPEG, PNG or WebP; raises as `storage.read` does."""
    return format_of(storage.read_start(uri, _HEAD)) in ("jpeg", "png", "webp")


def find_pictures(
    folder: str, *, any_ending: bool = False, archives: bool = False
) -> FolderPictures:
    """The pictures below a folder or prefix.

    Files whose names begin with a dot are left out, and so are those below a folder that is hidden
    or one of `PROGRAM_FOLDERS`. Only names below `folder` count, not those of `folder` itself.

    Args:
        folder: absolute.
        any_ending: take a file without an ending of a picture if it begins as one. Files without
            such an ending are opened.
        archives: list tars, Parquet and Arrow files apart, which are left out otherwise.
    Raises: as `storage.list_files` does; `StorageError` for a picture whose name is not UTF-8, or
        for a folder whose name is not.
    """
    left_out = LeftOut()
    taken: list[str] = []
    found = FolderPictures(taken, left_out)
    unknown: list[str] = []

    def hide(path: str, name: str) -> bool:
        if (skipped := _skipped_folder(path)) is not None:
            left_out.folders[skipped] += 1
            left_out.below[_ending(name)] += 1
        elif name.startswith("."):
            # macOS puts a ._a.jpg beside every a.jpg.
            left_out.hidden[_ending(name)] += 1
        else:
            return False
        return True

    def put(uri: str, info: ObjectInfo | None = None) -> None:
        path = below(folder, uri)
        name = path.rpartition("/")[2]
        if hide(path, name):
            return
        if archives and name in _DATASET_FILES:
            if name == "state.json":
                found.states.append(uri)
            return
        if is_picture_name(name):
            taken.append(uri)
        elif archives and info is not None and kind_of(name) is not None:
            found.archives.append(info)
        elif any_ending:
            unknown.append(uri)
        else:
            left_out.named[_ending(name)] += 1
        if archives and not is_picture_name(name) and unread_archive(name) is not None:
            found.packed.append(uri)

    def on_error(path: str, error: StorageError) -> None:
        relative = below(folder, path)
        if (skipped := _skipped_folder(relative)) is not None:
            left_out.folders[skipped] += 0
            left_out.unread += 1
            return
        if relative and not relative.endswith("/"):
            pictures = len(taken) + len(unknown)
            put(path)
            if len(taken) + len(unknown) == pictures:
                return
        raise error

    def on_left_out(path: str, what: str) -> None:
        relative = below(folder, path)
        name = relative.rpartition("/")[2]
        if not hide(relative, name):
            left_out.odd.setdefault(what, Counter())[_ending(name)] += 1

    for info in storage.list_files(folder, on_error=on_error, on_left_out=on_left_out):
        put(info.uri, info)
    with ThreadPoolExecutor(storage.LIST_THREADS) as pool:
        for uri, picture in zip(unknown, pool.map(_looks_like_picture, unknown), strict=True):
            if picture:
                taken.append(uri)
            else:
                left_out.others[_ending(uri.rpartition("/")[2])] += 1
    taken.sort()
    return found


def _skipped_folder(path: str) -> str | None:
    """The first folder in `path` that is hidden or that programs leave."""
    if "/" not in path:
        return None
    for name in path.split("/")[:-1]:
        # S3 keys may hold the segments "." and "..".
        hidden = name.startswith(".") and name not in (".", "..")
        if hidden or name.lower() in PROGRAM_FOLDERS:
            return name
    return None


def _looks_like_picture(uri: str) -> bool:
    try:
        return begins_as_picture(uri)
    except (AccessDenied, NotFound):  # nobody has said that it is a picture
        return False


def _ending(name: str) -> str:
    """The ending of a file's name as it is counted."""
    found = storage.ending(name)
    return found if re.fullmatch(r"\.[a-z0-9_]{1,12}", found) else "without an ending"


def _files(counts: Counter[str]) -> str:
    return _number(counts, "file")


def _number(counts: Counter[str], noun: str) -> str:
    return counted(counts.total(), noun)


def _endings(counts: Counter[str]) -> str:
    """``: 12 .tif, 1 .txt``, the most frequent endings first; empty if nothing was counted."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ": " + _first([f"{number} {name}" for name, number in ordered]) if ordered else ""


def _shown(name: str) -> str:
    """A folder's name in a list, in quotes if it holds white space or a comma."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return repr(text) if re.search(r"[\s,]", text) else text


def _first(words: Sequence[str]) -> str:
    more = f" and {len(words) - _LISTED} more" if len(words) > _LISTED else ""
    return ", ".join(words[:_LISTED]) + more
