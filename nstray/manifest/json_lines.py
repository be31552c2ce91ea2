"""JSON Lines files as raw batches: values arrive as written, or are refused by line or row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from nstray.config import ROW_FIELDS
from nstray.errors import ManifestError
from nstray.manifest.arrow_errors import first_line
from nstray.manifest.column_names import MASKS
from nstray.manifest.text_input import SAVE_AS_UTF8, TextInput
from nstray.text import redact

if TYPE_CHECKING:
    from nstray.manifest.raw_batches import ManifestFile, Rows

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


class _Wrong(ValueError):
    """JSON that Python's reader takes and that would not arrive as written."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of distinct keys: of two values under one key, one would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise _Wrong(f"the key {twice!r} appears twice in one object; rename or remove one")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Wrong(f"the number {text[:40]} is beyond a double; write it as text, in quotes")
    return value


# NaN, Infinity and -Infinity, as Python and pandas write them, are the floats of these names.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float)


def _lines(source: TextInput, block_bytes: int) -> Iterator[bytes]:
    rest = b""
    while chunk := source.read(block_bytes):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > MAX_LINE_BYTES:
            raise ManifestError(
                f"{source.file.name}: a line of more than {MAX_LINE_BYTES >> 20} MiB; "
                "JSON Lines has one object per line"
            )
    if rest:
        yield rest


def read(file: ManifestFile, batch_rows: int, block_bytes: int) -> Iterator[Rows]:
    """The rows of a JSON Lines file, `batch_rows` at a time.

    The file is read in blocks of `block_bytes`. Every value arrives as written, or a
    `ManifestError` names its line: a key that appears twice, a number that no type holds.
    """
    rows: list[dict[str, Any]] = []
    first = 0
    with TextInput(file) as source:
        for number, line in enumerate(_lines(source, block_bytes), 1):
            if not line.strip():
                continue
            rows.append(_row(file, number, line))
            if len(rows) == batch_rows:
                yield _from_objects(file, first, rows)
                first += len(rows)
                rows = []
    yield _from_objects(file, first, rows)


def _row(file: ManifestFile, number: int, line: bytes) -> dict[str, Any]:
    """The object on one line; raises `ManifestError` if there is none."""
    at = f"{file.name} line {number}"
    try:
        text = line.decode("utf-8").strip(" \t\r")
        row, end = _DECODER.raw_decode(text)  # `decode` looks for white space in 0.3 us more
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        encodable = b"\\u" not in line or is_unicode(json.dumps(row, ensure_ascii=False))
    except UnicodeDecodeError:
        raise ManifestError(f"{at}: not UTF-8 text; {SAVE_AS_UTF8}") from None
    except _Wrong as error:
        raise ManifestError(f"{at}: {error}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ManifestError(f"{at}: not JSON: {error}{_hint(line)}") from None
    except ValueError:  # Python takes integers of up to 4300 digits
        raise ManifestError(f"{at}: an integer of thousands of digits; write it as text") from None
    if not isinstance(row, dict):
        raise ManifestError(
            f"{at}: must be a JSON object, {{...}}; got {type(row).__name__}{_hint(line)}"
        )
    if not encodable:
        raise ManifestError(f"{at}: {LONE_SURROGATE}")
    return row


def _hint(line: bytes) -> str:
    """What to do with JSON that is not one object per line; empty for other faults."""
    if line.lstrip().startswith(b"["):
        return "; JSON Lines is no array: it has one object per line (jq -c '.[]' OLD > NEW)"
    if line.strip() == b"{":
        return "; an object stands on one line (jq -c . OLD > NEW)"
    return ""


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
        if (large := _beyond_64_bits(values[row])) is not None:
            raise ManifestError(
                f"{file.name} row {first + row + 1}: {name}: {str(large)[:40]} does not fit a "
                "signed integer of 64 bits; write it as text, in quotes"
            ) from None
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


def _beyond_64_bits(value: Any) -> int | None:
    """The first integer in `value` that no Arrow integer here holds; None if there is none."""
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for v in inner if (found := _beyond_64_bits(v)) is not None), None)
