"""One part as bytes: rows to Parquet, and the footer that says what is in it."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import ErrorCode, OutputError
from nstray.output import records
from nstray.output.records import PartInfo
from nstray.output.schema import COLUMNS, empty_part
from nstray.text import counted

T = TypeVar("T")
FOOTER_KEY = b"nstray"
ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 64 * 2**20
# What is read of an output that someone else made is larger than anything nstray writes.
MAX_FOOTER_BYTES = 16 * 2**20
_MAGIC = b"PAR1"  # at both ends of a Parquet file; the length of the footer precedes the last one
_MIN_BYTES = 12
MAX_ROWS = 65_536  # the largest shard_size
MAX_ROW_BYTES = 300 * 10**6  # three copies of it are in memory at once


@lru_cache(maxsize=8)
def _leaves(schema: pa.Schema) -> tuple[str, ...]:
    """Paths of the Parquet columns that `schema` becomes, such as ``style_uri.list.element``."""
    columns = empty_part(schema).schema
    return tuple(columns.column(i).path for i in range(len(columns.names)))


def _groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        more = len(row["image"]["bytes"]) if row.get("image") else 0
        if group and (len(group) == ROWS_PER_GROUP or size + more > BYTES_PER_GROUP):
            yield group
            group, size = [], 0
        group.append(row)
        size += more
    yield group


def _check_row(row: Mapping[str, Any], names: set[str]) -> None:
    """Raise ValueError if a row is neither a picture nor an error with its reason."""
    who = f"row {row.get('pair_id')!r}"
    if not isinstance(row.get("pair_id"), str):
        raise ValueError(f"{who} has no pair_id")
    if unknown := set(row) - names:
        raise ValueError(f"{who} has columns that the schema lacks: {', '.join(sorted(unknown))}")
    image = row.get("image")
    if row.get("status") == "ok":
        if (
            not image
            or not image["bytes"]
            or not records.PICTURE_NAME.fullmatch(image["path"] or "")
        ):
            raise ValueError(f"{who} is ok and has no picture under a bare file name")
        if row.get("error_code") is not None or not row.get("width") or not row.get("height"):
            raise ValueError(f"{who} is ok and has an error code, or no width and height")
    elif (
        row.get("status") != "error"
        or image is not None
        or row.get("error_code") not in set(ErrorCode)
    ):
        raise ValueError(
            f"{who} is neither ok nor an error row with a null image and a code of the closed list"
        )


def _table(rows: list[Mapping[str, Any]], schema: pa.Schema, carried: pa.Table | None) -> pa.Table:
    if carried is None:
        return pa.Table.from_pylist(rows, schema=schema)
    own = pa.Table.from_pylist(
        rows,
        schema=pa.schema([field for field in schema if field.name not in carried.column_names]),
    )
    columns = [
        own[field.name]
        if field.name in own.column_names
        else _cast(carried[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == kind else column.cast(kind)


def encode_part(
    rows: list[dict[str, Any]],
    schema: pa.Schema,
    footer: dict[str, Any],
    carried: pa.Table | None = None,
) -> bytes:
    """The bytes of one part.

    The image column is stored as it is: pictures don't compress twice, and PLAIN pages are read
    without a copy. The others are zstd.

    Args:
        rows: the output's own columns, and without `carried` the manifest's columns too.
        schema: of the part, from `nstray.output.schema.part_schema`.
        footer: becomes the metadata key ``nstray``, with rows, ok and errors counted here.
        carried: the manifest's columns in the order of the rows. They stay in Arrow, since Python
            can't hold all of its values, such as times after the year 9999.

    Raises ValueError if there are no rows, if a row breaks the promise of a picture or a reason,
    and if `carried` has other rows or columns.
    """
    if not rows:
        raise ValueError("a part has at least one row")
    names = set(schema.names)
    if carried is not None:
        if carried.num_rows != len(rows):
            raise ValueError(f"{carried.num_rows} carried rows for {len(rows)} rows")
        if carried.column_names != schema.names[len(COLUMNS) :]:
            raise ValueError(
                f"the carried columns are {carried.column_names}, "
                f"the schema's {schema.names[len(COLUMNS) :]}"
            )
        names -= set(carried.column_names)
    errors: dict[str, int] = {}
    for row in rows:
        _check_row(row, names)
        if row["status"] == "error":
            code = str(ErrorCode(row["error_code"]))
            errors[code] = errors.get(code, 0) + 1
    if len({row["pair_id"] for row in rows}) != len(rows):
        raise ValueError("a pair_id stands twice in one part")
    info = {**footer, "rows": len(rows), "ok": len(rows) - sum(errors.values()), "errors": errors}
    sink = io.BytesIO()
    with dataset_writer(sink, schema) as writer:
        start = 0
        for group in _groups(rows):
            theirs = None if carried is None else carried.slice(start, len(group))
            writer.write_table(_table(group, schema, theirs), row_group_size=len(group))
            start += len(group)
        writer.add_key_value_metadata({FOOTER_KEY.decode(): json.dumps(info, sort_keys=True)})
    return sink.getvalue()


def dataset_writer(sink: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of Parquet with pictures in a column ``image``: of a part, or of an export.

    The pictures are stored as they are. The other columns are zstd.
    """
    leaves = _leaves(schema)
    others = [path for path in leaves if path not in ("image.bytes", "image.path")]
    return pq.ParquetWriter(
        sink,
        schema,
        compression={path: "zstd" if path in others else "none" for path in leaves},
        use_dictionary=others,
        write_statistics=others,
        write_page_checksum=True,  # nothing else tells a flipped bit in a JPEG, here or on the way
    )


