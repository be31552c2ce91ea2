"""Committed parts, read back row by row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import config, storage
from nstray.errors import OutputError
from nstray.output.folder import Output
from nstray.output.layout import parts_per_window
from nstray.output.part_file import damaged, open_part, read_batches
from nstray.output.records import PartInfo
from nstray.output.schema import SINCE_FORMAT_3, part_schema, stored_schema

# The most pixels of a picture that a reader decodes. An output from elsewhere may hold pictures
# that unpack to anything; no optimiser's memory has held one as large as this.
MAX_PIXELS: int = config.JobConfig.model_fields["max_pixels"].default
# The most memory for the pixels of such a picture, so that a command takes 1.5 GB at most.
MAX_MEMORY = 1_000_000_000


def parts_by_window(job: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Every window of a job with the number of its parts."""
    return list(enumerate(parts_per_window(job["rows"], job["shard_size"], job["cuts"])))


def read_rows(uri: str, columns: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of a part, at most 100 rows or about 64 MiB at a time.

    Raises `OutputError` if the part is damaged.
    """
    with reading(uri, columns) as (file, _):
        for batch in read_batches(uri, file, columns):
            yield table_rows(batch)


@contextlib.contextmanager
def reading(uri: str, columns: Sequence[str] | None) -> Iterator[tuple[pq.ParquetFile, PartInfo]]:
    """A part of this job that is open for `read_batches` of `columns`, and what its footer says.

    Raises `OutputError` if the part is damaged, lacks a column, or has one of another type.
    """
    try:
        with open_part(uri) as (file, info):
            _check_columns(uri, file.schema_arrow, columns)
            yield file, info
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(uri, error) from None


@lru_cache(maxsize=1)
def _own_columns() -> pa.Schema:
    return stored_schema(part_schema(pa.schema([])))


def _check_columns(uri: str, there: pa.Schema, columns: Sequence[str] | None) -> None:
    """Raise `OutputError` if one of `columns` is missing, or an own column is of another type."""
    own = _own_columns()
    for name in own.names if columns is None else columns:
        if columns is None and name in SINCE_FORMAT_3 and name not in there.names:
            continue
        if there.names.count(name) != 1 or (
            name in own.names and there.field(name).type != own.field(name).type
        ):
            raise OutputError(
                f"{storage.redact(uri)}: its column {name} is missing, or not what nstray writes; "
                "it is not a part of this job"
            )


def table_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table.

    A column of values that Python lacks (nanoseconds, the year 20000) comes as text.
    """
    columns = {column.name: _values(table.column(i)) for i, column in enumerate(table.schema)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    if "[ns" not in str(column.type):
        with contextlib.suppress(ValueError, OverflowError, TypeError, pa.ArrowException):
            return cast("list[Any]", column.to_pylist())
    return [_plain(value) for value in column]


def _plain(value: pa.Scalar) -> Any:
    """A value as Python has it; times that Python lacks as Arrow's text, at their full resolution.

    `Scalar.as_py` needs pandas for nanoseconds, and drops those of a time of day. A duration, or a
    time that Arrow has no text for, is its number with its unit, such as ``1500 ns``.
    """
    kind = value.type
    if not value.is_valid:
        return None
    if pa.types.is_map(kind):
        return [tuple(_plain(item) for item in pair.values()) for pair in value.values]
    if isinstance(value, pa.ListScalar):
        return [_plain(item) for item in value.values]
    if pa.types.is_struct(kind):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, pa.DictionaryScalar):
        return _plain(value.value)
    if pa.types.is_temporal(kind):
        text = None if pa.types.is_duration(kind) else str(value.cast(pa.string()).as_py())
        if text is None or text.startswith("<"):  # <value out of range: 1000000000000>
            return f"{value.cast(pa.int64()).as_py()} {kind.unit}"
        return text
    try:
        return value.as_py()
    except (ValueError, OverflowError, TypeError, pa.ArrowException):
        return str(value)


def part_uris(output: Output, job: Mapping[str, Any]) -> Iterator[str]:
    """The committed parts of a job in order."""
    for window, _ in parts_by_window(job):
        for _, info in sorted(output.parts.list_window(window).items()):
            yield info.uri
