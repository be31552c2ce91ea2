"""JSON Lines files as raw batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nstray import storage
from nstray.config import ROW_FIELDS
from nstray.errors import ManifestError
from nstray.manifest.arrow_errors import first_line
from nstray.manifest.column_names import MASKS
from nstray.text import redact

if TYPE_CHECKING:
    from nstray.manifest.files import ManifestFile, Rows

MAX_LINE_BYTES = 64 * 2**20
LONE_SURROGATE = "an escape from \\ud800 to \\udfff is alone: it is half of a character"
# Columns of text or of lists of text; an empty text is no list.
TEXT_LISTS = ("style", *MASKS)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode `text`; JSON's escapes can write half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(file: ManifestFile, block_bytes: int) -> Iterator[bytes]:
    with storage.open_input(file.uri) as stream:
        rest = b""
        while chunk := stream.read(block_bytes):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > MAX_LINE_BYTES:
                raise ManifestError(
                    f"{file.name}: a line of more than {MAX_LINE_BYTES >> 20} MiB; "
                    "JSON Lines has one object per line"
                )
        if rest:
            yield rest


def read(file: ManifestFile, batch_rows: int, block_bytes: int) -> Iterator[Rows]:
    """The rows of a JSON Lines file, `batch_rows` at a time.

    The file is read in blocks of `block_bytes`.
    """
    rows: list[dict[str, Any]] = []
    first = 0
    for number, line in enumerate(_lines(file, block_bytes), 1):
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
        if len(rows) == batch_rows:
            yield _from_objects(file, first, rows)
            first += len(rows)
            rows = []
    yield _from_objects(file, first, rows)


def _from_objects(file: ManifestFile, first: int, rows: list[dict[str, Any]]) -> Rows:
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return (
        names,
        tuple(_column(file, first, name, [row.get(name) for row in rows]) for name in names),
        len(rows),
    )


def _column(file: ManifestFile, first: int, name: str, values: list[Any]) -> pa.Array:
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
