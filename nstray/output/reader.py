"""Committed parts, read back row by row."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import config, storage
from nstray.errors import OutputError
from nstray.output.folder import Output
from nstray.output.layout import parts_per_window
from nstray.output.part import footer_of
from nstray.output.records import PartInfo
from nstray.output.schema import part_schema, stored_schema

_FOOTER_THREADS = 16
# A stranger's output may hold pictures that unpack to anything; no optimiser's memory has held one as large.
MAX_PIXELS: int = config.JobConfig.model_fields["max_pixels"].default


def parts_by_window(job: dict[str, Any]) -> list[tuple[int, int]]:
    """Every window of a job with the number of its parts."""
    return list(enumerate(parts_per_window(job["rows"], job["shard_size"], job["cuts"])))


@contextlib.contextmanager
def open_part(uri: str) -> Iterator[tuple[pq.ParquetFile, PartInfo]]:
    with storage.open_input(uri) as source:
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        file = pq.ParquetFile(source)
        yield file, footer_of(file.metadata, uri, size)


def read_rows(uri: str, columns: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of a part, one row group (at most 100 rows or 64 MiB of pictures) at a time; raises `OutputError` where it is damaged."""
    try:
        with open_part(uri) as (file, _):
            _check_columns(uri, file.schema_arrow, columns)
            for group in range(file.num_row_groups):
                yield _rows(file.read_row_group(group, columns=columns))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{storage.redact(uri)} is damaged ({error}); remove it and run the job again to remake it"
        ) from None


def _check_columns(uri: str, there: pa.Schema, columns: Sequence[str] | None) -> None:
    """Raise `OutputError` where a part lacks one of `columns`, or one of nstray's own is of another type."""
    own = stored_schema(part_schema(pa.schema([])))
    for name in own.names if columns is None else columns:
        if there.names.count(name) != 1 or (
            name in own.names and there.field(name).type != own.field(name).type
        ):
            raise OutputError(
                f"{storage.redact(uri)}: its column {name} is missing, or not what nstray writes; it is not a part of this job"
            )


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table; columns of values that Python has not (nanoseconds, the year 20000) as text."""
    columns = {column.name: _values(table.column(i)) for i, column in enumerate(table.schema)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    if "[ns" not in str(column.type):
        with contextlib.suppress(ValueError, OverflowError, TypeError, pa.ArrowException):
            return cast("list[Any]", column.to_pylist())
    return [str(value) if value.is_valid else None for value in column]


def part_uris(output: Output, job: dict[str, Any]) -> Iterator[str]:
    """The committed parts of a job in order."""
    for window, _ in parts_by_window(job):
        for _, info in sorted(output.list_window(window).items()):
            yield info.uri