def remake(parts: str = "it", them: str = "it") -> str:
    """What to do about damaged parts: no run replaces a part that is there."""
    return f"remove {parts} and run the job again to remake {them}"


def damaged(uri: str, why: object) -> OutputError:
    """The error of a part that can't be read: which it is, why, and what to do."""
    return OutputError(f"{storage.redact(uri)} is damaged ({why}); {remake()}")


def _cut_short(size: int, tail: bytes) -> str | None:
    """Why a file can't be a whole Parquet file, by its size and last 8 bytes; None if it may be."""
    if size < _MIN_BYTES:
        return f"it has {counted(size, 'byte')}, fewer than any Parquet file"
    if tail[4:] != _MAGIC:
        return f"it does not end as a Parquet file does: its {size:,} bytes may be cut short"
    footer = int.from_bytes(tail[:4], "little")
    if footer > size - _MIN_BYTES:
        return f"it has {size:,} bytes, and its footer alone would have {footer:,}"
    return None


def footer_of(metadata: Any, uri: str, size: int) -> PartInfo:
    """A part's description of itself, from its Parquet metadata.

    Raises `OutputError` if nstray did not write it.
    """
    try:
        footer = json.loads(metadata.metadata[FOOTER_KEY])
        errors = {str(code): int(number) for code, number in footer["errors"].items()}
        int(footer.get("evaluations") or 0)
        records.check_times(footer)
        return PartInfo(uri, size, int(footer["rows"]), int(footer["ok"]), errors, footer)
    except (*records.DAMAGE, AttributeError):
        raise OutputError(
            f"{storage.redact(uri)} is a Parquet file that nstray did not write; move it away"
        ) from None


@contextmanager
def _open(uri: str) -> Iterator[tuple[io.BufferedReader, int]]:
    """A part open for reading, and its size in bytes."""
    with storage.open_input(uri, tail=storage.BLOCK) as source:
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        yield source, size


def _metadata(source: io.BufferedReader, uri: str) -> pq.FileMetaData:
    """Raises `OutputError` for a file that is cut short, or larger in memory than any part."""
    size = source.seek(0, io.SEEK_END)
    source.seek(-min(8, size), io.SEEK_END)
    tail = source.read(8)
    source.seek(0)
    if (why := _cut_short(size, tail)) is not None:
        raise damaged(uri, why)
    footer = int.from_bytes(tail[:4], "little")
    if footer > MAX_FOOTER_BYTES:
        raise OutputError(
            f"{storage.redact(uri)}: its footer has {footer:,} bytes; it is not a part of this job"
        )
    metadata = pq.read_metadata(source)
    source.seek(0)
    if metadata.num_rows > MAX_ROWS:
        raise OutputError(
            f"{storage.redact(uri)}: it has {metadata.num_rows:,} rows, and a part has at most "
            f"{MAX_ROWS:,}; it is not a part of this job"
        )
    return metadata


