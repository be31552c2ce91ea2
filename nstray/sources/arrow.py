"""Cells of Arrow files, read by record batch: the IPC stream format and the file format.

`datasets.save_to_disk` writes streams, which have no index. So the headers of a file's messages
are walked once. The file format has the same messages between its marks.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nstray import storage
from nstray.errors import BadArchive
from nstray.sources.cells import (
    DAMAGE,
    GROUP_BYTES,
    first_line,
    locate_row,
    picture_field,
    room_for,
)
from nstray.sources.ranged_file import HEADER, RangedFile

_MAGIC = b"ARROW1\0\0"
_CONTINUES = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # MessageHeader of Arrow's Message.fbs
_PRELUDE = 64 * 2**20  # bytes of schema and dictionaries
# The file format's own index is at its end. pyarrow and datasets write the messages of a stream
# before it; polars does not.
_UNREAD = (
    "its messages are not those of a stream, as pyarrow writes them; write the file with pyarrow, "
    "or as Parquet"
)
_BATCHES = 2**20  # of one file


@dataclass(frozen=True)
class ArrowIndex:
    """Where the record batches of one version of a file are.

    Attributes:
        prelude: (offset, size) of the schema and of what comes before the first batch.
        batches: of each (offset, size, rows).
        damage: what ends the file too early; None if nothing does.
    """

    prelude: tuple[int, int]
    batches: tuple[tuple[int, int, int], ...]
    etag: str
    damage: str | None = None

    @property
    def starts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The number of rows before each batch, and of all."""
        rows = np.array([rows for _, _, rows in self.batches], np.int64)
        return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)

    def dump(self) -> bytes:
        """The index as bytes, for `load`."""
        return json.dumps([self.prelude, self.batches, self.etag, self.damage]).encode()

    @staticmethod
    def load(data: bytes) -> ArrowIndex:
        """The index in the bytes that `dump` gave."""
        prelude, batches, etag, damage = json.loads(data)
        return ArrowIndex(tuple(prelude), tuple(tuple(batch) for batch in batches), etag, damage)


def index(archive: str, etag: str | None, on_read: Callable[[], None]) -> ArrowIndex:
    """Walk the messages of a file.

    Raises `BadArchive` for what is no Arrow file, and as `storage.read_range` does.

    Args:
        etag: the version that it must have; None takes any.
        on_read: called for each request.
    """
    where = storage.redact(archive)
    file = RangedFile(archive, etag, on_read)
    offset = begin = len(_MAGIC) if file.read(len(_MAGIC)) == _MAGIC else 0
    first: int | None = None  # offset of the first batch
    batches: list[tuple[int, int, int]] = []
    damage = None
    while offset < file.size:
        file.next_member()
        file.seek(offset)
        mark, length = file.read(4), int.from_bytes(file.read(4), "little", signed=True)
        if mark == _CONTINUES and length == 0:
            break
        if mark != _CONTINUES or not 0 < length < HEADER - 8:
            if offset == begin:
                raise BadArchive(
                    f"{where}: {_UNREAD if begin else 'is no Arrow IPC stream or file'}"
                )
            damage = f"is damaged: no message begins at byte {offset:,}"
            break
        try:
            kind, body, rows, packed = _read_message(file.read(length))
        except (struct.error, ValueError) as error:
            damage = f"is damaged: the message at byte {offset:,} is none ({error})"
            break
        if offset == begin and kind != _SCHEMA:
            raise BadArchive(f"{where}: is no Arrow file: it does not begin with a schema")
        size = 8 + length + body
        if offset + size > file.size:
            damage = f"is truncated: its message at byte {offset:,} has {size:,} bytes"
            break
        if kind == _BATCH:
            if packed:
                raise BadArchive(
                    f"{where}: its record batches are compressed, which is not read; write it "
                    "without compression"
                )
            first = offset if first is None else first
            batches.append((offset, size, rows))
        if len(batches) > _BATCHES:
            raise BadArchive(f"{where}: has more than {_BATCHES:,} record batches")
        offset += size
    if first is None:
        raise BadArchive(f"{where}: {damage or 'has no record batches'}")
    return ArrowIndex((begin, first - begin), tuple(batches), file.etag, damage)


