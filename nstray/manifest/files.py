"""The files of a manifest as a stream of raw record batches: Parquet, CSV and JSON Lines.

Nothing here knows what a pair is, except which CSV columns are text. No file is held whole in
memory. A file that is wrong as a file (unreadable, ragged, not UTF-8, not JSON) raises a
`ManifestError` that names the file and the line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from nstray import storage
from nstray.config import ROW_FIELDS
from nstray.errors import ManifestError, NotFound
from nstray.manifest.arrow_errors import (
    BadCell,
    EmptyFile,
    RaggedRow,
    csv_error,
    first_line,
    is_not_utf8,
)
from nstray.manifest.column_names import MASKS, PAIR_COLUMNS
from nstray.text import redact

ENDINGS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
BATCH_ROWS = 65_536
BLOCK_BYTES = 8 * 2**20
MAX_LINE_BYTES = 64 * 2**20
# CSV cells of these columns stay text here: a CSV reader would infer another meaning.
TEXT_COLUMNS = (*PAIR_COLUMNS, *ROW_FIELDS)
LONE_SURROGATE = "an escape from \\ud800 to \\udfff is alone: it is half of a character"
# Columns of text or of lists of text; an empty text is no list.
TEXT_LISTS = ("style", *MASKS)


@dataclass(frozen=True)
class ManifestFile:
    """One file of a manifest; `kind` is ``parquet``, ``csv`` or ``jsonl``, `size` is in bytes."""

    uri: str
    name: str
    kind: str
    size: int


@dataclass(frozen=True)
class RawBatch:
    """Consecutive rows of one file, as the file has them.

    Attributes:
        file: for messages.
        first: number of the first row among the file's data rows, from 0.
        names: as in the file, which may name a column twice.
        columns: one Arrow array per name, each of `rows` values. Of JSON Lines, `style` and masks
            are always list<string>.
    """

    file: ManifestFile
    first: int
    rows: int
    names: tuple[str, ...]
    columns: tuple[pa.Array, ...]


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode `text`; JSON's escapes can write half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def ending(name: str) -> str:
    """The last ending of `name` in lower case, with its dot; empty if there is none."""
    return "." + name.rsplit(".", 1)[1].lower() if "." in name else ""


def kind_of(uri: str) -> str:
    """The format of a manifest by its name's ending; raises `ManifestError` for an unknown one."""
    kind = ENDINGS.get(ending(storage.name(uri)))
    if kind is None:
        raise ManifestError(f"{uri}: a manifest's name must end with one of {', '.join(ENDINGS)}")
    return kind


def is_folder_name(uri: str) -> bool:
    """Whether `uri` can only be a folder: a bucket alone, or a slash at the end."""
    return uri.endswith("/") or (uri.startswith("s3://") and "/" not in uri[5:])


def find(uri: str) -> tuple[str, list[ManifestFile]]:
    """The folder that relative paths start from, and the manifest's files sorted by name.

    The files of a folder are every .parquet, .csv, .jsonl and .ndjson directly in it, all of one
    format. Names that start with "." or "_" are skipped. Raises `ManifestError` if there is none.
    """
    found = None if is_folder_name(uri) else storage.head(uri)
    if found is not None:
        return storage.parent(uri), [ManifestFile(uri, storage.name(uri), kind_of(uri), found.size)]
    try:
        listed = [
            o
            for o in storage.list_files(uri, recursive=False)
            if storage.name(o.uri)[:1] not in (".", "_")
        ]
    except NotFound as error:
        raise ManifestError(
            f"{uri}: no such manifest, neither a file nor a folder ({error})"
        ) from None
    if not listed and uri.startswith("s3://"):
        raise ManifestError(
            f"{uri}: no such manifest, neither an object nor a prefix with objects below it"
        )
    files = [
        ManifestFile(o.uri, n, ENDINGS[ending(n)], o.size)
        for o in listed
        if ending(n := storage.name(o.uri)) in ENDINGS
    ]
    files.sort(key=lambda f: f.name)
    if not files:
        raise ManifestError(
            f"{uri}: no manifest in this folder: none of its {len(listed)} files "
            f"ends with {', '.join(ENDINGS)}"
        )
    other = next((f for f in files if f.kind != files[0].kind), None)
    if other is not None:
        raise ManifestError(
            f"{uri}: files of more than one format: {files[0].name} and {other.name}; "
            "keep one format in a folder"
        )
    return uri, files


