"""CSV files as raw batches: every column is text, unless the job names its type.

An empty cell without quotes is null; ``""`` is an empty text. Rows of separators alone are left
out. `nstray.manifest.csv_dialect` finds out how the file is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from nstray.errors import ManifestError
from nstray.manifest.arrow_errors import (
    BadCell,
    EmptyFile,
    LongRow,
    RaggedRow,
    csv_error,
    first_line,
    is_not_utf8,
)
from nstray.manifest.csv_dialect import SEPARATORS, Dialect, cells, records, sniff
from nstray.manifest.csv_types import first_unparsed, parse, rule
from nstray.manifest.text_input import SAVE_AS_UTF8, TextInput
from nstray.text import redact

if TYPE_CHECKING:
    from nstray.manifest.raw_batches import ManifestFile, Rows

_DOUBLE_QUOTES = 'a quote inside a quoted cell is written twice (""), not with a backslash'


def read(
    file: ManifestFile, types: Mapping[str, pa.DataType], block_bytes: int
) -> Iterator[tuple[Rows, str]]:
    """The rows of a CSV file, a block of `block_bytes` at a time, and how the file is written.

    Args:
        types: of the carried columns that the job names; all others are text.
    """
    with TextInput(file) as source:
        dialect = sniff(source)
        if dialect is None:
            return
        reader = _Reader(file, dialect, types, block_bytes)
        how = f"{dialect}, encoding {source.encoding}"
        for rows in reader.batches(source):
            yield rows, how


class _Reader:
    """One file, read once; a fault is looked up in a second reading."""

    def __init__(
        self,
        file: ManifestFile,
        dialect: Dialect,
        types: Mapping[str, pa.DataType],
        block_bytes: int,
    ) -> None:
        self.file, self.dialect, self.types = file, dialect, types
        self.block_bytes = block_bytes
        self._separator = dialect.separator.encode("latin-1")

    def batches(self, source: TextInput) -> Iterator[Rows]:
        """The rows in order; raises `ManifestError` for what is wrong with the file."""
        source.skip(self.dialect.start)
        body = _Body(source, self._separator)
        numbers = [str(i) for i in range(len(self.dialect.names))]
        first = 0  # row of the batch among the rows that are not blank
        try:
            reader = pacsv.open_csv(
                body,
                # With more than one thread, Arrow's errors do not name the row.
                read_options=pacsv.ReadOptions(
                    block_size=self.block_bytes, use_threads=False, column_names=numbers
                ),
                parse_options=pacsv.ParseOptions(
                    delimiter=self.dialect.separator, newlines_in_values=True
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(numbers, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            for batch in reader:
                yield self._rows(batch, first)
                first += batch.num_rows
        except _BackslashQuote:
            raise self._backslash() from None
        except pa.ArrowException as error:
            if message := self._message(error):
                raise ManifestError(f"{self.file.name}{message}") from None

    def _rows(self, batch: pa.RecordBatch, first: int) -> Rows:
        columns = list(batch.columns)
        if self.dialect.space_before:
            columns[:-1] = [_without_spaces(c, pc.utf8_rtrim) for c in columns[:-1]]
        if self.dialect.space_after:
            columns[1:] = [self._after_spaces(i, c, first) for i, c in enumerate(columns[1:], 1)]
        names = self.dialect.names
        kept = None
        if all(c.null_count for c in columns):
            filled = pc.is_valid(columns[0])
            for column in columns[1:]:
                filled = pc.or_(filled, pc.is_valid(column))
            if not pc.all(filled).as_py():
                kept = filled
        if names and not names[-1]:  # a separator at the end of the rows
            columns, names = self._without_last(columns, first), names[:-1]
        self._check_no_second_header(names, columns, first)
        columns = [
            self._typed(name, column, first) for name, column in zip(names, columns, strict=True)
        ]
        if kept is not None:
            columns = [column.filter(kept) for column in columns]
        rows = batch.num_rows if kept is None else pc.sum(kept).as_py()
        return names, tuple(columns), rows

    def _after_spaces(self, number: int, column: pa.Array, first: int) -> pa.Array:
        """The column without the spaces after its separators; raises for a quote after one."""
        quoted = pc.match_substring_regex(column, '^ +"')
        if pc.any(quoted).as_py():
            line, _ = self._find(first + pc.index(quoted, True).as_py())
            raise ManifestError(
                f"{self.file.name} line {line}: {self.dialect.names[number] or number + 1}: "
                "a quote after a space does not open a quoted cell; "
                "remove the spaces before the quotes"
            )
        return _without_spaces(column, pc.utf8_ltrim)

    def _without_last(self, columns: list[pa.Array], first: int) -> list[pa.Array]:
        """The columns without the last one, which has no name; raises if it has a value."""
        last = columns[-1]
        filled = pc.not_equal(pc.fill_null(last, ""), "")
        if pc.any(filled).as_py():
            row = pc.index(filled, True).as_py()
            line, _ = self._find(first + row)
            raise ManifestError(
                f"{self.file.name} line {line}: column {len(columns)} has no name and holds "
                f"{redact(last[row].as_py())[:80]!r}; "
                "name it or leave it out (from pandas: index=False)"
            )
        return columns[:-1]

    def _check_no_second_header(
        self, names: tuple[str, ...], columns: list[pa.Array], first: int
    ) -> None:
        """Raise `ManifestError` for a row that repeats the header, as joined files have it."""
        if "content" not in names:
            return
        same = pc.fill_null(pc.equal(columns[names.index("content")], "content"), False)
        if not pc.any(same).as_py():
            return
        for row in pc.indices_nonzero(same).to_pylist():
            if all(c[row].as_py() == name for c, name in zip(columns, names, strict=True)):
                line, _ = self._find(first + row)
                raise ManifestError(
                    f"{self.file.name} line {line}: the header again, as files that were joined "
                    "have it; remove this line"
                )

    def _typed(self, name: str, column: pa.Array, first: int) -> pa.Array:
        """The column in the type that the job names; raises for a value that is none."""
        kind = self.types.get(name)
        if kind is None:
            return column
        typed = parse(column, kind)
        if typed is None:
            row = first_unparsed(column, kind)
            line, _ = self._find(first + row)
            value = column[row].as_py()
            raise ManifestError(
                f"{self.file.name} line {line}: {name}: {rule(kind, value)}; "
                f"got {redact(value)[:80]!r}"
            )
        return typed

    # what is wrong

    def _find(self, row: int) -> tuple[int, bytes]:
        """The line and the text of a row, counted from 0 among the rows that are not blank."""
        for number, found in enumerate(self._records()):
            if number == row:
                return found
        return self.dialect.line + row, b""  # the file has changed meanwhile

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """The records after the header, each with its line, from a second reading."""
        with TextInput(self.file) as source:
            source.peek(self.dialect.start)
            source.skip(self.dialect.start)
            yield from records(source, self._separator, self.dialect.line, self.block_bytes)

    def _backslash(self) -> ManifestError:
        """The error about a quote that is escaped by a backslash."""
        pattern = _backslash_quote(self._separator)
        line = next((n for n, record in self._records() if pattern.search(record)), "?")
        return ManifestError(
            f"{self.file.name} line {line}: a quote after a backslash: {_DOUBLE_QUOTES}; "
            "write CSV with doubled quotes, or JSON Lines"
        )

    def _message(self, error: Exception) -> str:
        """What is wrong, to follow the file's name; empty if the file only has no rows."""
        match csv_error(error):
            case EmptyFile():
                return ""
            case LongRow():
                return (
                    f": a row of more than {self.block_bytes >> 20} MiB: is a quote not closed? "
                    "Write long values as Parquet"
                )
            case RaggedRow(row, columns, expected, text):
                line, record = self._find(row - 1)
                return (
                    f" line {line}: {columns} columns, but the header has {expected}: "
                    f"{text[:80]!r} ({self.dialect}){self._why(record, columns, expected)}"
                )
            case BadCell(row, number, _, reason):
                at = "" if row is None else f" line {self._find(row - 1)[0]}"
                column = self.dialect.names[number] or f"number {number + 1}"
                if is_not_utf8(reason):
                    return f"{at}: {column}: not UTF-8 text; {SAVE_AS_UTF8}"
                return f"{at}: {column}: {reason}"
        return f": not CSV that can be read: {first_line(error)} ({self.dialect})"

    def _why(self, record: bytes, columns: int, expected: int) -> str:
        """The likely cause of a row of another length than the header's, and the mend."""
        if record.startswith(b"#"):
            return "; is it a comment? Comments may stand before the header alone: remove it"
        if columns == expected + 1 and record.endswith(self._separator):
            return "; it ends with a separator: remove it, or end every line with one"
        if _backslash_quote(self._separator).search(record):
            return f"; {_DOUBLE_QUOTES}"
        found = cells(record, self._separator)
        if any(cell.text.lstrip().startswith(b'"') and not cell.quoted for cell in found):
            return "; a quote after a space does not open a quoted cell: remove the space"
        if record.count(b'"') % 2:
            return "; is a quote not closed?"
        others = [s for s in SEPARATORS if len(cells(record, s)) == expected > 1]
        if others and columns == 1:
            return "; this row has another separator than the header: use one in all rows"
        if columns > expected:
            return "; put a cell that holds the separator in double quotes"
        return ""


