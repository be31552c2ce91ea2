"""Parquet files as a stream of record batches, bounded in rows and in bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import ManifestError
from nstray.manifest.arrow_errors import first_line, is_not_utf8

if TYPE_CHECKING:
    from nstray.manifest.raw_batches import ManifestFile

BATCH_BYTES = 16 * 2**20  # of the values of a batch, about
FIRST_ROWS = 256  # rows of a read as long as nothing is known of the size of a row
# Bytes of a column that are read from storage at once. Without it a reader holds whole columns of
# a row group, encoded.
BUFFER_BYTES = 2**20


def read_batches(
    file: ManifestFile, rows: int, *, skip: Collection[str] = ()
) -> Iterator[pa.RecordBatch]:
    """The rows of a file in order, in batches of at most `rows` rows and about `BATCH_BYTES`.

    Args:
        skip: columns that are not read.
    Raises: `ManifestError` for a file that can't be read.
    """
    with open_parquet(file) as source:
        names = [name for name in source.schema_arrow.names if name not in skip]
        pace = _Pace(rows)
        for groups in _row_groups(source.metadata, rows):
            yield from _joined(_read(file, source, groups, names, pace), rows)


def read_rows(
    file: ManifestFile,
    source: pq.ParquetFile,
    group: int,
    places: Sequence[int],
    names: Sequence[str],
) -> pa.Table:
    """Rows of one row group, in ascending order of their `places` in the group, from 0.

    The group is read in pieces of about `BATCH_BYTES`, up to the last of the rows.

    Args:
        source: the file, as `open_parquet` opens it.
        names: the columns, in this order.
    """
    wanted = sorted(places)
    found = []
    start = 0
    schema = pa.schema([source.schema_arrow.field(name) for name in names])
    most = source.metadata.row_group(group).num_rows
    for batch in _read(file, source, [group], names, _Pace(most)):
        end = start + batch.num_rows
        if here := [place - start for place in wanted if start <= place < end]:
            found.append(batch.select(names).take(pa.array(here)))
        start = end
        if start > wanted[-1]:
            break
    return pa.Table.from_batches(found, schema)


@contextlib.contextmanager
def open_parquet(file: ManifestFile) -> Iterator[pq.ParquetFile]:
    """A file, open for reading. What Arrow raises inside becomes a `ManifestError`."""
    with storage.open_input(file.uri) as stream:
        try:
            yield pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, page_checksum_verification=True)
        except UnicodeDecodeError:
            raise ManifestError(f"{file.name}: a column's name is not UTF-8 text") from None
        except pa.ArrowException as error:
            raise ManifestError(
                f"{file.name}: not a Parquet file that can be read: {first_line(error)}"
            ) from None
        except OSError as error:  # what pyarrow raises for a damaged page or column chunk
            raise ManifestError(f"{file.name}: damaged Parquet file: {first_line(error)}") from None


class _Pace:
    """How many rows to read at once, from the bytes of the rows before."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = min(most, FIRST_ROWS)

    def saw(self, batch: pa.RecordBatch) -> None:
        """Learn from a batch that was read."""
        per_row = batch.nbytes / max(1, batch.num_rows)
        fitting = self._most if per_row * self._most <= BATCH_BYTES else int(BATCH_BYTES / per_row)
        # Rows grow in size from one group to the next: the number grows by steps.
        self.rows = max(1, min(self._most, fitting, 16 * self.rows))


def _read(
    file: ManifestFile,
    source: pq.ParquetFile,
    groups: list[int],
    names: Sequence[str],
    pace: _Pace,
) -> Iterator[pa.RecordBatch]:
    """The rows of row groups in batches of the pace's number of rows, which each checks anew."""
    for batch in source.iter_batches(batch_size=pace.rows, row_groups=groups, columns=list(names)):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            _check_values(file, name, column)
        pace.saw(batch)
        yield batch


def _joined(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Small batches joined up to `rows` rows or `BATCH_BYTES`, since each costs time of its own."""
    held: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        if held and (count + batch.num_rows > rows or size + batch.nbytes > BATCH_BYTES):
            yield _concatenated(held)
            held, count, size = [], 0, 0
        held.append(batch)
        count, size = count + batch.num_rows, size + batch.nbytes
    if held:
        yield _concatenated(held)


def _concatenated(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _row_groups(metadata: Any, most: int) -> Iterator[list[int]]:
    """The numbers of the row groups in order, small ones together.

    Each list is read by a reader of its own: one reader over a whole file holds 15 bytes of each
    row that it has passed (pyarrow 26), and keeps to one number of rows at once.
    """
    groups: list[int] = []
    rows = size = 0
    for group in range(metadata.num_row_groups):
        there = metadata.row_group(group)
        groups.append(group)
        rows, size = rows + there.num_rows, size + there.total_byte_size
        if rows >= most or size >= BATCH_BYTES:
            yield groups
            groups, rows, size = [], 0, 0
    if groups:
        yield groups


def _check_values(file: ManifestFile, name: str, column: pa.Array) -> None:
    """Raise `ManifestError` for values that pyarrow reads unchecked, such as text not in UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        what = "not UTF-8 text" if is_not_utf8(str(error)) else f"damaged: {first_line(error)}"
        raise ManifestError(f"{file.name}: column {name}: {what}") from None
