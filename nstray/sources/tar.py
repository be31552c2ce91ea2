"""Members of tar files, read by one range each.

Where a member lies is said by the manifest, or by an index: the tar's headers, walked once. Names
are those of Python's `tarfile`. Only regular files are read; links, devices and sparse files are
refused, and so is a name that occurs twice.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, cast

import pyarrow as pa

from nstray import storage
from nstray.errors import BadArchive, NotFound, TooLarge
from nstray.sources.ranged_file import RangedFile
from nstray.sources.reference import check_tar_name

MAX_MEMBERS = 2**22  # of one tar: an index has some 100 bytes of each
_REPEATED, _NO_FILE = -1, -2  # in place of an offset
FOLDER, NO_FILE = "it is a folder", "it is no plain file"
# What tarfile raises for headers that are none.
_DAMAGE = (tarfile.TarError, ValueError, ArithmeticError, LookupError, TypeError, RecursionError)


@dataclass(frozen=True)
class TarMember:
    """A member: its name, the offset and the size of its data in bytes.

    `refused` says why it is not read; None if it is.
    """

    name: str
    offset: int
    size: int
    refused: str | None = None


@dataclass(frozen=True)
class TarIndex:
    """Where the members of one version of a tar are.

    Attributes:
        places: (offset, size) by name; the offset is below 0 for what is not read.
        damage: what ends the tar too early; None if nothing does.
    """

    places: dict[str, tuple[int, int]]
    etag: str
    damage: str | None = None

    def dump(self) -> bytes:
        """The index as bytes, for `load`."""
        names = [name.encode(errors="surrogateescape") for name in self.places]
        values = list(self.places.values())
        table = pa.table(
            {
                "name": pa.array(names, pa.binary()),
                "offset": pa.array([offset for offset, _ in values], pa.int64()),
                "size": pa.array([size for _, size in values], pa.int64()),
            }
        ).replace_schema_metadata({"etag": self.etag, "damage": self.damage or ""})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    @staticmethod
    def load(data: bytes) -> TarIndex:
        """The index in the bytes that `dump` gave."""
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all()
        names, *numbers = (column.to_pylist() for column in table.columns)
        texts = (name.decode(errors="surrogateescape") for name in names)
        metadata = table.schema.metadata
        return TarIndex(
            dict(zip(texts, zip(*numbers, strict=True), strict=True)),
            metadata[b"etag"].decode(),
            metadata[b"damage"].decode() or None,
        )

    def find(self, archive: str, name: str) -> tuple[int, int]:
        """Offset and size of a member; raises `NotFound` and `BadArchive`."""
        where = storage.redact(archive)
        place = self.places.get(name)
        if place is None:
            if self.damage is not None:
                raise BadArchive(f"{where}: {self.damage}; before that it has no member {name!r}")
            raise NotFound(f"{where}: has no member {name!r}")
        if place[0] == _REPEATED:
            raise BadArchive(
                f"{where}: has more than one member {name!r}, so the name does not say which; "
                "make the tar anew"
            )
        if place[0] == _NO_FILE:
            raise BadArchive(
                f"{where}: the member {name!r} is no plain file (a link, a folder, a device or a "
                "sparse file); make the tar anew, for links with --dereference"
            )
        return place


def index(archive: str, etag: str | None, on_read: Callable[[], None]) -> TarIndex:
    """Walk the headers of a tar; raises `BadArchive` for what is none, and as `storage.read` does.

    Args:
        etag: the version that it must have; None takes any.
        on_read: called for each request.
    """
    file = RangedFile(archive, etag, on_read)
    places: dict[str, tuple[int, int]] = {}
    damage = None
    try:
        for member in walk(archive, file):
            if member.name in places:
                places[member.name] = (_REPEATED, 0)
            elif member.refused is not None:
                places[member.name] = (_NO_FILE, 0)
            else:
                places[member.name] = (member.offset, member.size)
    except BadArchive as error:
        if not places:
            raise
        damage = str(error).partition(": ")[2] or str(error)
    return TarIndex(places, file.etag, damage)


def walk(archive: str, file: RangedFile) -> Iterator[TarMember]:
    """The members of a tar in order, folders too; nothing is kept of those that were given.

    Raises `BadArchive` where the tar ends too early or contradicts itself, after the members
    before that.
    """
    where, count, before = storage.redact(archive), 0, -1
    try:
        with tarfile.open(
            fileobj=cast(IO[bytes], file),
            mode="r:",
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar:
            while (found := tar.next()) is not None:
                file.next_member()
                vars(tar)["members"] = []  # tarfile keeps all of them
                count += 1
                if count > MAX_MEMBERS:
                    raise BadArchive(f"{where}: has more than {MAX_MEMBERS:,} members")
                if found.size < 0 or found.offset_data <= before or tar.offset <= before:
                    raise BadArchive(f"{where}: the header of member {count:,} leads backwards")
                before = found.offset_data
                refused = check_tar_name(found.name)
                if found.isdir():
                    refused = FOLDER
                elif not found.isreg() or found.issparse():
                    refused = NO_FILE
                elif found.offset_data + found.size > file.size:
                    raise BadArchive(
                        f"{where}: is truncated: the data of its member {found.name!r} is "
                        f"{found.size:,} bytes and does not lie in the file"
                    )
                yield TarMember(found.name, found.offset_data, found.size, refused)
            # tarfile takes whatever is no header for the end.
            file.next_member()
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise BadArchive(
                    f"{where}: is truncated or damaged: no end of the tar follows its "
                    f"{count:,} members"
                )
            # The last record is filled with zeros. `cat a.tar b.tar` puts another tar behind it.
            if any(file.read(tarfile.RECORDSIZE + tarfile.BLOCKSIZE)):
                raise BadArchive(
                    f"{where}: something follows the end of the tar: it is several tars one after "
                    "the other; give each a file of its own, or join them with tar --concatenate"
                )
    except _DAMAGE as error:
        raise BadArchive(
            f"{where}: is truncated or no tar: {type(error).__name__} ({error}) after "
            f"{count:,} members"
        ) from None


def read(
    archive: str, member: str, place: tuple[int, int], etag: str | None, max_bytes: int
) -> bytes:
    """The bytes of a member at (offset, size), by one range.

    Raises as `storage.read_range` does.
    """
    offset, size = place
    uri = f"{archive}::{member}"
    if size > max_bytes:
        raise TooLarge(
            f"{storage.redact(uri)}: {size:,} bytes, more than the {max_bytes:,} allowed"
        )
    return storage.read_range(archive, offset, size, max_bytes=max_bytes, if_match=etag).data
