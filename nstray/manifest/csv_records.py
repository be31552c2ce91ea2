"""The records of a CSV file with their lines, the cells of a record, and what is wrong with quotes.

A quote opens a quoted cell at the start of a cell alone, as in Arrow's reader; elsewhere it is
text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Protocol

MAX_RECORD_BYTES = 16 * 2**20
TWICE = 'a quote inside a quoted cell is written twice ("")'
NO_BACKSLASH = f"{TWICE}, not with a backslash"


class Source(Protocol):
    """Bytes that are read once."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; none at the end. They may be more or fewer than `size`."""


@dataclass(frozen=True)
class Cell:
    """A cell of a record.

    Attributes:
        text: without the quotes around it.
        quoted: whether it stood in quotes.
        closed: whether its quote is closed.
        after: what stands between the closing quote and the separator; nothing, if it is right.
    """

    text: bytes
    quoted: bool = False
    closed: bool = True
    after: bytes = b""


@dataclass(frozen=True)
class QuoteFault:
    """A wrong quote: its line counted from 1, its cell counted from 0, and cause and mend.

    `closed` is False for a quote that is not closed at all.
    """

    line: int
    cell: int
    closed: bool
    text: str


@cache
def _patterns(separator: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A cell, and a whole record with its line end, of this separator."""
    sep = re.escape(separator)
    inner = rb'"[^"]*(?:""[^"]*)*'
    cell = rb"(?:(?P<inner>" + inner + rb')(?P<close>"|\Z))?(?P<rest>[^\r\n' + sep + rb"]*)"
    plain = rb"(?:(?:" + inner + rb'(?:"|\Z))?[^\r\n' + sep + rb"]*)"
    record = plain + rb"(?:" + sep + plain + rb")*(?:\r\n|\r|\n|\Z)"
    return re.compile(cell), re.compile(record)


def cells(record: bytes, separator: bytes) -> list[Cell]:
    """The cells of one record without its line end."""
    pattern, _ = _patterns(separator)
    found, place = [], 0
    while True:
        match = pattern.match(record, place)
        assert match is not None  # a cell may be empty
        inner, rest = match["inner"], match["rest"]
        if inner is None:
            found.append(Cell(rest))
        else:
            text = inner[1:].replace(b'""', b'"')
            found.append(Cell(text, True, bool(match["close"]), rest))
        place = match.end()
        if record[place : place + 1] != separator:
            return found
        place += 1


def record_at(data: bytes, place: int, separator: bytes) -> bytes | None:
    """The record at `place` without its line end; None at the end of `data`."""
    if place >= len(data):
        return None
    match = _patterns(separator)[1].match(data, place)
    assert match is not None  # a record may be empty
    return _without_end(match[0])


def records(
    source: Source, separator: bytes, line: int, block_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """The rest of a file, record by record, each with its line; blank lines are left out.

    A record of more than `MAX_RECORD_BYTES`, as an open quote makes it, is cut; it is the last one.

    Args:
        line: of the next byte, counted from 1.
    """
    _, pattern = _patterns(separator)
    rest, ended = b"", False
    while not ended:
        more = source.read(block_bytes)
        ended = not more
        data, place = rest + more, 0
        while place < len(data):
            match = pattern.match(data, place)
            assert match is not None  # a record may be empty
            # The record, or the pair \r\n that ends it, may go on in the next block.
            if match.end() == len(data) and not ended:
                break
            if text := _without_end(match[0]):
                yield line, text
            line += line_ends(match[0])
            place = match.end()
        rest = data[place:]
        if len(rest) > MAX_RECORD_BYTES:
            yield line, rest
            return


def _without_end(record: bytes) -> bytes:
    return record.rstrip(b"\r\n")


def line_ends(text: bytes) -> int:
    """How many lines end in `text`."""
    return text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")


def quote_fault(record: bytes, line: int, separator: bytes, *, spaces: bool) -> QuoteFault | None:
    """The first wrong quote of a record that begins on `line`; None if all are right.

    Args:
        spaces: whether spaces may stand between a closing quote and the separator.
    """
    for number, cell in enumerate(cells(record, separator)):
        end = line + line_ends(cell.text)
        if not cell.closed or cell.after.strip(b" " if spaces else b""):
            return QuoteFault(line, number, cell.closed, _cause(cell, line, end))
        line = end
    return None


def _cause(cell: Cell, line: int, end: int) -> str:
    """What is wrong with a quoted cell that lies on the lines `line` to `end`, and the mend."""
    if cell.closed and cell.text.endswith(b"\\"):
        return (
            f"a quote after a backslash: {NO_BACKSLASH}; "
            "write CSV with doubled quotes, or JSON Lines"
        )
    if cell.closed and not cell.after.strip(b" "):
        return "spaces follow the quote that closes a cell: remove them"
    hint = NO_BACKSLASH if b'\\"' in cell.text else TWICE
    if not cell.closed:
        cause = "a quote opens a cell and is not closed up to the end of the file: close it"
    elif end > line:
        cause = (
            "a quote opens a cell, and text follows the next quote, "
            f"on line {end}: is the quote on line {line} not closed?"
        )
    else:
        cause = "text follows the quote that closes a cell: put the whole cell in quotes"
    return f"{cause}; {hint}".replace("?;", "?")
