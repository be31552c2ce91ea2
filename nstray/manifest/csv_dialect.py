"""How a CSV file is written: separator, comment lines, header; and its records with their lines.

Spreadsheets and databases write other separators than the comma, a line ``sep=;`` for Excel,
comments before the header, a separator at the end of each row, spaces beside separators.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from nstray.errors import ManifestError
from nstray.manifest.text_input import SAVE_AS_UTF8, TextInput
from nstray.text import redact

SEPARATORS = (b",", b";", b"\t", b"|")
SAMPLE_BYTES = 2**20
MAX_RECORD_BYTES = 16 * 2**20
_SEP_LINE = re.compile(rb'"?sep=([^"\r\n])"?[\t,;| ]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_NAMED = (b"content", b"style", b"pair_id")


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes:
        separator: one character.
        names: of the columns. A separator at the end of the rows makes a last column without name.
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

    def __str__(self) -> str:
        return f"separator {'tab' if self.separator == chr(9) else repr(self.separator)}"


@dataclass(frozen=True)
class _Cell:
    """A cell of a record as text; `quoted` if it stood in quotes."""

    text: bytes
    quoted: bool


@cache
def _patterns(separator: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A cell, and a whole record with its line end, of this separator.

    A quote opens a quoted part at the start of a cell alone, as in Arrow's reader.
    """
    sep = re.escape(separator)
    quoted = rb'"[^"]*(?:""[^"]*)*(?:"|\Z)'
    cell = rb"(?:(?P<quoted>" + quoted + rb")?(?P<rest>[^\r\n" + sep + rb"]*))"
    plain = rb"(?:(?:" + quoted + rb")?[^\r\n" + sep + rb"]*)"
    record = plain + rb"(?:" + sep + plain + rb")*(?:\r\n|\r|\n|\Z)"
    return re.compile(cell), re.compile(record)


def cells(record: bytes, separator: bytes) -> list[_Cell]:
    """The cells of one record without its line end."""
    pattern, _ = _patterns(separator)
    found, place = [], 0
    while True:
        match = pattern.match(record, place)
        assert match is not None  # a cell may be empty
        quoted, rest = match["quoted"], match["rest"]
        if quoted is None:
            found.append(_Cell(rest, False))
        else:
            inner = quoted[1:].removesuffix(b'"') if len(quoted) > 1 else b""
            found.append(_Cell(inner.replace(b'""', b'"') + rest, True))
        place = match.end()
        if record[place : place + 1] != separator:
            return found
        place += 1


def records(
    source: TextInput, separator: bytes, line: int, block_bytes: int
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
            text = match[0].rstrip(b"\r\n") if match[0][-1:] in (b"\r", b"\n") else match[0]
            if text:
                yield line, text
            line += _lines(match[0])
            place = match.end()
        rest = data[place:]
        if len(rest) > MAX_RECORD_BYTES:
            yield line, rest
            return


def _lines(text: bytes) -> int:
    """How many lines end in `text`."""
    return text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")


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
    line = _lines(sample[:place]) + 1
    separator = given or _separator(sample, place, source.file.name)
    header = _record(sample, place, separator) or b""
    end = place + len(header)
    if end == len(sample) and len(sample) >= SAMPLE_BYTES:
        raise ManifestError(
            f"{name} line {line}: the header is longer than {SAMPLE_BYTES >> 20} MiB; "
            "is a quote open, or is this not a CSV file?"
        )
    end += len(_line_break(sample, end))
    found = cells(header, separator)
    first = _first_row(sample, end, separator)
    if first is not None:
        found = _fitted(found, cells(first, separator))
    return Dialect(
        separator.decode("latin-1"),
        tuple(_name(cell, name, line) for cell in found),
        end,
        _lines(sample[:end]) + 1,
        _all_spaced(found[:-1], -1),
        _all_spaced(found[1:], 0),
    )


def _all_spaced(header: list[_Cell], side: int) -> bool:
    """Whether there are cells, and all have a space at their start (0) or end (-1)."""
    texts = [cell.text for cell in header if not cell.quoted and cell.text.strip()]
    return bool(texts) and all(text[side] == ord(" ") for text in texts)


def _record(sample: bytes, place: int, separator: bytes) -> bytes | None:
    """The record at `place` without its line end; None at the end of the sample."""
    if place >= len(sample):
        return None
    match = _patterns(separator)[1].match(sample, place)
    assert match is not None
    return match[0].rstrip(b"\r\n")


def _line_break(sample: bytes, place: int) -> bytes:
    """The line end at `place`; empty at the end of the sample."""
    return b"\r\n" if sample[place : place + 2] == b"\r\n" else sample[place : place + 1]


def _line_end(sample: bytes, place: int) -> int:
    """Where the next line begins, whatever quotes there are."""
    match = _LINE.match(sample, place)
    assert match is not None
    return match.end()


def _first_row(sample: bytes, place: int, separator: bytes) -> bytes | None:
    """The first record after `place` that is not blank; None if the sample does not hold it."""
    while (record := _record(sample, place, separator)) is not None:
        if record:
            cut = place + len(record) == len(sample) >= SAMPLE_BYTES
            return None if cut else record
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
        header = _record(sample, place, separator) or b""
        first = _first_row(sample, place + len(header), separator) or b""
        names = _folded(header, separator)
        known = sum(column in names for column in _NAMED)
        as_many = len(names) > 1 and len(names) == len(cells(first, separator))
        return known, as_many, len(names)

    return max(order, key=score)


def _fitted(header: list[_Cell], first: list[_Cell]) -> list[_Cell]:
    """The header's cells, as many as the first row has, if only empty last cells differ.

    Some programs end the rows with a separator and not the header, others the header alone.
    """
    if len(first) == len(header) + 1 and not first[-1].text.strip():
        return [*header, _Cell(b"", False)]
    while len(header) > len(first) and not header[-1].text.strip():
        header = header[:-1]
    return header


def _name(cell: _Cell, file: str, line: int) -> str:
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
