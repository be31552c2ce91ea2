"""CSV files as raw batches: every column is text, unless the job names its type.

An empty cell without quotes is null; ``""`` is an empty text. Rows of separators alone are left
out. `nstray.manifest.csv_dialect` finds out how the file is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
from nstray.manifest.csv_dialect import SEPARATORS, Dialect, sniff
from nstray.manifest.csv_quotes import Checked, Unspaced, WrongQuote
from nstray.manifest.csv_records import NO_BACKSLASH, cells, quote_fault, records
from nstray.manifest.csv_types import first_unparsed, parse, rule
from nstray.manifest.text_input import SAVE_AS_UTF8, TextInput
from nstray.text import counted, redact

if TYPE_CHECKING:
    from nstray.manifest.raw_batches import ManifestFile, Rows


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
        checked = Checked(source, self.dialect)
        body = (
            Unspaced(checked, self.dialect, self.file.name, self.block_bytes)
            if self.dialect.space_before or self.dialect.space_after
            else checked
        )
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
                    delimiter=self.dialect.separator,
                    newlines_in_values=True,
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
        except WrongQuote:
            raise self._wrong_quote() from None
        except pa.ArrowException as error:
            if message := self._message(error):
                raise ManifestError(f"{self.file.name}{message}") from None

    def _rows(self, batch: pa.RecordBatch, first: int) -> Rows:
        columns = list(batch.columns)
        names = self.dialect.names
        kept, filled = None, _filled(columns[0])
        for column in columns[1:]:
            if pc.all(filled).as_py():
                break
            filled = pc.or_(filled, _filled(column))
        if not pc.all(filled).as_py():
            kept = filled
        while len(names) > 1 and not names[-1]:  # a separator at the end of the rows
            columns, names = self._without_last(columns, first), names[:-1]
        self._check_no_second_header(names, columns, first)
        columns = [
            self._typed(name, column, first) for name, column in zip(names, columns, strict=True)
        ]
        if kept is not None:
            columns = [column.filter(kept) for column in columns]
        rows = batch.num_rows if kept is None else pc.sum(kept).as_py()
        return names, tuple(columns), rows

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

    def _wrong_quote(self) -> ManifestError:
        """The error about the first quote that is wrong, or about the first row that is long."""
        long = None
        for start, record in self._records():
            if long is None and len(record) > self.block_bytes:
                long = start
            wrong = quote_fault(record, start, self._separator, spaces=self.dialect.space_before)
            # A record that is too long may be cut, so its open quote is no fault for sure.
            if wrong is not None and (wrong.closed or len(record) <= self.block_bytes):
                return ManifestError(
                    f"{self.file.name} line {wrong.line}: {self.dialect.column(wrong.cell)}: "
                    f"{wrong.text} ({self.dialect})"
                )
        return ManifestError(f"{self.file.name}{self._long(long)}")

    def _long(self, line: int | None) -> str:
        at = "" if line is None else f" line {line}"
        return (
            f"{at}: a row of more than {self.block_bytes >> 20} MiB: is a quote not closed? "
            "Write long values as Parquet"
        )

    def _message(self, error: Exception) -> str:
        """What is wrong, to follow the file's name; empty if the file only has no rows."""
        match csv_error(error):
            case EmptyFile():
                return ""
            case LongRow():
                long = (n for n, record in self._records() if len(record) > self.block_bytes)
                return self._long(next(long, None))
            case RaggedRow(row, columns, expected, text):
                line, record = self._find(row - 1)
                return (
                    f" line {line}: {counted(columns, 'column')}, but the header has {expected}: "
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
        if not record.strip(b" \t" + self._separator):
            return "; it holds no value: remove this line"
        if record.startswith(b"#"):
            return "; is it a comment? Comments may stand before the header alone: remove it"
        if columns == expected + 1 and record.endswith(self._separator):
            return "; it ends with a separator: remove it, or end every line with one"
        if _backslash_quote(self._separator).search(record):
            return f"; {NO_BACKSLASH}"
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


def _filled(column: pa.Array) -> pa.Array:
    """Which values are more than blanks."""
    filled = pc.not_equal(pc.utf8_trim(column, characters=" \t"), "")
    return pc.fill_null(filled, False)


def _backslash_quote(separator: bytes) -> re.Pattern[bytes]:
    """A backslash and a quote that does not end its cell and is not doubled."""
    return re.compile(rb'\\"(?=[^"\r\n' + re.escape(separator) + rb"])")
