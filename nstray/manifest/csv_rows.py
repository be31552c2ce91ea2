"""CSV files as raw batches."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv as pacsv

from nstray import storage
from nstray.config import ROW_FIELDS
from nstray.errors import ManifestError
from nstray.manifest.arrow_errors import (
    BadCell,
    EmptyFile,
    RaggedRow,
    csv_error,
    first_line,
    is_not_utf8,
)
from nstray.manifest.column_names import PAIR_COLUMNS

if TYPE_CHECKING:
    from nstray.manifest.files import ManifestFile, Rows

# CSV cells of these columns stay text here: a CSV reader would infer another meaning.
TEXT_COLUMNS = (*PAIR_COLUMNS, *ROW_FIELDS)


def read(file: ManifestFile, block_bytes: int) -> Iterator[Rows]:
    """The rows of a CSV file, a block of `block_bytes` at a time."""
    text = {name: pa.string() for name in TEXT_COLUMNS}

    def start(stream: Any, types: dict[str, pa.DataType]) -> Any:
        return pacsv.open_csv(
            stream,
            # With more than one thread, Arrow's errors do not name the row.
            read_options=pacsv.ReadOptions(block_size=block_bytes, use_threads=False),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(column_types=types),
        )

    names: tuple[str, ...] = ()
    try:
        with storage.open_input(file.uri) as stream:
            if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise ManifestError(
                    f"{file.name}: not UTF-8 text (it starts like UTF-16); save it as UTF-8"
                )
            stream.seek(0)
            empty: list[str] = []
            if file.size > block_bytes:
                # A column that is empty in the whole first block has no type to infer, and later
                # rows may hold anything: it is text. The block is read as a copy, because a reader
                # goes on reading its stream in a thread of its own, even after it is closed.
                first_block = start(io.BytesIO(stream.read(2 * block_bytes)), text)
                empty = [f.name for f in first_block.schema if pa.types.is_null(f.type)]
                stream.seek(0)
            reader = start(stream, {**text, **{name: pa.string() for name in empty}})
            names = tuple(reader.schema.names)
            binary = [f.name for f in reader.schema if pa.types.is_binary(f.type)]
            if binary:
                raise ManifestError(
                    f"{file.name} column {binary[0]}: not UTF-8 text; save the file as UTF-8"
                )
            for batch in reader:
                yield names, tuple(batch.columns), batch.num_rows
    except UnicodeDecodeError:
        raise ManifestError(
            f"{file.name} line 1: a column's name is not UTF-8 text; save the file as UTF-8"
        ) from None
    except pa.ArrowException as error:
        message = _message(error, names or _header(file, block_bytes))
        if message:
            raise ManifestError(f"{file.name}{message}") from None


def _header(file: ManifestFile, block_bytes: int) -> tuple[str, ...]:
    """The column names, for a message about a first block that does not convert."""
    with storage.open_input(file.uri) as stream:
        head = stream.read(block_bytes).decode("utf-8-sig", errors="replace")
    try:
        return tuple(next(csv.reader(io.StringIO(head, newline="")), ()))
    except csv.Error:  # a name longer than Python's reader takes
        return ()


def _message(error: Exception, names: tuple[str, ...]) -> str:
    """What is wrong, to follow the file's name; empty if the file only has no rows."""
    match csv_error(error):
        case EmptyFile():
            return ""
        case RaggedRow(line, columns, expected, row):
            return f" line {line}: {columns} columns, but the header has {expected}: {row[:80]!r}"
        case BadCell(line, number, kind, reason):
            at = "" if line is None else f" line {line}"
            column = names[number] if number < len(names) else f"number {number + 1}"
            if is_not_utf8(reason):
                return f"{at}: {column}: not UTF-8 text; save the file as UTF-8"
            return (
                f"{at}: {column}: {reason}, but the rows before hold {kind}; "
                "make the column one type, or write the manifest as Parquet"
            )
    return f": not CSV that can be read: {first_line(error)}"
