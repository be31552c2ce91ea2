"""What Arrow reads of a CSV file: bytes in which every quote that opens a cell also closes it.

Arrow joins the text after a closing quote to the cell, and reads lines into a cell whose quote is
not closed: values would change and rows vanish without a word.
"""

from __future__ import annotations

import re

from nstray.errors import ManifestError
from nstray.manifest.csv_dialect import Dialect
from nstray.manifest.csv_records import Source, cells, records


class WrongQuote(Exception):
    """A quote opens a cell and does not close it, or text follows the quote that closes it."""


class Checked:
    """The bytes of a CSV file after its header, as a file; raises `WrongQuote`.

    A quote opens a quoted cell at the start of a cell alone; in any other it is text.
    """

    def __init__(self, source: Source, dialect: Dialect) -> None:
        self._source = source
        ends = rb"[\r\n" + re.escape(dialect.separator.encode("latin-1")) + rb"]"
        inner = rb'"[^"]*+(?:""[^"]*+)*+'
        # Outside of the quotes, these spaces are no part of a cell.
        spaces = b" *+" if dialect.space_before else b""
        cell = rb"(?<=" + ends + rb")" + inner + rb'"' + spaces + rb"(?=" + ends + rb")"
        self._right = re.compile(rb'(?:[^"]++|' + cell + rb"|(?<!" + ends + rb')")*+')
        self._open = re.compile(inner + rb'(?:"' + spaces + rb")?")
        self._whole = re.compile(inner + rb'"' + spaces)
        # A quoted cell that the next block continues, behind the byte before its quote.
        self._rest = b"\n"

    @property
    def closed(self) -> bool:
        """Whether the file was closed; Arrow asks."""
        return self._source.closed

    def read(self, size: int = -1) -> bytes:
        """The next bytes; none at the end, and none after the file was closed."""
        size = size if size > 0 else 2**20
        data = self._source.read(size)
        # Arrow drops the \n of a pair \r\n that two blocks share, even in quotes (pyarrow 26).
        while data[-1:] == b"\r" and (following := self._source.read(1)):
            data += following
        if not data:
            if len(self._rest) > 1 and not self._whole.fullmatch(self._rest, 1):
                raise WrongQuote
            return data
        if len(self._rest) == 1 and b'"' not in data:
            self._rest = data[-1:]
            return data
        text = self._rest + data
        match = self._right.match(text, 1)
        assert match is not None  # it may be empty
        end = match.end()
        # Arrow takes no cell that is longer than two blocks.
        if end < len(text) and (not self._open.fullmatch(text, end) or len(text) - end > 2 * size):
            raise WrongQuote
        self._rest = text[end - 1 :]
        return data

    def close(self) -> None:
        """The reader's owner closes the file."""

    def seekable(self) -> bool:
        """Arrow reads it once, from its start."""
        return False


class Unspaced:
    """A CSV file without the spaces beside its separators, as a file; those in quotes stay.

    It goes record by record: files with such spaces are written by hand.

    Raises: `ManifestError` for a quote after such a space, which opens no cell.
    """

    def __init__(self, checked: Checked, dialect: Dialect, file: str, block_bytes: int) -> None:
        self._checked, self._dialect, self._file = checked, dialect, file
        self._separator = dialect.separator.encode("latin-1")
        self._records = records(checked, self._separator, dialect.line, block_bytes)
        self._pending = b""

    @property
    def closed(self) -> bool:
        """Whether the file was closed; Arrow asks."""
        return self._checked.closed

    def read(self, size: int = -1) -> bytes:
        """The next bytes; none at the end."""
        size = size if size > 0 else 2**20
        parts, have = [self._pending], len(self._pending)
        while have < size and (record := next(self._records, None)):
            parts.append(self._unspaced(*record))
            have += len(parts[-1])
        data, end = b"".join(parts), size
        while data[end - 1 : end] == b"\r":  # the pair \r\n in one block, as in `Checked`
            end += 1
        self._pending = data[end:]
        return data[:end]

    def _unspaced(self, line: int, record: bytes) -> bytes:
        found = cells(record, self._separator)
        written = []
        for number, cell in enumerate(found):
            text = cell.text
            if cell.quoted:
                written.append(b'"' + text.replace(b'"', b'""') + b'"')
                continue
            if self._dialect.space_before and number < len(found) - 1:
                text = text.rstrip(b" ")
            if self._dialect.space_after and number:
                text = text.lstrip(b" ")
                if text.startswith(b'"'):
                    raise ManifestError(
                        f"{self._file} line {line}: {self._dialect.column(number)}: "
                        "a quote after a space does not open a quoted cell: "
                        "remove the spaces before the quotes"
                    )
            written.append(text)
        return self._separator.join(written) + b"\n"

    def close(self) -> None:
        """The reader's owner closes the file."""

    def seekable(self) -> bool:
        """Arrow reads it once, from its start."""
        return False
