"""How a CSV file is written: separator, comment lines, header.

Spreadsheets and databases write other separators than the comma, a line ``sep=;`` for Excel,
comments before the header, a separator at the end of each row, spaces beside separators.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nstray.errors import ManifestError
from nstray.manifest.csv_records import Cell, cells, line_ends, quote_fault, record_at
from nstray.manifest.text_input import SAVE_AS_UTF8, TextInput
from nstray.text import redact

SEPARATORS = (b",", b";", b"\t", b"|")
SAMPLE_BYTES = 2**20
_SEP_LINE = re.compile(rb'"?sep=([^"\r\n])"?[\t,;| ]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_NAMED = (b"content", b"style", b"pair_id")


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes:
        separator: one character.
        names: of the columns. Separators at the end of the rows make last columns without names.
        start: bytes before the first data row.
        line: the line of the first data row, counted from 1.
        space_before, space_after: spaces stand before or after all separators of the header; there
            they are no part of the cells.
    """

    separator: str
    names: tuple[str, ...]
    start: int
    line: int
    space_before: bool
    space_after: bool

    def column(self, number: int) -> str:
        """The name of a column for a message; its number, counted from 1, if it has none."""
        return (number < len(self.names) and self.names[number]) or f"column {number + 1}"

    def __str__(self) -> str:
        return f"separator {'tab' if self.separator == chr(9) else repr(self.separator)}"


def sniff(source: TextInput) -> Dialect | None:
    """How the file is written; None if it has no header.

    Nothing is read past: `source` stands at its first byte afterwards.

    Raises: `ManifestError` for a header that can't be read.
    """
    sample = source.peek(SAMPLE_BYTES)
    name, place, given = source.file.name, 0, None
    while place < len(sample):
        text = sample[place : _line_end(sample, place)]
        match = _SEP_LINE.fullmatch(text) if given is None else None
        if match and not sample[:place].strip():
            given = match[1]
        elif text.strip() and not _is_comment(text):
            break
        place += len(text)
    if place == len(sample) < SAMPLE_BYTES:
        return None
    if place == len(sample):
        raise ManifestError(f"{name}: no line of column names in the first {len(sample)} bytes")
    line = line_ends(sample[:place]) + 1
    separator = given or _separator(sample, place, source.file.name)
    header = record_at(sample, place, separator) or b""
    end = place + len(header)
    if end == len(sample) and len(sample) >= SAMPLE_BYTES:
        raise ManifestError(
            f"{name} line {line}: the header is longer than {SAMPLE_BYTES >> 20} MiB; "
            "is a quote open, or is this not a CSV file?"
        )
    end += len(_line_break(sample, end))
    if wrong := quote_fault(header, line, separator, spaces=True):
        raise ManifestError(f"{name} line {wrong.line}: {wrong.text}")
    found = cells(header, separator)
    first = _first_row(sample, end, separator)
    if first is not None:
        found = _fitted(found, cells(first, separator))
    return Dialect(
        separator.decode("latin-1"),
        tuple(_name(cell, name, line) for cell in found),
        end,
        line_ends(sample[:end]) + 1,
        _all_spaced(found[:-1], -1),
        _all_spaced(found[1:], 0),
    )


def _all_spaced(header: list[Cell], side: int) -> bool:
    """Whether there are cells, and all have a space at their start (0) or end (-1)."""
    texts = [cell.text for cell in header if not cell.quoted and cell.text.strip()]
    return bool(texts) and all(text[side] == ord(" ") for text in texts)


def _line_break(sample: bytes, place: int) -> bytes:
    """The line end at `place`; empty at the end of the sample."""
    return b"\r\n" if sample[place : place + 2] == b"\r\n" else sample[place : place + 1]


def _line_end(sample: bytes, place: int) -> int:
    """Where the next line begins, whatever quotes there are."""
    match = _LINE.match(sample, place)
    assert match is not None
    return match.end()


def _first_row(sample: bytes, place: int, separator: bytes) -> bytes | None:
    """The first record after `place` with a cell that is not blank, if the sample holds it."""
    while (record := record_at(sample, place, separator)) is not None:
        if record.strip(b" \t"):
            cut = place + len(record) == len(sample) >= SAMPLE_BYTES
            return None if cut else record
        place += len(record)
        place += len(_line_break(sample, place))
    return None


def _folded(record: bytes, separator: bytes) -> list[bytes]:
    return [cell.text.strip().lower() for cell in cells(record, separator)]


def _is_comment(line: bytes) -> bool:
    """Whether `line` begins with # and does not name nstray's columns."""
    named = line[1:].rstrip(b"\r\n")
    return line[:1] == b"#" and not any(
        s in named and b"content" in _folded(named, s) for s in SEPARATORS
    )


def _separator(sample: bytes, place: int, name: str) -> bytes:
    """The separator that makes the most sense of the header and the first row.

    First counts how many of nstray's columns the header names, then whether the row has as many
    cells as the header, then how many cells the header has.
    """
    tabs = name.lower().removesuffix(".gz").endswith(".tsv")
    order = sorted(SEPARATORS, key=lambda separator: tabs and separator != b"\t")

    def score(separator: bytes) -> tuple[int, bool, int]:
        header = record_at(sample, place, separator) or b""
        first = _first_row(sample, place + len(header), separator) or b""
        names = _folded(header, separator)
        known = sum(column in names for column in _NAMED)
        as_many = len(names) > 1 and len(names) == len(cells(first, separator))
        return known, as_many, len(names)

    return max(order, key=score)


def _fitted(header: list[Cell], first: list[Cell]) -> list[Cell]:
    """The header's cells, as many as the first row has, if only empty last cells differ.

    Some programs end the rows with separators and not the header, others the header alone.
    """
    if len(first) > len(header) and not any(c.text.strip() for c in first[len(header) :]):
        return [*header, *(Cell(b"") for _ in first[len(header) :])]
    while len(header) > len(first) and not header[-1].text.strip():
        header = header[:-1]
    return header


def _name(cell: Cell, file: str, line: int) -> str:
    """A column's name; spaces around one without quotes are no part of it."""
    text = cell.text if cell.quoted else cell.text.strip()
    if not cell.quoted and text.startswith(b'"'):
        raise ManifestError(
            f"{file} line {line}: a quote after a space does not open a quoted cell; "
            "remove the spaces before the quotes"
        )
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise ManifestError(
            f"{file} line {line}: a column's name is not UTF-8 text: "
            f"{redact(text.decode(errors='replace'))[:80]!r}; {SAVE_AS_UTF8}"
        ) from None