def _parquet_file(source: io.BufferedReader, uri: str) -> pq.ParquetFile:
    metadata = _metadata(source, uri)
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    large = any(group.total_byte_size > 4 * BYTES_PER_GROUP for group in groups)
    return pq.ParquetFile(
        source,
        metadata=metadata,
        buffer_size=2**20 if large else 0,  # page by page, or a column at once: fewer requests
        page_checksum_verification=True,
    )


def _again(uri: str, call: Callable[[], T]) -> T:
    """What `call` returns. If it fails for a part in a store, it is called once more.

    A store gives no digest of a range, so the bytes may have been damaged on their way.
    """
    try:
        return call()
    except (pa.ArrowException, OSError, UnicodeDecodeError, OutputError):
        if storage.split(uri)[0] is None:
            raise
        return call()


@contextmanager
def open_part(uri: str) -> Iterator[tuple[pq.ParquetFile, PartInfo]]:
    """A committed part as a Parquet file, and what its footer says; see `read_batches`.

    Raises `OutputError` if it is not a part, `StorageError`, and what Arrow raises for a damaged
    file: `pa.ArrowException`, OSError or UnicodeDecodeError.
    """
    with contextlib.ExitStack() as opened:

        def start() -> tuple[pq.ParquetFile, PartInfo]:
            source, size = opened.enter_context(_open(uri))
            file = _parquet_file(source, uri)
            return file, footer_of(file.metadata, uri, size)

        yield _again(uri, start)


def read_batches(
    uri: str,
    file: pq.ParquetFile,
    columns: Sequence[str] | None,
    *,
    groups: Sequence[int] | None = None,
) -> Iterator[pa.Table]:
    """The rows of an open part in order: at most 100 at once, and about 64 MiB.

    Args:
        groups: the row groups that are read; None reads all.

    A row group that a store gave with other bytes than those that were written is read once more.
    Raises `OutputError` for a row that is larger than any of nstray's.
    """
    for group in range(file.num_row_groups) if groups is None else groups:
        size = _rows_at_once(uri, file.metadata.row_group(group), columns)
        done = 0
        try:
            for batch in _batches(file, group, size, columns):
                yield batch
                done += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            if storage.split(uri)[0] is None:
                raise
            with _open(uri) as (source, _):
                again = _batches(_parquet_file(source, uri), group, size, columns)
                yield from itertools.islice(again, done, None)


def _batches(
    file: pq.ParquetFile, group: int, size: int, columns: Sequence[str] | None
) -> Iterator[pa.Table]:
    for batch in file.iter_batches(
        batch_size=size, row_groups=[group], columns=columns, use_threads=False
    ):
        yield pa.Table.from_batches([batch])


def _rows_at_once(uri: str, group: Any, columns: Sequence[str] | None) -> int:
    """How many rows of a row group are read at once; raises `OutputError`."""
    wanted = [
        column
        for column in map(group.column, range(group.num_columns))
        if columns is None
        or column.path_in_schema.partition(".")[0] in columns
        or any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in columns)
    ]
    size = sum(int(column.total_uncompressed_size) for column in wanted)
    each = size // max(1, int(group.num_rows))
    if each > MAX_ROW_BYTES:
        raise OutputError(
            f"{storage.redact(uri)}: its rows have {each:,} bytes each, more than the "
            f"{MAX_ROW_BYTES:,} that are read"
        )
    return max(1, min(ROWS_PER_GROUP, BYTES_PER_GROUP // max(1, each)))


def read_footer(uri: str) -> PartInfo:
    """What a part's footer says; reads only the tail of the file.

    Raises `OutputError` if the file is damaged or not a part, `StorageError` if it can't be read.
    """

    def read() -> PartInfo:
        with _open(uri) as (source, size):
            try:
                metadata = _metadata(source, uri)
            except (
                pa.ArrowException,
                OSError,
            ) as error:  # of a damaged footer thrift raises OSError
                raise damaged(uri, error) from None
        return footer_of(metadata, uri, size)

    return _again(uri, read)
