"""Cells of Parquet files, read by row group: the footer once, then one column chunk per group.

Nothing that a footer or a page header claims is believed before it is compared with what there is:
see `nstray.sources.parquet_pages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
from nstray.sources.parquet_pages import BadPages, check_pages
from nstray.storage.seekable import SeekableFile

FOOTER_BYTES = 64 * 2**20
_TAIL = 64 * 2**10  # bytes of the first request, which holds most footers
_MAGIC = b"PAR1"
_ROWS = 2**24  # of one row group
_PAD = 100  # bytes that Arrow reads behind a chunk of some old writers (PARQUET-816)


@dataclass(frozen=True)
class Footer:
    """The footer of one version of a file.

    Attributes:
        starts: the number of rows before each row group, and of all.
        nbytes: of the footer in the file.
    """

    metadata: Any
    schema: pa.Schema
    starts: np.ndarray[Any, np.dtype[np.int64]]
    size: int
    etag: str
    nbytes: int


def read_footer(archive: str, etag: str | None = None) -> Footer:
    """The footer, by one request or two; raises `BadArchive`, and as `storage.read_range` does.

    Args:
        etag: the version that the file must have; None takes any.
    """
    where = storage.redact(archive)
    tail = storage.read_range(archive, -1, _TAIL, max_bytes=_TAIL, if_match=etag)
    if tail.size < 12 or tail.data[-4:] != _MAGIC:
        encrypted = tail.data[-4:] == b"PARE"
        what = "is encrypted" if encrypted else "is truncated or no Parquet file: it has no footer"
        raise BadArchive(f"{where}: {what}")
    length = int.from_bytes(tail.data[-8:-4], "little") + 8
    if length + 4 > tail.size or length > FOOTER_BYTES:
        raise BadArchive(f"{where}: its footer claims {length - 8:,} bytes")
    data = tail.data
    if length > len(data):
        data = storage.read_range(
            archive, -1, length, max_bytes=FOOTER_BYTES, if_match=tail.etag or None
        ).data
    try:
        metadata = pq.read_metadata(pa.BufferReader(_MAGIC + data[-length:]))
        schema = metadata.schema.to_arrow_schema()
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    except DAMAGE as error:
        raise BadArchive(f"{where}: its footer is damaged: {first_line(error)}") from None
    if any(count < 0 for count in counts) or sum(counts) != metadata.num_rows:
        raise BadArchive(
            f"{where}: its footer says {metadata.num_rows:,} rows, and its row groups have "
            f"{sum(counts):,}"
        )
    starts = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)
    return Footer(metadata, schema, starts, tail.size, tail.etag, length)


def locate(footer: Footer, archive: str, row: int, at: tuple[int, int] | None) -> tuple[int, int]:
    """(row group, row inside it) of a row of the file.

    Raises `NotFound` if the file has fewer rows, and `BadArchive` if the place `at` is another.
    """
    return locate_row(footer.starts, archive, row, at, "row group")


def read_group(footer: Footer, archive: str, column: str, group: int) -> pa.ChunkedArray:
    """The pictures of one row group: of a struct the field ``bytes`` alone.

    Raises `NotFound` for a column that the file does not have, `BadArchive`, `TooLarge`, and as
    `storage.read_range` does.
    """
    where = f"{storage.redact(archive)}: row group {group:,}"
    field = footer.schema.field(picture_field(footer.schema, column, storage.redact(archive)))
    leaf = f"{column}.bytes" if pa.types.is_struct(field.type) else column
    try:
        rows = footer.metadata.row_group(group).num_rows
        chunk = _chunk(footer.metadata.row_group(group), leaf)
        start, packed, plain = _extent(chunk)
        pages, elsewhere = int(chunk.num_values), str(chunk.file_path or "")
    except DAMAGE as error:
        raise BadArchive(f"{where}: {first_line(error)}") from None
    if elsewhere:
        raise BadArchive(f"{where}: its column {column!r} is said to lie in another file")
    if pages != rows or rows > _ROWS:
        raise BadArchive(f"{where}: says {rows:,} rows and {pages:,} values of {column!r}")
    if start < 4 or packed < 0 or plain < 0 or start + packed > footer.size - footer.nbytes:
        raise BadArchive(
            f"{where}: its column {column!r} lies at bytes {start:,} to {start + packed:,}, which "
            "the file does not have: it is truncated or damaged"
        )
    with room_for(f"{where}: column {column!r}", max(packed, plain)):
        length = min(packed + _PAD, footer.size - start)
        data = storage.read_range(
            archive, start, length, max_bytes=GROUP_BYTES + _PAD, if_match=footer.etag or None
        ).data
        try:
            dictionary = check_pages(data[:packed], rows, plain)
            file = pq.ParquetFile(
                pa.PythonFile(_Chunk(data, start, footer.size), mode="r"),
                metadata=footer.metadata,
                # As a dictionary each value is there once, however many cells have it.
                read_dictionary=[leaf] if dictionary else None,
                page_checksum_verification=True,
            )
            table = file.read_row_group(group, columns=[leaf], use_threads=False)
        except BadPages as error:
            raise BadArchive(f"{where}: column {column!r}: {error}") from None
        except (*DAMAGE, MemoryError) as error:
            raise BadArchive(f"{where}: column {column!r}: {first_line(error)}") from None
        if table.num_columns != 1 or table.num_rows != rows:
            raise BadArchive(f"{where}: column {column!r} has {table.num_rows:,} of {rows:,} rows")
        return table.column(0)


def _chunk(group: Any, leaf: str) -> Any:
    """The metadata of the column chunk `leaf`; raises LookupError."""
    columns = (group.column(i) for i in range(group.num_columns))
    found = [column for column in columns if column.path_in_schema == leaf]
    if len(found) != 1:
        raise LookupError(f"it has {len(found)} column chunks {leaf!r}")
    return found[0]


def _extent(chunk: Any) -> tuple[int, int, int]:
    """Where a column chunk starts, its bytes in the file, and uncompressed; as Arrow reads it."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return int(start), int(chunk.total_compressed_size), int(chunk.total_uncompressed_size)


class _Chunk(SeekableFile):
    """A file of which one column chunk is there; reading anything else is an error."""

    def __init__(self, data: bytes, start: int, size: int) -> None:
        super().__init__(size)
        self._data, self._start = memoryview(data), start

    def read(self, size: int = -1, /) -> bytes:
        at = self._position - self._start
        if size < 0 or at < 0 or at > len(self._data):
            raise ValueError("the column chunk does not lie where its footer says")
        piece = self._data[at : at + size]
        self._position += len(piece)
        return bytes(piece)
