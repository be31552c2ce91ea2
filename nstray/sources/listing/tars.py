"""Tars as a source, with the sidecars of WebDataset: files of a picture's key beside it.

A key is a member's path up to the first dot of its last part. Members of one key stand one after
the other; that is how WebDataset reads them.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from nstray.config import JobConfig
from nstray.errors import ManifestError
from nstray.images.shape import shape_of_start
from nstray.sources.listing.ahead import in_order
from nstray.sources.listing.folder_pictures import below, is_picture_name
from nstray.sources.listing.pictures import Counts, Options, Pictures, Shape, stem
from nstray.sources.listing.sidecars import KINDS, MOST_BYTES, Sidecars
from nstray.sources.ranged_file import RangedFile
from nstray.sources.reference import Place
from nstray.sources.tar import FOLDER, NO_FILE, TarMember, walk
from nstray.storage import ObjectInfo
from nstray.text import counted

_BATCH = 2048  # pictures
_HEAD = 64 * 1024  # bytes that tell the shape of nearly every picture
_PIECE = 2**19  # bytes that are read at once
MAX_PICTURE: int = JobConfig.model_fields["max_bytes"].default  # bytes that are read for a shape


@dataclass
class _Picture:
    member: str
    kind: str  # what follows the key
    at: str
    shape: Shape | None


@dataclass
class _Key:
    """The members of one key so far."""

    key: str
    pictures: list[_Picture] = field(default_factory=list)
    sidecars: dict[str, str | None] = field(default_factory=dict)


class TarPictures:
    """The pictures of tars; see `pictures.Source`."""

    kind = "tar archive"
    sidecars = True

    def __init__(
        self, root: str, archives: Sequence[ObjectInfo], options: Options, left_out: list[str]
    ) -> None:
        self.root, self.archives, self._options = root, archives, options
        self._left_out, self._counts = left_out, Counts()
        self._sidecars = Sidecars(options.columns)
        self._beside: Counter[str] = Counter()  # kinds of pictures left out beside others

    def paths(self) -> Sequence[str]:
        return [below(self.root, info.uri) for info in self.archives]

    def names(self) -> Sequence[str] | None:
        return None

    def pictures(self) -> Iterator[Pictures]:
        found = 0
        for batch in in_order(self.archives, self._list):
            found += len(batch.uris)
            yield batch
        if not found:
            chosen = f" of the kind {self._options.column}" if self._options.column else ""
            raise ManifestError(
                f"{self.archives[0].uri}: no pictures{chosen} in "
                f"{counted(len(self.archives), 'tar archive')}: a member's name ends with .jpg, "
                f".png, .webp or another ending of these formats{self._reasons()}"
            )

    def _reasons(self) -> str:
        return "".join(f"; {line}" for line in self._counts.lines())

    def finish(self, raw: pa.Table) -> pa.Table:
        return self._sidecars.finish(raw)

    def left_out(self) -> list[str]:
        lines = [*self._left_out, *self._counts.lines()]
        if self._beside:
            kinds = ", ".join(f"{number} {kind}" for kind, number in self._beside.most_common())
            lines.append(
                f"left out pictures beside others of their key: {kinds}; {self._options.option} "
                f"{self._beside.most_common(1)[0][0]} takes these"
            )
        return lines

    def _list(self, info: ObjectInfo) -> Iterator[Pictures]:
        archive = below(self.root, info.uri)
        names: set[str] = set()
        pictures: list[_Picture] = []
        rows: list[dict[str, str | None]] = []
        for key in self._keys(info, names):
            taken = self._choose(info, key)
            if key.sidecars and not taken:
                self._counts.add(
                    "keys of tars with sidecars and no picture", f"{info.uri}::{key.key}"
                )
            pictures += taken
            rows += [key.sidecars] * len(taken)
            if len(pictures) >= _BATCH:
                yield self._pictures(info, archive, pictures, rows)
                pictures, rows = [], []
        if pictures:
            yield self._pictures(info, archive, pictures, rows)

    def _keys(self, info: ObjectInfo, names: set[str]) -> Iterator[_Key]:
        """The members of each key that nstray reads.

        Raises: `ManifestError` for two of one name.
        """
        here = _Key("")

        file = RangedFile(info.uri, info.etag)
        for member in walk(info.uri, file):
            if (reason := _reason(member)) is not None:
                shown = member.name.encode(errors="replace").decode()
                self._counts.add(reason, f"{info.uri}::{shown}")
                continue
            key, kind = split_key(member.name)
            picture = is_picture_name(member.name)
            if member.refused is not None or (not picture and kind not in KINDS):
                continue
            if member.name in names:
                raise ManifestError(
                    f"{info.uri}: two members are called {member.name}; which one a reference "
                    "would mean can't be told: write the tar anew with distinct names"
                )
            names.add(member.name)
            if key != here.key:
                if here.pictures or here.sidecars:
                    yield here
                here = _Key(key)
            if picture:
                here.pictures.append(self._picture(_Data(file, member), kind))
            elif self._sidecars.wanted(kind):
                here.sidecars[kind] = self._sidecar(info, _Data(file, member), kind)
        if here.pictures or here.sidecars:
            yield here

    def _picture(self, data: _Data, kind: str) -> _Picture:
        member, digest, shape = data.member, None, None
        if self._options.shapes:
            shape = data.shape()
        if self._options.digests:
            digest = data.crc32()
        return _Picture(member.name, kind, str(Place((member.offset, member.size), digest)), shape)

    def _sidecar(self, info: ObjectInfo, data: _Data, kind: str) -> str | None:
        member = data.member
        where = f"{info.uri}::{member.name}"
        if member.size > MOST_BYTES:
            self._counts.add(f"sidecars of more than {MOST_BYTES:,} bytes", where)
            return None
        try:
            text = data.read(0, member.size).decode("utf-8-sig")
            return self._sidecars.add(kind, text)
        except UnicodeDecodeError:
            self._counts.add("sidecars that are not UTF-8", where)
        except ValueError:
            self._counts.add("sidecars .json that hold no JSON object", where)
        return None

    def _choose(self, info: ObjectInfo, key: _Key) -> list[_Picture]:
        """Those of a key's pictures that are taken."""
        if (chosen := self._options.column) is not None:
            return [p for p in key.pictures if p.kind == chosen.removeprefix(".")]
        simple = [p for p in key.pictures if "." not in p.kind]
        if simple:
            self._beside.update(p.kind for p in key.pictures if "." in p.kind)
            return simple
        if len(key.pictures) > 1 and key.sidecars:
            kinds = ", ".join(p.kind for p in key.pictures)
            raise ManifestError(
                f"{info.uri}: {len(key.pictures)} pictures of the key {key.key} ({kinds}); "
                f"choose one with {self._options.option}"
            )
        return key.pictures

    def _pictures(
        self,
        info: ObjectInfo,
        archive: str,
        pictures: list[_Picture],
        rows: list[dict[str, str | None]],
    ) -> Pictures:
        return Pictures(
            info,
            [f"{info.uri}::{p.member}" for p in pictures],
            [f"{archive}::{p.member}" for p in pictures],
            [stem(p.member) for p in pictures],
            [p.at for p in pictures],
            pa.table({k: pa.array([row.get(k) for row in rows], pa.string()) for k in KINDS}),
            [p.shape for p in pictures] if self._options.shapes else None,
        )


