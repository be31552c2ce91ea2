"""Pictures in columns of Parquet and Arrow files: which columns hold them, and one cell's bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from nstray import storage
from nstray.errors import BadArchive, NotFound, TooLarge

# Bytes of one row group's pictures, or of one record batch, that are read at once.
GROUP_BYTES = 2**30
_LARGE = 64 * 2**20  # of such a size one at a time is read
_large = threading.Lock()
# What pyarrow raises for bytes that are not what they say they are.
DAMAGE = (pa.ArrowException, OSError, ValueError, ArithmeticError, LookupError, TypeError)


def picture_field(schema: pa.Schema, column: str, where: str) -> int:
    """The place of a column in a file's schema.

    Raises `NotFound` if the file has no such column, and `BadArchive` if it has two, or one that
    holds no pictures.
    """
    found = schema.get_all_field_indices(column)
    if not found:
        names = ", ".join(schema.names[:20])
        raise NotFound(f"{where}: has no column {column!r}; its columns are {names}")
    if len(found) > 1:
        raise BadArchive(f"{where}: has {len(found)} columns {column!r}")
    kind = schema.field(found[0]).type
    if not is_picture(kind):
        raise BadArchive(
            f"{where}: its column {column!r} holds {kind}; pictures are binary, or a struct with "
            "a binary field bytes"
        )
    return int(found[0])


def is_picture(kind: pa.DataType) -> bool:
    """Whether a column of this type holds pictures: binary, or a struct with binary ``bytes``."""
    if pa.types.is_struct(kind):
        at = kind.get_all_field_indices("bytes")
        return len(at) == 1 and _is_binary(kind.field(at[0]).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def cell_bytes(cells: pa.Array | pa.ChunkedArray, row: int, what: str, max_bytes: int) -> bytes:
    """The picture in a row of a column.

    Raises `NotFound` if there is none, and `TooLarge` above `max_bytes`.

    Args:
        what: names the cell, for messages.
    """
    cell = cells[row]
    path = ""
    if isinstance(cell, pa.StructScalar):
        if cell.is_valid and "path" in cell.keys():  # noqa: SIM118 - a struct's members are no keys of it
            named = cell["path"].as_py()
            path = f", but the path {storage.redact(str(named))[:200]!r}" if named else ""
        cell = cell["bytes"] if cell.is_valid else None
    if isinstance(cell, pa.DictionaryScalar):
        cell = cell.value if cell.is_valid else None
    if cell is None or not cell.is_valid:
        raise NotFound(f"{what}: the cell is null: it has no picture's bytes{path}")
    size = cell.as_buffer().size
    if size > max_bytes:
        raise TooLarge(f"{what}: {size:,} bytes, more than the {max_bytes:,} allowed")
    return bytes(cell.as_py())


def locate_row(
    starts: np.ndarray[Any, np.dtype[np.int64]],
    archive: str,
    row: int,
    at: tuple[int, int] | None,
    what: str,
) -> tuple[int, int]:
    """(group, row inside it) of a row of a file.

    Raises `NotFound` if the file has fewer rows, and `BadArchive` if the place `at` is another.

    Args:
        starts: the number of rows before each group, and of all.
        what: a group's name, for messages.
    """
    where = storage.redact(archive)
    if row >= starts[-1]:
        raise NotFound(f"{where}: has {starts[-1]:,} rows, no row {row:,} (rows count from 0)")
    group = int(np.searchsorted(starts, row, side="right")) - 1
    found = group, row - int(starts[group])
    if at is not None and at != found:
        raise BadArchive(
            f"{where}: its row {row:,} is row {found[1]:,} of {what} {found[0]:,}, and the "
            f"manifest says row {at[1]:,} of {what} {at[0]:,}: make the manifest anew"
        )
    return found


@contextmanager
def room_for(what: str, size: int) -> Iterator[None]:
    """Memory for `size` bytes of a row group or record batch; large ones wait for each other.

    Raises `TooLarge` above `GROUP_BYTES`.
    """
    if size > GROUP_BYTES:
        raise TooLarge(
            f"{what}: {size:,} bytes, more than the {GROUP_BYTES:,} that are read at once; write "
            "the file with smaller row groups"
        )
    if size < _LARGE:
        yield
    else:
        with _large:
            yield


def first_line(error: BaseException) -> str:
    """What pyarrow says is wrong, redacted."""
    return storage.redact(str(error).partition("\n")[0])[:300] or type(error).__name__
