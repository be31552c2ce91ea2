"""What a listing yields: pictures, some thousand at a time, and what lies beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from nstray.storage import ObjectInfo

Shape = tuple[int, int]  # width and height, in pixels
# Columns that paths or other columns may tell: a listing does not miss them.
TOLD_BY_PATHS = ("label", "split")


@dataclass(frozen=True)
class Options:
    """What a listing reads besides the pictures' names.

    Attributes:
        any_ending: take loose files under other names that begin as pictures.
        column: the column of Parquet and Arrow, or the name behind the key in a tar, that pictures
            come from; None: the only one.
        columns: the columns to carry; None: all but other pictures.
        shapes: widths and heights, if they cost no request of their own.
        digests: the CRC32 of every member.
        option: the command's option that names `column`, for messages.
        own: the columns that nstray's own outputs have; of these, only ``pair_id`` is carried
            unless `columns` names others.
    """

    any_ending: bool = False
    column: str | None = None
    columns: tuple[str, ...] | None = None
    shapes: bool = False
    digests: bool = False
    option: str = "--content-column"
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pictures:
    """Pictures in order, all of one archive or all loose.

    Attributes:
        archive: the archive; None of loose files.
        uris: absolute references.
        relative: paths below the source's root, with the member of an archive: what names a
            picture, wherever the root lies.
        stems: names without folders and endings.
        at: places in the archive, as the columns ``content_at`` and ``style_at`` say them.
        columns: what the source says of each picture, with Arrow's metadata; None if nothing.
        shapes: as the decoder counts them, if they were asked for and the listing read them.
    """

    archive: ObjectInfo | None
    uris: list[str]
    relative: list[str]
    stems: list[str]
    at: list[str] | None = None
    columns: pa.Table | None = None
    shapes: list[Shape | None] | None = None


class Source(Protocol):
    """Pictures below a root, all in one kind of place.

    Attributes:
        kind: a noun in the singular, such as "tar archive".
        root: the URI of the folder that relative paths start from.
        archives: in order; empty for loose files.
        sidecars: whether columns come from files beside the pictures (tars).
    """

    kind: str
    root: str
    archives: Sequence[ObjectInfo]
    sidecars: bool

    def paths(self) -> Sequence[str]:
        """Relative paths of the loose pictures, or of the archives."""

    def names(self) -> Sequence[str] | None:
        """The columns that can be carried; None if the listing alone will tell."""

    def pictures(self) -> Iterator[Pictures]:
        """List; raises `ManifestError` for an archive that can't be listed, and `StorageError`."""

    def finish(self, raw: pa.Table) -> pa.Table:
        """Columns as `pictures` gave them, in the types that the whole listing showed."""

    def left_out(self) -> list[str]:
        """What of the root was not taken, a line for each reason; whole once it is listed."""


@dataclass
class Counts:
    """What was left out of archives, counted by reason, with the first of each."""

    numbers: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str, number: int = 1) -> None:
        self.numbers[reason] = self.numbers.get(reason, 0) + number
        self.first.setdefault(reason, example)

    def lines(self) -> list[str]:
        """``left out links in tars: 3 (the first: a.tar::b)``, a line for each reason."""
        return [
            f"left out {reason}: {number:,} (the first: {self.first[reason]})"
            for reason, number in self.numbers.items()
        ]


def stem(name: str) -> str:
    """A file's name without its folders and its ending."""
    last = name.rpartition("/")[2]
    return last.rpartition(".")[0] or last
