"""The bytes of whatever a reference names, with what was read of archives before."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from nstray import storage
from nstray.errors import BadArchive, Changed, Corrupt, NotFound, ShortRead, UsageError
from nstray.sources import arrow, loose, parquet, tar
from nstray.sources.caches import BoundedCache
from nstray.sources.cells import cell_bytes
from nstray.sources.reference import (
    PARQUET,
    TAR,
    Place,
    as_literal,
    check_member,
    file_of,
    is_literal,
    kind_of,
    parse_cell,
    refusal,
    split_member,
)

GROUPS = 256 * 2**20  # bytes of decoded row groups and record batches
INDEXES = 128 * 2**20  # bytes of indexes and footers
_OF_NAME = 120  # bytes that a member takes in an index in memory, beside its name


def absolute_reference(reference: str, base: str = "") -> str:
    """A reference made absolute, relative to the folder `base`, or to the current one.

    Raises `UsageError` for a member that can't be read, and as `storage.absolute` does.
    """
    _refuse_unread(reference)
    if fault := check_member(reference):
        raise UsageError(f"{storage.redact(reference)}: {fault}")
    found = split_member(reference)
    file = reference if found is None else found[0]
    file = storage.join(base, file) if base else storage.absolute(file)
    return as_literal(file) if found is None else f"{file}::{found[1]}"


def relative_reference(uri: str, base: str) -> str:
    """An absolute reference as seen from the folder `base` if it lies below it, else as it is.

    So rows that are published name no folder of the machine that made them. `absolute_reference`
    gives the reference back. A file whose name looks like something else, such as a member of an
    archive or a URI, keeps the ``./`` that makes it literal.
    """
    prefix = f"{base.removesuffix('/')}/"
    if not base or not uri.startswith(prefix):
        return uri
    short = file_of(uri).removeprefix(prefix) if is_literal(uri) else uri.removeprefix(prefix)
    for candidate in (short, f"./{short}"):
        with contextlib.suppress(UsageError):
            if absolute_reference(candidate, base) == uri:
                return candidate
    return uri


def _refuse_unread(reference: str) -> None:
    """Raise `UsageError` for a member of an archive that is not read."""
    if reason := refusal(reference):
        raise UsageError(
            f"{storage.redact(reference)} names a member of an archive that {reason}"
        ) from None


class SharedCache(Protocol):
    """Bytes by name that several processes share."""

    def get(self, uri: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes of a name, or what `fetch` returns."""
        ...

    def forget(self, uri: str) -> None:
        """Drop the bytes of a name."""
        ...


class _Alone:
    """A `SharedCache` that keeps nothing."""

    def get(self, uri: str, fetch: Callable[[], bytes]) -> bytes:
        return fetch()

    def forget(self, uri: str) -> None:
        pass


