"""What Arrow's English error messages say about a file; the only reader of their wording.

Arrow raises one exception class for many faults and puts row, column and reason into the text.
tests/manifest/test_arrow_errors.py fails if a new version of Arrow changes that text (pyarrow 26).
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
_NOT_UTF8 = "UTF8"


@dataclass(frozen=True)
class EmptyFile:
    """A CSV file without any row, not even a header."""


@dataclass(frozen=True)
class RaggedRow:
    """A CSV row of another number of cells than the header; `row` is its redacted text."""

    line: int
    columns: int
    expected: int
    row: str


@dataclass(frozen=True)
class BadCell:
    """A CSV cell that does not convert to the type of its column.

    Attributes:
        line: counted from 1; None if Arrow does not know it.
        column: counted from 0.
        kind: the Arrow type of the rows before.
        reason: Arrow's, redacted.
    """

    line: int | None
    column: int
    kind: str
    reason: str


def csv_error(error: Exception) -> EmptyFile | RaggedRow | BadCell | None:
    """What an exception of Arrow's CSV reader says; None for anything else."""
    text = first_line(error)
    if _EMPTY in text:
        return EmptyFile()
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
