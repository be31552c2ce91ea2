"""One part as bytes: rows to Parquet, and the footer that says what is in it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nstray import storage
from nstray.errors import ErrorCode, OutputError
from nstray.output import records
from nstray.output.records import PartInfo
from nstray.output.schema import COLUMNS, empty_part

FOOTER_KEY = b"nstray"
ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 64 * 2**20


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
    leaves = _leaves(schema)
    others = [path for path in leaves if path not in ("image.bytes", "image.path")]
    compression = {path: "zstd" if path in others else "none" for path in leaves}
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, schema, compression=compression, use_dictionary=others, write_statistics=others
    ) as writer:
        start = 0
        for group in _groups(rows):
            theirs = None if carried is None else carried.slice(start, len(group))
            writer.write_table(_table(group, schema, theirs), row_group_size=len(group))
            start += len(group)
        writer.add_key_value_metadata({FOOTER_KEY.decode(): json.dumps(info, sort_keys=True)})
    return sink.getvalue()


def damaged(uri: str, error: Exception) -> OutputError:
    """The error of a part that can't be read."""
    return OutputError(
        f"{storage.redact(uri)} is damaged ({error}); remove it and run the job again to remake it"
    )


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
    with storage.open_input(uri) as source:
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        yield source, size


@contextmanager
def open_part(uri: str) -> Iterator[tuple[pq.ParquetFile, PartInfo]]:
    """A committed part as a Parquet file, and what its footer says.

    Raises `OutputError` if it is not a part, `StorageError`, and what Arrow raises for a damaged
    file: `pa.ArrowException`, OSError or UnicodeDecodeError.
    """
    with _open(uri) as (source, size):
        file = pq.ParquetFile(source)
        yield file, footer_of(file.metadata, uri, size)


def read_footer(uri: str) -> PartInfo:
    """What a part's footer says; reads only the tail of the file.

    Raises `OutputError` if the file is damaged or not a part, `StorageError` if it can't be read.
    """
    with _open(uri) as (source, size):
        try:
            metadata = pq.read_metadata(source)
        except (pa.ArrowException, OSError) as error:  # of a damaged footer thrift raises OSError
            raise damaged(uri, error) from None
    return footer_of(metadata, uri, size)