def locate(
    index: ArrowIndex, archive: str, row: int, at: tuple[int, int] | None
) -> tuple[int, int]:
    """(record batch, row inside it) of a row of the file; raises as `parquet.locate` does."""
    starts = index.starts
    if row >= starts[-1] and index.damage is not None:
        raise BadArchive(
            f"{storage.redact(archive)}: {index.damage}; before that it has {starts[-1]:,} rows, "
            f"no row {row:,}"
        )
    return locate_row(starts, archive, row, at, "record batch")


def read_prelude(index: ArrowIndex, archive: str) -> bytes:
    """The bytes of the schema and of the dictionaries before the first batch."""
    start, size = index.prelude
    return storage.read_range(
        archive, start, size, max_bytes=_PRELUDE, if_match=index.etag or None
    ).data


def read_batch(
    index: ArrowIndex, prelude: bytes, archive: str, column: str, batch: int
) -> pa.Array:
    """The pictures of one record batch; they keep all of its bytes in memory.

    Raises `NotFound` for a column that the file does not have, `BadArchive`, `TooLarge`, and as
    `storage.read_range` does.
    """
    where = f"{storage.redact(archive)}: record batch {batch:,}"
    offset, size, rows = index.batches[batch]
    try:
        schema = pa.ipc.open_stream(pa.py_buffer(prelude)).schema
    except DAMAGE as error:
        raise BadArchive(f"{where}: the schema: {first_line(error)}") from None
    at = picture_field(schema, column, storage.redact(archive))
    with room_for(where, size):
        data = storage.read_range(
            archive, offset, size, max_bytes=GROUP_BYTES, if_match=index.etag or None
        ).data
        try:
            options = pa.ipc.IpcReadOptions(included_fields=[at], use_threads=False)
            with pa.ipc.open_stream(pa.py_buffer(prelude + data), options=options) as reader:
                found = reader.read_next_batch()
            found.validate(full=True)  # offsets of untrusted files may lead anywhere
            cells = found.column(0)
        except (*DAMAGE, MemoryError, StopIteration) as error:
            raise BadArchive(f"{where}: {first_line(error)}") from None
        if len(cells) != rows:
            raise BadArchive(f"{where}: has {len(cells):,} rows, and says {rows:,}")
        return cells


def _read_message(data: bytes) -> tuple[int, int, int, bool]:
    """Kind, bytes of the body, rows, and whether the body is compressed, of a message's metadata.

    Rows and compression are those of a record batch. Raises ValueError and struct.error.
    """
    table = _Table(data, _u32(data, 0))
    kind, header, body = table.offset_of(1), table.table(2), table.offset_of(3)
    if kind is None or header is None:
        raise ValueError("no header")
    found = data[kind]
    size = 0 if body is None else struct.unpack_from("<q", data, body)[0]
    if size < 0:
        raise ValueError(f"a body of {size} bytes")
    if found != _BATCH:
        return found, size, 0, False
    length = header.offset_of(0)
    rows = 0 if length is None else struct.unpack_from("<q", data, length)[0]
    if rows < 0:
        raise ValueError(f"{rows} rows")
    return found, size, rows, header.offset_of(3) is not None


class _Table:
    """A table of a FlatBuffer."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position
        self._fields = position - struct.unpack_from("<i", data, position)[0]
        if self._fields < 0:
            raise ValueError("a table outside")

    def offset_of(self, field: int) -> int | None:
        """Where a field is; None if it has its default."""
        at = 4 + 2 * field
        if at + 2 > struct.unpack_from("<H", self._data, self._fields)[0]:
            return None
        offset = struct.unpack_from("<H", self._data, self._fields + at)[0]
        place = self._position + offset
        if place >= len(self._data):
            raise ValueError("a field outside")
        return place if offset else None

    def table(self, field: int) -> _Table | None:
        """The table that a field leads to."""
        at = self.offset_of(field)
        return None if at is None else _Table(self._data, at + _u32(self._data, at))


def _u32(data: bytes, position: int) -> int:
    return int(struct.unpack_from("<I", data, position)[0])