class Sources:
    """Reads the pictures that references name. Methods may be called from several threads.

    Args:
        max_bytes: of a picture's file.
        shared: where indexes of archives are shared with other processes.
        on_read: called for each request that makes an index.
    """

    def __init__(
        self,
        max_bytes: int,
        shared: SharedCache | None = None,
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        self._max_bytes, self._on_read = max_bytes, on_read
        self._shared = shared or _Alone()
        self._groups, self._indexes = BoundedCache(GROUPS), BoundedCache(INDEXES)
        self._read_again: set[tuple[Any, ...]] = set()

    def read(self, uri: str, place: Place | None = None) -> bytes:
        """The bytes of a picture.

        Raises as `storage.read` does; `Changed` if the archive is not the version of `place`, or
        changes again and again while it is read; `NotFound` for a member or cell that is not there;
        `BadArchive`.

        Args:
            place: where in its archive the member lies; None if that is not known.
        """
        found = split_member(uri)
        if found is None:
            try:
                return loose.read(uri, self._max_bytes)
            except NotFound:
                _refuse_unread(uri)  # no file has this name, which looks like that of a member
                raise
        place = place or Place()
        try:
            try:
                return self._checked(*found, place)
            except Changed:
                if place.etag is not None:
                    raise
            self.forget(uri)  # what was read of it is of another version
            return self._checked(*found, place)
        except ShortRead as error:
            raise BadArchive(*error.args) from None

    def forget(self, uri: str) -> None:
        """Drop what was read of the archive that a reference leads to."""
        if (found := split_member(uri)) is not None:
            archive = found[0]
            for cache in (self._groups, self._indexes):
                cache.forget(lambda key: key[0] == archive)
            self._shared.forget(_shared_name(archive, None))

    def read_again(self, uri: str, place: Place | None = None) -> bytes:
        """As `read`, from the store; a row group comes from it a second time only once."""
        found = split_member(uri)
        if found is not None and kind_of(found[0]) != TAR:
            key, _ = self._cell(*found, place or Place())
            if key not in self._read_again:
                self._read_again.add(key)
                self._groups.forget(lambda other: other == key)
        return self.read(uri, place)

    def _checked(self, archive: str, member: str, place: Place) -> bytes:
        """A member's bytes, compared with the CRC32 of its place."""
        data = self._member(archive, member, place)
        if place.crc32 is None or zlib.crc32(data) == place.crc32:
            return data
        uri = f"{archive}::{member}"
        where = storage.redact(uri)
        said = f"its CRC32 is {zlib.crc32(data):08x}, and the manifest says {place.crc32:08x}"
        if storage.split(archive)[0] is not None:
            self._groups.forget(lambda key: key[0] == archive)
            again = self._member(archive, member, place)
            if zlib.crc32(again) == place.crc32:
                return again
            if again != data:
                raise Corrupt(
                    f"{where}: {said}, and it came otherwise each time: it is damaged on the way"
                )
        raise BadArchive(
            f"{where}: {said}: the archive is damaged, or not the one that the manifest was made "
            "from"
        )

    def _member(self, archive: str, member: str, place: Place) -> bytes:
        kind = kind_of(archive)
        if kind == TAR:
            at, etag = place.at, place.etag
            if at is None:
                index = self._index(archive, place.etag, tar)
                at, etag = index.find(archive, member), index.etag or None
            return tar.read(archive, member, at, etag, self._max_bytes)
        key, row = self._cell(archive, member, place)
        cells, _ = self._groups.get(key, lambda: self._read_group(*key), lambda made: made[1])
        return cell_bytes(cells, row, f"{storage.redact(archive)}::{member}", self._max_bytes)

    def _cell(
        self, archive: str, member: str, place: Place
    ) -> tuple[tuple[str, str | None, str, int], int]:
        """(archive, version, column, number of its row group or batch), and the row inside it."""
        try:
            column, row = parse_cell(member)
        except ValueError as error:
            raise UsageError(f"{storage.redact(archive)}: {error}") from None
        if kind_of(archive) == PARQUET:
            footer = self._footer(archive, place.etag)
            group, row = parquet.locate(footer, archive, row, place.at)
        else:
            index = self._index(archive, place.etag, arrow)
            group, row = arrow.locate(index, archive, row, place.at)
        return (archive, place.etag, column, group), row

    def _read_group(
        self, archive: str, etag: str | None, column: str, group: int
    ) -> tuple[Any, int]:
        """The pictures of a row group or record batch, and the bytes that they keep in memory."""
        if kind_of(archive) == PARQUET:
            footer = self._footer(archive, etag)
            cells = parquet.read_group(footer, archive, column, group)
            return cells, int(cells.nbytes)
        index = self._index(archive, etag, arrow)
        prelude = self._indexes.get(
            (archive, etag, "prelude"), lambda: arrow.read_prelude(index, archive), len
        )
        size = index.batches[group][1]
        return arrow.read_batch(index, prelude, archive, column, group), size

    def _footer(self, archive: str, etag: str | None) -> parquet.Footer:
        footer: parquet.Footer = self._indexes.get(
            (archive, etag, PARQUET),
            lambda: parquet.read_footer(archive, etag),
            # Arrow takes some times the bytes of the file for it.
            lambda made: 4 * made.nbytes,
        )
        return footer

    def _index(self, archive: str, etag: str | None, module: Any) -> Any:
        """The index of a tar or Arrow file: from here, from the shared cache, or made."""
        kind = tar.TarIndex if module is tar else arrow.ArrowIndex

        def make() -> bytes:
            return bytes(module.index(archive, etag, self._on_read).dump())

        return self._indexes.get(
            (archive, etag, "index"),
            lambda: kind.load(self._shared.get(_shared_name(archive, etag), make)),
            _index_bytes,
        )


def _shared_name(archive: str, etag: str | None) -> str:
    return f"index\0{archive}\0{etag or ''}"


def _index_bytes(index: tar.TarIndex | arrow.ArrowIndex) -> int:
    if isinstance(index, tar.TarIndex):
        return sum(_OF_NAME + len(name) for name in index.places)
    return _OF_NAME * len(index.batches)