def digest(files: list[ManifestFile], folder: bool) -> str:
    """``sha256:...`` of the bytes of one file, or of a `folder` of files.

    A folder's digest is over its sorted lines ``name NUL sha256``.
    """
    sums = []
    for file in files:
        total = hashlib.sha256()
        with storage.open_input(file.uri) as stream:
            while chunk := stream.read(BLOCK_BYTES):
                total.update(chunk)
        sums.append((file.name, total.hexdigest()))
    if not folder:
        return f"sha256:{sums[0][1]}"
    return "sha256:" + hashlib.sha256("".join(f"{n}\0{s}\n" for n, s in sums).encode()).hexdigest()


def read(file: ManifestFile) -> Iterator[RawBatch]:
    """The file's rows in order, in batches of bounded size.

    Raises: `ManifestError` for a file that can't be read in the format of its ending.
    """
    if file.size == 0:
        return
    first = 0
    readers = {"parquet": _parquet, "csv": _csv, "jsonl": _json_lines}
    for names, columns, rows in readers[file.kind](file):
        if rows:
            yield RawBatch(file, first, rows, names, columns)
            first += rows


_Rows = tuple[tuple[str, ...], tuple[pa.Array, ...], int]


def _parquet(file: ManifestFile) -> Iterator[_Rows]:
    with storage.open_input(file.uri) as stream:
        try:
            source = pq.ParquetFile(stream, page_checksum_verification=True)
            for groups in _row_groups(source.metadata):
                for batch in source.iter_batches(batch_size=BATCH_ROWS, row_groups=groups):
                    for name, column in zip(batch.schema.names, batch.columns, strict=True):
                        _check_values(file, name, column)
                    yield tuple(batch.schema.names), tuple(batch.columns), batch.num_rows
        except UnicodeDecodeError:
            raise ManifestError(f"{file.name}: a column's name is not UTF-8 text") from None
        except pa.ArrowException as error:
            raise ManifestError(
                f"{file.name}: not a Parquet file that can be read: {first_line(error)}"
            ) from None
        except OSError as error:  # what pyarrow raises for a damaged page or column chunk
            raise ManifestError(f"{file.name}: damaged Parquet file: {first_line(error)}") from None


def _row_groups(metadata: pq.FileMetaData) -> Iterator[list[int]]:
    """The numbers of the row groups in order, small ones together.

    Each list is read by a reader of its own: one reader over a whole file holds 15 bytes of each
    row that it has passed (pyarrow 26).
    """
    groups: list[int] = []
    rows = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        rows += metadata.row_group(group).num_rows
        if rows >= BATCH_ROWS:
            yield groups
            groups, rows = [], 0
    if groups:
        yield groups


