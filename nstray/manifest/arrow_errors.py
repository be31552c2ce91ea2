"""What Arrow's English error messages say about a file; the only reader of their wording.

Arrow raises one exception class for many faults and puts row, column and reason into the text.
tests/manifest/test_private_arrow.py fails if a new version of Arrow changes that text (pyarrow 26).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nstray.text import redact

_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
_CONVERSION = re.compile(
    r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (\S+): (.*)"
)
_EMPTY = "Empty CSV file"
_LONG_ROW = "straddling object straddles two block boundaries"
_NOT_UTF8 = "UTF8"


@dataclass(frozen=True)
class EmptyFile:
    """A CSV file without any row, not even a header."""


@dataclass(frozen=True)
class LongRow:
    """A CSV row of more bytes than a block: often a quote that is not closed."""


@dataclass(frozen=True)
class RaggedRow:
    """A CSV row of another number of cells than the first; `text` is its redacted text.

    `row` is its number among the rows that are not blank, counted from 1.
    """

    row: int
    columns: int
    expected: int
    text: str


@dataclass(frozen=True)
class BadCell:
    """A CSV cell that does not convert to the type of its column.

    Attributes:
        row: among the rows that are not blank, counted from 1; None if Arrow does not know it.
        column: counted from 0.
        kind: the Arrow type of the column.
        reason: Arrow's, redacted.
    """

    row: int | None
    column: int
    kind: str
    reason: str


def csv_error(error: Exception) -> EmptyFile | LongRow | RaggedRow | BadCell | None:
    """What an exception of Arrow's CSV reader says; None for anything else."""
    text = first_line(error)
    if _EMPTY in text:
        return EmptyFile()
    if _LONG_ROW in text:
        return LongRow()
    if ragged := _RAGGED.search(str(error)):
        # Arrow cuts a long row and ends it with "...". Only whole cells are shown: `redact` does
        # not recognise a secret that is cut in two.
        row = ragged[4].rpartition(",")[0] if ragged[4].endswith("...") else ragged[4]
        return RaggedRow(int(ragged[1]), int(ragged[3]), int(ragged[2]), redact(row))
    if bad := _CONVERSION.search(text):
        return BadCell(int(bad[2]) if bad[2] else None, int(bad[1]), bad[3], bad[4])
    return None


def is_not_utf8(text: str) -> bool:
    """Whether a message of Arrow says that text is not UTF-8."""
    return _NOT_UTF8 in text


def first_line(error: BaseException) -> str:
    """The first line of an error's text, redacted, at most 300 characters."""
    return redact(str(error).split("\n", 1)[0])[:300]