def split_key(name: str) -> tuple[str, str]:
    """WebDataset's key of a member, and what follows it, in lower case: ``a/b.seg.png`` is
    ``a/b`` and ``seg.png``.
    """
    folder, slash, last = name.rpartition("/")
    start, _, rest = last.partition(".")
    return folder + slash + start, rest.lower()


def _reason(member: TarMember) -> str | None:
    """Why a member is left out and counted, as a noun in the plural; else None.

    Folders, and files that are neither pictures nor sidecars, are passed over.
    """
    if member.refused in (FOLDER, None):
        try:
            member.name.encode()
        except UnicodeEncodeError:
            return "members of tars whose names are not UTF-8"
        dotted = member.name.rpartition("/")[2].startswith(".")
        if member.refused is None and dotted and is_picture_name(member.name):
            return "pictures of tars with a dot in front"
        return None
    if member.refused == NO_FILE:
        return "links, devices and sparse members of tars"
    return "members of tars whose names lead out of them"


class _Data:
    """The data of a member, until its tar is walked on."""

    def __init__(self, file: RangedFile, member: TarMember) -> None:
        self._file, self.member = file, member

    def read(self, start: int, count: int) -> bytes:
        """At most `count` bytes from `start` on, `_PIECE` at most."""
        self._file.next_member()
        self._file.seek(self.member.offset + start)
        return self._file.read(max(0, min(count, self.member.size - start)))

    def crc32(self) -> int:
        """The CRC32 of all of it."""
        digest = 0
        for start in range(0, self.member.size, _PIECE):
            digest = zlib.crc32(self.read(start, _PIECE), digest)
        return digest

    def shape(self) -> Shape | None:
        """The picture's width and height; all of it is read if its start does not tell."""
        size = self.member.size
        found = shape_of_start(self.read(0, _HEAD), whole=size <= _HEAD)
        if found is None and _HEAD < size <= MAX_PICTURE:
            pieces = [self.read(start, _PIECE) for start in range(0, size, _PIECE)]
            found = shape_of_start(b"".join(pieces), whole=True)
        return found