def _without_spaces(column: pa.Array, trim: Callable[..., pa.Array]) -> pa.Array:
    """The column without spaces at one side; a cell of spaces alone is empty, which is null."""
    trimmed = trim(column, characters=" ")
    empty = pc.and_(pc.equal(trimmed, ""), pc.not_equal(column, ""))
    return pc.if_else(empty, pa.scalar(None, pa.string()), trimmed)


class _BackslashQuote(Exception):
    """A quote follows a backslash inside a cell."""


def _backslash_quote(separator: bytes) -> re.Pattern[bytes]:
    """A backslash and a quote that does not end its cell and is not doubled."""
    return re.compile(rb'\\"(?=[^"\r\n' + re.escape(separator) + rb"])")


class _Body:
    """What Arrow reads: the bytes after the header.

    Raises `_BackslashQuote` for quotes that a backslash escapes: Arrow would read another value.
    """

    def __init__(self, source: TextInput, separator: bytes) -> None:
        self._source, self._pattern, self._last = source, _backslash_quote(separator), b""

    @property
    def closed(self) -> bool:
        """Whether the file was closed; Arrow asks."""
        return self._source.closed

    def read(self, size: int = -1) -> bytes:
        """The next bytes; none at the end, and none after the file was closed."""
        data = self._source.read(size if size > 0 else 2**20)
        # Arrow drops the \n of a pair \r\n that two blocks share, even in quotes (pyarrow 26).
        while data[-1:] == b"\r" and (following := self._source.read(1)):
            data += following
        joint = self._last + data[:2]
        if (b'\\"' in data and self._pattern.search(data)) or self._pattern.search(joint):
            raise _BackslashQuote
        self._last = data[-2:]
        return data

    def close(self) -> None:
        """The reader's owner closes the file."""

    def seekable(self) -> bool:
        """Arrow reads it once, from its start."""
        return False