def _check_values(file: ManifestFile, name: str, column: pa.Array) -> None:
    """Raise `ManifestError` for values that pyarrow reads unchecked, such as text not in UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        what = "not UTF-8 text" if is_not_utf8(str(error)) else f"damaged: {first_line(error)}"
        raise ManifestError(f"{file.name}: column {name}: {what}") from None


def _csv(file: ManifestFile) -> Iterator[_Rows]:
    text = {name: pa.string() for name in TEXT_COLUMNS}

    def start(stream: Any, types: dict[str, pa.DataType]) -> Any:
        return pacsv.open_csv(
            stream,
            # With more than one thread, Arrow's errors do not name the row.
            read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
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
            if file.size > BLOCK_BYTES:
                # A column that is empty in the whole first block has no type to infer, and later
                # rows may hold anything: it is text. The block is read as a copy, because a reader
                # goes on reading its stream in a thread of its own, even after it is closed.
                first_block = start(io.BytesIO(stream.read(2 * BLOCK_BYTES)), text)
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
        message = _csv_message(error, names or _csv_header(file))
        if message:
            raise ManifestError(f"{file.name}{message}") from None


def _csv_header(file: ManifestFile) -> tuple[str, ...]:
    """The column names, for a message about a first block that does not convert."""
    with storage.open_input(file.uri) as stream:
        head = stream.read(BLOCK_BYTES).decode("utf-8-sig", errors="replace")
    try:
        return tuple(next(csv.reader(io.StringIO(head, newline="")), ()))
    except csv.Error:  # a name longer than Python's reader takes
        return ()


def _csv_message(error: Exception, names: tuple[str, ...]) -> str:
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


def _lines(file: ManifestFile) -> Iterator[bytes]:
    with storage.open_input(file.uri) as stream:
        rest = b""
        while chunk := stream.read(BLOCK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > MAX_LINE_BYTES:
                raise ManifestError(
                    f"{file.name}: a line of more than {MAX_LINE_BYTES >> 20} MiB; "
                    "JSON Lines has one object per line"
                )
        if rest:
            yield rest


def _json_lines(file: ManifestFile) -> Iterator[_Rows]:
    rows: list[dict[str, Any]] = []
    first = 0
    for number, line in enumerate(_lines(file), 1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        try:
            row = json.loads(text.decode("utf-8"))
            encodable = b"\\u" not in text or is_unicode(json.dumps(row, ensure_ascii=False))
        except UnicodeDecodeError:
            raise ManifestError(
                f"{file.name} line {number}: not UTF-8 text; save the file as UTF-8"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{file.name} line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ManifestError(
                f"{file.name} line {number}: must be a JSON object, {{...}}; "
                f"got {type(row).__name__}"
            )
        if not encodable:
            raise ManifestError(f"{file.name} line {number}: {LONE_SURROGATE}")
        rows.append(row)
        if len(rows) == BATCH_ROWS:
            yield _from_objects(file, first, rows)
            first += len(rows)
            rows = []
    yield _from_objects(file, first, rows)


def _from_objects(file: ManifestFile, first: int, rows: list[dict[str, Any]]) -> _Rows:
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return (
        names,
        tuple(_json_column(file, first, name, [row.get(name) for row in rows]) for name in names),
        len(rows),
    )


def _json_column(file: ManifestFile, first: int, name: str, values: list[Any]) -> pa.Array:
    if name in TEXT_LISTS:
        values = [([v] if v else None) if isinstance(v, str) else v for v in values]
    elif name in ROW_FIELDS:  # one column may hold both 512 and "640x480"
        values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    types = {
        "content": pa.string(),
        "fine_style": pa.string(),
        "style_weights": pa.list_(pa.float64()),
    }
    kind = pa.list_(pa.string()) if name in TEXT_LISTS else types.get(name)
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError) as error:
        row = next((i for i, v in enumerate(values) if not _fits(v, kind, values)), 0)
        rule = (
            f"must be {kind} or null" if kind is not None else "a column holds values of one type"
        )
        raise ManifestError(
            f"{file.name} row {first + row + 1}: {name}: {rule}; "
            f"got {redact(repr(values[row])):.80} ({first_line(error)})"
        ) from None


def _fits(value: Any, kind: pa.DataType | None, values: list[Any]) -> bool:
    """Whether `value` makes a column, after the column's first value if its type is inferred."""
    head = [] if kind is not None else [next(v for v in values if v is not None)]
    try:
        pa.array([*head, value], kind)
    except (pa.ArrowException, OverflowError):
        return False
    return True
